"""The registry: what it refuses and in which fixed words, and what it keeps consistent."""

import json
import shlex
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from keyvigil.domain.clusters import Answer, ClusterKind, ClusterStatus, LockResult, LockSettings, LockVia, take_answer
from keyvigil.domain.incidents import IncidentStatus, TimelineEntry
from keyvigil.domain.key_events import KeyPointer, pointers_to
from keyvigil.domain.keys import (
    REBASELINES_KEPT,
    Baseline,
    Health,
    Key,
    KeyFacts,
    KeyStatus,
    KeyUse,
    Trigger,
    next_due,
    probe_context,
)
from keyvigil.domain.projects import Approval, Enforcement, Protocol
from keyvigil.domain.remediation import Seen, Subject, explain, missing_permission
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Outcome, PolicyKind, Refusal
from keyvigil.errors import (
    AlreadyExistsError,
    CheckerUnavailableError,
    ConflictError,
    NotFoundError,
    RefusedError,
)
from keyvigil.ports import OperationAnswer, Put, RegistrationAnswer, Remove, ValidationAnswer
from keyvigil.use_cases.registry import Clusters, KeyRequest, Keys, NewCluster, NewProject, Projects, Subscriptions
from tests.examples import (
    EXTERNAL_ID,
    KEY_ARN,
    KEY_ID,
    KMS_KEY,
    MONITOR_ROLE_ARN,
    NOW,
    ROLE_ARN,
    SECRET_ARN,
    cluster,
    incident,
    key,
    project,
    verdict,
)
from tests.fakes import CountingIds, FakeChecker, FakeClock, FakeTopics, MemoryStore, changed

ALIAS_ARN = KEY_ARN.replace(f"key/{KMS_KEY}", "alias/vectors")
OWN_ACCOUNT = "111111111111"
QUEUE_ARN = "arn:aws:sqs:us-west-2:222222222222:alerts"
NEW_PROJECT = NewProject(
    project_id="acme-prod",
    name="Acme production",
    enforcement=Enforcement.ENFORCE,
    approval=Approval.AUTOMATIC,
    check_interval_minutes=10,
    grace_minutes=0,
    probe_plan="full",
)
NEW_CLUSTER = NewCluster(
    cluster_id="vectors-prod",
    name="Vectors",
    kind=ClusterKind.ZILLIZ_BYOC,
    region="us-west-2",
    key_id=KEY_ID,
    lock=LockSettings(via=LockVia.EVENT, timeout_seconds=120),
)


class Registry:
    """The registry's use cases over ports in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.topics = FakeTopics()
        self.checker = FakeChecker()
        ids = CountingIds()
        self.projects = Projects(self.store, self.topics, self.clock, ids)
        self.keys = Keys(
            self.store, self.checker, self.clock, own_account=OWN_ACCOUNT, monitor_role_arn=MONITOR_ROLE_ARN
        )
        self.clusters = Clusters(self.store, self.clock)
        self.subscriptions = Subscriptions(self.store, self.topics, self.clock, ids)

    def register_key(self, key_arn: str = KEY_ARN, role_arn: str = ROLE_ARN, use: KeyUse = KeyUse.CMEK) -> Key:
        return self.keys.register("acme-prod", KeyRequest(key_arn=key_arn, role_arn=role_arn, use=use))

    def key(self) -> Key:
        found = self.store.key("acme-prod", KEY_ID)
        assert found is not None
        return found


@pytest.fixture
def registry() -> Registry:
    """A registry with one empty project."""
    registry = Registry()
    registry.store.put(project(keys=0))
    registry.checker.answer = answer()
    return registry


@pytest.fixture
def watching(registry: Registry) -> Registry:
    """A registry with a project and one healthy key."""
    registry.store.put(project(keys=1), key())
    return registry


def answer(
    cause: Cause | None = None,
    operation: str | None = "Encrypt",
    refused_by: Refusal | None = None,
    **fields: Any,
) -> RegistrationAnswer:
    found = verdict(cause, operation=None if cause is None else operation)
    if cause is not None:
        subject = Subject(
            key_arn=KEY_ARN,
            region="us-west-2",
            role_arn=ROLE_ARN,
            external_id=EXTERNAL_ID,
            monitor_role_arn=MONITOR_ROLE_ARN,
            operations=("DescribeKey", "Encrypt", "Decrypt"),
            probe_secret_arn=SECRET_ARN,
        )
        seen = Seen(refused_by=refused_by)
        message, remediation = explain(cause, operation or "", subject, seen)
        permission = missing_permission(cause, operation or "", subject, seen)
        found = changed(found, message=message, remediation=remediation, permission=permission)
    example = RegistrationAnswer(
        verdict=found,
        role_checks_external_id=True,
        key_arn=KEY_ARN,
        baseline=Baseline.of(b"fresh", probe_context("acme-prod"), NOW) if cause is None else None,
        facts=KeyFacts(),
    )
    return changed(example, **fields)


def refusal_of(registry: Registry, *args: Any, **kwargs: Any) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        registry.register_key(*args, **kwargs)
    assert registry.store.all(Key) == [], "what is refused is not stored"
    return refused.value


# --- projects ---------------------------------------------------------------------------------------------------


def test_a_new_project_gets_an_external_id_and_a_topic_of_its_own() -> None:
    registry = Registry()

    made = registry.projects.create(NEW_PROJECT)
    other = registry.projects.create(changed(NEW_PROJECT, project_id="other"))

    assert made.external_id != other.external_id
    assert made.alert_topic_arn != other.alert_topic_arn
    assert registry.topics.topics == {made.alert_topic_arn, other.alert_topic_arn}
    assert registry.store.project("acme-prod") == made
    assert made.created_at == NOW
    assert made.keys == 0


def test_a_project_is_not_made_twice(registry: Registry) -> None:
    before = registry.store.project("acme-prod")

    with pytest.raises(AlreadyExistsError, match="project acme-prod exists already"):
        registry.projects.create(changed(NEW_PROJECT, name="Another name"))

    assert registry.store.project("acme-prod") == before


def test_of_two_who_make_the_same_project_at_once_one_is_told_that_it_exists() -> None:
    registry = Registry()
    registry.store.before_commit = lambda: registry.store.put(project(name="The faster one"))

    with pytest.raises(AlreadyExistsError):
        registry.projects.create(NEW_PROJECT)

    assert registry.projects.get("acme-prod").name == "The faster one"


def test_a_project_that_is_not_there_is_not_found(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="project nobody does not exist"):
        registry.projects.get("nobody")


def test_a_change_of_a_project_leaves_alone_what_it_does_not_name(registry: Registry) -> None:
    before = registry.projects.get("acme-prod")

    registry.projects.update("acme-prod", {"enforcement": Enforcement.OBSERVE, "grace_minutes": 15})

    after = registry.projects.get("acme-prod")
    assert after == changed(before, enforcement=Enforcement.OBSERVE, grace_minutes=15, version=2)


def test_a_change_of_a_project_does_not_undo_what_another_writer_did_meanwhile(registry: Registry) -> None:
    def a_key_is_registered() -> None:
        current = registry.projects.get("acme-prod")
        registry.store.commit([Put(changed(current, keys=1))])

    registry.store.before_commit = a_key_is_registered
    registry.projects.update("acme-prod", {"name": "New name"})

    after = registry.projects.get("acme-prod")
    assert (after.name, after.keys) == ("New name", 1)


def test_who_changed_what_decides_about_lockouts_stands_in_the_timelines_of_open_incidents(registry: Registry) -> None:
    """And nowhere else: neither a healthy key's nor another project's, nor if only the name was changed."""
    registry.store.put(
        project(),
        key(key_id="us-west-2.broken", open_incident_id="01JOPEN"),
        key(key_id="us-west-2.fine"),
        key(project_id="other", key_id="us-west-2.other", open_incident_id="01JOTHER"),
    )
    registry.projects.update("acme-prod", {"name": "New name"}, by="arn:eve")
    registry.projects.update("acme-prod", {"enforcement": Enforcement.OBSERVE, "grace_minutes": 15}, by="arn:eve")
    registry.projects.update("acme-prod", {"enforcement": Enforcement.OBSERVE}, by="arn:adam")
    [entry] = registry.store.all(TimelineEntry)
    assert (entry.incident_id, entry.what) == ("01JOPEN", "project.changed")
    assert entry.detail == (
        "arn:eve changed the project's enforcement from enforce to observe, grace_minutes from 0 to 15"
    )


def test_deleting_a_project_that_is_not_empty_is_refused_and_lists_what_is_in_the_way(watching: Registry) -> None:
    watching.store.put(cluster(), cluster(cluster_id="another"))

    with pytest.raises(RefusedError) as refused:
        watching.projects.delete("acme-prod")

    assert (refused.value.status, refused.value.title) == (409, "Project is not empty")
    assert refused.value.in_the_way == (f"key {KEY_ID}", "cluster another", "cluster vectors-prod")
    assert watching.projects.get("acme-prod").deleting is False
    assert watching.topics.topics == set()


def test_an_endpoint_is_subscribed_once(registry: Registry) -> None:
    registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())

    with pytest.raises(AlreadyExistsError):
        registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "critical", ("key.*",))

    assert len(registry.store.subscriptions("acme-prod", 10, None).items) == 1


def test_a_shorter_interval_holds_from_now_on_and_a_longer_one_from_the_next_probe(registry: Registry) -> None:
    now = registry.clock.now()
    registry.store.put(project(check_interval_minutes=60), key(due_at=now + timedelta(minutes=50)))

    registry.projects.update("acme-prod", {"check_interval_minutes": 5})
    (sooner,) = registry.store.keys("acme-prod", 10, None).items
    assert sooner.due_at <= now + timedelta(minutes=5)

    registry.projects.update("acme-prod", {"check_interval_minutes": 60})
    (unmoved,) = registry.store.keys("acme-prod", 10, None).items
    assert unmoved.due_at == sooner.due_at


def test_a_topic_for_chat_is_made_when_it_is_asked_for_and_goes_when_it_is_not_wanted_any_more() -> None:
    registry = Registry()
    plain = registry.projects.create(NEW_PROJECT)
    chatty = registry.projects.create(changed(NEW_PROJECT, project_id="chatty", chat=True))
    assert registry.topics.topics == {plain.alert_topic_arn, chatty.alert_topic_arn, chatty.chat_topic_arn}

    on = registry.projects.update("acme-prod", {"chat": True})
    assert on.chat
    assert on.chat_topic_arn in registry.topics.topics
    registry.projects.update("acme-prod", {"name": "Another"})
    assert on.chat_topic_arn in registry.topics.topics, "a change of something else leaves it"
    off = registry.projects.update("acme-prod", {"chat": False})
    assert not off.chat
    assert on.chat_topic_arn not in registry.topics.topics

    registry.projects.delete("chatty")
    assert registry.topics.topics == {plain.alert_topic_arn}


def test_a_topic_for_chat_is_no_other_projects_topic() -> None:
    registry = Registry()
    one = registry.projects.create(changed(NEW_PROJECT, project_id="acme", chat=True))
    other = registry.projects.create(changed(NEW_PROJECT, project_id="acme-chat"))
    assert one.chat_topic_arn != other.alert_topic_arn


def test_asking_again_removes_a_topic_for_chat_that_was_left_when_the_first_request_died(registry: Registry) -> None:
    on = registry.projects.update("acme-prod", {"chat": True})
    registry.store.put(changed(registry.projects.get("acme-prod"), chat=False))
    registry.projects.update("acme-prod", {"chat": False})
    assert on.chat_topic_arn not in registry.topics.topics


def test_no_topic_for_chat_is_left_by_a_project_that_goes_while_it_is_changed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = registry.topics.create_for_chat

    def meanwhile(project_id: str) -> str:
        arn = made(project_id)
        registry.store.commit([Remove(registry.projects.get(project_id))])
        return arn

    monkeypatch.setattr(registry.topics, "create_for_chat", meanwhile)
    with pytest.raises(NotFoundError):
        registry.projects.update("acme-prod", {"chat": True})
    assert not [arn for arn in registry.topics.topics if arn.endswith("_chat")]


def test_deleting_a_project_removes_its_topic_and_its_subscriptions(registry: Registry) -> None:
    made = registry.projects.create(changed(NEW_PROJECT, project_id="short-lived"))
    registry.subscriptions.create("short-lived", Protocol.SQS, QUEUE_ARN, "info", ())
    registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())

    registry.projects.delete("short-lived")

    assert registry.store.project("short-lived") is None
    assert made.alert_topic_arn not in registry.topics.topics
    assert registry.store.subscriptions("short-lived", 10, None).items == ()
    assert len(registry.store.subscriptions("acme-prod", 10, None).items) == 1, "another project's stay"


def test_a_project_whose_clusters_are_tombstones_only_can_be_deleted(registry: Registry) -> None:
    registry.store.put(cluster(deleted_at=NOW))

    registry.projects.delete("acme-prod")

    assert registry.store.project("acme-prod") is None


def test_a_deletion_that_died_half_way_can_be_repeated(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())

    def fails(topic_arn: str) -> None:
        raise OSError(topic_arn)

    with monkeypatch.context() as patch:
        patch.setattr(registry.topics, "delete", fails)
        with pytest.raises(OSError, match="acme-prod"):
            registry.projects.delete("acme-prod")
    assert registry.projects.get("acme-prod").deleting is True

    registry.projects.delete("acme-prod")

    assert registry.store.project("acme-prod") is None
    assert registry.store.subscriptions("acme-prod", 10, None).items == ()


def test_nothing_is_added_to_a_project_that_is_being_deleted(registry: Registry) -> None:
    registry.store.put(project(keys=0, deleting=True))

    with pytest.raises(NotFoundError):
        registry.register_key()
    with pytest.raises(NotFoundError):
        registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())
    assert registry.store.all(Key) == []
    assert registry.topics.subscriptions == {}


def test_a_key_that_is_registered_while_its_project_begins_to_be_deleted_is_not_stored(registry: Registry) -> None:
    def deletion_begins() -> None:
        registry.store.commit([Put(changed(registry.projects.get("acme-prod"), deleting=True))])

    registry.store.before_commit = deletion_begins

    with pytest.raises(NotFoundError):
        registry.register_key()
    assert registry.store.all(Key) == []


def test_a_project_that_gets_a_key_while_it_is_deleted_is_not_deleted(registry: Registry) -> None:
    def a_key_is_registered() -> None:
        registry.register_key()

    registry.store.before_commit = a_key_is_registered

    with pytest.raises(RefusedError) as refused:
        registry.projects.delete("acme-prod")

    assert refused.value.in_the_way == (f"key {KEY_ID}",)
    assert registry.projects.get("acme-prod").deleting is False


# --- keys: what is refused before AWS is asked ------------------------------------------------------------------


@pytest.mark.parametrize(
    "arn",
    [
        "not an ARN",
        "",
        KMS_KEY,
        f"{KEY_ARN}\n",
        f" {KEY_ARN}",
        KEY_ARN.replace("arn:aws:", "arn:aws-cn:"),
        KEY_ARN.replace("arn:aws:", "arn:aws-us-gov:"),
        KEY_ARN.replace(":kms:", ":s3:"),
        KEY_ARN.replace("222222222222", "22222222222"),
        KEY_ARN.replace("us-west-2", ""),
        KEY_ARN[:-1],
        KEY_ARN.upper(),
        KEY_ARN.replace(f"key/{KMS_KEY}", "alias/aws/secretsmanager"),
        KEY_ARN.replace(f"key/{KMS_KEY}", "alias/"),
        f"{ALIAS_ARN}\n",
    ],
)
def test_a_malformed_key_arn_is_refused_and_shown_what_one_looks_like(registry: Registry, arn: str) -> None:
    refused = refusal_of(registry, arn)

    assert refused.status == 400
    assert refused.title == "Invalid KMS key ARN format"
    assert "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID" in refused.detail
    assert registry.checker.seen == [], "AWS is not asked about what is no ARN"


@pytest.mark.parametrize("arn", ["", "keyvigil-customer", f"{ROLE_ARN}\n", ROLE_ARN.replace("aws", "aws-cn")])
def test_a_malformed_role_arn_is_refused(registry: Registry, arn: str) -> None:
    refused = refusal_of(registry, role_arn=arn)

    assert (refused.status, refused.title) == (400, "Invalid IAM role ARN format")
    assert registry.checker.seen == []


def test_the_twenty_first_key_of_a_project_is_refused_without_probing_it(registry: Registry) -> None:
    registry.store.put(project(keys=20))

    refused = refusal_of(registry)

    assert (refused.status, refused.title) == (409, "Too many keys in project")
    assert registry.checker.seen == []


def test_the_twentieth_key_of_a_project_is_registered(registry: Registry) -> None:
    registry.store.put(project(keys=19))

    registry.register_key()

    assert registry.projects.get("acme-prod").keys == 20


def test_of_two_keys_that_race_for_the_last_place_one_is_refused(registry: Registry) -> None:
    registry.store.put(project(keys=19))
    registry.store.before_commit = lambda: registry.store.commit([Put(changed(project(keys=20), version=1))])

    refused = refusal_of(registry)

    assert refused.title == "Too many keys in project"


def test_a_key_is_not_registered_twice_in_a_project(watching: Registry) -> None:
    with pytest.raises(AlreadyExistsError, match="is registered in project acme-prod already"):
        watching.register_key()

    assert watching.checker.seen == [], "it is known before it is probed"
    assert watching.projects.get("acme-prod").keys == 1


def test_an_alias_of_a_key_that_is_registered_already_is_found_out_when_it_is_resolved(watching: Registry) -> None:
    with pytest.raises(AlreadyExistsError):
        watching.register_key(ALIAS_ARN)

    assert watching.projects.get("acme-prod").keys == 1


def test_a_key_of_a_project_that_does_not_exist_is_not_registered(registry: Registry) -> None:
    with pytest.raises(NotFoundError):
        registry.keys.register("nobody", KeyRequest(key_arn=KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))

    assert registry.checker.seen == []


# --- keys: what is refused because of the probe -----------------------------------------------------------------


@pytest.mark.parametrize("operation", ["DescribeKey", "Encrypt", "Decrypt"])
def test_denied_access_is_refused_with_the_operation_and_the_policy_statement_to_add(
    registry: Registry, operation: str
) -> None:
    registry.checker.answer = answer(Cause.ACCESS_DENIED, operation)

    refused = refusal_of(registry)

    assert (refused.status, refused.title) == (422, "Access denied to KMS key")
    assert f"kms:{operation} was refused to {ROLE_ARN}" in refused.detail
    statement = (
        f'{{"Effect": "Allow", "Action": ["kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"], "Resource": "{KEY_ARN}"}}'
    )
    assert statement in refused.detail
    assert refused.cause == "ACCESS_DENIED"
    assert [command.split()[:3] for command in refused.commands] == [
        ["aws", "iam", "put-role-policy"],
        ["aws", "kms", "get-key-policy"],
    ]


def test_an_explicit_denial_is_said_to_outweigh_the_statement(registry: Registry) -> None:
    refused_by = Refusal(policy=PolicyKind.RESOURCE, explicit=True)
    registry.checker.answer = answer(Cause.ACCESS_DENIED, "Decrypt", refused_by=refused_by)

    refused = refusal_of(registry)

    assert (refused.status, refused.title) == (422, "Access denied to KMS key")
    assert f"kms:Decrypt was refused to {ROLE_ARN}: a resource-based policy denies it" in refused.detail
    assert f'"Principal": {{"AWS": "{ROLE_ARN}"}}' in refused.detail
    assert refused.summary == "Take the statement that denies kms:Decrypt out of the key's policy."


TITLES = {
    Cause.KEY_DISABLED: "KMS key is disabled",
    Cause.KEY_PENDING_DELETION: "KMS key is pending deletion",
    Cause.KEY_NOT_FOUND: "KMS key not found",
    Cause.KEY_MATERIAL_MISSING: "KMS key has no key material",
    Cause.KEY_STORE_UNAVAILABLE: "KMS key store is unavailable",
    Cause.KEY_WRONG_USAGE: "KMS key cannot encrypt and decrypt",
    Cause.CIPHERTEXT_UNREADABLE: "KMS key does not decrypt its own ciphertext",
    Cause.ACCESS_DENIED: "Access denied to KMS key",
    Cause.ROLE_NOT_ASSUMABLE: "Role cannot be assumed",
    Cause.SECRET_UNREADABLE: "Secret cannot be read",
}


@pytest.mark.parametrize("cause", [cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNHEALTHY])
def test_an_unhealthy_key_is_refused_with_the_title_of_its_cause(registry: Registry, cause: Cause) -> None:
    registry.checker.answer = answer(cause)

    refused = refusal_of(registry)

    assert (refused.status, refused.title, refused.cause) == (422, TITLES[cause], cause)
    assert refused.retry_after_seconds is None


def test_an_unhealthy_key_is_refused_with_the_command_that_mends_it(registry: Registry) -> None:
    registry.checker.answer = answer(Cause.KEY_DISABLED)

    refused = refusal_of(registry)

    assert refused.summary == "Enable the key again."
    assert refused.commands == (f"aws kms enable-key --region us-west-2 --key-id {KEY_ARN}",)


@pytest.mark.parametrize("cause", [cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN])
def test_no_answer_about_a_key_is_a_503_that_says_when_to_ask_again(registry: Registry, cause: Cause) -> None:
    registry.checker.answer = answer(cause)

    refused = refusal_of(registry)

    assert (refused.status, refused.title, refused.cause) == (503, "No answer about the KMS key", cause)
    assert refused.retry_after_seconds is not None
    assert refused.retry_after_seconds > 0
    assert "Nothing was stored" in refused.detail
    assert registry.projects.get("acme-prod").keys == 0


def test_a_check_keys_that_does_not_answer_stores_nothing(registry: Registry) -> None:
    registry.checker.answer = None

    with pytest.raises(CheckerUnavailableError):
        registry.register_key()

    assert registry.store.all(Key) == []


def test_a_role_that_does_not_insist_on_the_external_id_is_refused_with_the_condition_to_add(
    registry: Registry,
) -> None:
    # The key itself works: that is no reason to take it.
    registry.checker.answer = answer(role_checks_external_id=False, baseline=None)

    refused = refusal_of(registry)

    assert (refused.status, refused.title) == (422, "Role does not check the ExternalId")
    (command,) = refused.commands
    words = shlex.split(command)
    assert words[:-1] == [
        *("aws", "iam", "update-assume-role-policy", "--role-name", "keyvigil-customer", "--policy-document")
    ]
    (statement,) = json.loads(words[-1])["Statement"]
    assert statement["Condition"]["StringEquals"] == {"sts:ExternalId": EXTERNAL_ID}
    assert MONITOR_ROLE_ARN in statement["Condition"]["ArnLike"]["aws:PrincipalArn"]


def test_a_healthy_verdict_without_the_registration_ciphertext_registers_nothing(registry: Registry) -> None:
    registry.checker.answer = answer(baseline=None)

    refusal_of(registry)


def test_an_answer_with_something_that_is_no_key_arn_registers_nothing(registry: Registry) -> None:
    registry.checker.answer = answer(key_arn=ALIAS_ARN)

    with pytest.raises(CheckerUnavailableError):
        registry.register_key(ALIAS_ARN)

    assert registry.store.all(Key) == []


# --- keys: what is stored ---------------------------------------------------------------------------------------


def test_a_healthy_key_is_stored_with_what_its_probe_found(registry: Registry) -> None:
    facts = KeyFacts(multi_region=True, replica_regions=("eu-west-1",))
    registry.checker.answer = answer(facts=facts)

    made = registry.register_key(use=KeyUse.CSE)

    assert made == registry.key()
    assert made.key_id == KEY_ID
    assert (made.key_arn, made.alias_arn) == (KEY_ARN, None)
    assert (made.region, made.account_id) == ("us-west-2", "222222222222")
    assert made.external_id == EXTERNAL_ID
    assert made.use is KeyUse.CSE
    assert made.baseline.ciphertext == b"fresh"
    assert made.facts == facts
    assert made.health == Health(healthy_streak=1, counted_at=NOW)
    assert (made.last_probed_at, made.last_trigger) == (NOW, Trigger.REGISTRATION)
    assert made.due_at == next_due("acme-prod", KEY_ID, made.health, 10, NOW)
    assert registry.projects.get("acme-prod").keys == 1


def test_the_probe_is_told_the_projects_external_id_and_a_context_that_names_the_project(registry: Registry) -> None:
    registry.register_key()

    [seen] = registry.checker.seen
    assert (seen.project_id, seen.key_arn, seen.role_arn) == ("acme-prod", KEY_ARN, ROLE_ARN)
    assert seen.external_id == EXTERNAL_ID
    assert seen.context == probe_context("acme-prod")
    assert seen.context["project"] == "acme-prod"


def test_an_alias_is_kept_beside_the_key_arn_that_it_stood_for(registry: Registry) -> None:
    made = registry.register_key(ALIAS_ARN)

    assert (made.key_arn, made.alias_arn, made.key_id) == (KEY_ARN, ALIAS_ARN, KEY_ID)


def test_a_key_and_the_projects_count_of_keys_are_stored_together(registry: Registry) -> None:
    registry.register_key()

    assert len(registry.store.commits) == 1


def test_a_key_is_counted_right_although_another_was_registered_at_the_same_time(registry: Registry) -> None:
    def another_key_is_faster() -> None:
        current = registry.projects.get("acme-prod")
        registry.store.commit([Put(changed(current, keys=current.keys + 1))])

    registry.store.before_commit = another_key_is_faster
    registry.register_key()

    assert registry.projects.get("acme-prod").keys == 2


def test_a_check_asks_check_keys_and_answers_with_the_key_as_it_is_then(watching: Registry) -> None:
    found = watching.keys.check("acme-prod", KEY_ID)

    assert watching.checker.checked == [("acme-prod", KEY_ID, Trigger.REQUEST)]
    assert found == watching.key()


def test_a_key_that_is_not_registered_is_not_checked(watching: Registry) -> None:
    with pytest.raises(NotFoundError):
        watching.keys.check("acme-prod", "us-west-2.other")

    assert watching.checker.checked == []


# --- keys: deletion ---------------------------------------------------------------------------------------------


def test_a_key_that_nothing_depends_on_is_deleted_and_no_longer_counted(watching: Registry) -> None:
    watching.keys.delete("acme-prod", KEY_ID)

    assert watching.store.key("acme-prod", KEY_ID) is None
    assert watching.projects.get("acme-prod").keys == 0


def test_a_key_in_use_is_not_deleted_and_its_clusters_are_listed(watching: Registry) -> None:
    watching.store.put(key(clusters=2), cluster(), cluster(cluster_id="another"))

    with pytest.raises(RefusedError) as refused:
        watching.keys.delete("acme-prod", KEY_ID)

    assert (refused.value.status, refused.value.title) == (409, "KMS key is in use")
    assert refused.value.in_the_way == ("cluster another", "cluster vectors-prod")


def test_a_key_with_an_open_incident_is_not_deleted(watching: Registry) -> None:
    watching.store.put(key(open_incident_id="01JINCIDENT"), incident())

    with pytest.raises(RefusedError) as refused:
        watching.keys.delete("acme-prod", KEY_ID)

    assert (refused.value.status, refused.value.title) == (409, "KMS key has an open incident")
    assert refused.value.in_the_way == ("incident 01JINCIDENT",)
    assert watching.store.key("acme-prod", KEY_ID) is not None
    assert watching.projects.get("acme-prod").keys == 1


def test_a_destroyed_key_can_be_deleted_when_a_person_has_dismissed_its_incident(watching: Registry) -> None:
    """It never recovers, so that its incident would stand in the way for ever, and its project with it."""
    watching.store.put(key(open_incident_id="01JINCIDENT"), incident(status=IncidentStatus.DISMISSED))

    watching.keys.delete("acme-prod", KEY_ID)
    watching.projects.delete("acme-prod")

    assert watching.store.key("acme-prod", KEY_ID) is None
    assert watching.store.project("acme-prod") is None


def test_a_key_whose_incident_is_over_can_be_deleted(watching: Registry) -> None:
    over = incident(status=IncidentStatus.RESOLVED, resolved_at=NOW)
    watching.store.put(key(open_incident_id="01JINCIDENT"), over)

    watching.keys.delete("acme-prod", KEY_ID)

    assert watching.store.key("acme-prod", KEY_ID) is None


def test_a_key_that_gets_a_cluster_while_it_is_deleted_is_not_deleted(watching: Registry) -> None:
    def a_cluster_is_registered() -> None:
        watching.clusters.register("acme-prod", NEW_CLUSTER)

    watching.store.before_commit = a_cluster_is_registered

    with pytest.raises(RefusedError, match="KMS key is in use"):
        watching.keys.delete("acme-prod", KEY_ID)


# --- clusters ---------------------------------------------------------------------------------------------------


def test_a_cluster_under_a_healthy_key_is_active_and_counted(watching: Registry) -> None:
    made = watching.clusters.register("acme-prod", NEW_CLUSTER)

    assert made == watching.store.cluster("acme-prod", "vectors-prod")
    assert made.status is ClusterStatus.ACTIVE
    assert made.fence == 0
    assert made.lock == LockSettings(via=LockVia.EVENT, timeout_seconds=120)
    assert (watching.key().clusters, watching.key().pending_clusters) == (1, 0)


@pytest.mark.parametrize("status", [status for status in KeyStatus if status is not KeyStatus.HEALTHY])
@pytest.mark.parametrize("enforcement", Enforcement)
def test_a_cluster_whose_key_is_not_healthy_waits_for_it_whatever_the_enforcement(
    registry: Registry, status: KeyStatus, enforcement: Enforcement
) -> None:
    registry.store.put(project(enforcement=enforcement), key(health=Health(status=status), clusters=3))

    made = registry.clusters.register("acme-prod", NEW_CLUSTER)

    assert made.status is ClusterStatus.PENDING_KEY
    assert (registry.key().clusters, registry.key().pending_clusters) == (4, 1)


def test_a_key_that_turns_suspect_between_reading_and_writing_leaves_the_cluster_pending(watching: Registry) -> None:
    def the_key_turns_suspect() -> None:
        watching.store.commit([Put(changed(watching.key(), health=Health(status=KeyStatus.SUSPECT)))])

    watching.store.before_commit = the_key_turns_suspect

    made = watching.clusters.register("acme-prod", NEW_CLUSTER)

    assert made.status is ClusterStatus.PENDING_KEY
    assert (watching.key().clusters, watching.key().pending_clusters) == (1, 1)
    assert watching.key().health.status is KeyStatus.SUSPECT


def test_registration_gives_up_when_others_are_faster_every_time(
    watching: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = watching.store.commit

    def always_late(writes: Any) -> None:
        commit([Put(changed(watching.key(), alert_sequence=watching.key().alert_sequence + 1))])
        commit(writes)

    monkeypatch.setattr(watching.store, "commit", always_late)

    with pytest.raises(ConflictError):
        watching.clusters.register("acme-prod", NEW_CLUSTER)
    assert watching.store.cluster("acme-prod", "vectors-prod") is None


def test_a_cluster_in_another_region_than_its_key_is_refused(watching: Registry) -> None:
    with pytest.raises(RefusedError) as refused:
        watching.clusters.register("acme-prod", changed(NEW_CLUSTER, region="eu-west-1"))

    assert (refused.value.status, refused.value.title) == (409, "KMS key and cluster are in different Regions")
    assert "eu-west-1" in refused.value.detail
    assert "us-west-2" in refused.value.detail
    assert watching.key().clusters == 0


def test_the_two_hundred_and_first_cluster_of_a_key_is_refused(watching: Registry) -> None:
    watching.store.put(key(clusters=200))

    with pytest.raises(RefusedError) as refused:
        watching.clusters.register("acme-prod", NEW_CLUSTER)

    assert (refused.value.status, refused.value.title) == (409, "Too many clusters under KMS key")
    assert watching.key().clusters == 200


def test_the_two_hundredth_cluster_of_a_key_is_registered(watching: Registry) -> None:
    watching.store.put(key(clusters=199))

    watching.clusters.register("acme-prod", NEW_CLUSTER)

    assert watching.key().clusters == 200


def test_registering_an_existing_cluster_with_another_key_is_refused_in_the_fixed_words(watching: Registry) -> None:
    watching.store.put(cluster(), key(key_id="us-west-2.other"))

    with pytest.raises(RefusedError) as refused:
        watching.clusters.register("acme-prod", changed(NEW_CLUSTER, key_id="us-west-2.other"))

    assert refused.value.status == 409
    assert refused.value.title == "Cannot change AWS CSE key ARN after cluster is created"
    assert watching.clusters.get("acme-prod", "vectors-prod").key_id == KEY_ID


def test_changing_a_clusters_key_is_refused_in_the_fixed_words(watching: Registry) -> None:
    watching.store.put(cluster())

    with pytest.raises(RefusedError) as refused:
        watching.clusters.update("acme-prod", "vectors-prod", {"name": "New", "key_id": "us-west-2.other"})

    assert refused.value.status == 409
    assert refused.value.title == "Cannot change AWS CSE key ARN after cluster is created"
    assert watching.clusters.get("acme-prod", "vectors-prod").name == "Vectors"


def test_naming_a_clusters_own_key_in_a_change_is_no_change_of_key(watching: Registry) -> None:
    watching.store.put(cluster())

    changed_to = watching.clusters.update("acme-prod", "vectors-prod", {"name": "New", "key_id": KEY_ID})

    assert (changed_to.name, changed_to.key_id) == ("New", KEY_ID)


def test_a_cluster_is_not_registered_twice(watching: Registry) -> None:
    watching.clusters.register("acme-prod", NEW_CLUSTER)

    with pytest.raises(AlreadyExistsError, match="cluster vectors-prod is registered already"):
        watching.clusters.register("acme-prod", NEW_CLUSTER)

    assert watching.key().clusters == 1


def test_a_cluster_under_a_key_that_is_not_registered_is_not_found(watching: Registry) -> None:
    with pytest.raises(NotFoundError):
        watching.clusters.register("acme-prod", changed(NEW_CLUSTER, key_id="us-west-2.other"))


def test_a_change_of_a_cluster_keeps_the_fence_that_a_lock_put_on_it_meanwhile(watching: Registry) -> None:
    watching.store.put(cluster())

    def a_lock_is_requested() -> None:
        current = watching.clusters.get("acme-prod", "vectors-prod")
        watching.store.commit([Put(changed(current, fence=77, status=ClusterStatus.LOCKING))])

    watching.store.before_commit = a_lock_is_requested
    watching.clusters.update("acme-prod", "vectors-prod", {"name": "New"})

    after = watching.clusters.get("acme-prod", "vectors-prod")
    assert (after.name, after.fence, after.status) == ("New", 77, ClusterStatus.LOCKING)


@dataclass(frozen=True)
class Deletion:
    """A cluster's status, and whether it can be deleted in it."""

    status: ClusterStatus
    allowed: bool


DELETIONS = [
    Deletion(ClusterStatus.ACTIVE, allowed=True),
    Deletion(ClusterStatus.PENDING_KEY, allowed=True),
    Deletion(ClusterStatus.LOCKING, allowed=False),
    Deletion(ClusterStatus.LOCKED, allowed=False),
    Deletion(ClusterStatus.LOCK_FAILED, allowed=False),
    Deletion(ClusterStatus.UNLOCKING, allowed=False),
    Deletion(ClusterStatus.UNLOCK_FAILED, allowed=False),
]


def test_it_is_decided_for_every_status_whether_a_cluster_can_be_deleted() -> None:
    assert {case.status for case in DELETIONS} == set(ClusterStatus)


@pytest.mark.parametrize("case", DELETIONS, ids=lambda case: case.status)
def test_only_a_cluster_that_is_not_locked_can_be_deleted(watching: Registry, case: Deletion) -> None:
    pending = int(case.status is ClusterStatus.PENDING_KEY)
    watching.store.put(
        key(clusters=2, pending_clusters=pending),
        cluster(status=case.status, locked_by_incident_id="01JINCIDENT"),
    )

    if case.allowed:
        watching.clusters.delete("acme-prod", "vectors-prod")
        assert (watching.key().clusters, watching.key().pending_clusters) == (1, 0)
        with pytest.raises(NotFoundError):
            watching.clusters.get("acme-prod", "vectors-prod")
    else:
        with pytest.raises(RefusedError) as refused:
            watching.clusters.delete("acme-prod", "vectors-prod")
        assert (refused.value.status, refused.value.title) == (409, "Cluster is locked")
        assert refused.value.in_the_way == ("incident 01JINCIDENT",)
        assert watching.key().clusters == 2


def test_a_changed_lock_has_a_fence_of_its_own_so_that_the_receiver_before_has_no_say(watching: Registry) -> None:
    failed = cluster(status=ClusterStatus.LOCK_FAILED, fence=77, receipt="r", locked_by_incident_id="i")
    watching.store.put(failed)

    named = watching.clusters.update("acme-prod", "vectors-prod", {"name": "New"})
    changed_to = watching.clusters.update(
        "acme-prod", "vectors-prod", {"lock": LockSettings(via=LockVia.EVENT, timeout_seconds=60)}
    )

    assert named.fence == 77
    assert (changed_to.fence, changed_to.receipt) == (int(NOW.timestamp() * 1000), None)
    late = take_answer(changed_to, fence=77, result=LockResult.LOCKED, detail=None, now=NOW)
    assert (late.answer, late.cluster.status) == (Answer.STALE, ClusterStatus.LOCK_FAILED)


def test_a_changed_lock_of_a_cluster_that_was_never_asked_for_anything_gives_it_no_fence(watching: Registry) -> None:
    watching.store.put(cluster())
    lock = LockSettings(via=LockVia.EVENT, timeout_seconds=60)
    assert watching.clusters.update("acme-prod", "vectors-prod", {"lock": lock}).fence == 0


def test_a_fence_survives_deletion_and_registration_under_another_key(watching: Registry) -> None:
    other = "us-west-2.other"
    watching.store.put(key(clusters=1), key(key_id=other), cluster(fence=1_795_000_000_000))

    watching.clusters.delete("acme-prod", "vectors-prod")
    tombstone = watching.store.cluster("acme-prod", "vectors-prod")
    assert tombstone is not None
    assert (tombstone.fence, tombstone.deleted_at) == (1_795_000_000_000, NOW)

    again = watching.clusters.register("acme-prod", changed(NEW_CLUSTER, key_id=other))

    assert again.fence == 1_795_000_000_000
    assert (again.key_id, again.status, again.deleted_at) == (other, ClusterStatus.ACTIVE, None)
    assert again == watching.store.cluster("acme-prod", "vectors-prod")


def test_a_cluster_that_was_never_asked_for_anything_leaves_nothing_behind(watching: Registry) -> None:
    for _ in range(3):
        watching.clusters.register("acme-prod", NEW_CLUSTER)
        watching.clusters.delete("acme-prod", "vectors-prod")

    assert watching.store.cluster("acme-prod", "vectors-prod") is None
    assert watching.key().clusters == 0


def test_a_cluster_that_a_lock_is_asked_for_while_it_is_deleted_is_not_deleted(watching: Registry) -> None:
    watching.clusters.register("acme-prod", NEW_CLUSTER)

    def a_lock_is_asked_for() -> None:
        found = watching.clusters.get("acme-prod", "vectors-prod")
        watching.store.commit([Put(changed(found, status=ClusterStatus.LOCKING, fence=7))])

    watching.store.before_commit = a_lock_is_asked_for

    with pytest.raises(RefusedError, match="Cluster is locked"):
        watching.clusters.delete("acme-prod", "vectors-prod")
    assert watching.clusters.get("acme-prod", "vectors-prod").fence == 7


def test_a_tombstone_is_neither_changed_nor_deleted_again(watching: Registry) -> None:
    watching.store.put(cluster(deleted_at=NOW, fence=5))

    with pytest.raises(NotFoundError):
        watching.clusters.update("acme-prod", "vectors-prod", {"name": "New"})
    with pytest.raises(NotFoundError):
        watching.clusters.delete("acme-prod", "vectors-prod")


# --- subscriptions ----------------------------------------------------------------------------------------------


def test_a_subscription_is_made_on_the_projects_own_topic_and_stored(registry: Registry) -> None:
    made = registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "warning", ("key.*",))

    assert made.subscription_arn == f"{project().alert_topic_arn}:{made.subscription_id}"
    assert made.status == "confirmed"
    [subscribed] = registry.topics.subscriptions.values()
    assert (subscribed.endpoint, subscribed.min_severity, subscribed.types) == (QUEUE_ARN, "warning", ("key.*",))
    stored = registry.store.subscription("acme-prod", made.subscription_id)
    assert stored == changed(made, version=1)


@pytest.mark.parametrize("endpoint", ["", "me@example.com", f"{QUEUE_ARN}\n", QUEUE_ARN.replace(":sqs:", ":sns:")])
def test_an_endpoint_that_is_no_queue_is_refused(registry: Registry, endpoint: str) -> None:
    with pytest.raises(RefusedError) as refused:
        registry.subscriptions.create("acme-prod", Protocol.SQS, endpoint, "info", ())

    assert (refused.value.status, refused.value.title) == (422, "Invalid endpoint")
    assert registry.topics.subscriptions == {}


def test_a_subscription_that_ends_is_gone_from_the_topic_and_the_table(registry: Registry) -> None:
    made = registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())

    registry.subscriptions.delete("acme-prod", made.subscription_id)

    assert registry.topics.subscriptions == {}
    assert registry.store.subscription("acme-prod", made.subscription_id) is None
    with pytest.raises(NotFoundError):
        registry.subscriptions.delete("acme-prod", made.subscription_id)


def test_another_projects_subscription_is_not_ended(registry: Registry) -> None:
    registry.store.put(project(project_id="other", keys=0))
    made = registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())

    with pytest.raises(NotFoundError):
        registry.subscriptions.delete("other", made.subscription_id)

    assert len(registry.topics.subscriptions) == 1


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [
        (Protocol.LAMBDA, "arn:aws:lambda:us-west-2:222222222222:function:page"),
        (Protocol.EMAIL, "oncall@example.com"),
        (Protocol.HTTPS, "https://hooks.example.com/keyvigil"),
    ],
)
def test_a_subscription_waits_for_its_confirmation_and_shows_when_it_came(
    registry: Registry, protocol: Protocol, endpoint: str
) -> None:
    registry.topics.status = "pending"
    made = registry.subscriptions.create("acme-prod", protocol, endpoint, "info", ())
    assert made.status == "pending"
    assert registry.subscriptions.page("acme-prod", 10, None).items[0].status == "pending"

    registry.topics.status = "confirmed"
    [listed] = registry.subscriptions.page("acme-prod", 10, None).items

    assert listed.status == "confirmed"
    assert registry.store.subscription("acme-prod", made.subscription_id) == listed, "and SNS is not asked again"


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [
        (Protocol.HTTPS, "https://169.254.169.254/latest/meta-data"),
        (Protocol.HTTPS, "http://hooks.example.com/"),
        (Protocol.EMAIL, "nobody"),
        (Protocol.LAMBDA, QUEUE_ARN),
    ],
)
def test_an_endpoint_that_does_not_fit_its_protocol_is_refused(
    registry: Registry, protocol: Protocol, endpoint: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        registry.subscriptions.create("acme-prod", protocol, endpoint, "info", ())

    assert (refused.value.status, refused.value.title) == (422, "Invalid endpoint")
    assert registry.topics.subscriptions == {}


def test_a_test_message_goes_to_the_one_subscription(registry: Registry) -> None:
    made = registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())

    tested, alert_id = registry.subscriptions.send_test("acme-prod", made.subscription_id)

    assert tested.subscription_id == made.subscription_id
    assert registry.topics.tested == [(project().alert_topic_arn, made.subscription_id, alert_id)]


@pytest.mark.parametrize("status", ["pending", "gone"])
def test_a_test_message_to_a_subscription_that_gets_nothing_is_refused(registry: Registry, status: str) -> None:
    registry.topics.status = status
    made = registry.subscriptions.create("acme-prod", Protocol.EMAIL, "oncall@example.com", "info", ())

    with pytest.raises(RefusedError) as refused:
        registry.subscriptions.send_test("acme-prod", made.subscription_id)

    assert (refused.value.status, refused.value.title) == (409, "Subscription is not confirmed")
    assert registry.topics.tested == []


def test_a_test_message_that_is_not_taken_is_asked_for_again(registry: Registry) -> None:
    made = registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())
    registry.topics.broken = True

    with pytest.raises(RefusedError) as refused:
        registry.subscriptions.send_test("acme-prod", made.subscription_id)

    assert (refused.value.status, refused.value.retry_after_seconds) == (503, 5)


def test_another_projects_subscription_is_not_tested(registry: Registry) -> None:
    registry.store.put(project(project_id="other", keys=0))
    made = registry.subscriptions.create("acme-prod", Protocol.SQS, QUEUE_ARN, "info", ())

    with pytest.raises(NotFoundError):
        registry.subscriptions.send_test("other", made.subscription_id)


# --- tenancy ----------------------------------------------------------------------------------------------------

OWN_KEY_ARN = KEY_ARN.replace("222222222222", OWN_ACCOUNT)
OTHER_KEY_ARN = KEY_ARN.replace("1234abcd", "5678abcd")


def another_project(registry: Registry) -> None:
    registry.store.put(project(project_id="other", keys=0, external_id="external-2"))


def claim_of(registry: Registry, role_arn: str = ROLE_ARN) -> tuple[str, int] | None:
    claim = registry.store.role_claim("222222222222", role_arn.rpartition("/")[2])
    return (claim.project_id, claim.keys) if claim else None


def test_another_projects_role_is_refused_without_using_it(registry: Registry) -> None:
    another_project(registry)
    registry.keys.register("other", KeyRequest(key_arn=OTHER_KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))
    registry.checker.seen.clear()

    with pytest.raises(RefusedError) as refused:
        registry.register_key()

    assert (refused.value.status, refused.value.title) == (409, "Role serves another project")
    assert "other" not in refused.value.detail.replace("another", ""), "whose it is stays unsaid"
    assert registry.checker.seen == []


@pytest.mark.parametrize("role_arn", [ROLE_ARN.upper().replace("ARN:AWS:IAM", "arn:aws:iam").replace("ROLE/", "role/")])
def test_a_role_is_the_same_role_in_capitals(registry: Registry, role_arn: str) -> None:
    another_project(registry)
    registry.keys.register("other", KeyRequest(key_arn=KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))

    with pytest.raises(RefusedError, match="Role serves another project"):
        registry.register_key(role_arn=role_arn)


def test_of_two_projects_that_race_for_a_role_one_is_refused(registry: Registry) -> None:
    another_project(registry)

    def the_other_is_faster() -> None:
        registry.keys.register("other", KeyRequest(key_arn=KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))

    registry.store.before_commit = the_other_is_faster

    with pytest.raises(RefusedError) as refused:
        registry.register_key()

    assert refused.value.title == "Role serves another project"
    assert [key.project_id for key in registry.store.all(Key)] == ["other"]
    assert claim_of(registry) == ("other", 1)
    assert registry.projects.get("acme-prod").keys == 0


def test_one_role_serves_all_keys_of_its_project_and_is_free_when_the_last_is_gone(registry: Registry) -> None:
    first = registry.register_key()
    registry.checker.answer = answer(key_arn=OTHER_KEY_ARN)
    second = registry.register_key(OTHER_KEY_ARN)
    assert claim_of(registry) == ("acme-prod", 2)

    registry.keys.delete("acme-prod", first.key_id)
    assert claim_of(registry) == ("acme-prod", 1)
    registry.keys.delete("acme-prod", second.key_id)
    assert claim_of(registry) is None


def test_a_role_in_another_account_than_the_key_is_refused(registry: Registry) -> None:
    refused = refusal_of(registry, role_arn=ROLE_ARN.replace("222222222222", "333333333333"))

    assert (refused.status, refused.title) == (422, "KMS key and role are in different accounts")
    assert registry.checker.seen == []


def test_an_alias_that_stands_for_a_key_of_another_account_is_refused(registry: Registry) -> None:
    registry.checker.answer = answer(key_arn=KEY_ARN.replace("222222222222", "333333333333"))

    assert refusal_of(registry, ALIAS_ARN).title == "KMS key and role are in different accounts"


@pytest.mark.parametrize("name", ["keyvigil-monitor", "admin", "keyvigil-customer", "my-keyvigil-customer-x"])
def test_a_role_in_keyvigils_own_account_that_is_not_for_customers_is_refused(registry: Registry, name: str) -> None:
    refused = refusal_of(registry, OWN_KEY_ARN, f"arn:aws:iam::{OWN_ACCOUNT}:role/keyvigil-customer-path/{name}")

    assert (refused.status, refused.title) == (422, "Role in KeyVigil's own account is not for customers")
    assert "`keyvigil-customer-`" in refused.detail
    assert registry.checker.seen == []


def test_a_role_in_keyvigils_own_account_that_is_named_for_customers_is_taken(registry: Registry) -> None:
    registry.checker.answer = answer(key_arn=OWN_KEY_ARN)

    made = registry.register_key(OWN_KEY_ARN, f"arn:aws:iam::{OWN_ACCOUNT}:role/keyvigil-customer-acme")

    assert made.account_id == OWN_ACCOUNT


# --- the secret made for the probe ------------------------------------------------------------------------------


def kes(secret_arn: str | None = SECRET_ARN, **fields: Any) -> KeyRequest:
    wanted = KeyRequest(key_arn=KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.KES, probe_secret_arn=secret_arn)
    return changed(wanted, **fields)


def test_a_kes_key_is_registered_with_its_secret_which_every_later_probe_is_told(registry: Registry) -> None:
    made = registry.keys.register("acme-prod", kes())

    [seen] = registry.checker.seen
    assert (seen.use, seen.probe_secret_arn) == (KeyUse.KES, SECRET_ARN)
    assert (made.use, made.probe_secret_arn) == (KeyUse.KES, SECRET_ARN)
    registry.checker.seen.clear()
    registry.keys.rebaseline("acme-prod", KEY_ID, reason="x", by="somebody")
    assert registry.checker.seen[0].probe_secret_arn == SECRET_ARN


@pytest.mark.parametrize(
    ("secret_arn", "status", "title"),
    [
        ("nothing", 400, "Invalid secret ARN format"),
        (SECRET_ARN.removesuffix("-AbC123"), 400, "Invalid secret ARN format"),
        # Another tenant's, one whose name only begins alike, and one that was made for something else.
        (SECRET_ARN.replace("/acme-prod/", "/acme/"), 422, "Secret is not made for this project's probe"),
        (SECRET_ARN.replace("/acme-prod/", "/acme-prod-2/"), 422, "Secret is not made for this project's probe"),
        (
            SECRET_ARN.replace("keyvigil/acme-prod/probe", "database"),
            422,
            "Secret is not made for this project's probe",
        ),
        (SECRET_ARN.replace("222222222222", OWN_ACCOUNT), 422, "KMS key and secret are in different places"),
        (SECRET_ARN.replace("us-west-2", "eu-west-1"), 422, "KMS key and secret are in different places"),
        (None, 422, "Invalid request"),
    ],
)
def test_a_secret_that_is_not_the_projects_own_is_refused_before_aws_is_asked(
    registry: Registry, secret_arn: str | None, status: int, title: str
) -> None:
    registry.checker.validation = REFUSING
    for ask in (registry.keys.register, registry.keys.validate):
        with pytest.raises(RefusedError) as refused:
            ask("acme-prod", kes(secret_arn))
        assert (refused.value.status, refused.value.title) == (status, title)
    assert registry.checker.seen == []
    assert registry.store.all(Key) == []


@pytest.mark.parametrize("use", [use for use in KeyUse if use is not KeyUse.KES])
def test_only_a_kes_key_has_a_secret(registry: Registry, use: KeyUse) -> None:
    with pytest.raises(RefusedError) as refused:
        registry.keys.register("acme-prod", kes(use=use))

    assert (refused.value.status, refused.value.field) == (422, "probe_secret_arn")


def test_a_secret_that_cannot_be_read_is_refused_with_the_statement_to_add(registry: Registry) -> None:
    registry.checker.answer = answer(Cause.SECRET_UNREADABLE, "GetSecretValue")

    with pytest.raises(RefusedError) as refused:
        registry.keys.register("acme-prod", kes())

    assert (refused.value.status, refused.value.title) == (422, "Secret cannot be read")
    assert "secretsmanager:GetSecretValue" in refused.value.commands[0]


def test_a_keys_use_and_secret_are_changed_together_and_another_use_drops_the_secret(registered: Registry) -> None:
    other = SECRET_ARN.replace("probe", "second")
    path = ("acme-prod", KEY_ID)

    with pytest.raises(RefusedError) as refused:
        registered.keys.update(*path, use=KeyUse.KES)
    assert refused.value.field == "probe_secret_arn"
    assert registered.keys.update(*path, use=KeyUse.KES, probe_secret_arn=SECRET_ARN).probe_secret_arn == SECRET_ARN
    assert registered.keys.update(*path, probe_secret_arn=other).probe_secret_arn == other
    assert registered.keys.update(*path, role_arn=NEW_ROLE_ARN).probe_secret_arn == other
    with pytest.raises(RefusedError, match="Secret is not made for this project's probe"):
        registered.keys.update(*path, probe_secret_arn=other.replace("acme-prod", "other"))
    with pytest.raises(RefusedError, match="Invalid request"):
        registered.keys.update(*path, use=KeyUse.CSE, probe_secret_arn=SECRET_ARN)
    assert registered.key().probe_secret_arn == other
    assert registered.keys.update(*path, use=KeyUse.CMEK).probe_secret_arn is None
    assert [each.probe_secret_arn for each in registered.checker.seen] == [SECRET_ARN, other, other, None]


# --- changing a key ---------------------------------------------------------------------------------------------

NEW_ROLE_ARN = f"{ROLE_ARN}-2"


@pytest.fixture
def registered(registry: Registry) -> Registry:
    """A registry with a project and one key that was registered in it."""
    registry.register_key()
    registry.checker.seen.clear()
    return registry


def test_a_keys_role_and_use_are_changed_after_a_probe_the_new_way(registered: Registry) -> None:
    before = registered.key()

    changed_key = registered.keys.update("acme-prod", KEY_ID, role_arn=NEW_ROLE_ARN, use=KeyUse.CSE)

    [seen] = registered.checker.seen
    assert (seen.key_arn, seen.role_arn, seen.use) == (KEY_ARN, NEW_ROLE_ARN, KeyUse.CSE)
    assert seen.baseline == before.baseline, "what was encrypted at registration must open the new way"
    assert changed_key == registered.key()
    assert (changed_key.role_arn, changed_key.use) == (NEW_ROLE_ARN, KeyUse.CSE)
    assert changed_key.baseline == before.baseline
    assert changed_key.health == before.health
    assert claim_of(registered) is None
    assert claim_of(registered, NEW_ROLE_ARN) == ("acme-prod", 1)


def test_a_change_that_changes_nothing_asks_nobody(registered: Registry) -> None:
    registered.keys.update("acme-prod", KEY_ID, role_arn=ROLE_ARN)

    assert registered.checker.seen == []
    assert len(registered.store.commits) == 1


def test_a_changed_key_is_due_at_once(registered: Registry) -> None:
    registered.keys.update("acme-prod", KEY_ID, use=KeyUse.CSE)

    assert registered.key().due_at <= registered.clock.now() + timedelta(seconds=5)
    assert claim_of(registered) == ("acme-prod", 1)


@pytest.mark.parametrize(
    ("role_arn", "found", "title"),
    [
        (NEW_ROLE_ARN, answer(Cause.KEY_DISABLED), "KMS key is disabled"),
        (NEW_ROLE_ARN, answer(Cause.ACCESS_DENIED), "Access denied to KMS key"),
        (NEW_ROLE_ARN, answer(Cause.THROTTLED), "No answer about the KMS key"),
        (NEW_ROLE_ARN, answer(role_checks_external_id=False), "Role does not check the ExternalId"),
        ("nothing", answer(), "Invalid IAM role ARN format"),
        (ROLE_ARN.replace("222222222222", "333333333333"), answer(), "KMS key and role are in different accounts"),
    ],
)
def test_a_change_of_a_key_is_refused_as_its_registration_would_be_and_stores_nothing(
    registered: Registry, role_arn: str, found: RegistrationAnswer, title: str
) -> None:
    before = registered.key()
    registered.checker.answer = found

    with pytest.raises(RefusedError) as refused:
        registered.keys.update("acme-prod", KEY_ID, role_arn=role_arn)

    assert refused.value.title == title
    assert registered.key() == before


def test_a_key_is_not_changed_to_a_role_that_another_project_takes_meanwhile(registered: Registry) -> None:
    another_project(registered)
    registered.checker.answer = answer(key_arn=OTHER_KEY_ARN)

    def the_other_is_faster() -> None:
        wanted = KeyRequest(key_arn=OTHER_KEY_ARN, role_arn=NEW_ROLE_ARN, use=KeyUse.CMEK)
        registered.keys.register("other", wanted)

    registered.store.before_commit = the_other_is_faster

    with pytest.raises(RefusedError, match="Role serves another project"):
        registered.keys.update("acme-prod", KEY_ID, role_arn=NEW_ROLE_ARN)

    assert registered.key().role_arn == ROLE_ARN
    assert claim_of(registered) == ("acme-prod", 1)


def test_a_role_can_be_changed_while_an_incident_is_open_because_that_may_mend_it(registered: Registry) -> None:
    registered.store.put(changed(registered.key(), open_incident_id="01JINCIDENT"), incident())

    registered.keys.update("acme-prod", KEY_ID, role_arn=NEW_ROLE_ARN)

    after = registered.key()
    assert (after.role_arn, after.open_incident_id) == (NEW_ROLE_ARN, "01JINCIDENT")


def test_a_rebaseline_replaces_the_ciphertext_and_keeps_who_when_and_why(registered: Registry) -> None:
    registered.checker.answer = answer(baseline=Baseline.of(b"fresher", probe_context("acme-prod"), NOW))
    registered.clock.advance(60)

    registered.keys.rebaseline("acme-prod", KEY_ID, reason="It was damaged.", by="arn:aws:iam::111111111111:user/a")
    registered.keys.rebaseline("acme-prod", KEY_ID, reason="Again.", by="arn:aws:iam::111111111111:user/b")

    after = registered.key()
    assert after.baseline.ciphertext == b"fresher"
    assert [(each.by[-1], each.reason) for each in after.rebaselines] == [("a", "It was damaged."), ("b", "Again.")]
    assert after.rebaselines[0].at == NOW + timedelta(seconds=60)
    assert registered.checker.seen[0].baseline is None


def test_a_key_remembers_a_bounded_number_of_rebaselines(registered: Registry) -> None:
    for number in range(REBASELINES_KEPT + 3):
        registered.keys.rebaseline("acme-prod", KEY_ID, reason=str(number), by="somebody")

    reasons = [each.reason for each in registered.key().rebaselines]
    assert reasons == [str(number) for number in range(3, REBASELINES_KEPT + 3)]


def test_a_rebaseline_is_refused_while_an_incident_is_open(registered: Registry) -> None:
    registered.store.put(changed(registered.key(), open_incident_id="01JINCIDENT"), incident())
    before = registered.key()

    with pytest.raises(RefusedError) as refused:
        registered.keys.rebaseline("acme-prod", KEY_ID, reason="x", by="somebody")

    assert (refused.value.status, refused.value.title) == (409, "KMS key has an open incident")
    assert refused.value.in_the_way == ("incident 01JINCIDENT",)
    assert registered.key() == before
    assert registered.checker.seen == []


def test_a_rebaseline_is_refused_if_an_incident_opens_while_it_is_made(registered: Registry) -> None:
    def an_incident_opens() -> None:
        registered.store.commit([Put(changed(registered.key(), open_incident_id="01JINCIDENT")), Put(incident())])

    registered.store.before_commit = an_incident_opens

    with pytest.raises(RefusedError, match="open incident"):
        registered.keys.rebaseline("acme-prod", KEY_ID, reason="x", by="somebody")

    assert registered.key().rebaselines == ()


def test_a_rebaseline_of_a_key_that_does_not_work_is_refused(registered: Registry) -> None:
    before = registered.key()
    registered.checker.answer = answer(Cause.KEY_DISABLED)

    with pytest.raises(RefusedError, match="KMS key is disabled"):
        registered.keys.rebaseline("acme-prod", KEY_ID, reason="x", by="somebody")

    assert registered.key() == before


# --- validation -------------------------------------------------------------------------------------------------

WANTED = KeyRequest(key_arn=KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK)
REFUSING = ValidationAnswer(
    verdict=verdict(Cause.ACCESS_DENIED),
    role_checks_external_id=True,
    operations=(OperationAnswer(operation="Encrypt", allowed=False, error="AccessDeniedException: no"),),
)


def test_a_validation_answers_what_was_found_and_stores_nothing(registry: Registry) -> None:
    registry.checker.validation = REFUSING

    assert registry.keys.validate("acme-prod", WANTED) == REFUSING
    assert registry.store.commits == []


def test_a_key_that_is_registered_already_can_be_validated_again(registered: Registry) -> None:
    registered.checker.validation = REFUSING

    assert registered.keys.validate("acme-prod", WANTED) == REFUSING


def test_a_validation_refuses_the_roles_that_a_registration_refuses(registry: Registry) -> None:
    another_project(registry)
    registry.keys.register("other", WANTED)
    registry.checker.seen.clear()
    registry.checker.validation = REFUSING

    for wanted in (
        WANTED,
        changed(WANTED, key_arn="nothing"),
        changed(WANTED, role_arn="nothing"),
        changed(WANTED, role_arn=NEW_ROLE_ARN.replace("222222222222", "333333333333")),
    ):
        with pytest.raises(RefusedError):
            registry.keys.validate("acme-prod", wanted)
    assert registry.checker.seen == []

    registry.checker.validation = changed(REFUSING, role_checks_external_id=False)
    with pytest.raises(RefusedError, match="Role does not check the ExternalId"):
        registry.keys.validate("acme-prod", changed(WANTED, role_arn=NEW_ROLE_ARN))


# --- what events find -------------------------------------------------------------------------------------------


def test_a_registration_writes_the_pointers_by_which_events_find_the_key_in_its_transaction(registry: Registry) -> None:
    made = registry.keys.register("acme-prod", KeyRequest(key_arn=ALIAS_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))
    pointers = registry.store.all(KeyPointer)
    assert {each.resource for each in pointers} == {
        f"key/{KMS_KEY}",
        "role/keyvigil-customer",
        "us-west-2/alias/vectors",
    }
    assert {(each.project_id, each.key_id, each.account_id) for each in pointers} == {
        ("acme-prod", made.key_id, made.account_id)
    }
    (writes,) = [commit for commit in registry.store.commits if any(isinstance(each.entity, Key) for each in commit)]
    assert sum(isinstance(each.entity, KeyPointer) for each in writes) == 3


def test_a_pointer_that_a_registration_finds_there_is_left_as_it_is(registry: Registry) -> None:
    registry.store.put(*pointers_to(key()))
    registry.keys.register("acme-prod", KeyRequest(key_arn=KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))
    assert len(registry.store.all(KeyPointer)) == 2


def test_a_key_takes_its_pointers_along_when_it_goes(registry: Registry) -> None:
    made = registry.keys.register("acme-prod", KeyRequest(key_arn=ALIAS_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))
    registry.keys.delete("acme-prod", made.key_id)
    assert registry.store.all(KeyPointer) == []


def test_a_key_without_pointers_can_be_deleted(watching: Registry) -> None:
    watching.keys.delete("acme-prod", KEY_ID)
    assert watching.store.key("acme-prod", KEY_ID) is None


def test_events_on_a_role_find_the_keys_that_use_it_now(registry: Registry) -> None:
    made = registry.keys.register("acme-prod", KeyRequest(key_arn=KEY_ARN, role_arn=ROLE_ARN, use=KeyUse.CMEK))
    registry.keys.update("acme-prod", made.key_id, role_arn=f"{ROLE_ARN}-2")
    roles = [each.resource for each in registry.store.all(KeyPointer) if each.resource.startswith("role/")]
    assert roles == ["role/keyvigil-customer-2"]
