"""The prober against stubbed AWS clients: what it asks, in which order, as whom, and what it makes of the answers."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber

from keyvigil.adapters import aws, kms_prober
from keyvigil.adapters.kms_prober import (
    BUDGET_SECONDS,
    CACHED_ROLES,
    CLOSER_LOOK_SECONDS,
    PLAINTEXT,
    REUSE_SECONDS,
    KmsProber,
    RoleCredentials,
)
from keyvigil.domain.keys import (
    AliasTarget,
    Baseline,
    CloserLook,
    Key,
    KeyFacts,
    KeyUse,
    Registration,
    Rotation,
    probe_context,
)
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Finding, Outcome
from keyvigil.ports import RegistrationAnswer, ValidationAnswer
from tests.examples import EXTERNAL_ID, KEY_ARN, KMS_KEY, MONITOR_ROLE_ARN, NOW, ROLE_ARN, SECRET_ARN, key, verdict
from tests.fakes import FakeClock, changed

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts import STSClient

ALIAS_ARN = KEY_ARN.replace(f"key/{KMS_KEY}", "alias/vectors")
OLD_CIPHERTEXT = b"made at registration"
NEW_CIPHERTEXT = b"made a moment ago"
CONTEXT = {"tested-by": "KeyVigil", "made-in": "2025"}


class FakeTime:
    """A stop-watch that a test moves, in seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class Call:
    """One call to AWS: the operation, and whose access key signs it (None: KeyVigil's own)."""

    operation: str
    signed_by: str | None


@dataclass
class Aws:
    """Stubbed KMS and STS. Answers are laid ready in order; `calls` is what was really asked."""

    kms: Stubber
    sts: Stubber
    secrets: Stubber
    time: FakeTime
    calls: list[Call] = field(default_factory=list)
    seconds_a_call: float = 0
    sessions: int = 0

    def note(self, model: Any, **_: Any) -> None:
        tenant = aws._tenant.get()
        self.calls.append(Call(model.name, tenant.access_key if tenant else None))
        self.time.seconds += self.seconds_a_call

    @property
    def asked(self) -> list[str]:
        return [call.operation for call in self.calls]

    def role_gives_a_session(self, external_id: Any = EXTERNAL_ID) -> str:
        """Lay an AssumeRole ready that must be asked exactly as it should be; return the session's access key."""
        self.sessions += 1
        access_key = f"ASIASESSION{self.sessions:09d}"
        self.sts.add_response(
            "assume_role",
            {
                "Credentials": {
                    "AccessKeyId": access_key,
                    "SecretAccessKey": "made-up",
                    "SessionToken": f"token-{self.sessions}",
                    "Expiration": NOW,
                }
            },
            self._assume(external_id),
        )
        return access_key

    def role_refuses(self, external_id: Any = EXTERNAL_ID, code: str = "AccessDenied") -> None:
        self.sts.add_client_error("assume_role", code, http_status_code=403, expected_params=self._assume(external_id))

    def _assume(self, external_id: Any) -> dict[str, Any]:
        expected = {"RoleArn": ROLE_ARN, "RoleSessionName": "KeyVigil-acme-prod", "DurationSeconds": 900}
        return expected if external_id is None else {**expected, "ExternalId": external_id}

    def describes(self, *, asked_for: str = KEY_ARN, **metadata: Any) -> None:
        document = {
            "KeyId": KMS_KEY,
            "Arn": KEY_ARN,
            "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "MultiRegion": False,
            **metadata,
        }
        self.kms.add_response("describe_key", {"KeyMetadata": document}, {"KeyId": asked_for})

    def encrypts(self, context: dict[str, str] = CONTEXT) -> None:
        expected = {"KeyId": KEY_ARN, "Plaintext": PLAINTEXT, "EncryptionContext": context}
        self.kms.add_response("encrypt", {"CiphertextBlob": NEW_CIPHERTEXT, "KeyId": KEY_ARN}, expected)

    def decrypts(
        self,
        ciphertext: bytes = OLD_CIPHERTEXT,
        context: dict[str, str] = CONTEXT,
        plaintext: bytes = PLAINTEXT,
    ) -> None:
        expected = {"KeyId": KEY_ARN, "CiphertextBlob": ciphertext, "EncryptionContext": context}
        self.kms.add_response("decrypt", {"Plaintext": plaintext, "KeyId": KEY_ARN}, expected)

    def makes_data_keys(self, context: dict[str, str] = CONTEXT) -> None:
        expected = {"KeyId": KEY_ARN, "KeySpec": "AES_256", "EncryptionContext": context}
        answer = {"CiphertextBlob": b"wrapped", "Plaintext": b"bare", "KeyId": KEY_ARN}
        self.kms.add_response("generate_data_key", answer, expected)

    def gives_the_secret(self, secret_arn: str = SECRET_ARN) -> None:
        answer = {"ARN": secret_arn, "Name": "probe", "SecretString": "nobody's business"}
        self.secrets.add_response("get_secret_value", answer, {"SecretId": secret_arn})

    def refuses_the_secret(self, code: str) -> None:
        self.secrets.add_client_error("get_secret_value", code, http_status_code=400)

    def rotates(self, *, enabled: bool, **more: Any) -> None:
        self.kms.add_response(
            "get_key_rotation_status", {"KeyRotationEnabled": enabled, "KeyId": KEY_ARN, **more}, {"KeyId": KEY_ARN}
        )

    def refuses(self, operation: str, code: str, status: int = 400) -> None:
        self.kms.add_client_error(operation, code, http_status_code=status)

    def answers(self, case: "Answers") -> None:
        """Lay a whole probe ready: what comes before the operation that fails succeeds."""
        arn = case.fields.get("key_arn", KEY_ARN)
        if case.fails == "AssumeRole":
            self.role_refuses(code=case.code or "")
            return
        self.role_gives_a_session()
        if case.fails != "DescribeKey":
            self.describes(asked_for=arn, **case.metadata)
        if case.fails == "Decrypt":
            self.encrypts()
        if case.code is not None:
            operation = {"DescribeKey": "describe_key", "Encrypt": "encrypt", "Decrypt": "decrypt"}[case.fails]
            self.kms.add_client_error(operation, case.code, service_message=case.words, http_status_code=case.status)

    def everything_works(self) -> None:
        self.describes()
        self.encrypts()
        self.decrypts()


type Clients = "tuple[KMSClient, STSClient, SecretsManagerClient]"


@pytest.fixture(scope="module")
def clients() -> Clients:
    session = boto3.Session("AKIAKEYVIGILITSELF01", "made-up", region_name="us-west-2")
    return session.client("kms"), session.client("sts"), session.client("secretsmanager")


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(kms_prober, "time", fake)
    return fake


@pytest.fixture
def cloud(clients: Clients, time: FakeTime) -> Iterator[Aws]:
    kms, sts, secrets = clients
    with Stubber(kms) as kms_stub, Stubber(sts) as sts_stub, Stubber(secrets) as secrets_stub:
        cloud = Aws(kms_stub, sts_stub, secrets_stub, time)
        for client in clients:
            client.meta.events.register("provide-client-params.*.*", cloud.note)
        yield cloud
        for client in clients:
            client.meta.events.unregister("provide-client-params.*.*", cloud.note)
        kms_stub.assert_no_pending_responses()
        sts_stub.assert_no_pending_responses()
        secrets_stub.assert_no_pending_responses()


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch, clients: Clients) -> list[str]:
    """The Regions that the prober asked a KMS or Secrets Manager client for."""
    asked: list[str] = []

    def kms(_: KmsProber, region: str) -> "KMSClient":
        asked.append(region)
        return clients[0]

    def secrets(_: KmsProber, region: str) -> "SecretsManagerClient":
        asked.append(region)
        return clients[2]

    monkeypatch.setattr(KmsProber, "_kms", kms)
    monkeypatch.setattr(KmsProber, "_secrets", secrets)
    return asked


@pytest.fixture
def prober(clients: Clients, regions: list[str], time: FakeTime) -> KmsProber:
    prober = KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)
    prober._roles = RoleCredentials(clients[1])
    return prober


def registered(**fields: Any) -> Key:
    return key(baseline=Baseline.of(OLD_CIPHERTEXT, CONTEXT, NOW), **fields)


REGISTRATION = Registration(
    project_id="acme-prod",
    key_arn=KEY_ARN,
    role_arn=ROLE_ARN,
    external_id=EXTERNAL_ID,
    use=KeyUse.CMEK,
    context=probe_context("acme-prod"),
)


# --- a registered key -------------------------------------------------------------------------------------------


FINDING = Finding(code="DESCRIBE_KEY_DENIED", message="DescribeKey is denied.")


def test_a_lean_probe_of_a_working_key_decrypts_and_nothing_else(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.decrypts()
    answer = prober.probe(registered(verdict=verdict(None, findings=(FINDING,))), lean=True)
    assert cloud.asked == ["AssumeRole", "Decrypt"]
    assert (answer.verdict.outcome, answer.facts, answer.whole) == (Outcome.HEALTHY, None, False)
    assert answer.verdict.message == "The key works: Decrypt succeeded."
    assert answer.verdict.findings == (FINDING,), "what DescribeKey found is neither found anew nor over"


def test_a_lean_probe_reads_the_secret_too(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.decrypts()
    cloud.gives_the_secret()
    answer = prober.probe(registered(use=KeyUse.KES, probe_secret_arn=SECRET_ARN), lean=True)
    assert cloud.asked == ["AssumeRole", "Decrypt", "GetSecretValue"]
    assert answer.verdict.outcome is Outcome.HEALTHY


def test_a_lean_probe_that_fails_becomes_the_whole_check_at_once(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("decrypt", "KMSInvalidStateException")
    cloud.describes(KeyState="PendingDeletion", DeletionDate=NOW)
    cloud.refuses("encrypt", "KMSInvalidStateException")
    answer = prober.probe(registered(), lean=True)
    assert cloud.asked == ["AssumeRole", "Decrypt", "DescribeKey", "Encrypt"]
    assert answer.whole
    assert answer.verdict.cause is Cause.KEY_PENDING_DELETION
    assert answer.facts is not None
    assert answer.facts.deletion_date == NOW


def test_a_lean_probe_that_is_throttled_asks_no_more(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("decrypt", "ThrottlingException")
    answer = prober.probe(registered(), lean=True)
    assert cloud.asked == ["AssumeRole", "Decrypt"]
    assert (answer.verdict.cause, answer.whole) == (Cause.THROTTLED, False)


def test_a_lean_probe_with_a_damaged_ciphertext_asks_nothing(prober: KmsProber, cloud: Aws) -> None:
    baseline = changed(Baseline.of(OLD_CIPHERTEXT, CONTEXT, NOW), ciphertext=b"damaged")
    answer = prober.probe(key(baseline=baseline), lean=True)
    assert cloud.asked == []
    assert answer.verdict.outcome is Outcome.UNKNOWN


def test_a_working_cmek_key_is_described_encrypted_with_and_decrypted_with(
    prober: KmsProber, cloud: Aws, regions: list[str]
) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()

    answer = prober.probe(registered())

    assert cloud.asked == ["AssumeRole", "DescribeKey", "Encrypt", "Decrypt"]
    assert regions == ["us-west-2"]
    assert answer.verdict.outcome is Outcome.HEALTHY
    assert answer.verdict.cause is None
    assert answer.verdict.remediation is None
    assert answer.verdict.findings == ()
    assert answer.verdict.message == "The key works: DescribeKey, Encrypt, Decrypt succeeded."
    assert answer.verdict.probed_at == NOW


def test_a_cse_key_must_also_make_data_keys(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.makes_data_keys()

    answer = prober.probe(registered(use=KeyUse.CSE))

    assert cloud.asked == ["AssumeRole", "DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"]
    assert answer.verdict.outcome is Outcome.HEALTHY


def test_a_cse_key_that_may_not_make_data_keys_is_unhealthy(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.refuses("generate_data_key", "AccessDeniedException")

    answer = prober.probe(registered(use=KeyUse.CSE))

    assert (answer.verdict.cause, answer.verdict.operation) == (Cause.ACCESS_DENIED, "GenerateDataKey")


def test_kms_is_asked_as_the_customers_role_and_sts_as_keyvigil_itself(prober: KmsProber, cloud: Aws) -> None:
    access_key = cloud.role_gives_a_session()
    cloud.everything_works()

    prober.probe(registered())

    assert cloud.calls == [
        Call("AssumeRole", None),
        Call("DescribeKey", access_key),
        Call("Encrypt", access_key),
        Call("Decrypt", access_key),
    ]
    assert aws._tenant.get() is None, "nobody acts as the customer after the probe"


def test_nobody_acts_as_the_customer_after_a_probe_that_failed(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "NotFoundException")

    prober.probe(registered())

    assert aws._tenant.get() is None


def test_what_is_decrypted_is_the_ciphertext_made_at_registration_under_its_stored_context(
    prober: KmsProber, cloud: Aws
) -> None:
    context = {"an": "old one", "project": "acme-prod"}
    cloud.role_gives_a_session()
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=b"the old data", context=context)

    answer = prober.probe(changed(registered(), baseline=Baseline.of(b"the old data", context, NOW)))

    # The stubs take no other parameters than these.
    assert answer.verdict.outcome is Outcome.HEALTHY


def test_a_key_that_opens_new_data_but_no_longer_the_old_is_unhealthy(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes()
    cloud.encrypts()
    cloud.refuses("decrypt", "InvalidCiphertextException")

    verdict = prober.probe(registered()).verdict

    assert (verdict.outcome, verdict.cause, verdict.operation) == (
        Outcome.UNHEALTHY,
        Cause.CIPHERTEXT_UNREADABLE,
        "Decrypt",
    )
    assert verdict.aws_error_code == "InvalidCiphertextException"


def test_a_plaintext_that_is_not_ours_means_that_the_ciphertext_is_unreadable(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes()
    cloud.encrypts()
    cloud.decrypts(plaintext=b"something else")

    verdict = prober.probe(registered()).verdict

    assert verdict.cause is Cause.CIPHERTEXT_UNREADABLE
    assert verdict.aws_error_code is None


def test_a_ciphertext_that_we_damaged_says_nothing_about_the_key_and_aws_is_not_asked(
    prober: KmsProber, cloud: Aws
) -> None:
    damaged = Baseline(
        ciphertext=b"made at registratiom",
        checksum=hashlib.sha256(OLD_CIPHERTEXT).hexdigest(),
        context=CONTEXT,
        made_at=NOW,
    )

    answer = prober.probe(key(baseline=damaged))

    assert cloud.asked == []
    assert answer.verdict.outcome is Outcome.UNKNOWN
    assert answer.verdict.cause is Cause.UNCLASSIFIED
    assert "damaged" in answer.verdict.message
    assert answer.facts is None


def test_decrypt_can_be_denied_by_itself(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes()
    cloud.encrypts()
    cloud.refuses("decrypt", "AccessDeniedException")

    verdict = prober.probe(registered()).verdict

    assert (verdict.outcome, verdict.cause, verdict.operation) == (
        Outcome.UNHEALTHY,
        Cause.ACCESS_DENIED,
        "Decrypt",
    )
    assert verdict.message == f"The role {ROLE_ARN} may not use kms:Decrypt on {KEY_ARN}."
    assert verdict.remediation is not None
    assert "kms:Decrypt" in verdict.remediation.commands[0]


def test_a_denied_describe_key_is_a_finding_and_no_outage(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "AccessDeniedException")
    cloud.encrypts()
    cloud.decrypts()

    answer = prober.probe(registered())

    assert answer.verdict.outcome is Outcome.HEALTHY
    assert [finding.code for finding in answer.verdict.findings] == ["DESCRIBE_KEY_DENIED"]
    assert "kms:DescribeKey" in answer.verdict.findings[0].message
    assert answer.facts is None, "what was known before stays"


def test_a_throttled_describe_key_ends_the_probe_as_unknown(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "ThrottlingException")

    verdict = prober.probe(registered()).verdict

    assert (verdict.outcome, verdict.cause, verdict.operation) == (
        Outcome.UNKNOWN,
        Cause.THROTTLED,
        "DescribeKey",
    )


def test_a_disabled_key_is_unhealthy_with_the_command_that_enables_it(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes(KeyState="Disabled")
    cloud.refuses("encrypt", "DisabledException")

    verdict = prober.probe(registered()).verdict

    assert (verdict.outcome, verdict.cause, verdict.operation) == (
        Outcome.UNHEALTHY,
        Cause.KEY_DISABLED,
        "Encrypt",
    )
    assert verdict.aws_error_code == "DisabledException"
    assert verdict.remediation is not None
    assert verdict.remediation.commands == (f"aws kms enable-key --region us-west-2 --key-id {KEY_ARN}",)


@pytest.mark.parametrize("code", ["DisabledException", "KMSInvalidStateException"])
def test_a_key_pending_deletion_says_on_which_day_it_will_be_gone(prober: KmsProber, cloud: Aws, code: str) -> None:
    when = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
    cloud.role_gives_a_session()
    cloud.describes(KeyState="PendingDeletion", DeletionDate=when)
    cloud.refuses("encrypt", code)

    answer = prober.probe(registered())

    assert answer.verdict.cause is Cause.KEY_PENDING_DELETION
    assert "2026-12-01" in answer.verdict.message
    assert answer.facts is not None
    assert answer.facts.deletion_date == when


def test_what_describe_key_tells_is_kept(prober: KmsProber, cloud: Aws) -> None:
    expires = datetime(2027, 1, 1, tzinfo=UTC)
    cloud.role_gives_a_session()
    cloud.describes(
        MultiRegion=True,
        ValidTo=expires,
        MultiRegionConfiguration={
            "MultiRegionKeyType": "PRIMARY",
            "PrimaryKey": {"Arn": KEY_ARN, "Region": "us-west-2"},
            "ReplicaKeys": [{"Arn": KEY_ARN, "Region": "eu-west-1"}, {"Arn": KEY_ARN, "Region": "us-east-1"}],
        },
    )
    cloud.encrypts()
    cloud.decrypts()

    facts = prober.probe(registered()).facts

    assert facts is not None
    assert facts.multi_region is True
    assert facts.replica_regions == ("eu-west-1", "us-east-1")
    assert facts.material_expires_at == expires
    assert facts.deletion_date is None
    assert (facts.key_state, facts.primary_region) == ("Enabled", "us-west-2")
    assert facts.regions == {"us-west-2", "eu-west-1", "us-east-1"}
    assert facts.closer is None, "nobody asked for a closer look"


def test_an_external_key_store_out_of_reach_is_unknown_because_the_key_is_enabled(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.describes(KeyState="Enabled")
    cloud.refuses("encrypt", "KMSInvalidStateException")

    verdict = prober.probe(registered()).verdict

    assert (verdict.outcome, verdict.cause) == (Outcome.UNKNOWN, Cause.KEY_STORE_UNREACHABLE)


def test_a_role_that_cannot_be_assumed_is_unhealthy_and_kms_is_not_asked(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_refuses()

    verdict = prober.probe(registered()).verdict

    assert cloud.asked == ["AssumeRole"]
    assert (verdict.outcome, verdict.cause, verdict.operation) == (
        Outcome.UNHEALTHY,
        Cause.ROLE_NOT_ASSUMABLE,
        "AssumeRole",
    )


def test_our_own_expired_credentials_say_nothing_about_the_key(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_refuses(code="ExpiredToken")

    verdict = prober.probe(registered()).verdict

    assert (verdict.outcome, verdict.cause) == (Outcome.UNKNOWN, Cause.OWN_CREDENTIALS)


# --- time -------------------------------------------------------------------------------------------------------


def test_a_probe_that_takes_too_long_begins_no_further_operation(prober: KmsProber, cloud: Aws) -> None:
    cloud.seconds_a_call = BUDGET_SECONDS / 2
    cloud.role_gives_a_session()
    cloud.describes()
    cloud.encrypts()

    verdict = prober.probe(registered()).verdict

    assert cloud.asked == ["AssumeRole", "DescribeKey", "Encrypt"]
    assert (verdict.outcome, verdict.cause, verdict.operation) == (
        Outcome.UNKNOWN,
        Cause.TIMEOUT,
        "Decrypt",
    )


def test_the_latency_of_a_verdict_is_the_whole_probes(prober: KmsProber, cloud: Aws) -> None:
    cloud.seconds_a_call = 0.25
    cloud.role_gives_a_session()
    cloud.everything_works()

    assert prober.probe(registered()).verdict.latency_ms == 1000


def test_the_latency_counts_from_the_verdicts_own_beginning_and_not_from_what_was_spent_before(
    prober: KmsProber, cloud: Aws
) -> None:
    """Who adds it to `probed_at` must not get a moment that lies after the probe's end."""
    cloud.seconds_a_call = 0.25
    cloud.role_gives_a_session()
    cloud.everything_works()

    assert prober.probe(registered(), spent_seconds=5).verdict.latency_ms == 1000


# --- closer looks -----------------------------------------------------------------------------------------------

LOOKED = CloserLook(
    looked_at=NOW, rotation=Rotation(enabled=True, period_days=90), alias=AliasTarget(key_arn="arn:earlier")
)


def look(prober: KmsProber, **fields: Any) -> tuple[Outcome, CloserLook]:
    answer = prober.probe(registered(**fields), closely=True)
    assert answer.facts is not None
    assert answer.facts.closer is not None
    return answer.verdict.outcome, answer.facts.closer


def test_a_closer_look_shows_rotation_with_its_next_date_as_the_customers_role(prober: KmsProber, cloud: Aws) -> None:
    access_key = cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.rotates(enabled=True, NextRotationDate=NOW, RotationPeriodInDays=180)

    _, found = look(prober)

    assert cloud.calls[-1] == Call("GetKeyRotationStatus", access_key)
    assert found == CloserLook(looked_at=NOW, rotation=Rotation(enabled=True, next_at=NOW, period_days=180), alias=None)


def test_a_key_registered_by_its_alias_is_asked_what_the_alias_stands_for(prober: KmsProber, cloud: Aws) -> None:
    other = KEY_ARN.replace("1234abcd", "5678abcd")
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.rotates(enabled=False)
    cloud.describes(asked_for=ALIAS_ARN, Arn=other)

    outcome, found = look(prober, alias_arn=ALIAS_ARN)

    assert outcome is Outcome.HEALTHY, "an alias that moved is no outage"
    assert found.alias == AliasTarget(key_arn=other)


def test_an_alias_that_kms_does_not_find_is_gone(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.rotates(enabled=False)
    cloud.refuses("describe_key", "NotFoundException")

    _, found = look(prober, alias_arn=ALIAS_ARN)

    assert found.alias == AliasTarget(key_arn=None)


@pytest.mark.parametrize("code", ["AccessDeniedException", "UnsupportedOperationException"])
def test_what_the_role_may_not_see_is_not_known_and_no_verdict(prober: KmsProber, cloud: Aws, code: str) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.refuses("get_key_rotation_status", code)
    cloud.refuses("describe_key", code)

    outcome, found = look(prober, alias_arn=ALIAS_ARN, facts=KeyFacts(closer=LOOKED))

    assert outcome is Outcome.HEALTHY
    assert (found.rotation, found.alias) == (None, None)


@pytest.mark.parametrize("code", ["ThrottlingException", "KMSInternalException", "KMSInvalidStateException"])
def test_what_could_not_be_found_out_this_time_stays_as_it_was(prober: KmsProber, cloud: Aws, code: str) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.refuses("get_key_rotation_status", code)
    cloud.refuses("describe_key", code)

    outcome, found = look(prober, alias_arn=ALIAS_ARN, facts=KeyFacts(closer=LOOKED))

    assert outcome is Outcome.HEALTHY
    assert (found.rotation, found.alias) == (LOOKED.rotation, LOOKED.alias)


@pytest.mark.parametrize("origin", ["EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"])
def test_rotation_is_not_asked_of_key_material_that_kms_does_not_rotate(
    prober: KmsProber, cloud: Aws, origin: str
) -> None:
    cloud.role_gives_a_session()
    cloud.describes(Origin=origin)
    cloud.encrypts()
    cloud.decrypts()

    _, found = look(prober, facts=KeyFacts(closer=LOOKED))

    assert found.rotation is None
    assert "GetKeyRotationStatus" not in cloud.asked


def test_a_key_that_does_not_work_is_not_looked_at_closely(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes(KeyState="Disabled")
    cloud.refuses("encrypt", "DisabledException")

    answer = prober.probe(registered(alias_arn=ALIAS_ARN), closely=True)

    assert cloud.asked == ["AssumeRole", "DescribeKey", "Encrypt"]
    assert answer.facts is not None
    assert answer.facts.closer is None


def test_a_key_that_may_not_be_described_is_not_looked_at_closely(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "AccessDeniedException")
    cloud.encrypts()
    cloud.decrypts()

    assert prober.probe(registered(), closely=True).facts is None


def test_a_closer_look_counts_for_no_latency_and_is_not_begun_after_a_slow_probe(prober: KmsProber, cloud: Aws) -> None:
    cloud.seconds_a_call = CLOSER_LOOK_SECONDS / 4
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.rotates(enabled=False)
    quick = prober.probe(registered(alias_arn=ALIAS_ARN, facts=KeyFacts(closer=LOOKED)), closely=True)
    assert quick.verdict.latency_ms == CLOSER_LOOK_SECONDS * 1000
    assert cloud.asked == ["AssumeRole", "DescribeKey", "Encrypt", "Decrypt", "GetKeyRotationStatus"]
    assert quick.facts is not None
    assert quick.facts.closer is not None
    assert quick.facts.closer.rotation == Rotation(enabled=False)
    assert quick.facts.closer.alias == LOOKED.alias, "there was no time left for it"

    cloud.calls.clear()
    cloud.seconds_a_call = CLOSER_LOOK_SECONDS / 2
    cloud.everything_works()
    slow = prober.probe(registered(alias_arn=ALIAS_ARN), closely=True)
    assert cloud.asked == ["DescribeKey", "Encrypt", "Decrypt"]
    assert slow.facts is not None
    assert slow.facts.closer is None


# --- restoring --------------------------------------------------------------------------------------------------

RELATED = f"mrk-{'1234abcd' * 4}"
HOME_ARN = KEY_ARN.replace(KMS_KEY, RELATED)
REPLICA_ARN = HOME_ARN.replace("us-west-2", "eu-west-1")
REPLICATED = KeyFacts(multi_region=True, primary_region="us-west-2", replica_regions=("eu-west-1",))


def multi_region(facts: KeyFacts = REPLICATED) -> Key:
    return registered(key_arn=HOME_ARN, facts=facts)


def opens(cloud: Aws, arn: str) -> None:
    cloud.describes(asked_for=arn, Arn=arn)
    expected = {"KeyId": arn, "CiphertextBlob": OLD_CIPHERTEXT, "EncryptionContext": CONTEXT}
    cloud.kms.add_response("decrypt", {"Plaintext": PLAINTEXT, "KeyId": arn}, expected)


def topology(cloud: Aws, *regions: str) -> None:
    cloud.describes(
        asked_for=HOME_ARN,
        Arn=HOME_ARN,
        MultiRegion=True,
        MultiRegionConfiguration={
            "MultiRegionKeyType": "PRIMARY",
            "PrimaryKey": {"Arn": HOME_ARN, "Region": "us-west-2"},
            "ReplicaKeys": [{"Arn": HOME_ARN.replace("us-west-2", each), "Region": each} for each in regions],
        },
    )


def test_a_restore_in_the_key_s_own_region_decrypts_the_registration_ciphertext_with_the_key(
    prober: KmsProber, cloud: Aws, regions: list[str]
) -> None:
    access_key = cloud.role_gives_a_session()
    opens(cloud, KEY_ARN)

    verdict = prober.check_restore(registered(), "us-west-2").verdict

    assert verdict is not None
    assert verdict.outcome is Outcome.HEALTHY
    assert regions == ["us-west-2"]
    assert cloud.calls == [Call("AssumeRole", None), Call("DescribeKey", access_key), Call("Decrypt", access_key)]


def test_a_restore_elsewhere_decrypts_it_with_the_replica_there_and_needs_nothing_of_the_key_s_region(
    prober: KmsProber, cloud: Aws, regions: list[str]
) -> None:
    cloud.role_gives_a_session()
    opens(cloud, REPLICA_ARN)

    verdict = prober.check_restore(multi_region(), "eu-west-1").verdict

    assert verdict is not None
    assert verdict.outcome is Outcome.HEALTHY
    assert regions == ["eu-west-1"], "its own Region may be what is down"


def test_a_replica_that_was_made_since_the_last_probe_is_found(
    prober: KmsProber, cloud: Aws, regions: list[str]
) -> None:
    cloud.role_gives_a_session()
    topology(cloud, "eu-west-1")
    opens(cloud, REPLICA_ARN)

    verdict = prober.check_restore(multi_region(KeyFacts(multi_region=True)), "eu-west-1").verdict

    assert verdict is not None
    assert verdict.outcome is Outcome.HEALTHY
    assert regions == ["us-west-2", "eu-west-1"]


def test_a_region_without_the_key_is_never_called(prober: KmsProber, cloud: Aws, regions: list[str]) -> None:
    cloud.role_gives_a_session()
    topology(cloud, "eu-west-1")

    assert prober.check_restore(multi_region(), "xx-nowhere-7").verdict is None
    assert regions == ["us-west-2"]


def test_a_replica_that_has_gone_since_the_last_probe_is_missing(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "NotFoundException")

    assert prober.check_restore(multi_region(), "eu-west-1").verdict is None


def test_a_key_that_is_gone_at_home_is_not_found_and_not_merely_without_a_replica(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "NotFoundException")
    verdict = prober.check_restore(registered(), "us-west-2").verdict
    assert verdict is not None
    assert verdict.cause is Cause.KEY_NOT_FOUND

    cloud.refuses("describe_key", "NotFoundException")
    verdict = prober.check_restore(multi_region(KeyFacts(multi_region=True)), "eu-west-1").verdict
    assert verdict is not None
    assert (verdict.cause, HOME_ARN in verdict.message) == (Cause.KEY_NOT_FOUND, True)


def test_a_replica_that_is_disabled_says_so_with_the_command_for_its_region(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes(asked_for=REPLICA_ARN, Arn=REPLICA_ARN, KeyState="Disabled")
    cloud.refuses("decrypt", "DisabledException")

    verdict = prober.check_restore(multi_region(), "eu-west-1").verdict

    assert verdict is not None
    assert verdict.cause is Cause.KEY_DISABLED
    assert verdict.remediation is not None
    assert verdict.remediation.commands == (f"aws kms enable-key --region eu-west-1 --key-id {REPLICA_ARN}",)


def test_a_replica_whose_policy_does_not_know_the_role_names_the_statement_for_the_replica(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "AccessDeniedException")
    cloud.refuses("decrypt", "AccessDeniedException")

    verdict = prober.check_restore(multi_region(), "eu-west-1").verdict

    assert verdict is not None
    assert (verdict.cause, verdict.operation) == (Cause.ACCESS_DENIED, "Decrypt")
    assert verdict.remediation is not None
    assert REPLICA_ARN in verdict.remediation.commands[0]
    assert '"kms:Decrypt"' in verdict.remediation.commands[0]
    assert "kms:Encrypt" not in verdict.remediation.commands[0]


def test_a_denied_restore_with_a_session_used_before_is_tried_again_with_a_fresh_one(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    opens(cloud, KEY_ARN)
    cloud.describes()
    cloud.refuses("decrypt", "AccessDeniedException")
    cloud.role_gives_a_session()
    opens(cloud, KEY_ARN)

    answers = [prober.check_restore(registered(), "us-west-2").verdict for _ in range(2)]

    assert [answer.outcome for answer in answers if answer] == [Outcome.HEALTHY] * 2


def test_a_restore_that_aws_throttles_is_unknown(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes()
    cloud.refuses("decrypt", "ThrottlingException")

    verdict = prober.check_restore(registered(), "us-west-2").verdict

    assert verdict is not None
    assert (verdict.outcome, verdict.cause) == (Outcome.UNKNOWN, Cause.THROTTLED)


def test_a_damaged_ciphertext_says_nothing_about_a_restore(prober: KmsProber, cloud: Aws) -> None:
    damaged = changed(Baseline.of(OLD_CIPHERTEXT, CONTEXT, NOW), ciphertext=b"changed")

    verdict = prober.check_restore(key(baseline=damaged), "us-west-2").verdict

    assert verdict is not None
    assert verdict.outcome is Outcome.UNKNOWN
    assert cloud.calls == []


# --- sessions ---------------------------------------------------------------------------------------------------


def test_two_probes_of_one_role_assume_it_once(prober: KmsProber, cloud: Aws) -> None:
    access_key = cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.everything_works()

    prober.probe(registered())
    prober.probe(registered())

    assert cloud.asked.count("AssumeRole") == 1
    assert {call.signed_by for call in cloud.calls[1:]} == {access_key}


def test_a_denial_with_a_session_used_before_is_looked_at_again_with_a_fresh_one(prober: KmsProber, cloud: Aws) -> None:
    first = cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.describes()
    cloud.refuses("encrypt", "AccessDeniedException")
    second = cloud.role_gives_a_session()
    cloud.everything_works()

    prober.probe(registered())
    verdict = prober.probe(registered()).verdict

    assert verdict.outcome is Outcome.HEALTHY
    assert [call.signed_by for call in cloud.calls[4:]] == [first, first, None, second, second, second]


def test_a_failure_that_a_fresh_session_shows_too_is_the_verdict(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.describes()
    cloud.refuses("encrypt", "AccessDeniedException")
    cloud.role_refuses()

    prober.probe(registered())
    verdict = prober.probe(registered()).verdict

    assert (verdict.cause, verdict.operation) == (Cause.ROLE_NOT_ASSUMABLE, "AssumeRole")


def test_a_probe_that_is_to_be_fresh_assumes_the_role_anew_whatever_session_is_still_good(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    prober.probe(registered())
    cloud.role_refuses()

    verdict = prober.probe(registered(), fresh=True).verdict

    assert verdict.cause is Cause.ROLE_NOT_ASSUMABLE, "a session that is kept would hide it for ten minutes"


@pytest.mark.parametrize("registers", [True, False])
def test_a_probe_has_only_the_time_that_was_not_spent_before(prober: KmsProber, cloud: Aws, *, registers: bool) -> None:
    cloud.seconds_a_call = 2
    cloud.role_gives_a_session()

    spent = BUDGET_SECONDS - 1
    if registers:
        verdict = prober.probe_registration(REGISTRATION, spent_seconds=spent).verdict
    else:
        verdict = prober.probe(registered(), spent_seconds=spent).verdict

    assert cloud.asked == ["AssumeRole"]
    assert (verdict.outcome, verdict.cause) == (Outcome.UNKNOWN, Cause.TIMEOUT)


def test_a_failure_with_a_fresh_session_is_not_looked_at_again(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes()
    cloud.refuses("encrypt", "AccessDeniedException")

    prober.probe(registered())

    assert cloud.asked == ["AssumeRole", "DescribeKey", "Encrypt"]


def test_looking_twice_takes_no_longer_than_one_probe_may(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    prober.probe(registered())
    cloud.calls.clear()
    cloud.seconds_a_call = BUDGET_SECONDS / 2
    cloud.describes()
    cloud.refuses("encrypt", "AccessDeniedException")
    cloud.role_gives_a_session()

    verdict = prober.probe(registered()).verdict

    assert cloud.asked == ["DescribeKey", "Encrypt", "AssumeRole"]
    assert (verdict.outcome, verdict.cause) == (Outcome.UNKNOWN, Cause.TIMEOUT)


def test_a_denial_after_the_time_is_over_is_not_looked_at_again_but_its_session_is_dropped(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    prober.probe(registered())
    cloud.seconds_a_call = BUDGET_SECONDS / 2 + 1
    cloud.describes()
    cloud.refuses("encrypt", "AccessDeniedException")

    verdict = prober.probe(registered()).verdict

    assert (verdict.cause, verdict.operation) == (Cause.ACCESS_DENIED, "Encrypt")
    cloud.seconds_a_call = 0
    cloud.role_gives_a_session()
    cloud.everything_works()
    prober.probe(registered())
    assert cloud.asked.count("AssumeRole") == 2


@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException"])
def test_a_session_that_kms_no_longer_takes_is_replaced(prober: KmsProber, cloud: Aws, code: str) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.refuses("describe_key", code)
    cloud.role_gives_a_session()
    cloud.everything_works()

    prober.probe(registered())

    assert prober.probe(registered()).verdict.outcome is Outcome.HEALTHY


@pytest.mark.parametrize("code", ["ThrottlingException", "DisabledException", "KMSInternalException"])
def test_a_failure_that_no_session_can_cause_is_not_looked_at_again(prober: KmsProber, cloud: Aws, code: str) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.describes(KeyState="Disabled")
    cloud.refuses("encrypt", code)
    cloud.everything_works()

    for _ in range(3):
        prober.probe(registered())

    assert cloud.asked.count("AssumeRole") == 1
    assert cloud.asked.count("Encrypt") == 3


class CountingSts:
    """STS as far as RoleCredentials uses it; each session is numbered."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def assume_role(self, **parameters: Any) -> dict[str, Any]:
        self.asked.append(parameters)
        number = len(self.asked)
        return {
            "Credentials": {
                "AccessKeyId": f"access-{number}",
                "SecretAccessKey": f"secret-{number}",
                "SessionToken": f"token-{number}",
            }
        }


@pytest.fixture
def sts() -> CountingSts:
    return CountingSts()


@pytest.fixture
def roles(sts: CountingSts, time: FakeTime) -> RoleCredentials:
    return RoleCredentials(cast("STSClient", sts))


def test_a_session_is_used_for_ten_minutes_and_then_made_again(
    roles: RoleCredentials, sts: CountingSts, time: FakeTime
) -> None:
    first, reused = roles.get(ROLE_ARN, EXTERNAL_ID, "acme-prod")
    assert first == ReadOnlyCredentials("access-1", "secret-1", "token-1")
    assert not reused

    time.seconds += REUSE_SECONDS - 1
    assert roles.get(ROLE_ARN, EXTERNAL_ID, "acme-prod") == (first, True)

    time.seconds += 1
    again, reused = roles.get(ROLE_ARN, EXTERNAL_ID, "acme-prod")
    assert again.access_key == "access-2"
    assert not reused


def test_a_session_ends_ten_minutes_after_it_was_asked_for_however_long_sts_took(
    roles: RoleCredentials, sts: CountingSts, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = sts.assume_role

    def slowly(**parameters: Any) -> dict[str, Any]:
        time.seconds += 5
        return given(**parameters)

    monkeypatch.setattr(sts, "assume_role", slowly)
    roles.get(ROLE_ARN, EXTERNAL_ID, "acme-prod")
    time.seconds += REUSE_SECONDS - 5

    _, reused = roles.get(ROLE_ARN, EXTERNAL_ID, "acme-prod")

    assert not reused


def test_a_session_is_reused_within_the_fifteen_minutes_that_sts_gives_it() -> None:
    assert REUSE_SECONDS + 300 <= kms_prober.SESSION_SECONDS


def test_one_project_never_gets_a_session_made_with_anothers_external_id(
    roles: RoleCredentials, sts: CountingSts
) -> None:
    mine, _ = roles.get(ROLE_ARN, "external-mine", "acme-prod")
    theirs, reused = roles.get(ROLE_ARN, "external-theirs", "other")

    assert mine != theirs
    assert not reused
    assert [asked["ExternalId"] for asked in sts.asked] == ["external-mine", "external-theirs"]
    assert [asked["RoleSessionName"] for asked in sts.asked] == ["KeyVigil-acme-prod", "KeyVigil-other"]


def test_a_forgotten_session_is_made_again(roles: RoleCredentials) -> None:
    roles.get(ROLE_ARN, EXTERNAL_ID, "acme-prod")
    roles.forget(ROLE_ARN, EXTERNAL_ID)

    again, reused = roles.get(ROLE_ARN, EXTERNAL_ID, "acme-prod")

    assert again.access_key == "access-2"
    assert not reused


def test_no_more_sessions_are_kept_than_a_sandbox_can_hold(roles: RoleCredentials, sts: CountingSts) -> None:
    for number in range(CACHED_ROLES + 5):
        roles.get(f"{ROLE_ARN}-{number}", EXTERNAL_ID, "acme-prod")

    assert len(roles._held) == CACHED_ROLES
    _, newest_reused = roles.get(f"{ROLE_ARN}-{CACHED_ROLES + 4}", EXTERNAL_ID, "acme-prod")
    _, oldest_reused = roles.get(f"{ROLE_ARN}-0", EXTERNAL_ID, "acme-prod")
    assert newest_reused
    assert not oldest_reused


# --- registration -----------------------------------------------------------------------------------------------


def register(prober: KmsProber, **fields: Any) -> RegistrationAnswer:
    return prober.probe_registration(changed(REGISTRATION, **fields))


def role_checks_the_external_id(cloud: Aws) -> str:
    """Right ExternalId: a session. None, and a wrong one: refused."""
    access_key = cloud.role_gives_a_session()
    cloud.role_refuses(external_id=None)
    cloud.role_refuses(external_id=ANY)
    return access_key


def test_registering_tries_the_role_three_times_and_then_the_key(prober: KmsProber, cloud: Aws) -> None:
    access_key = role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)
    cloud.rotates(enabled=True)

    answer = register(prober)

    operations = ["DescribeKey", "Encrypt", "Decrypt", "GetKeyRotationStatus"]
    assert [call.operation for call in cloud.calls] == [*["AssumeRole"] * 3, *operations]
    assert [call.signed_by for call in cloud.calls] == [*[None] * 3, *[access_key] * 4]
    assert answer.verdict.outcome is Outcome.HEALTHY
    assert answer.role_checks_external_id is True
    assert answer.key_arn == KEY_ARN
    assert answer.facts is not None


def test_the_ciphertext_made_at_registration_is_kept_with_its_context_and_checksum(
    prober: KmsProber, cloud: Aws
) -> None:
    role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)

    baseline = register(prober).baseline

    assert baseline is not None
    assert baseline.ciphertext == NEW_CIPHERTEXT
    assert baseline.context == context
    assert baseline.intact
    assert baseline.made_at == NOW


def test_a_role_that_can_be_assumed_without_the_external_id_is_found_out_before_kms_is_asked(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.role_gives_a_session(external_id=None)

    answer = register(prober)

    assert answer.role_checks_external_id is False
    assert answer.baseline is None
    assert cloud.asked == ["AssumeRole", "AssumeRole"]


def test_a_role_that_can_be_assumed_with_any_external_id_is_found_out_before_kms_is_asked(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.role_refuses(external_id=None)
    cloud.role_gives_a_session(external_id=ANY)

    answer = register(prober)

    assert answer.role_checks_external_id is False
    assert answer.baseline is None
    assert cloud.asked == ["AssumeRole"] * 3


def test_the_wrong_external_id_is_one_that_nobody_can_foresee(
    prober: KmsProber, clients: "tuple[KMSClient, STSClient]", sts: CountingSts
) -> None:
    prober._roles = RoleCredentials(cast("STSClient", sts))
    seen = set()
    for _ in range(3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prober._roles, "assume", RefusingOnce(prober._roles))
            register(prober)
        seen.add(sts.asked[-1]["ExternalId"])

    assert len(seen) == 3
    assert all(len(each) >= 32 and each != EXTERNAL_ID for each in seen)


class RefusingOnce:
    """AssumeRole of a role that refuses us without an ExternalId, and takes any."""

    def __init__(self, roles: RoleCredentials) -> None:
        self._assume = roles.assume

    def __call__(self, role_arn: str, external_id: str | None, project_id: str) -> ReadOnlyCredentials:
        if external_id is None:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRole")
        return self._assume(role_arn, external_id, project_id)


@pytest.mark.parametrize("refused_before", [0, 1])
def test_throttling_while_the_external_id_is_tested_leaves_everything_unknown(
    prober: KmsProber, cloud: Aws, refused_before: int
) -> None:
    cloud.role_gives_a_session()
    if refused_before:
        cloud.role_refuses(external_id=None)
    cloud.role_refuses(external_id=ANY if refused_before else None, code="Throttling")

    answer = register(prober)

    assert answer.role_checks_external_id is None
    assert (answer.verdict.outcome, answer.verdict.cause) == (Outcome.UNKNOWN, Cause.THROTTLED)
    assert answer.baseline is None
    assert "DescribeKey" not in cloud.asked


def test_a_role_that_refuses_the_right_external_id_is_not_tried_with_wrong_ones(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_refuses()

    answer = register(prober)

    assert answer.role_checks_external_id is None
    assert answer.verdict.cause is Cause.ROLE_NOT_ASSUMABLE
    assert cloud.asked == ["AssumeRole"]


def test_an_alias_is_resolved_once_and_everything_else_uses_the_key_arn(
    prober: KmsProber, cloud: Aws, regions: list[str]
) -> None:
    role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes(asked_for=ALIAS_ARN)
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)

    answer = register(prober, key_arn=ALIAS_ARN)

    # The stubs take no other KeyId than KEY_ARN.
    assert answer.verdict.outcome is Outcome.HEALTHY
    assert answer.key_arn == KEY_ARN
    assert regions == ["us-west-2"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"},
        {"KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": "HMAC_256"},
        {"KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "RSA_4096"},
    ],
    ids=["signing", "mac", "asymmetric"],
)
def test_a_key_that_is_not_for_symmetric_encryption_is_refused_without_trying_it(
    prober: KmsProber, cloud: Aws, metadata: dict[str, str]
) -> None:
    role_checks_the_external_id(cloud)
    cloud.describes(**metadata)

    answer = register(prober)

    assert (answer.verdict.outcome, answer.verdict.cause) == (Outcome.UNHEALTHY, Cause.KEY_WRONG_USAGE)
    assert cloud.asked[-1] == "DescribeKey"
    assert answer.baseline is None


def test_registration_needs_describe_key(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    cloud.refuses("describe_key", "AccessDeniedException")

    answer = register(prober)

    assert (answer.verdict.outcome, answer.verdict.cause, answer.verdict.operation) == (
        Outcome.UNHEALTHY,
        Cause.ACCESS_DENIED,
        "DescribeKey",
    )


def test_a_key_that_encrypts_but_does_not_decrypt_leaves_no_baseline(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    cloud.describes()
    cloud.encrypts(context=probe_context("acme-prod"))
    cloud.refuses("decrypt", "AccessDeniedException")

    answer = register(prober)

    assert (answer.verdict.cause, answer.verdict.operation) == (Cause.ACCESS_DENIED, "Decrypt")
    assert answer.baseline is None


def test_registering_a_cse_key_makes_a_data_key_too(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)
    cloud.makes_data_keys(context=context)

    assert register(prober, use=KeyUse.CSE).verdict.outcome is Outcome.HEALTHY


def test_a_slow_registration_ends_within_its_time_as_unknown(prober: KmsProber, cloud: Aws) -> None:
    cloud.seconds_a_call = BUDGET_SECONDS / 3
    role_checks_the_external_id(cloud)
    cloud.describes()

    answer = register(prober)

    assert (answer.verdict.outcome, answer.verdict.cause, answer.verdict.operation) == (
        Outcome.UNKNOWN,
        Cause.TIMEOUT,
        "Encrypt",
    )
    assert answer.baseline is None


def test_a_role_that_is_to_change_must_open_what_was_encrypted_at_registration(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)
    cloud.refuses("decrypt", "IncorrectKeyException")

    answer = register(prober, baseline=Baseline.of(OLD_CIPHERTEXT, CONTEXT, NOW))

    assert (answer.verdict.cause, answer.verdict.operation) == (Cause.CIPHERTEXT_UNREADABLE, "Decrypt")
    assert answer.baseline is None


# --- a key behind KES -------------------------------------------------------------------------------------------


KES = {"use": KeyUse.KES, "probe_secret_arn": SECRET_ARN}


def test_a_kes_key_is_probed_as_a_cmek_key_and_its_secret_is_read_as_the_customers_role(
    prober: KmsProber, cloud: Aws, regions: list[str]
) -> None:
    access_key = cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.gives_the_secret()

    verdict = prober.probe(registered(**KES)).verdict

    assert verdict.outcome is Outcome.HEALTHY
    assert verdict.message == "The key works: DescribeKey, Encrypt, Decrypt, GetSecretValue succeeded."
    assert cloud.asked == ["AssumeRole", "DescribeKey", "Encrypt", "Decrypt", "GetSecretValue"]
    assert cloud.calls[-1].signed_by == access_key
    assert regions == ["us-west-2", "us-west-2"], "the secret lies in the key's Region"


@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException", "DecryptionFailure"])
def test_a_secret_that_cannot_be_read_is_unhealthy_and_says_how_to_mend_it(
    prober: KmsProber, cloud: Aws, code: str
) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.refuses_the_secret(code)

    verdict = prober.probe(registered(**KES)).verdict

    assert (verdict.outcome, verdict.cause, verdict.operation) == (
        Outcome.UNHEALTHY,
        Cause.SECRET_UNREADABLE,
        "GetSecretValue",
    )
    assert verdict.aws_error_code == code
    assert verdict.remediation is not None
    assert SECRET_ARN in verdict.remediation.commands[0]


def test_a_refused_secret_with_a_session_used_before_is_looked_at_again_with_a_fresh_one(
    prober: KmsProber, cloud: Aws
) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.gives_the_secret()
    cloud.everything_works()
    cloud.refuses_the_secret("AccessDeniedException")
    fresh = cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.gives_the_secret()

    prober.probe(registered(**KES))
    verdict = prober.probe(registered(**KES)).verdict

    assert verdict.outcome is Outcome.HEALTHY
    assert cloud.calls[-1] == Call("GetSecretValue", fresh)


def test_a_throttled_secret_says_nothing_about_the_key(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.refuses_the_secret("ThrottlingException")

    verdict = prober.probe(registered(**KES)).verdict

    assert (verdict.outcome, verdict.cause) == (Outcome.UNKNOWN, Cause.THROTTLED)


def test_registering_a_kes_key_reads_its_secret_too(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)
    cloud.refuses_the_secret("ResourceNotFoundException")

    answer = register(prober, **KES)

    assert answer.verdict.cause is Cause.SECRET_UNREADABLE
    assert answer.baseline is None, "so it is not registered"


def test_a_validation_of_a_kes_key_shows_its_secret_by_itself(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    cloud.describes()
    cloud.refuses("encrypt", "AccessDeniedException")
    cloud.gives_the_secret()

    answer, allowed = validate(prober, **KES)

    assert allowed == {"DescribeKey": True, "Encrypt": False, "Decrypt": None, "GetSecretValue": True}
    assert answer.verdict.cause is Cause.ACCESS_DENIED


def test_what_is_in_the_secret_is_nowhere_in_the_answers(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.everything_works()
    cloud.gives_the_secret()
    probed = prober.probe(registered(**KES))

    role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)
    cloud.gives_the_secret()
    made = register(prober, **KES)

    assert made.verdict.outcome is Outcome.HEALTHY
    assert "nobody's business" not in f"{probed}{made}"


# --- validation -------------------------------------------------------------------------------------------------


def validate(prober: KmsProber, **fields: Any) -> tuple[ValidationAnswer, dict[str, bool | None]]:
    answer = prober.validate(changed(REGISTRATION, **fields))
    return answer, {each.operation: each.allowed for each in answer.operations}


def test_a_validation_of_a_working_key_allows_every_operation_of_its_use(prober: KmsProber, cloud: Aws) -> None:
    access_key = role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.describes()
    cloud.encrypts(context=context)
    cloud.decrypts(ciphertext=NEW_CIPHERTEXT, context=context)
    cloud.makes_data_keys(context=context)

    answer, allowed = validate(prober, use=KeyUse.CSE)

    assert answer.verdict.outcome is Outcome.HEALTHY
    assert allowed == dict.fromkeys(("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"), True)
    assert all(each.error is None for each in answer.operations)
    assert [call.signed_by for call in cloud.calls][3:] == [access_key] * 4


def test_a_validation_goes_on_after_a_refusal_and_its_verdict_is_the_first_one(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    context = probe_context("acme-prod")
    cloud.refuses("describe_key", "AccessDeniedException")
    cloud.encrypts(context=context)
    cloud.refuses("decrypt", "ThrottlingException")
    cloud.makes_data_keys(context=context)

    answer, allowed = validate(prober, use=KeyUse.CSE)

    assert allowed == {"DescribeKey": False, "Encrypt": True, "Decrypt": None, "GenerateDataKey": True}
    assert (answer.verdict.cause, answer.verdict.operation) == (Cause.ACCESS_DENIED, "DescribeKey")
    errors = {each.operation: each.error or "" for each in answer.operations}
    assert errors["DescribeKey"].startswith("AccessDeniedException: The role ")
    assert errors["Decrypt"].startswith("ThrottlingException: ")


def test_a_validation_says_that_decrypt_was_not_tried_where_there_was_nothing_to_decrypt(
    prober: KmsProber, cloud: Aws
) -> None:
    role_checks_the_external_id(cloud)
    cloud.describes()
    cloud.refuses("encrypt", "AccessDeniedException")

    answer, allowed = validate(prober)

    assert allowed == {"DescribeKey": True, "Encrypt": False, "Decrypt": None}
    assert answer.operations[2].error == "not tried: Encrypt made no ciphertext to decrypt"


def test_a_validation_of_a_signing_key_says_that_describing_it_worked(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    cloud.describes(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")
    cloud.refuses("encrypt", "InvalidKeyUsageException")

    answer, allowed = validate(prober)

    assert answer.verdict.cause is Cause.KEY_WRONG_USAGE
    assert allowed == {"DescribeKey": True, "Encrypt": False, "Decrypt": None}


def test_a_validation_without_a_role_knows_nothing_of_the_operations(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_refuses()

    answer, allowed = validate(prober)

    assert answer.verdict.cause is Cause.ROLE_NOT_ASSUMABLE
    assert allowed == dict.fromkeys(("DescribeKey", "Encrypt", "Decrypt"), None)


def test_a_validation_does_not_use_a_role_that_does_not_check_the_external_id(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.role_gives_a_session(external_id=None)

    answer, allowed = validate(prober)

    assert answer.role_checks_external_id is False
    assert allowed == {}
    assert cloud.asked == ["AssumeRole", "AssumeRole"]


def test_nobody_acts_as_the_customer_after_a_validation(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    cloud.refuses("describe_key", "DisabledException")
    cloud.refuses("encrypt", "DisabledException")

    validate(prober)

    assert aws._tenant.get() is None


# --- every cause ------------------------------------------------------------------------------------------------

MRK = f"mrk-{'0' * 32}"
MRK_ARN = f"arn:aws:kms:us-west-2:222222222222:key/{MRK}"
STORE = "cks-1234567890abcdef0"
MULTI_REGION = {
    "MultiRegion": True,
    "MultiRegionConfiguration": {
        "MultiRegionKeyType": "PRIMARY",
        "PrimaryKey": {"Arn": KEY_ARN, "Region": "us-west-2"},
        "ReplicaKeys": [{"Arn": KEY_ARN, "Region": "eu-west-1"}],
    },
}


def denied(reason: str, operation: str = "Encrypt") -> str:
    return f"User: {ROLE_ARN} is not authorized to perform: kms:{operation} on resource: {KEY_ARN} {reason}"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What AWS answers to a probe, and what the verdict is then.

    `fails` is the operation that is refused, with `code` and `status`; those before it succeed. `metadata` is
    what DescribeKey says. `fields` are the registered key's own, what was known of it before among them.
    """

    cause: Cause
    says: str
    mends: str | None
    fails: str = "Encrypt"
    code: str | None = None
    status: int = 400
    words: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


def before(**facts: Any) -> dict[str, Any]:
    """A key of which this was known."""
    return {"facts": changed(KeyFacts(), **facts)}


SOON, LATE = datetime(2026, 11, 29, 12, 0, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)
STUBBED: dict[str, Answers] = {
    "a_key_pending_deletion_refuses_with_either_code": Answers(
        cause=Cause.KEY_PENDING_DELETION,
        code="DisabledException",
        metadata={"KeyState": "PendingDeletion", "DeletionDate": SOON},
        says="is going to be deleted on 2026-11-29, in 7 days, so Encrypt was refused.",
        mends="aws kms cancel-key-deletion",
    ),
    "a_primary_waits_for_its_last_replica_to_be_deleted": Answers(
        cause=Cause.KEY_PENDING_DELETION,
        code="KMSInvalidStateException",
        metadata={**MULTI_REGION, "KeyState": "PendingReplicaDeletion", "PendingDeletionWindowInDays": 7},
        says="once its last replica in eu-west-1 is gone, 7 days after that, so Encrypt was refused.",
        mends="aws kms cancel-key-deletion",
    ),
    "a_cancelled_deletion_left_the_key_disabled": Answers(
        cause=Cause.KEY_DISABLED,
        code="DisabledException",
        metadata={"KeyState": "Disabled"},
        fields=before(deletion_date=SOON),
        says="is disabled, as a cancelled deletion leaves it, so Encrypt was refused.",
        mends="aws kms enable-key",
    ),
    "a_key_was_finally_deleted": Answers(
        cause=Cause.KEY_NOT_FOUND,
        fails="DescribeKey",
        code="NotFoundException",
        fields=before(deletion_date=LATE),
        says="its deletion was due on 2026-11-20.",
        mends="aws kms describe-key",
    ),
    "a_key_is_not_found_though_nobody_deleted_it": Answers(
        cause=Cause.KEY_NOT_FOUND,
        fails="DescribeKey",
        code="NotFoundException",
        says="in us-west-2, the Region that its ARN names.",
        mends="aws kms describe-key --region us-west-2",
    ),
    "a_replica_is_gone_and_its_primary_is_not": Answers(
        cause=Cause.KEY_NOT_FOUND,
        fails="DescribeKey",
        code="NotFoundException",
        fields={"key_arn": MRK_ARN, **before(multi_region=True, primary_region="eu-west-1")},
        says=f"does not find the key {MRK_ARN} in us-west-2",
        mends=f"aws kms replicate-key --region eu-west-1 --key-id {MRK} --replica-region us-west-2",
    ),
    "a_replica_is_still_being_made": Answers(
        cause=Cause.KEY_NOT_FOUND,
        code="KMSInvalidStateException",
        metadata={**MULTI_REGION, "KeyState": "Creating"},
        says="is still being made, so it cannot be used yet.",
        mends="aws kms describe-key",
    ),
    "imported_material_expired": Answers(
        cause=Cause.KEY_MATERIAL_MISSING,
        code="KMSInvalidStateException",
        metadata={"KeyState": "PendingImport", "Origin": "EXTERNAL"},
        fields=before(material_expires_at=LATE),
        says="it expired on 2026-11-20.",
        mends="aws kms get-parameters-for-import",
    ),
    "imported_material_was_deleted_before_it_expired": Answers(
        cause=Cause.KEY_MATERIAL_MISSING,
        code="KMSInvalidStateException",
        metadata={"KeyState": "PendingImport", "Origin": "EXTERNAL"},
        fields=before(material_expires_at=SOON),
        says="it was deleted before it would have expired on 2026-11-29.",
        mends="aws kms get-parameters-for-import",
    ),
    "imported_material_is_missing_for_a_reason_unknown": Answers(
        cause=Cause.KEY_MATERIAL_MISSING,
        code="KMSInvalidStateException",
        metadata={"KeyState": "PendingImport", "Origin": "EXTERNAL"},
        says="it was deleted, has expired or was never imported.",
        mends="aws kms get-parameters-for-import",
    ),
    "the_custom_key_store_is_disconnected": Answers(
        cause=Cause.KEY_STORE_UNAVAILABLE,
        code="KMSInvalidStateException",
        metadata={"KeyState": "Unavailable", "CustomKeyStoreId": STORE},
        says=f"The custom key store {STORE} that holds",
        mends=f"aws kms connect-custom-key-store --region us-west-2 --custom-key-store-id {STORE}",
    ),
    "the_custom_key_store_is_out_of_reach": Answers(
        cause=Cause.KEY_STORE_UNREACHABLE,
        code="KMSInvalidStateException",
        metadata={"KeyState": "Enabled", "CustomKeyStoreId": STORE},
        says=f"KMS cannot reach the key store {STORE} that holds",
        mends=f"aws kms describe-custom-key-stores --region us-west-2 --custom-key-store-id {STORE}",
    ),
    "the_key_is_for_signing": Answers(
        cause=Cause.KEY_WRONG_USAGE,
        metadata={"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"},
        says="(it is ECC_NIST_P256 for SIGN_VERIFY), so it cannot Encrypt.",
        mends="aws kms create-key --region us-west-2",
    ),
    "kms_says_that_the_usage_is_wrong": Answers(
        cause=Cause.KEY_WRONG_USAGE,
        code="InvalidKeyUsageException",
        says="is not a symmetric encryption key",
        mends="aws kms create-key --region us-west-2",
    ),
    "the_old_ciphertext_no_longer_opens": Answers(
        cause=Cause.CIPHERTEXT_UNREADABLE,
        fails="Decrypt",
        code="InvalidCiphertextException",
        says="What was encrypted under",
        mends="aws kms describe-key",
    ),
    "the_keys_policy_does_not_allow_the_role": Answers(
        cause=Cause.ACCESS_DENIED,
        code="AccessDeniedException",
        words=denied("because no resource-based policy allows the kms:Encrypt action"),
        says=f"may not use kms:Encrypt on {KEY_ARN}: the key's policy does not allow it.",
        mends="aws kms get-key-policy",
    ),
    "the_keys_policy_denies_the_role": Answers(
        cause=Cause.ACCESS_DENIED,
        fails="Decrypt",
        code="AccessDeniedException",
        words=denied("with an explicit deny in a resource-based policy", "Decrypt"),
        says=f"may not use kms:Decrypt on {KEY_ARN}: the key's policy denies it.",
        mends="aws kms get-key-policy",
    ),
    "the_roles_policy_does_not_allow_it": Answers(
        cause=Cause.ACCESS_DENIED,
        fails="Decrypt",
        code="AccessDeniedException",
        words=denied("because no identity-based policy allows the kms:Decrypt action", "Decrypt"),
        says=f"may not use kms:Decrypt on {KEY_ARN}: no policy of the role allows it.",
        mends="aws iam put-role-policy",
    ),
    "the_organization_denies_it": Answers(
        cause=Cause.ACCESS_DENIED,
        code="AccessDeniedException",
        words=denied("with an explicit deny in a service control policy"),
        says=f"may not use kms:Encrypt on {KEY_ARN}: a service control policy denies it.",
        mends="aws iam simulate-principal-policy",
    ),
    "the_permissions_boundary_does_not_allow_it": Answers(
        cause=Cause.ACCESS_DENIED,
        code="AccessDeniedException",
        words=denied("because no permissions boundary allows the kms:Encrypt action"),
        says=f"may not use kms:Encrypt on {KEY_ARN}: a permissions boundary does not allow it.",
        mends="aws iam get-role --role-name keyvigil-customer",
    ),
    "a_denial_that_does_not_say_whose": Answers(
        cause=Cause.ACCESS_DENIED,
        code="AccessDeniedException",
        words="You are not allowed to access it.",
        says=f"may not use kms:Encrypt on {KEY_ARN}.",
        mends="aws iam put-role-policy",
    ),
    "the_role_cannot_be_assumed": Answers(
        cause=Cause.ROLE_NOT_ASSUMABLE,
        fails="AssumeRole",
        code="AccessDenied",
        says=f"The role {ROLE_ARN} cannot be assumed",
        mends="aws iam update-assume-role-policy --role-name keyvigil-customer",
    ),
    "our_own_session_expired": Answers(
        cause=Cause.OWN_CREDENTIALS,
        fails="AssumeRole",
        code="ExpiredToken",
        says="KeyVigil's own credentials or clock were refused at AssumeRole",
        mends=None,
    ),
    "our_own_clock_is_wrong": Answers(
        cause=Cause.OWN_CREDENTIALS,
        fails="DescribeKey",
        code="InvalidSignatureException",
        says="KeyVigil's own credentials or clock were refused at DescribeKey",
        mends=None,
    ),
    "the_customers_quota_is_used_up": Answers(
        cause=Cause.THROTTLED, fails="DescribeKey", code="ThrottlingException", says="was throttled", mends=None
    ),
    "kms_fails": Answers(
        cause=Cause.KMS_FAULT,
        code="DependencyTimeoutException",
        status=503,
        says="AWS answered Encrypt with a fault of its own",
        mends=None,
    ),
    "an_error_of_the_future": Answers(
        cause=Cause.UNCLASSIFIED, code="AnErrorOfTheFuture", says="in a way that KeyVigil does not know", mends=None
    ),
}
"""What KmsProber makes of AWS's answers, by the sentence that says what happened: docs/causes.md lists them all."""


@pytest.mark.parametrize("name", STUBBED)
def test_a_cause_is_told_with_its_operation_its_permission_and_what_mends_it(
    prober: KmsProber, cloud: Aws, name: str
) -> None:
    case = STUBBED[name]
    cloud.answers(case)

    verdict = prober.probe(registered(**case.fields)).verdict

    assert (verdict.cause, verdict.operation) == (case.cause, case.fails)
    assert verdict.outcome is OUTCOME_OF_CAUSE[case.cause]
    assert case.says in verdict.message
    commands = verdict.remediation.commands if verdict.remediation else ()
    assert bool(commands) is (case.mends is not None)
    assert case.mends is None or commands[0].startswith(case.mends)
    expected = {
        Cause.ACCESS_DENIED: (f"kms:{case.fails}", KEY_ARN),
        Cause.ROLE_NOT_ASSUMABLE: ("sts:AssumeRole", ROLE_ARN),
    }.get(case.cause)
    permission = verdict.permission
    assert (permission and (permission.action, permission.resource)) == expected


def test_a_cancelled_deletion_is_remembered_as_long_as_the_key_is_disabled(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    known = KeyFacts(deletion_date=SOON)
    remembered = []
    for state in ("Disabled", "Disabled", "Enabled", "Disabled"):
        cloud.describes(KeyState=state)
        cloud.refuses("encrypt", "DisabledException")
        facts = prober.probe(registered(facts=known)).facts
        assert facts is not None
        known = facts
        remembered.append(known.deletion_cancelled)
    assert remembered == [True, True, False, False], "enabled in between, it was disabled for another reason"


def test_the_expiry_of_material_is_remembered_until_other_material_is_imported(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.describes(KeyState="PendingImport", Origin="EXTERNAL")
    cloud.refuses("encrypt", "KMSInvalidStateException")
    missing = prober.probe(registered(facts=KeyFacts(material_expires_at=LATE))).facts
    cloud.everything_works()
    again = prober.probe(registered(facts=KeyFacts(material_expires_at=LATE))).facts

    assert missing is not None
    assert missing.material_expires_at == LATE
    assert again is not None
    assert again.material_expires_at is None


def test_a_denied_describe_key_says_how_to_allow_it(prober: KmsProber, cloud: Aws) -> None:
    cloud.role_gives_a_session()
    cloud.refuses("describe_key", "AccessDeniedException")
    cloud.encrypts()
    cloud.decrypts()

    (finding,) = prober.probe(registered()).verdict.findings

    assert finding.remediation is not None
    assert finding.remediation.commands[0].startswith("aws iam put-role-policy")


def test_a_key_registered_by_its_alias_is_mended_by_the_key_s_own_arn(prober: KmsProber, cloud: Aws) -> None:
    role_checks_the_external_id(cloud)
    cloud.describes(asked_for=ALIAS_ARN)
    cloud.refuses("encrypt", "DisabledException")

    verdict = register(prober, key_arn=ALIAS_ARN).verdict

    assert verdict.remediation is not None
    assert verdict.remediation.commands == (f"aws kms enable-key --region us-west-2 --key-id {KEY_ARN}",)
