"""A project under `probe_plan: lean`: what befalls its keys is found by the next sweep, and they come back."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Event

from keyvigil_cli.api_client import JsonObject
from keyvigil_cli.project import Project
from tests.e2e.fault_story import DECRYPT, FAULTS, Fault, in_words, rule_of, what_is_wrong
from tests.e2e.stage import Stage, WatchedKey
from tests.e2e.story import story

LEAN_PROBE = "The key works: Decrypt succeeded."
_SWEEP_SECONDS = 200


@dataclass
class Diary:
    """Every probe of a key that a close look at it saw: when, by what, how it ended."""

    watched: WatchedKey

    def __post_init__(self) -> None:
        self.probes: dict[datetime, JsonObject] = {}

    def keep(self, closed: Event) -> None:
        while not closed.wait(0.5):
            key = self.watched.project.key(self.watched.key_id)
            self.probes[datetime.fromisoformat(key["last_probed_at"])] = key

    def since(self, moment: datetime) -> list[JsonObject]:
        return [self.probes[at] for at in sorted(self.probes) if at > moment]


def wait_until_lean(project: Project, watched: WatchedKey) -> None:
    project.wait_for_key(
        watched.key_id,
        "a sweep to ask for Decrypt alone",
        lambda key: (key["last_trigger"], key["verdict"]["message"]) == ("schedule", LEAN_PROBE),
        within=_SWEEP_SECONDS,
    )


@story
def a_lean_key_that_breaks_is_found_by_the_next_sweep_locks_and_comes_back(stage: Stage) -> None:
    project = stage.project(probe_plan="lean")
    watched = stage.watched_key(project)
    project.register_cluster("vectors", watched.key_id, {"via": "none"})
    wait_until_lean(project, watched)

    diary, closed = Diary(watched), Event()
    with ThreadPoolExecutor(max_workers=1) as writer:
        kept = writer.submit(diary.keep, closed)
        try:
            watched.disable()
            disabled = datetime.now(UTC)
            project.wait_for_key_status(watched.key_id, "SUSPECT", "UNHEALTHY", within=_SWEEP_SECONDS)
            locked = project.wait_for_incident(project.incidents()[0]["incident_id"], "LOCKED")
        finally:
            closed.set()
            kept.result()

    assert diary.since(disabled), "it was looked at"
    assert [each for each in diary.since(disabled) if each["verdict"]["outcome"] == "HEALTHY"] == []
    first = locked["timeline"][0]
    assert first["what"] == "key.suspect"
    assert first["detail"].startswith("schedule probe: "), "a sweep found it, and nobody asked"
    assert locked["cause"] == "KEY_DISABLED"

    watched.enable()
    project.wait_for_incident(locked["incident_id"], "RESOLVED", within=240)
    assert project.cluster("vectors")["status"] == "ACTIVE"
    back = project.key(watched.key_id)
    assert (back["status"], back["verdict"]["outcome"]) == ("HEALTHY", "HEALTHY")


AT_DECRYPT: dict[str, Fault] = {
    each.expected: replace(each, at=DECRYPT)
    for each in FAULTS
    if each.at.startswith("KMS ") and each.region is None and each.expected != "HEALTHY"
}
"""One fault for each cause of the fault table's, where a lean probe meets it."""


@story
def every_cause_of_the_fault_table_shows_at_a_lean_key_s_next_sweep_and_opens_no_incident(stage: Stage) -> None:
    project = stage.project(probe_plan="lean")
    with ExitStack() as rules, ThreadPoolExecutor(max_workers=3) as pool:

        def found(fault: Fault) -> str:
            watched = stage.watched_key(project)
            wait_until_lean(project, watched)
            rules.enter_context(stage.faults.failing(rule_of(fault, watched)))
            seen = project.wait_for_key(
                watched.key_id,
                f"a sweep to see {fault.fault}",
                lambda key: key["verdict"]["outcome"] != "HEALTHY",
                within=_SWEEP_SECONDS,
            )
            return f"{seen['last_trigger']} {in_words(seen)}{what_is_wrong(seen)}"

        observed = dict(zip(AT_DECRYPT, pool.map(found, AT_DECRYPT.values()), strict=True))
    assert observed == {expected: f"schedule {expected}" for expected in AT_DECRYPT}
    assert len(observed) == 6
    assert project.incidents() == []
