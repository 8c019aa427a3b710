"""An incident reads as a story: the whole timeline of the outage that dying_functions.py plays, as a person sees it."""

import pytest

from keyvigil.api import views
from keyvigil.domain.incidents import Decision, Incident
from keyvigil.domain.projects import Approval
from tests.examples import project
from tests.unit.dying_functions import PROJECT, Outage
from tests.unit.test_killed_at_every_step import Stage, stage

__all__ = ["stage"]

pytestmark = pytest.mark.filterwarnings("ignore:No application metrics to publish")

STORY = """
   0.0 key.suspect: schedule probe: The key does not work: KEY_DISABLED. (1 of 3 probes in a row found a definite cause)
  21.5 key.unhealthy: lockout probe: The key does not work: KEY_DISABLED. (3 of 3 probes in a row found a definite cause)
  21.7 lockout.begun: 3 of 3 probes in a row found a definite cause; 0 of at most 20 lockouts began within 15 minutes
  21.9 cluster.lock_requested: by-event: lock asked for via event, fence 1795316481900
  21.9 cluster.lock_requested: by-function: lock asked for via lambda, fence 1795316481900
  21.9 cluster.lock_requested: registry: lock asked for via none, fence 1795316481900
  21.9 cluster.locked: registry: locked said the registry for fence 1795316481900 after 0 s
  23.4 cluster.locked: by-function: locked said its function for fence 1795316481900 after 1 s
  24.9 cluster.locked: by-event: locked said its control plane for fence 1795316481900 after 3 s
  25.0 incident.locked: 3 of 3 clusters are locked
 240.0 key.recovering: schedule probe: The key works. (1 of 3 probes in a row succeeded)
 261.7 key.recovered: recovery probe: The key works. (3 of 3 probes in a row succeeded)
 261.9 recovery.begun: 3 clusters to unlock: the key's recovery is proved
 262.1 cluster.unlock_requested: by-event: unlock asked for via event, fence 1795316722100
 262.1 cluster.unlock_requested: by-function: unlock asked for via lambda, fence 1795316722100
 262.1 cluster.unlock_requested: registry: unlock asked for via none, fence 1795316722100
 262.1 cluster.unlocked: registry: unlocked said the registry for fence 1795316722100 after 0 s
 263.6 cluster.unlocked: by-function: unlocked said its function for fence 1795316722100 after 1 s
 265.1 cluster.unlocked: by-event: unlocked said its control plane for fence 1795316722100 after 3 s
 265.2 incident.resolved: 3 clusters are in use again
"""  # noqa: E501  lines as they are shown

APPROVED = """
  21.7 incident.held: for approval: the project wants every lockout approved
  35.0 decision.approve: arn:aws:iam::1:user/eve decided approve: they left us
  36.3 lockout.begun: arn:aws:iam::1:user/eve approved; 4 of 3 probes in a row found a definite cause; 0 of at most 20 lockouts began within 15 minutes
  39.6 incident.locked: 3 of 3 clusters are locked
  40.0 project.changed: arn:aws:iam::1:user/adam changed the project's approval from manual to automatic
"""  # noqa: E501  lines as they are shown


def told(play: Outage) -> list[str]:
    """The timeline of the only incident: seconds since it opened, what happened, and how."""
    (incident,) = play.table.all(Incident)
    entries = [views.timeline_entry(each, incident.opened_at) for each in play.table.timeline(incident.incident_id)]
    return [f"{each['seconds']:6.1f} {each['what']}: {each['detail']}" for each in entries]


def test_an_outage_is_told_step_by_step_with_every_request_and_its_acknowledgement(stage: Stage) -> None:
    assert stage.wrong() == []
    assert told(stage.play) == STORY.strip("\n").splitlines()


def test_a_lockout_that_waited_for_a_person_says_for_whom_who_let_it_go_and_why(stage: Stage) -> None:
    def a_person_decides() -> None:
        (incident,) = stage.play.table.all(Incident)
        decide = stage.play.use_cases["decide_incident"]
        decide(PROJECT, incident.incident_id, Decision.APPROVE, reason="they left us", by="arn:aws:iam::1:user/eve")

    def another_hurries() -> None:
        update = stage.play.use_cases["projects"].update
        update(PROJECT, {"approval": Approval.AUTOMATIC, "name": "New"}, by="arn:aws:iam::1:user/adam")

    def begin() -> None:
        stage.play.table.put(project(check_interval_minutes=1, approval=Approval.MANUAL))
        stage.play.agenda.after(100, another_hurries)
        stage.play.agenda.after(95, a_person_decides)

    assert stage.wrong(prologue=begin) == []
    lines = told(stage.play)
    assert [*lines[2:5], *lines[11:13]] == APPROVED.strip("\n").splitlines()
