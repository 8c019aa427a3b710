"""Alerts as they come: a queue of the caller's that a project's topic sends to for as long as somebody looks."""

import contextlib
import json
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from botocore.exceptions import BotoCoreError, ClientError
from rich.text import Text

from keyvigil_cli.alert_queue import Alert, AlertQueue
from keyvigil_cli.api_client import ApiProblemError, ApiUnreachableError
from keyvigil_cli.command_line import Run
from keyvigil_cli.connection import session_of
from keyvigil_cli.owned_process import not_interrupted, signals_end_the_program
from keyvigil_cli.printable import printable
from keyvigil_cli.settings import Settings
from keyvigil_cli.table import moment_of, styled

_REMEMBERED = 1000
"""Alerts come at least once; this many ids are kept to show each once."""


class AlertTail:
    """A context manager: makes the queue and the subscription, and deletes both, whatever ended it."""

    def __init__(self, run: Run, project: str, wanted: Mapping[str, Any]) -> None:
        """Take the project, and which of its alerts are wanted, as fields of a subscription."""
        self._run = run
        self._project = project
        self._wanted = wanted
        self._undo = contextlib.ExitStack()
        self._queue: AlertQueue | None = None

    def __enter__(self) -> Self:
        """Subscribe a new queue."""
        with contextlib.ExitStack() as undo:
            # SIGTERM and SIGHUP tidy up as Ctrl-C does; and none of the three is a failure.
            undo.enter_context(contextlib.suppress(KeyboardInterrupt))
            undo.enter_context(signals_end_the_program())
            with self._run.working("subscribing a queue"):
                topic_arn = str(self._run.api.get("projects", self._project)["alert_topic_arn"])
                region = topic_arn.split(":")[3]
                session = session_of(self._run.settings.but(Settings(region=region)))
                queue = AlertQueue(session, f"keyvigil-tail-{uuid.uuid4().hex[:12]}", topic_arn)
                undo.callback(self._delete, queue)
                body = {"protocol": "sqs", "endpoint": queue.endpoint, **self._wanted}
                made = self._run.create("subscribing", "projects", self._project, "subscriptions", body=body)
                undo.callback(self._unsubscribe, str(made["subscription_id"]))
            self._queue = queue
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Tidy up. That Ctrl-C ended it is no failure."""
        return bool(self._undo.__exit__(kind, error, traceback))

    def arriving(self) -> Iterator[Alert]:
        """Go through what arrives, each alert once, for ever."""
        known: deque[object] = deque(maxlen=_REMEMBERED)
        while self._queue is not None:
            for alert in self._queue.take(wait_seconds=10):
                if alert.get("alert_id") not in known:
                    known.append(alert.get("alert_id"))
                    yield alert

    def _unsubscribe(self, subscription_id: str) -> None:
        try:
            with not_interrupted():
                self._run.api.delete("projects", self._project, "subscriptions", subscription_id)
        except (ApiProblemError, ApiUnreachableError) as error:
            self._run.say(f"Subscription {subscription_id} of {self._project} stays, because {error}")
            self._run.say(f"End it later: keyvigil alert unsubscribe {self._project} {subscription_id}")

    def _delete(self, queue: AlertQueue) -> None:
        try:
            with not_interrupted():
                queue.delete()
        except (BotoCoreError, ClientError) as error:
            self._run.say(f"Queue {queue.endpoint} stays, because {error}")


def line_of(run: Run, alert: Alert) -> None:
    """Print one alert: a line for people, with what mends it under it, or a line of JSON."""
    if run.wants_json:
        run.output.out(json.dumps(alert), highlight=False)
        return
    at = moment_of(alert.get("occurred_at"))
    clock = f"{at:%H:%M:%S}Z" if at else "-"
    key, cause = alert.get("key") or {}, alert.get("cause") or {}
    line = Text.assemble(f"{clock}  ", styled(alert.get("severity")), f"  {printable(alert.get('type'))}")
    if alert.get("status") == "resolved":
        line.append("  resolved", "green")
    for part in (key.get("arn"), cause.get("message"), _clusters(alert)):
        if part:
            line.append(f"  {printable(part)}")
    run.output.print(line, soft_wrap=True)
    remediation = alert.get("remediation") or {}
    for command in remediation.get("commands") or ():
        run.output.print(Text(f"    {printable(command)}"), soft_wrap=True)


def _clusters(alert: Alert) -> str:
    return ", ".join(f"{each.get('cluster_id')} {each.get('status')}" for each in alert.get("clusters") or ())
