"""Keep projects' topics and subscriptions as the stack is: CloudFormation, which changes the rest, knows neither."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from keyvigil.domain.projects import Project, Subscription
from keyvigil.errors import RefusedError, in_short
from keyvigil.ports import Put, Store, Topics
from keyvigil.use_cases.read_fleet import every

TOPICS_A_SWEEP = 100
"""How many topics one sweep looks at: SNS answers about 30 such questions a second, and sweeps come once a minute.
https://docs.aws.amazon.com/general/latest/gr/sns.html#limits_sns_api_requests
"""


@dataclass(kw_only=True)
class KeptTopics:
    """What was changed (topics and subscriptions, by their ARN), and what could not be."""

    changed: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


class KeepTopics:
    """Looks at every topic once, some in each sweep, and begins again only if one could not be changed.

    A sandbox lives for hours and a change of the stack's parameters makes a new one, so that is often enough. A topic
    follows the stack's key, and nobody but KeyVigil can publish to it; its subscriptions send what their endpoints do
    not take to the stack's dead letters, also those that were made before there were any, or for a queue that was
    replaced since.
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
            kept.errors.append(("topics", in_short(error)))
            return kept
        for project in page.items:
            self._keep(project, kept)
        self._token = page.next_token
        if page.next_token is None:
            self._done, self._failed = not self._failed, False
        return kept

    def _keep(self, project: Project, kept: KeptTopics) -> None:
        topic_arn = project.alert_topic_arn
        self._each(kept, topic_arn, partial(self._keep_topic, topic_arn))
        if project.chat:
            self._each(kept, project.chat_topic_arn, partial(self._keep_topic, project.chat_topic_arn))
        subscriptions: list[Subscription] = []
        try:
            subscriptions += every(partial(self._store.subscriptions, project.project_id))
        except Exception as error:  # noqa: BLE001  whatever it is, the next project must have its turn
            self._note(kept, topic_arn, error)
        for subscription in subscriptions:
            self._each(kept, subscription.subscription_arn, partial(self._redrive, subscription))

    def _keep_topic(self, topic_arn: str) -> bool:
        closed = self._topics.keep_closed(topic_arn)
        return self._topics.keep_encrypted(topic_arn) or closed

    def _each(self, kept: KeptTopics, arn: str, change: Callable[[], bool]) -> None:
        try:
            if change():
                kept.changed.append(arn)
        except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
            self._note(kept, arn, error)

    def _note(self, kept: KeptTopics, arn: str, error: Exception) -> None:
        kept.errors.append((arn, in_short(error)))
        self._failed = True

    def _redrive(self, subscription: Subscription) -> bool:
        """Bring one subscription under the stack's dead letters, and keep that it is; say whether it was not."""
        wanted = self._topics.dead_letters_arn
        if wanted is None or subscription.dead_letters_arn == wanted:
            return False
        try:
            known = self._topics.redrive(subscription.subscription_arn)
        except RefusedError:
            if subscription.status == "confirmed":
                raise
            return False  # not confirmed yet: a later sandbox tries again
        self._store.commit([Put(replace(subscription, dead_letters_arn=wanted))])
        return known
