"""A project under `probe_plan: lean`: what befalls its keys is found by the next sweep, and they come back."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from keyvigil_cli.project import Project
from tests.e2e.fault_story import DECRYPT, FAULTS, Fault, in_words, rule_of, what_is_wrong
from tests.e2e.stage import Stage, WatchedKey
from tests.e2e.story import story

LEAN_PROBE = "The key works: Decrypt succeeded."
_SWEEP_SECONDS = 200


def wait_until_lean(project: Project, watched: WatchedKey) -> None:
    project.wait_for_key(
        watched.key_id,
        "a sweep to ask for Decrypt alone",
        lambda key: (key["last_trigger"], key["verdict"]["message"]) == ("schedule", LEAN_PROBE),
        within=_SWEEP_SECONDS,
    )


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
