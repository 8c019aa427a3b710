"""Keep projects' topics encrypted as the stack is: CloudFormation, which changes the rest, does not know them."""

from dataclasses import dataclass, field

from keyvigil.ports import Store, Topics

TOPICS_A_SWEEP = 100
"""How many topics one sweep looks at: SNS answers about 30 such questions a second, and sweeps come once a minute.
https://docs.aws.amazon.com/general/latest/gr/sns.html#limits_sns_api_requests
"""


@dataclass(kw_only=True)
class KeptTopics:
    """What was changed, and what could not be."""

    changed: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


class KeepTopics:
    """Looks at every topic once, some in each sweep, and begins again only if one could not be changed.

    A sandbox lives for hours and a change of the stack's parameters makes a new one, so that is often enough.
    """

    def __init__(self, store: Store, topics: Topics, *, at_once: int = TOPICS_A_SWEEP) -> None:
        """Keep the ports."""
        self._store = store
        self._topics = topics
        self._at_once = at_once
        self._token: str | None = None
        self._failed = False
        self._done = False

    def __call__(self) -> KeptTopics:
        """Look at the next topics; one that cannot be changed does not keep the others from being."""
        kept = KeptTopics()
        if self._done:
            return kept
        try:
            page = self._store.projects(self._at_once, self._token)
        except Exception as error:  # noqa: BLE001  the sweep is done all the same, and the next one asks again
            kept.errors.append(("topics", f"{type(error).__name__}: {error}"))
            return kept
        for project in page.items:
            try:
                if self._topics.keep_encrypted(project.alert_topic_arn):
                    kept.changed.append(project.alert_topic_arn)
            except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
                kept.errors.append((project.alert_topic_arn, f"{type(error).__name__}: {error}"))
                self._failed = True
        self._token = page.next_token
        if page.next_token is None:
            self._done, self._failed = not self._failed, False
        return kept
