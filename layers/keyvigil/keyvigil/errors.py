"""The errors that KeyVigil raises itself: one family, few leaves, each caught only where something can be done."""

LONGEST_REASON = 500
"""How many characters of an error are told, in a log line or a report: some quote all that they were given."""


def in_short(error: BaseException) -> str:
    """An error's class and words, in one line of bounded length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]


class KeyVigilError(Exception):
    """Base of every error that KeyVigil raises on purpose."""


class NotFoundError(KeyVigilError):
    """The project, key, cluster, incident or subscription does not exist."""


class ConflictError(KeyVigilError):
    """Another writer was faster: read again and decide again."""


class AlreadyExistsError(KeyVigilError):
    """Something with this id exists already."""


class CheckerUnavailableError(KeyVigilError):
    """`check_keys` did not answer, so nothing is known about the key."""


class DeliveryError(KeyVigilError):
    """A message did not reach one of its targets; it stays in the outbox and is sent again.

    Attributes:
        unreachable: the service itself did not answer, so that the next call would wait in vain too.
        refused: the message itself is what is wrong, so that sending it again is in vain too.
    """

    def __init__(self, message: str, *, unreachable: bool = False, refused: bool = False) -> None:
        """Say what was not delivered, whether the service answered at all, and whether it will ever take this."""
        super().__init__(message)
        self.unreachable = unreachable
        self.refused = refused


class NewerItemError(KeyVigilError):
    """Newer code wrote an item, so this code neither reads nor changes it. The message names the item and the code."""


class DamagedItemError(KeyVigilError):
    """A stored item does not have the shape that its schema number stands for. The message says what is wrong."""


class NewerMessageError(KeyVigilError):
    """Newer code sent a message, in a shape that this code does not know."""


class UnreadableItemsError(KeyVigilError):
    """Everything is done but for items that could not be read; the log names each with its reason."""


class SettingMissingError(KeyVigilError):
    """An environment variable that the function needs is not set."""


class RefusedError(KeyVigilError):
    """A request is understood and refused, for a reason that the caller can act on.

    Attributes:
        status: HTTP status code of the refusal.
        title: fixed words, the same for every refusal of this kind (contract.md, Errors).
        detail: one or two sentences on what is wrong with this request and what to do.
        cause: cause code of a refused key, else None.
        commands: what mends it, ready to paste; empty if no single command does.
        retry_after_seconds: when to ask again, where asking again can help.
        field: the field of the request that is wrong, where it is one.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        cause: str | None = None,
        summary: str | None = None,
        commands: tuple[str, ...] = (),
        in_the_way: tuple[str, ...] = (),
        retry_after_seconds: int | None = None,
        field: str | None = None,
    ) -> None:
        """Keep every part of the refusal for the edge to render."""
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.cause = cause
        self.summary = summary
        self.commands = commands
        self.in_the_way = in_the_way
        self.retry_after_seconds = retry_after_seconds
        self.field = field
