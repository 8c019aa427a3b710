"""Slow dangers, backups and staleness on real parts. Every look is asked for, so nobody waits for an hour."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from keyvigil.domain.aws_commands import policy
from keyvigil_cli.alert_queue import Alert, AlertQueue
from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.customer import RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT
from keyvigil_cli.project import Project
from keyvigil_cli.waiting import wait_until
from tests.e2e.stage import Stage
from tests.e2e.story import story

ELSEWHERE = "eu-west-1"
_ALERT_SECONDS = 90


class Customer:
    """A customer's administrator, who changes what KeyVigil only sees when it looks closely."""

    def __init__(self, stage: Stage, project: Project) -> None:
        session = stage.cloud.session(CUSTOMER_ACCOUNT)
        self.kms = session.client("kms")
        self.iam = session.client("iam")
        self.customer = stage.customer
        self.role_arn = stage.role(project)
        self.name = stage.name()

    def key(self, **settings: Any) -> str:
        arn: str = self.kms.create_key(**settings)["KeyMetadata"]["Arn"]
        return arn

    def may_see(self, *arns: str) -> None:
        """Let the role probe these keys, and see whether they are rotated."""
        for arn in arns:
            key = RegistrableKey(arn, self.role_arn)
            self.customer.allow(key)
            self.customer.name_role(key)

    def may_see_alias(self, alias_arn: str) -> None:
        """Let the role ask by an alias that may be gone: the local cloud then has no key whose policy could say so."""
        allowed = {"Effect": "Allow", "Action": "kms:DescribeKey", "Resource": alias_arn}
        self.iam.put_role_policy(
            RoleName=self.role_arn.rpartition("/")[2], PolicyName="keyvigil-alias", PolicyDocument=policy(allowed)
        )


class Watch:
    """A registered key, and the alerts about it."""

    def __init__(self, project: Project, alerts: AlertQueue, key_arn: str, role_arn: str) -> None:
        self._project = project
        self._alerts = alerts
        self.registered = project.register_key(RegistrableKey(key_arn=key_arn, role_arn=role_arn))
        self.key_id: str = self.registered["key_id"]

    def check(self) -> JsonObject:
        return self._project.api.post("projects", self._project.project_id, "keys", self.key_id, "check")

    def told(self, kind: str) -> list[Alert]:
        return [
            alert
            for alert in self._alerts.collect()
            if alert["type"] == kind and alert["key"]["arn"] == self.registered["key_arn"]
        ]

    def wait_for(self, kind: str, *statuses: str) -> Alert:
        """Wait until these, and no others, were told of the danger; return the latest."""
        seen = wait_until(
            f"{kind} {' and '.join(statuses)}",
            lambda: self.told(kind),
            lambda told: len(told) >= len(statuses),
            within=_ALERT_SECONDS,
        )
        in_order = sorted(seen, key=lambda alert: alert["sequence"])
        assert [alert["status"] for alert in in_order] == list(statuses)
        return in_order[-1]


def refusal(call: Callable[[], object]) -> JsonObject:
    with pytest.raises(ApiProblemError) as refused:
        call()
    return {"status": refused.value.status, **refused.value.problem}


@story
def rotation_an_alias_and_a_deletion_are_told_once_and_again_when_they_are_mended(stage: Stage) -> None:
    project = stage.project(enforcement="observe", check_interval_minutes=60)
    customer, alerts = Customer(stage, project), stage.alert_queue(project)
    key_arn, other = customer.key(), customer.key()
    alias = f"alias/{customer.name}"
    customer.kms.create_alias(AliasName=alias, TargetKeyId=key_arn)
    alias_arn = f"{key_arn.rpartition(':')[0]}:{alias}"
    # AWS authorizes what is asked by an alias by the key that it stands for; the local cloud by the key's policy alone.
    customer.may_see(key_arn, other)
    customer.may_see_alias(alias_arn)
    watch = Watch(project, alerts, alias_arn, customer.role_arn)
    assert (watch.registered["rotation_enabled"], watch.registered["alias_target_arn"]) == (False, key_arn)

    assert watch.check()["rotation_enabled"] is False
    watch.check()
    off = watch.wait_for("key.rotation_disabled", "firing")
    assert (off["severity"], off["incident_id"]) == ("warning", None)
    customer.kms.enable_key_rotation(KeyId=key_arn)
    assert watch.check()["rotation_enabled"] is True
    watch.wait_for("key.rotation_disabled", "firing", "resolved")

    customer.kms.update_alias(AliasName=alias, TargetKeyId=other)
    moved = watch.check()
    assert (moved["alias_target_arn"], moved["status"], moved["key_arn"]) == (other, "HEALTHY", key_arn)
    assert other in watch.wait_for("key.alias_moved", "firing")["cause"]["message"]
    customer.kms.delete_alias(AliasName=alias)
    assert watch.check()["alias_target_arn"] is None
    watch.wait_for("key.alias_moved", "firing", "firing")
    customer.kms.create_alias(AliasName=alias, TargetKeyId=key_arn)
    watch.check()
    watch.wait_for("key.alias_moved", "firing", "firing", "resolved")

    customer.kms.schedule_key_deletion(KeyId=key_arn, PendingWindowInDays=7)
    scheduled = watch.check()
    assert scheduled["deletion_date"] is not None
    assert scheduled["open_incident_id"] is not None
    watch.check()
    told = watch.wait_for("key.deletion_scheduled", "firing")
    # With more days left it is a warning, and the outage of the key, which the deletion brought about, says the same.
    assert told["severity"] == "critical"
    assert told["remediation"]["commands"][0].startswith("aws kms cancel-key-deletion")
    customer.kms.cancel_key_deletion(KeyId=key_arn)
    customer.kms.enable_key(KeyId=key_arn)
    assert watch.check()["deletion_date"] is None
    watch.wait_for("key.deletion_scheduled", "firing", "resolved")
    assert len(watch.told("key.rotation_disabled")) == 2, "KMS says that rotation is off while deletion is pending"


@story
def a_backup_keeps_its_key_and_a_replica_lets_it_be_restored_elsewhere(stage: Stage) -> None:
    project = stage.project(enforcement="observe", check_interval_minutes=60)
    customer, alerts = Customer(stage, project), stage.alert_queue(project)
    key_arn = customer.key(MultiRegion=True)
    replica_arn = key_arn.replace(key_arn.split(":")[3], ELSEWHERE)
    customer.may_see(key_arn)
    watch = Watch(project, alerts, key_arn, customer.role_arn)
    assert (watch.registered["multi_region"], watch.registered["replica_regions"]) == (True, [])
    project.register_cluster("vectors", watch.key_id, {"via": "none"})
    at = ("projects", project.project_id)
    backup = {"backup_id": "nightly", "cluster_id": "vectors", "key_id": watch.key_id, "region": ELSEWHERE}
    assert refusal(lambda: project.api.post(*at, "backups", body={**backup, "cluster_id": "gone"}))["status"] == 409
    project.api.post(*at, "backups", body=backup)
    assert [each["backup_id"] for each in project.api.items(*at, "backups")] == ["nightly"]

    def restore(region: str) -> JsonObject:
        return project.api.post(*at, "backups", "nightly", "restore-check", body={"region": region})

    assert watch.check()["backups"] == 1
    command = watch.wait_for("key.replica_missing", "firing")["remediation"]["commands"][0]
    assert command.endswith(f"--key-id {key_arn} --replica-region {ELSEWHERE}")
    missing = restore(ELSEWHERE)
    assert (missing["restorable"], missing["remediation"]["commands"]) == (False, [command])
    home = key_arn.split(":")[3]
    assert restore(home) == {"restorable": True, "with_key_id": watch.key_id, "reason": None, "remediation": None}

    customer.kms.replicate_key(KeyId=key_arn, ReplicaRegion=ELSEWHERE)
    denied = restore(ELSEWHERE)
    assert not denied["restorable"], "the role may not use the replica yet"
    customer.may_see(key_arn, replica_arn)
    assert restore(ELSEWHERE)["with_key_id"] == f"{ELSEWHERE}.{key_arn.rpartition('/')[2]}"
    assert watch.check()["replica_regions"] == [ELSEWHERE]
    watch.wait_for("key.replica_missing", "firing", "resolved")

    project.api.delete(*at, "clusters", "vectors")
    assert restore(ELSEWHERE)["restorable"], "a backup outlives its cluster"
    refused = refusal(lambda: project.api.delete(*at, "keys", watch.key_id))
    assert (refused["status"], refused["in_the_way"]) == (409, ["backup nightly"])
    project.api.delete(*at, "backups", "nightly")
    project.api.delete(*at, "keys", watch.key_id)


def age(stage: Stage, project: Project, key_id: str, by: timedelta) -> None:
    """Let a key look as if it had not been probed for long: its item, as the store writes it, with older times."""
    dynamodb, table = stage.cloud.session().client("dynamodb"), stage.outputs["TableName"]
    place = {"pk": {"S": f"PROJECT#{project.project_id}"}, "sk": {"S": f"KEY#{key_id}"}}
    item: dict[str, Any] = dynamodb.get_item(TableName=table, Key=place, ConsistentRead=True)["Item"]
    body = json.loads(item["body"]["S"])
    long_ago = datetime.fromisoformat(body["last_probed_at"]) - by
    due = long_ago + timedelta(hours=1)
    body |= {"last_probed_at": long_ago.isoformat(), "due_at": due.isoformat()}
    changed = {
        "body": {"S": json.dumps(body)},
        "version": {"N": str(int(item["version"]["N"]) + 1)},
        "agenda_at": {"N": str(int(due.timestamp() * 1000))},
    }
    dynamodb.put_item(TableName=table, Item={**item, **changed})


@story
def a_key_that_is_not_probed_is_told_to_the_operator_until_it_is(stage: Stage) -> None:
    project = stage.project(check_interval_minutes=60)
    watched = stage.watched_key(project)
    session = stage.cloud.session()
    operator = AlertQueue(session, stage.name(), stage.outputs["OperatorTopicArn"])
    session.client("sns").subscribe(
        TopicArn=stage.outputs["OperatorTopicArn"], Protocol="sqs", Endpoint=operator.endpoint
    )

    def told() -> list[Alert]:
        # Alarms come to this topic too.
        return [each for each in operator.collect() if (each.get("key") or {}).get("arn") == watched.key.key_arn]

    kms_key = watched.key.key_arn.rpartition("/")[2]
    # The sweep that finds the key stale also sends it to be probed; that probe hangs, and so comes after.
    with stage.faults.failing({"service": "kms", "body": f"contains(KeyId, '{kms_key}')", "timeout_ms": 8000}):
        age(stage, project, watched.key_id, timedelta(hours=4))
        assert project.key(watched.key_id)["stale"] is True
        assert stage.api.get("fleet")["stale_keys"] >= 1
        wait_until("key.stale", told, bool, within=150)
    wait_until("its end", told, lambda seen: len(seen) == 2, within=150)
    assert [(each["type"], each["status"]) for each in sorted(told(), key=lambda each: each["sequence"])] == [
        ("key.stale", "firing"),
        ("key.stale", "resolved"),
    ]
    assert project.key(watched.key_id)["stale"] is False
    operator.delete()
