"""Every cause that the local cloud can show: a key is broken, its verdict says how, and the verdict's commands mend it.

Each case is a story. The commands run as they are printed, in a shell, by the AWS command line, as the customer's
administrator. docs/causes.md lists the cases, and `tests/unit/test_causes.py` holds it to that.
"""

import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyvigil.domain.aws_commands import KeyCommands
from keyvigil.domain.remediation import Seen, Subject, explain
from keyvigil.domain.verdicts import Cause, PolicyKind, Refusal
from keyvigil_cli.api_client import JsonObject
from keyvigil_cli.customer import DELETION_DAYS, RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, REGION
from keyvigil_cli.project import Project
from keyvigil_cli.waiting import wait_until
from tests.e2e.aws_shell import AwsShell
from tests.e2e.stage import Stage
from tests.e2e.story import STORIES, story

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

# Each is a key of its own, and most of it is starting the AWS command line: more at once would only be slower.
_AT_ONCE = threading.Semaphore(3)
_HEALTHY_SECONDS = 120
_BETWEEN_CHECKS = 5.0  # sooner, a probe does not count
OTHER_REGION = "eu-west-1"

# What a person does who is told to take a denial out of a policy.
EDITOR = """
import json, sys
file = sys.argv[1]
policy = json.load(open(file))
policy["Statement"] = [each for each in policy["Statement"] if each["Effect"] != "Deny"]
json.dump(policy, open(file, "w"))
"""


@dataclass
class Patient:
    """A registered key, the customer who owns it, and what they have at hand."""

    stage: Stage
    project: Project
    key: RegistrableKey
    shell: AwsShell
    use: str = "cmek"
    key_id: str = ""
    probe_secret_arn: str | None = None

    @property
    def kms(self) -> "KMSClient":
        """KMS in the key's Region, as the customer."""
        return self.stage.cloud.session(CUSTOMER_ACCOUNT, self.key.key_arn.split(":")[3]).client("kms")

    @property
    def iam(self) -> Any:
        """IAM, as the customer."""
        return self.stage.cloud.session(CUSTOMER_ACCOUNT).client("iam")

    @property
    def arn(self) -> str:
        return self.key.key_arn

    @property
    def role(self) -> str:
        return self.key.role_name

    def register(self) -> None:
        registered = self.project.register_key(self.key, use=self.use, probe_secret_arn=self.probe_secret_arn)
        assert registered["status"] == "HEALTHY"
        assert registered["verdict"]["findings"] == []
        self.key_id = registered["key_id"]

    def check(self) -> JsonObject:
        return self.project.api.post("projects", self.project.project_id, "keys", self.key_id, "check")

    def mend(self, remediation: JsonObject) -> None:
        """Do what the verdict says, word by word."""
        assert remediation["summary"]
        editor = self.shell.add_command("editor", f"exec {sys.executable} -c '{EDITOR}' \"$1\"")
        for command in remediation["commands"]:
            self.shell.paste(command, {"EDITOR": str(editor)})

    def wait_until_healthy(self) -> JsonObject:
        return wait_until(
            "the key to be HEALTHY again",
            self.check,
            lambda key: (key["status"], key["verdict"]["outcome"]) == ("HEALTHY", "HEALTHY"),
            within=_HEALTHY_SECONDS,
            every=_BETWEEN_CHECKS,
            show=lambda key: f"{key['status']}, {json.dumps(key['verdict'])}",
        )


type Prepare = Callable[[Stage, AwsShell, str], Patient]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way for a key to break, and what the verdict must say then."""

    break_it: Callable[[Patient], None]
    cause: Cause
    operation: str
    says: str
    permission: JsonObject | None = None
    prepare: Prepare
    use: str
    also: Callable[[Patient], None] | None = None

    def tell(self, stage: Stage) -> None:
        """Break it, read the verdict, mend it as the verdict says."""
        with _AT_ONCE, tempfile.TemporaryDirectory() as home:
            patient = self.prepare(stage, AwsShell(stage.cloud, Path(home), CUSTOMER_ACCOUNT), self.use)
            patient.register()
            self.break_it(patient)
            verdict = patient.check()["verdict"]
            self.compare(verdict, patient)
            patient.mend(verdict["remediation"])
            if self.also is not None:
                self.also(patient)
            patient.wait_until_healthy()

    def compare(self, verdict: JsonObject, patient: Patient) -> None:
        found = (verdict["outcome"], verdict["cause"], verdict["operation"])
        assert found == ("UNHEALTHY", self.cause, self.operation), verdict
        assert re.search(self.says, verdict["message"]), verdict["message"]
        action = (verdict["permission"] or {}).get("action")
        expected = {
            Cause.ACCESS_DENIED: f"kms:{self.operation}",
            Cause.ROLE_NOT_ASSUMABLE: "sts:AssumeRole",
            Cause.SECRET_UNREADABLE: "secretsmanager:GetSecretValue",
        }.get(self.cause)
        assert action == expected
        if self.permission is not None:
            assert verdict["permission"]["refused_by"] == self.permission


CASES: dict[str, Case] = {}
"""What is broken and mended on the local cloud, by the sentence that says how."""


def plain(stage: Stage, shell: AwsShell, use: str) -> Patient:
    """An ordinary key with a role of its own."""
    project = stage.project(enforcement="observe", check_interval_minutes=60)
    key = stage.customer.create_key(stage.role(project), data_keys=use == "cse")
    return Patient(stage, project, key, shell, use)


def _key_made(stage: Stage, shell: AwsShell, use: str, region: str = REGION, **settings: Any) -> Patient:
    """A key that is made in a special way."""
    project = stage.project(enforcement="observe", check_interval_minutes=60)
    kms = stage.cloud.session(CUSTOMER_ACCOUNT, region).client("kms")
    key = RegistrableKey(kms.create_key(**settings)["KeyMetadata"]["Arn"], stage.role(project))
    stage.customer.allow(key)
    return Patient(stage, project, key, shell, use)


def imported(stage: Stage, shell: AwsShell, use: str) -> Patient:
    """A key whose material the customer has imported, and keeps in a file."""
    patient = _key_made(stage, shell, use, Origin="EXTERNAL")
    import_material(patient, os.urandom(32))
    return patient


def import_material(patient: Patient, material: bytes) -> None:
    (patient.shell.home / "key-material.bin").write_bytes(material)
    for command in KeyCommands(patient.arn, REGION).import_material():
        patient.shell.paste(command)


def primary(stage: Stage, shell: AwsShell, use: str) -> Patient:
    """A multi-Region primary key with one replica."""
    patient = _key_made(stage, shell, use, MultiRegion=True)
    patient.kms.replicate_key(KeyId=patient.arn, ReplicaRegion=OTHER_REGION)
    return patient


def replica(stage: Stage, shell: AwsShell, use: str) -> Patient:
    """The replica of a multi-Region key, registered beside its primary."""
    first = primary(stage, shell, use)
    arn = first.arn.replace(f":{REGION}:", f":{OTHER_REGION}:")
    second = Patient(stage, first.project, RegistrableKey(arn, first.key.role_arn), shell, use)
    stage.customer.allow(second.key)
    first.register()
    return second


def with_secret(stage: Stage, shell: AwsShell, use: str) -> Patient:
    """A key with the secret that its probe reads."""
    patient = plain(stage, shell, use)
    name = f"keyvigil/{patient.project.project_id}/probe"
    patient.probe_secret_arn = stage.customer.create_probe_secret(patient.key, name)
    return patient


def case(
    cause: Cause,
    operation: str = "Encrypt",
    *,
    says: str,
    refused_by: tuple[PolicyKind, bool] | None = None,
    prepare: Prepare = plain,
    use: str = "cmek",
    also: Callable[[Patient], None] | None = None,
) -> Callable[[Callable[[Patient], None]], Callable[[Patient], None]]:
    """Make a function that breaks a key a case, and a story. Its name is the sentence."""

    def add(break_it: Callable[[Patient], None]) -> Callable[[Patient], None]:
        policy = None if refused_by is None else {"policy": refused_by[0], "explicit": refused_by[1]}
        made = Case(
            break_it=break_it, cause=cause, operation=operation, says=says, permission=policy, prepare=prepare,
            use=use, also=also,
        )  # fmt: skip
        CASES[break_it.__name__] = made
        STORIES[break_it.__name__] = made.tell
        return break_it

    return add


# --- the key's own state ----------------------------------------------------------------------------------------


@case(Cause.KEY_DISABLED, says=r"is disabled, so Encrypt was refused")
def a_key_is_disabled(patient: Patient) -> None:
    patient.kms.disable_key(KeyId=patient.arn)


@case(Cause.KEY_PENDING_DELETION, says=r"going to be deleted on 20\d\d-\d\d-\d\d, in [67] days, so Encrypt was refused")
def a_keys_deletion_is_scheduled(patient: Patient) -> None:
    patient.kms.schedule_key_deletion(KeyId=patient.arn, PendingWindowInDays=DELETION_DAYS)


@case(Cause.KEY_DISABLED, says=r"is disabled, as a cancelled deletion leaves it, so Encrypt was refused")
def a_keys_deletion_is_cancelled_and_it_is_still_disabled(patient: Patient) -> None:
    patient.kms.schedule_key_deletion(KeyId=patient.arn, PendingWindowInDays=DELETION_DAYS)
    assert patient.check()["verdict"]["cause"] == "KEY_PENDING_DELETION"
    patient.kms.cancel_key_deletion(KeyId=patient.arn)
    assert "cancelled deletion" in patient.check()["verdict"]["message"]


@case(Cause.KEY_DISABLED, says=r":key/mrk-\w+ is disabled", prepare=primary)
def a_multi_region_primary_is_disabled(patient: Patient) -> None:
    patient.kms.disable_key(KeyId=patient.arn)


@case(Cause.KEY_DISABLED, says=rf":{OTHER_REGION}:\d+:key/mrk-\w+ is disabled", prepare=replica)
def a_replica_alone_is_disabled(patient: Patient) -> None:
    patient.kms.disable_key(KeyId=patient.arn)


@case(Cause.KEY_PENDING_DELETION, says=rf":{OTHER_REGION}:\d+:key/mrk-\w+ is going to be deleted on", prepare=replica)
def a_replicas_deletion_is_scheduled(patient: Patient) -> None:
    patient.kms.schedule_key_deletion(KeyId=patient.arn, PendingWindowInDays=DELETION_DAYS)


@case(Cause.KEY_MATERIAL_MISSING, says=r"it was deleted, has expired or was never imported", prepare=imported)
def imported_material_is_deleted(patient: Patient) -> None:
    patient.kms.delete_imported_key_material(KeyId=patient.arn)


@case(Cause.CIPHERTEXT_UNREADABLE, "Decrypt", says=r"encrypted .* at registration no longer decrypts", prepare=imported)
def other_material_is_imported(patient: Patient) -> None:
    """AWS takes no other material for a key; the local cloud does, and so shows what KeyVigil would say."""
    kept = (patient.shell.home / "key-material.bin").read_bytes()
    import_material(patient, os.urandom(32))
    (patient.shell.home / "key-material.bin").write_bytes(kept)


# --- policies ---------------------------------------------------------------------------------------------------


def _denied_by_key_policy(operation: str, use: str) -> None:
    def deny(patient: Patient) -> None:
        patient.stage.customer.deny(patient.key, f"kms:{operation}")

    deny.__name__ = f"the_keys_policy_denies_{operation}_alone"
    case(
        Cause.ACCESS_DENIED,
        operation,
        says=rf"may not use kms:{operation} on .*: the key's policy denies it",
        refused_by=(PolicyKind.RESOURCE, True),
        use=use,
    )(deny)


_denied_by_key_policy("Encrypt", "cmek")
_denied_by_key_policy("Decrypt", "cmek")
_denied_by_key_policy("GenerateDataKey", "cse")


def _left_out_of_role_policy(operation: str, use: str) -> None:
    def leave_out(patient: Patient) -> None:
        document: Any = patient.iam.get_role_policy(RoleName=patient.role, PolicyName="keyvigil-probes")
        policy = document["PolicyDocument"]
        for statement in policy["Statement"]:
            actions = statement["Action"]
            if isinstance(actions, list):
                statement["Action"] = [action for action in actions if action != f"kms:{operation}"]
        patient.iam.put_role_policy(
            RoleName=patient.role, PolicyName="keyvigil-probes", PolicyDocument=json.dumps(policy)
        )

    leave_out.__name__ = f"the_roles_policy_is_short_of_{operation}"
    case(
        Cause.ACCESS_DENIED,
        operation,
        says=rf"may not use kms:{operation} on .*: no policy of the role allows it",
        refused_by=(PolicyKind.IDENTITY, False),
        use=use,
    )(leave_out)


_left_out_of_role_policy("Encrypt", "cmek")
_left_out_of_role_policy("Decrypt", "cmek")
_left_out_of_role_policy("GenerateDataKey", "cse")


def _take_the_policy_away(patient: Patient) -> None:
    """The person whom the command told which policy it is."""
    patient.iam.delete_role_policy(RoleName=patient.role, PolicyName="freeze")


@case(
    Cause.ACCESS_DENIED,
    says=r"may not use kms:Encrypt on .*: a policy of the role denies it",
    refused_by=(PolicyKind.IDENTITY, True),
    also=_take_the_policy_away,
)
def the_roles_policy_denies_a_key(patient: Patient) -> None:
    freeze = {"Effect": "Deny", "Action": "kms:Encrypt", "Resource": patient.arn}
    patient.iam.put_role_policy(RoleName=patient.role, PolicyName="freeze", PolicyDocument=policy(freeze))


def _put_it_into_the_keys_policy(patient: Patient) -> None:
    """The local cloud names the role's policy, AWS the key's: do what the verdict would say with AWS's words."""
    subject = Subject(
        key_arn=patient.arn,
        region=REGION,
        role_arn=patient.key.role_arn,
        external_id=patient.project.external_id,
        monitor_role_arn=patient.stage.outputs["MonitorRoleArn"],
        operations=("DescribeKey", "Encrypt", "Decrypt"),
    )
    by_the_key = Seen(refused_by=Refusal(policy=PolicyKind.RESOURCE, explicit=False))
    assert patient.check()["verdict"]["cause"] == "ACCESS_DENIED"
    _, remediation = explain(Cause.ACCESS_DENIED, "Encrypt", subject, by_the_key)
    assert remediation is not None
    patient.mend({"summary": remediation.summary, "commands": list(remediation.commands)})


@case(Cause.ACCESS_DENIED, says=r"may not use kms:Encrypt on", also=_put_it_into_the_keys_policy)
def the_keys_policy_no_longer_lets_iam_decide(patient: Patient) -> None:
    root = {"AWS": f"arn:aws:iam::{CUSTOMER_ACCOUNT}:root"}
    actions = ["kms:Describe*", "kms:Get*", "kms:PutKeyPolicy"]
    statement = {"Effect": "Allow", "Principal": root, "Action": actions, "Resource": "*"}
    patient.kms.put_key_policy(KeyId=patient.arn, Policy=policy(statement))


def policy(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


# --- the role ---------------------------------------------------------------------------------------------------

ROLE_IS_GONE = r"cannot be assumed: it is gone, or its trust policy no longer lets us"


@case(Cause.ROLE_NOT_ASSUMABLE, "AssumeRole", says=ROLE_IS_GONE)
def the_role_is_deleted(patient: Patient) -> None:
    patient.iam.delete_role_policy(RoleName=patient.role, PolicyName="keyvigil-probes")
    patient.iam.delete_role(RoleName=patient.role)


def _trust(patient: Patient, statement: Mapping[str, Any]) -> None:
    patient.iam.update_assume_role_policy(RoleName=patient.role, PolicyDocument=policy(statement))


@case(Cause.ROLE_NOT_ASSUMABLE, "AssumeRole", says=ROLE_IS_GONE)
def the_roles_trust_is_changed(patient: Patient) -> None:
    root = {"AWS": f"arn:aws:iam::{CUSTOMER_ACCOUNT}:root"}
    _trust(patient, {"Effect": "Allow", "Principal": root, "Action": "sts:AssumeRole"})


@case(Cause.ROLE_NOT_ASSUMABLE, "AssumeRole", says=ROLE_IS_GONE)
def the_external_id_is_changed(patient: Patient) -> None:
    document: Any = patient.iam.get_role(RoleName=patient.role)["Role"]["AssumeRolePolicyDocument"]
    (statement,) = document["Statement"]
    statement["Condition"]["StringEquals"] = {"sts:ExternalId": "another-one"}
    _trust(patient, statement)


# --- the secret -------------------------------------------------------------------------------------------------


@case(
    Cause.SECRET_UNREADABLE,
    "GetSecretValue",
    says=r"The role \S+ cannot read \S+:secret:keyvigil/\S+, the secret made for the probe",
    refused_by=(PolicyKind.IDENTITY, False),
    prepare=with_secret,
    use="kes",
)
def the_role_may_no_longer_read_the_probes_secret(patient: Patient) -> None:
    patient.stage.customer.forbid_secret(patient.key)


# --- what does not break a key ----------------------------------------------------------------------------------


def _story(tell: Callable[[Stage], None]) -> Callable[[Stage], None]:
    OTHERS[tell.__name__] = tell
    return story(tell)


OTHERS: dict[str, Callable[[Stage], None]] = {}
"""What is no cause, or is one that no command of the customer's mends."""


@_story
def a_denied_describe_key_is_healthy_with_a_finding_whose_commands_mend_it(stage: Stage) -> None:
    with _AT_ONCE, tempfile.TemporaryDirectory() as home:
        patient = plain(stage, AwsShell(stage.cloud, Path(home), CUSTOMER_ACCOUNT), "cmek")
        patient.register()
        stage.customer.deny(patient.key, "kms:DescribeKey")
        checked = patient.check()
        verdict = checked["verdict"]
        assert (checked["status"], verdict["outcome"], verdict["cause"]) == ("HEALTHY", "HEALTHY", None)
        (finding,) = verdict["findings"]
        assert finding["code"] == "DESCRIBE_KEY_DENIED"
        assert "may not use kms:DescribeKey on" in finding["message"]
        patient.mend(finding["remediation"])
        assert patient.check()["verdict"]["findings"] == []


@_story
def an_alias_that_moved_leaves_its_key_healthy(stage: Stage) -> None:
    project = stage.project(enforcement="observe", check_interval_minutes=60)
    role_arn = stage.role(project)
    first, second = stage.customer.create_key(role_arn), stage.customer.create_key(role_arn)
    stage.customer.name_role(first)
    kms = stage.cloud.session(CUSTOMER_ACCOUNT).client("kms")
    alias = f"alias/{stage.name()}"
    kms.create_alias(AliasName=alias, TargetKeyId=first.key_arn)
    alias_arn = f"{first.key_arn.rpartition(':')[0]}:{alias}"
    registered = project.register_key(RegistrableKey(alias_arn, role_arn))
    kms.update_alias(AliasName=alias, TargetKeyId=second.key_arn)
    checked = project.api.post("projects", project.project_id, "keys", registered["key_id"], "check")
    assert (checked["key_arn"], checked["status"]) == (first.key_arn, "HEALTHY")
    assert checked["verdict"]["outcome"] == "HEALTHY"


# --- what a registration shows ----------------------------------------------------------------------------------


def _validated(stage: Stage, project: Project, key: RegistrableKey) -> JsonObject:
    """The verdict on a key that is not registered. The role's policy names it as the registration does."""
    stage.customer.allow(key)
    body: JsonObject = {"key_arn": key.key_arn, "role_arn": key.role_arn, "use": "cmek"}
    verdict: JsonObject = stage.api.post("projects", project.project_id, "key-validations", body=body)["verdict"]
    return verdict


@_story
def a_key_asked_for_in_the_wrong_region_is_not_found_and_the_region_is_named(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    elsewhere = RegistrableKey(key.key_arn.replace(f":{REGION}:", f":{OTHER_REGION}:"), key.role_arn)
    verdict = _validated(stage, project, elsewhere)
    assert (verdict["cause"], verdict["operation"]) == ("KEY_NOT_FOUND", "DescribeKey")
    assert f"in {OTHER_REGION}, the Region that its ARN names" in verdict["message"]
    assert f"--region {OTHER_REGION}" in verdict["remediation"]["commands"][0]
    assert project.register_key(key)["status"] == "HEALTHY"


@_story
def a_key_that_was_never_there_is_not_found(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    prefix, _, _ = key.key_arn.rpartition("/")
    nowhere = RegistrableKey(f"{prefix}/00000000-0000-0000-0000-000000000000", key.role_arn)
    verdict = _validated(stage, project, nowhere)
    assert (verdict["cause"], verdict["operation"]) == ("KEY_NOT_FOUND", "DescribeKey")


def _refused_for_its_kind(patient: Patient) -> JsonObject:
    made = patient.kms.describe_key(KeyId=patient.arn)["KeyMetadata"]
    verdict = _validated(patient.stage, patient.project, patient.key)
    assert (verdict["cause"], verdict["operation"]) == ("KEY_WRONG_USAGE", "Encrypt")
    assert f"(it is {made.get('KeySpec')} for {made.get('KeyUsage')})" in verdict["message"]
    return verdict


@_story
def keys_of_the_wrong_usage_or_spec_are_refused_and_the_right_kind_can_be_made(stage: Stage) -> None:
    with _AT_ONCE, tempfile.TemporaryDirectory() as home:
        shell = AwsShell(stage.cloud, Path(home), CUSTOMER_ACCOUNT)
        _refused_for_its_kind(_key_made(stage, shell, "cmek", KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256"))
        wrong = _key_made(stage, shell, "cmek", KeyUsage="ENCRYPT_DECRYPT", KeySpec="RSA_2048")
        verdict = _refused_for_its_kind(wrong)
        (command,) = verdict["remediation"]["commands"]
        made = json.loads(shell.paste(command))["KeyMetadata"]["Arn"]
        right = RegistrableKey(made, wrong.key.role_arn)
        stage.customer.allow(right)
        assert wrong.project.register_key(right)["status"] == "HEALTHY"


# --- faults between KeyVigil and AWS ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is put between KeyVigil and AWS, and what the verdict says then: nothing about the key."""

    cause: Cause
    operation: str
    rule: JsonObject

    def tell(self, stage: Stage) -> None:
        """Put it there, read the verdict, take it away."""
        with _AT_ONCE:
            project = stage.project(enforcement="observe", check_interval_minutes=60)
            watched = stage.watched_key(project)
            kms_key = watched.key.key_arn.rpartition("/")[2]
            rule = {**self.rule, "body": f"contains(KeyId, '{kms_key}')"}
            with stage.faults.failing(rule):
                checked = watched.check()
            verdict = checked["verdict"]
            assert (verdict["outcome"], verdict["cause"]) == ("UNKNOWN", self.cause), verdict
            assert verdict["operation"] == self.operation
            assert checked["status"] == "HEALTHY"
            assert "nothing is known about" in verdict["message"] or self.cause is Cause.KEY_STORE_UNREACHABLE
            assert watched.check()["verdict"]["outcome"] == "HEALTHY"


def _kms(code: str, status: int, operation: str | None = None) -> JsonObject:
    rule: JsonObject = {"service": "kms", "error": {"code": code, "status": status}}
    return rule if operation is None else {**rule, "operation": operation}


FAULTS: dict[str, Fault] = {
    "kms_throttles": Fault(cause=Cause.THROTTLED, operation="DescribeKey", rule=_kms("ThrottlingException", 400)),
    "kms_has_a_fault_of_its_own": Fault(
        cause=Cause.KMS_FAULT, operation="DescribeKey", rule=_kms("KMSInternalException", 500)
    ),
    "kms_cannot_reach_the_key_store_of_an_enabled_key": Fault(
        cause=Cause.KEY_STORE_UNREACHABLE,
        operation="Encrypt",
        rule=_kms("KMSInvalidStateException", 400, "Encrypt"),
    ),
    "kms_says_what_nobody_knows": Fault(
        cause=Cause.UNCLASSIFIED, operation="Encrypt", rule=_kms("NobodyKnowsException", 400, "Encrypt")
    ),
    "the_connection_breaks": Fault(
        cause=Cause.NETWORK, operation="DescribeKey", rule={"service": "kms", "reset": True}
    ),
    "kms_does_not_answer": Fault(
        cause=Cause.TIMEOUT, operation="DescribeKey", rule={"service": "kms", "timeout_ms": 8000}
    ),
}
STORIES.update({name: fault.tell for name, fault in FAULTS.items()})

SHOWN: dict[Cause, list[str]] = {cause: [] for cause in Cause}
"""The stories by cause, for docs/causes.md."""
for _name, _case in CASES.items():
    SHOWN[_case.cause].append(_name)
for _name, _fault in FAULTS.items():
    SHOWN[_fault.cause].append(_name)
SHOWN[Cause.KEY_NOT_FOUND] += [
    a_key_asked_for_in_the_wrong_region_is_not_found_and_the_region_is_named.__name__,
    a_key_that_was_never_there_is_not_found.__name__,
]
SHOWN[Cause.KEY_WRONG_USAGE].append(keys_of_the_wrong_usage_or_spec_are_refused_and_the_right_kind_can_be_made.__name__)
