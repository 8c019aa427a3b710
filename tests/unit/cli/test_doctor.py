"""`keyvigil doctor`: what each refusal means, where the statement belongs, and how the command ends."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from typer.testing import CliRunner

from keyvigil.domain.keys import KeyUse
from keyvigil_cli.commands import doctor as doctor_command
from keyvigil_cli.doctor import calls as real_calls
from keyvigil_cli.doctor.examination import Question, examine, principal_of
from keyvigil_cli.doctor.findings import Diagnosis, Place, Result
from keyvigil_cli.doctor.systems import SYSTEMS
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.main import app
from keyvigil_cli.policies.customer_role import CustomerRole
from keyvigil_cli.policies.documents import Document
from keyvigil_cli.policies.key_policy import Users, iam_decides, key_policy, stack_key_policy
from keyvigil_cli.policies.reading import Says, says
from tests.printed import Printed

ACCOUNT = "222222222222"
KEY = f"arn:aws:kms:us-west-2:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MULTI = f"arn:aws:kms:us-west-2:{ACCOUNT}:key/mrk-{'0' * 32}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/keyvigil-customer"
ADMIN = f"arn:aws:sts::{ACCOUNT}:assumed-role/admin/session"
IAM: Document = {"Version": "2012-10-17", "Statement": [iam_decides(ACCOUNT)]}
NOBODY: Document = {"Version": "2012-10-17", "Statement": [{**iam_decides(ACCOUNT), "Principal": {"AWS": "1" * 12}}]}

BY_IDENTITY = "because no identity-based policy allows the action"
BY_RESOURCE = "because no resource-based policy allows the action"
DENIED = "with an explicit deny in a resource-based policy"


def refusal(code: str = "AccessDeniedException", message: str = "", status: int = 400) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "Operation")


@dataclass
class Fake:
    """An identity whose calls succeed but for the failures it is given, by operation and, after a dot, by Region."""

    failures: Mapping[str, Exception] = field(default_factory=dict)
    policy: Document | None = None
    metadata: dict[str, Any] = field(default_factory=lambda: {"KeyState": "Enabled"})
    role: "Fake | None" = None
    checks_external_id: str | None = None
    allowed_by_iam: Mapping[str, bool] | None = None
    rotates: bool = True
    made: list[str] = field(default_factory=list)
    contexts: list[Mapping[str, str]] = field(default_factory=list)

    def _may(self, operation: str, arn: str = KEY) -> None:
        for name in (operation, f"{operation}.{arn.split(':')[3]}"):
            if name in self.failures:
                raise self.failures[name]

    def caller(self) -> str:
        self._may("GetCallerIdentity")
        return ADMIN

    def assumed(self, role_arn: str, external_id: str | None) -> "Fake":
        self._may("AssumeRole")
        if self.checks_external_id is not None and external_id != self.checks_external_id:
            raise refusal("AccessDenied")
        assert self.role is not None
        return self.role

    def describe(self, key_arn: str) -> Mapping[str, Any]:
        self._may("DescribeKey", key_arn)
        return self.metadata

    def encrypt(self, key_arn: str, context: Mapping[str, str]) -> bytes:
        self.contexts.append(context)
        self._may("Encrypt", key_arn)
        return b"encrypted"

    def decrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> None:
        assert ciphertext == b"encrypted"
        self._may("Decrypt", key_arn)

    def generate_data_key(self, key_arn: str, context: Mapping[str, str]) -> bytes:
        self._may("GenerateDataKey", key_arn)
        return b"encrypted"

    def re_encrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> None:
        self._may("ReEncrypt", key_arn)

    def rotated(self, key_arn: str) -> bool:
        self._may("GetKeyRotationStatus", key_arn)
        return self.rotates

    def key_policy(self, key_arn: str) -> Document:
        if self.policy is None:
            raise refusal()
        return self.policy

    def simulated(self, role_arn: str, actions: tuple[str, ...], key_arn: str) -> Mapping[str, bool]:
        if self.allowed_by_iam is None:
            raise refusal("AccessDenied")
        return self.allowed_by_iam

    def list_secrets(self, region: str) -> None:
        self._may("ListSecrets")

    def read_secret(self, secret_arn: str) -> None:
        self._may("GetSecretValue")

    def make_and_delete_secret(self, key_arn: str, name: str) -> None:
        self._may("CreateSecret")
        self.made.append(name)


def diagnosed(system: str, own: Fake, **given: Any) -> Diagnosis:
    return examine(Question(key_arn=given.pop("key_arn", KEY), system=SYSTEMS[system], **given), own, lambda _: None)


def results(diagnosis: Diagnosis) -> dict[str, str]:
    return {each.check: each.result for each in diagnosis.checks}


def by_role(role: Fake, **own: Any) -> Fake:
    return Fake(role=role, checks_external_id="ext", **own)


AS_ROLE: dict[str, Any] = {"role_arn": ROLE, "external_id": "ext"}


@pytest.mark.parametrize(
    ("system", "operations"),
    [
        ("zilliz-cmek", {"DescribeKey", "Encrypt", "Decrypt"}),
        ("zilliz-byoc", {"DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"}),
    ],
)
def test_a_key_that_works_is_healthy_with_the_operations_of_its_system(system: str, operations: set[str]) -> None:
    role = Fake()
    found = diagnosed(system, by_role(role, policy=IAM), **AS_ROLE, project_id="acme-prod")
    assert results(found) == {"AssumeRole": "WORKS", **dict.fromkeys(operations, "WORKS")}
    assert (found.outcome, found.status, found.to_add) == ("HEALTHY", ExitStatus.FINE, [])
    assert role.contexts == [{"tested-by": "KeyVigil", "purpose": "availability-probe", "project": "acme-prod"}]


@pytest.mark.parametrize(
    ("policy", "message", "places"),
    [
        (IAM, "", [Place.ROLE]),
        (IAM, BY_RESOURCE, [Place.ROLE]),
        (NOBODY, BY_IDENTITY, [Place.KEY]),
        (None, BY_IDENTITY, [Place.ROLE]),
        (None, BY_RESOURCE, [Place.KEY]),
        (None, "", [Place.ROLE, Place.KEY]),
    ],
    ids=["IAM decides", "IAM decides, whatever AWS says", "the key's policy is silent", "unread: identity",
         "unread: resource", "unread, unsaid"],
)  # fmt: skip
@pytest.mark.parametrize("operation", ["DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"])
def test_one_refused_operation_is_named_with_the_statement_that_policy_prints(
    operation: str, policy: Document | None, message: str, places: list[Place]
) -> None:
    role = Fake({operation: refusal(message=message)})
    found = diagnosed("zilliz-byoc", by_role(role, policy=policy), **AS_ROLE, project_id="acme-prod")

    short = [each.check for each in found.checks if each.result is Result.MISSING]
    assert (short, found.status) == ([operation], ExitStatus.UNHEALTHY)
    wanted = CustomerRole(key_arns=(KEY,), use=KeyUse.CSE, project_id="acme-prod")
    sid = "See" if operation == "DescribeKey" else "Probe"
    (of_role,) = [each for each in wanted.statements() if each["Sid"] == f"{sid}TheKeys"]
    (of_key,) = [each for each in wanted.key_statements(ROLE) if each["Sid"] == f"{sid}TheKey"]
    assert [each.place for each in found.to_add] == places
    assert [each.statement for each in found.to_add] == [of_role if place is Place.ROLE else of_key for place in places]


def test_a_key_of_another_account_needs_both_policies() -> None:
    theirs = KEY.replace(ACCOUNT, "333333333333")
    role = Fake({"Encrypt": refusal()}, policy=NOBODY)
    found = diagnosed("zilliz-cmek", by_role(role), **AS_ROLE, key_arn=theirs)
    (check,) = [each for each in found.checks if each.result is Result.MISSING]
    assert [each.place for each in check.additions] == [Place.KEY, Place.ROLE]
    assert not check.either


def test_a_denial_is_not_mended_by_a_statement() -> None:
    found = diagnosed("zilliz-cmek", Fake({"Decrypt": refusal(message=DENIED)}, policy=IAM))
    (check,) = [each for each in found.checks if each.result is Result.MISSING]
    assert check.additions == ()
    assert "take the denial away" in check.said


def test_decrypt_is_judged_by_itself_where_the_role_may_not_encrypt() -> None:
    role = Fake({"Encrypt": refusal()})
    found = diagnosed("zilliz-cmek", by_role(role, policy=IAM), **AS_ROLE)
    assert results(found) == {
        "AssumeRole": "WORKS", "DescribeKey": "WORKS", "Encrypt": "MISSING", "Decrypt": "WORKS",
    }  # fmt: skip
    nothing = diagnosed("zilliz-cmek", by_role(role, policy=IAM, failures={"Encrypt": refusal()}), **AS_ROLE)
    assert results(nothing)["Decrypt"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("state", "code", "cause"),
    [
        ("Disabled", "DisabledException", "KEY_DISABLED"),
        ("PendingDeletion", "KMSInvalidStateException", "KEY_PENDING_DELETION"),
        ("PendingImport", "KMSInvalidStateException", "KEY_MATERIAL_MISSING"),
    ],
)
def test_a_key_s_state_is_told_in_the_product_s_words_with_what_mends_it(state: str, code: str, cause: str) -> None:
    own = Fake({"Encrypt": refusal(code), "Decrypt": refusal(code)}, metadata={"KeyState": state}, policy=IAM)
    found = diagnosed("zilliz-cmek", own)
    (encrypt,) = [each for each in found.checks if each.check == "Encrypt"]
    assert (encrypt.result, encrypt.cause) == (Result.MISSING, cause)
    assert encrypt.commands
    assert found.status is ExitStatus.UNHEALTHY


def test_a_signing_key_is_of_the_wrong_usage() -> None:
    found = diagnosed("zilliz-cmek", Fake(metadata={"KeyState": "Enabled", "KeyUsage": "SIGN_VERIFY"}, policy=IAM))
    assert found.checks[0].cause == "KEY_WRONG_USAGE"


@pytest.mark.parametrize(
    "error",
    [refusal("ThrottlingException"), refusal("KMSInternalException", status=500), ReadTimeoutError(endpoint_url="x")],
    ids=["throttled", "KMS fault", "time-out"],
)
def test_what_says_nothing_about_the_key_is_unknown(error: Exception) -> None:
    found = diagnosed("zilliz-cmek", Fake({"Decrypt": error}, policy=IAM))
    assert results(found)["Decrypt"] == "UNKNOWN"
    assert (found.outcome, found.status) == ("UNKNOWN", ExitStatus.UNKNOWN)


def test_a_role_that_cannot_be_assumed_is_told_with_its_trust_statement_and_the_rest_is_unknown() -> None:
    found = diagnosed("zilliz-cmek", Fake({"AssumeRole": refusal("AccessDenied")}), **AS_ROLE)
    assert results(found) == {
        "AssumeRole": "MISSING", "DescribeKey": "UNKNOWN", "Encrypt": "UNKNOWN", "Decrypt": "UNKNOWN",
    }  # fmt: skip
    (addition,) = found.to_add
    assert addition.place is Place.TRUST
    assert addition.statement["Condition"]["StringEquals"] == {"sts:ExternalId": "ext"}
    assert f"arn:aws:iam::{ACCOUNT}:role/admin" in addition.statement["Condition"]["ArnLike"]["aws:PrincipalArn"]


def test_a_role_that_takes_any_external_id_is_not_healthy() -> None:
    found = diagnosed("zilliz-cmek", Fake(role=Fake(), policy=IAM), **AS_ROLE)
    assert results(found)["ExternalId"] == "MISSING"
    assert "Role does not check the ExternalId" in found.checks[1].said


def test_rotation_that_is_off_is_a_note_and_no_outage() -> None:
    found = diagnosed("zilliz-cmek", Fake(rotates=False, policy=IAM))
    assert found.status is ExitStatus.FINE
    assert any("aws kms enable-key-rotation" in each for each in found.notes)


def test_a_key_in_another_region_than_its_cluster_is_no_key_for_it() -> None:
    found = diagnosed("zilliz-cmek", Fake(policy=IAM), cluster_region="eu-west-1")
    assert results(found)["Region"] == "MISSING"
    assert "in us-west-2 and the system in eu-west-1" in found.checks[-1].said


def test_a_backup_is_restorable_where_a_replica_opens_the_old_data() -> None:
    own = Fake(policy=IAM)
    found = diagnosed("zilliz-cmek", own, key_arn=MULTI, restore_region="eu-west-1")
    assert results(found)["Decrypt in eu-west-1"] == "WORKS"
    gone = diagnosed(
        "zilliz-cmek", Fake({"DescribeKey.eu-west-1": refusal("NotFoundException")}, policy=IAM),
        key_arn=MULTI, restore_region="eu-west-1",
    )  # fmt: skip
    assert results(gone)["Replica in eu-west-1"] == "MISSING"
    assert "replicate-key" in gone.checks[-1].commands[0]
    single = diagnosed("zilliz-cmek", own, restore_region="eu-west-1")
    assert "not a multi-Region key" in single.checks[-1].said


@pytest.mark.parametrize("service", ["s3", "dynamodb", "secretsmanager", "ssm", "lambda"])
def test_a_key_that_is_only_used_through_a_service_is_judged_by_its_policy(service: str) -> None:
    refused = {each: refusal() for each in ("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey", "ReEncrypt")}
    admin = f"arn:aws:iam::{ACCOUNT}:role/admin"
    good = key_policy(KEY, Users(roles=(admin,), services=(service,), set_up=True), administrators=(ROLE,))
    found = diagnosed(service, Fake(refused, policy=good))
    assert found.outcome == "HEALTHY", results(found)
    assert "ALLOWED" in results(found).values()

    bad = diagnosed(service, Fake(refused, policy=NOBODY))
    assert bad.outcome == "UNHEALTHY"
    assert {each.place for each in bad.to_add} == {Place.KEY}
    printed = key_policy(KEY, Users(roles=(admin,), services=(service,), set_up=True))["Statement"]
    assert all(each.statement in printed for each in bad.to_add), "as `keyvigil policy key` prints it"

    assert diagnosed(service, Fake(refused, policy=IAM)).outcome == "UNKNOWN"
    assert diagnosed(service, Fake(refused)).outcome == "UNKNOWN"


def test_cloudtrail_must_be_let_in_by_the_key_s_policy() -> None:
    good = key_policy(KEY, Users(services=("cloudtrail",)))
    assert diagnosed("cloudtrail", Fake(policy=good)).outcome == "HEALTHY"
    found = diagnosed("cloudtrail", Fake(policy=IAM))
    assert results(found)["cloudtrail itself"] == "MISSING"
    assert [each.statement for each in found.to_add] == good["Statement"][1:]
    one_less = {**good, "Statement": good["Statement"][:-1]}
    short = diagnosed("cloudtrail", Fake(policy=one_less))
    assert [each.statement for each in short.to_add] == [good["Statement"][-1]]


def test_a_service_that_is_let_in_for_every_account_is_noted() -> None:
    wide = {"Effect": "Allow", "Principal": {"Service": "cloudtrail.amazonaws.com"}, "Action": "kms:*", "Resource": "*"}
    found = diagnosed("cloudtrail", Fake(policy={"Statement": [iam_decides(ACCOUNT), wide]}))
    assert found.outcome == "HEALTHY"
    assert any("without a condition" in each for each in found.notes)


def test_the_stack_s_own_key_is_healthy_with_the_policy_that_is_printed_and_each_statement_is_missed() -> None:
    printed = stack_key_policy(KEY, account_id=ACCOUNT, region="us-west-2")
    assert diagnosed("keyvigil", Fake(policy=printed), cluster_region="us-west-2").outcome == "HEALTHY"
    for number in (1, 2):
        left = [each for place, each in enumerate(printed["Statement"]) if place != number]
        found = diagnosed("keyvigil", Fake(policy={**printed, "Statement": left}))
        assert found.outcome == "UNHEALTHY", number


USES = ("kms:DescribeKey", "kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo")


@pytest.mark.parametrize(
    ("allowed", "outcome"),
    [(None, "UNKNOWN"), (dict.fromkeys(USES, True), "HEALTHY"), ({**dict.fromkeys(USES, True), USES[2]: False},
                                                                "UNHEALTHY")],
    ids=["not to be seen", "allowed", "one is not"],
)  # fmt: skip
def test_a_stack_s_roles_are_asked_of_iam_where_the_key_leaves_it_to_iam(
    allowed: Mapping[str, bool] | None, outcome: str
) -> None:
    policy = key_policy(KEY, Users(services=("cloudtrail",)))
    found = diagnosed("bedrock-budgeteer", Fake(policy=policy, allowed_by_iam=allowed))
    assert found.outcome == outcome
    assert len([each for each in found.checks if each.check.startswith("role bedrock-budgeteer-production-")]) == 3


def test_kes_needs_secrets_manager_and_only_makes_a_secret_when_asked() -> None:
    own = Fake({"ListSecrets": refusal()}, policy=IAM)
    found = diagnosed("minio-kes", own)
    assert results(found)["ListSecrets"] == "MISSING"
    assert results(found)["CreateSecret, DeleteSecret"] == "NOT TRIED"
    assert own.made == []
    assert found.to_add[0].statement["Action"] == "secretsmanager:ListSecrets"

    made = Fake(policy=IAM)
    assert diagnosed("minio-kes", made, makes_secret=True).outcome == "HEALTHY"
    assert made.made[0].startswith("keyvigil/doctor-")
    refused = diagnosed("minio-kes", Fake({"CreateSecret": refusal()}, policy=IAM), makes_secret=True)
    assert [each.statement["Sid"] for each in refused.to_add] == ["KeepKeysInSecrets", "UseThroughSecretsManager"]
    assert "Principal" not in refused.to_add[1].statement


@pytest.mark.parametrize(
    ("caller", "principal"),
    [
        (ADMIN, f"arn:aws:iam::{ACCOUNT}:role/admin"),
        (f"arn:aws:iam::{ACCOUNT}:user/bob", f"arn:aws:iam::{ACCOUNT}:user/bob"),
    ],
)
def test_a_session_is_its_role_to_a_policy(caller: str, principal: str) -> None:
    assert principal_of(caller) == principal


def stated(**statement: Any) -> Document:
    return {"Statement": [{"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:*", **statement}]}


VIA = {"StringEquals": {"kms:ViaService": "s3.us-west-2.amazonaws.com"}}


@pytest.mark.parametrize(
    ("policy", "via", "expected"),
    [
        (stated(), None, Says.ALLOWS),
        (stated(Principal="*"), None, Says.ALLOWS),
        (stated(Principal={"AWS": "*"}), None, Says.ALLOWS),
        (stated(Principal={"AWS": ACCOUNT}), None, Says.LEAVES_TO_IAM),
        (IAM, None, Says.LEAVES_TO_IAM),
        (NOBODY, None, Says.NOTHING),
        (stated(Action="kms:Dec*"), None, Says.ALLOWS),
        (stated(Action=["kms:Encrypt"]), None, Says.NOTHING),
        (stated(Condition=VIA), None, Says.NOTHING),
        (stated(Condition=VIA), "s3.us-west-2.amazonaws.com", Says.ALLOWS),
        (stated(Condition={"StringEquals": {"aws:SourceAccount": "1"}}), None, Says.ALLOWS_UNDER_CONDITIONS),
        (stated(Effect="Deny"), None, Says.DENIES),
        (stated(Effect="Deny", Condition={"Bool": {"aws:SecureTransport": "false"}}), None, Says.NOTHING),
        ({"Statement": [*stated()["Statement"], *stated(Effect="Deny")["Statement"]]}, None, Says.DENIES),
        (stated(NotAction="kms:Encrypt", Action=None), None, Says.ALLOWS),
    ],
)
def test_a_key_s_policy_is_read(policy: Document, via: str | None, expected: Says) -> None:
    assert says(policy, ROLE, "kms:Decrypt", via=via) is expected


# --- the command


@pytest.fixture
def keyvigil(monkeypatch: pytest.MonkeyPatch, no_aws_settings: None) -> Callable[[str, Fake], Printed]:
    def run(words: str, own: Fake) -> Printed:
        monkeypatch.setattr(real_calls, "AwsCalls", lambda _session: own)
        result = CliRunner().invoke(app, shlex.split(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Printed(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.mark.parametrize(
    ("own", "status"),
    [
        (Fake(policy=IAM), 0),
        (Fake({"GetCallerIdentity": refusal("ExpiredToken")}), 1),
        (Fake({"Encrypt": refusal()}, policy=IAM), 3),
        (Fake({"Encrypt": refusal("ThrottlingException")}, policy=IAM), 4),
    ],
    ids=["healthy", "no credentials", "unhealthy", "unknown"],
)
def test_the_exit_status_says_how_the_key_is(keyvigil: Callable[[str, Fake], Printed], own: Fake, status: int) -> None:
    assert keyvigil(f"doctor {KEY}", own).status == status


def test_the_statement_is_printed_so_that_it_can_be_pasted(keyvigil: Callable[[str, Fake], Printed]) -> None:
    own = Fake({"Decrypt": refusal()}, policy=NOBODY)
    told = keyvigil(f"doctor {KEY} --for zilliz-byoc --project acme-prod", own).output
    head, _, rest = told.partition(f"To add to the key policy of {KEY}:\n")
    statement, _ = json.JSONDecoder().raw_decode(rest)
    wanted = CustomerRole(key_arns=(KEY,), use=KeyUse.CSE, project_id="acme-prod")
    assert statement == wanted.key_statements(f"arn:aws:iam::{ACCOUNT}:role/admin")[1]
    assert "ACCESS_DENIED" in head
    assert "To mend it:\n  aws kms get-key-policy" in told

    asked = keyvigil(f"doctor {KEY} --for zilliz-byoc --project acme-prod --output json", own).json
    assert asked["outcome"] == "UNHEALTHY"
    assert [each["additions"][0]["statement"] for each in asked["checks"] if each["additions"]] == [statement]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("doctor nonsense", "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID"),
        (f"doctor {KEY} --for mainframe", "zilliz-cmek"),
        (f"doctor {KEY} --role bob", "is no role"),
        (f"doctor {KEY} --service s3", "none of cloudtrail"),
    ],
)
def test_what_cannot_be_examined_is_a_mistake_in_usage(
    keyvigil: Callable[[str, Fake], Printed], words: str, said: str
) -> None:
    printed = keyvigil(words, Fake())
    assert (printed.status, printed.output) == (2, "")
    assert said in "".join(printed.messages.replace("│", "").split()) or said in printed.messages


def test_the_systems_are_those_that_can_be_named() -> None:
    assert set(doctor_command.SystemWord.__args__) == set(SYSTEMS)  # type: ignore[attr-defined]  # typing's own
