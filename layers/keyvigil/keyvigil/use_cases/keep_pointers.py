"""See that every registered key is found by the events that concern it, also those registered before there were any."""

from dataclasses import dataclass, field

from keyvigil.domain.key_events import pointers_to
from keyvigil.domain.keys import Key
from keyvigil.errors import ConflictError, in_short
from keyvigil.ports import Put, Store

PROJECTS_A_SWEEP = 10
"""How many projects one sweep looks at: at most 20 keys each, and four small reads a key."""

_ALL_KEYS = 1000


@dataclass(kw_only=True)
class KeptPointers:
    """How many pointers were missing and are there now, and what could not be looked at."""

    made: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)


class KeepPointers:
    """Looks at every key once, some projects in each sweep, and begins again only if something could not be written.

    A registration writes its pointers itself. What is made here is for keys that older code registered, and for key
    stores that a key was not known to be in. Doing it again changes nothing. A key that is deleted in the same moment
    may leave a pointer to nothing; who follows it finds no key.
    """

    def __init__(self, store: Store, *, at_once: int = PROJECTS_A_SWEEP) -> None:
        """Keep the port."""
        self._store = store
        self._at_once = at_once
        self._token: str | None = None
        self._failed = False
        self._done = False

    def __call__(self) -> KeptPointers:
        """Look at the next projects; one that cannot be read does not keep the others from being."""
        kept = KeptPointers()
        if self._done:
            return kept
        try:
            page = self._store.projects(self._at_once, self._token)
        except Exception as error:  # noqa: BLE001  the sweep is done all the same, and the next one asks again
            kept.errors.append(("pointers", in_short(error)))
            return kept
        for project in page.items:
            try:
                keys = self._store.keys(project.project_id, _ALL_KEYS, None).items
                kept.made += sum(self._keep(key) for key in keys)
            except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
                kept.errors.append((f"pointers of {project.project_id}", in_short(error)))
                self._failed = True
        self._token = page.next_token
        if page.next_token is None:
            self._done, self._failed = not self._failed, False
        return kept

    def _keep(self, key: Key) -> int:
        missing = [each for each in pointers_to(key) if self._store.pointer(each) is None]
        if missing:
            try:
                self._store.commit([Put(each) for each in missing])
            except ConflictError:
                return 0  # a registration, or another sweep, wrote them in this moment
        return len(missing)
