"""The prober: the only code that acts in a customer's account."""

import binascii
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from keyvigil.adapters.aws import PROBE_READ_TIMEOUT_SECONDS, acting_as, config, session
from keyvigil.adapters.kms_calls import KmsCalls
from keyvigil.adapters.kms_errors import classify
from keyvigil.adapters.kms_transport import BOTO3, TRANSPORTS, KmsTransport
from keyvigil.domain.arns import related_key_arn
from keyvigil.domain.keys import (
    READ_SECRET,
    AliasTarget,
    Baseline,
    CloserLook,
    Key,
    KeyFacts,
    KeyUse,
    Registration,
    Rotation,
)
from keyvigil.domain.remediation import Seen, Subject, explain, missing_permission
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Finding, Outcome, Refusal, Remediation, Verdict
from keyvigil.ports import (
    PROBE_SECONDS,
    Clock,
    OperationAnswer,
    ProbeAnswer,
    RegistrationAnswer,
    RestoreAnswer,
    ValidationAnswer,
)

if TYPE_CHECKING:
    from mypy_boto3_kms.type_defs import KeyMetadataTypeDef
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts import STSClient

PLAINTEXT = b"KeyVigil availability probe"
"""What every probe encrypts: no secret, and short, so that a ciphertext says nothing."""

SESSION_SECONDS = 900
"""The shortest session that STS gives."""

REUSE_SECONDS = 600
"""How long credentials are used again. A changed trust policy shows only at the next AssumeRole, so this is the
default check interval, 5 minutes before the session expires; and any failure is looked at again with fresh ones."""

CACHED_ROLES = 1000
CACHED_REGIONS = 40
"""Of how many Regions clients are kept, more than AWS has in a partition: a key's ARN can name any."""

_MAY_BE_THE_SESSION = {Cause.ACCESS_DENIED, Cause.OWN_CREDENTIALS, Cause.SECRET_UNREADABLE}
_NOT_TO_BE_SEEN = {Cause.ACCESS_DENIED, Cause.KEY_WRONG_USAGE}
BUDGET_SECONDS = PROBE_SECONDS
"""How long one probe may take before no further operation is begun. With one call's time-outs and its retry on top
it stays within the API's 25 seconds."""


CLOSER_LOOK_SECONDS = 4
"""How much of a probe may be over before none of its closer look is begun, so that one call's time-outs and its retry
on top of it end before an operation that began in time would."""


class _StoppedError(Exception):
    """An operation failed, and with it the probe."""

    def __init__(
        self, cause: Cause, operation: str, aws_error_code: str | None = None, refused_by: Refusal | None = None
    ) -> None:
        super().__init__(cause, operation)
        self.cause = cause
        self.operation = operation
        self.aws_error_code = aws_error_code
        self.refused_by = refused_by


@dataclass(frozen=True, slots=True)
class _Held:
    credentials: ReadOnlyCredentials
    until: float


class RoleCredentials:
    """Sessions of customers' roles, used again for ten minutes. Safe to use from several threads."""

    def __init__(self, sts: "STSClient") -> None:
        """Keep the client."""
        self._sts = sts
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._lock = Lock()

    def get(self, role_arn: str, external_id: str, project_id: str) -> tuple[ReadOnlyCredentials, bool]:
        """A session of the role, and whether it was there already.

        Raises:
            ClientError, BotoCoreError: what AssumeRole raised.
        """
        with self._lock:
            held = self._held.get((role_arn, external_id))
        if held is not None and held.until > time.monotonic():
            return held.credentials, True
        began = time.monotonic()
        credentials = self.assume(role_arn, external_id, project_id)
        with self._lock:
            self._held[role_arn, external_id] = _Held(credentials, began + REUSE_SECONDS)
            self._held.move_to_end((role_arn, external_id))
            while len(self._held) > CACHED_ROLES:
                self._held.popitem(last=False)
        return credentials, False

    def forget(self, role_arn: str, external_id: str) -> None:
        """Drop a session, so that the next is fresh."""
        with self._lock:
            self._held.pop((role_arn, external_id), None)

    def assume(self, role_arn: str, external_id: str | None, project_id: str) -> ReadOnlyCredentials:
        """Assume the role; without an ExternalId only to find out whether the role insists on one."""
        extra: dict[str, Any] = {} if external_id is None else {"ExternalId": external_id}
        answer = self._sts.assume_role(
            RoleArn=role_arn,
            RoleSessionName=f"KeyVigil-{project_id}",
            DurationSeconds=SESSION_SECONDS,
            **extra,
        )
        given = answer["Credentials"]
        return ReadOnlyCredentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])


class KmsProber:
    """Probes keys with the real operations, each of which can be revoked by itself."""

    def __init__(
        self, clock: Clock, *, monitor_role_arn: str, calls: KmsCalls | None = None, transport: str = BOTO3
    ) -> None:
        """Make no client yet. `monitor_role_arn` is the role that this runs as, which customers' roles trust.

        `transport` says how KMS is asked, by its name in `TRANSPORTS`.
        """
        self._clock = clock
        self._calls = calls or KmsCalls()
        self._monitor_role_arn = monitor_role_arn
        self._transport = transport
        self._clients: OrderedDict[str, KmsTransport] = OrderedDict()
        self._secrets_clients: OrderedDict[str, SecretsManagerClient] = OrderedDict()
        self._lock = Lock()
        self._roles: RoleCredentials | None = None

    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        """Try the operations of a registered key.

        A denial with a session that was used before is looked at again with a fresh one: the session of a
        role that was since deleted or made again fails whatever the customer has mended. Both looks share one
        budget of time.
        """
        began = time.monotonic() - spent_seconds
        if fresh:
            self._role_credentials().forget(key.role_arn, key.external_id)
        if lean:
            answer = self._probe_lean(key, began)
            works = answer.verdict.outcome is Outcome.HEALTHY
            if works or answer.verdict.cause is Cause.THROTTLED or time.monotonic() - began > BUDGET_SECONDS:
                return answer
        answer, reused = self._probe_once(key, began, closely=closely)
        if reused and answer.verdict.cause in _MAY_BE_THE_SESSION:
            self._role_credentials().forget(key.role_arn, key.external_id)
            if time.monotonic() - began <= BUDGET_SECONDS:
                answer, _ = self._probe_once(key, began, closely=closely)
        return answer

    def _probe_once(self, key: Key, began: float, *, closely: bool) -> tuple[ProbeAnswer, bool]:
        run = _Run(self._clock, self._subject(key), began, key.facts)
        if not key.baseline.intact:
            return ProbeAnswer(verdict=run.damaged_baseline(), facts=None), False
        reused = False
        try:
            credentials, reused = run.attempt(
                "AssumeRole",
                lambda: self._role_credentials().get(key.role_arn, key.external_id, key.project_id),
            )
            with acting_as(credentials):
                kms = self._kms(key.region)
                run.describe(kms, key.key_arn, denial_is_final=False)
                run.encrypt(kms, key.key_arn, key.baseline.context)
                run.decrypt(kms, key.key_arn, key.baseline.ciphertext, key.baseline.context)
                run.generate_data_key(kms, key.key_arn, key.baseline.context)
                self._read_secret(run, key.region, key.probe_secret_arn)
                verdict = run.verdict(None)
                if closely:
                    run.look_closer(kms, key.key_arn, key.alias_arn, key.facts.closer)
        except _StoppedError as stopped:
            return ProbeAnswer(verdict=run.verdict(stopped), facts=run.facts), reused
        return ProbeAnswer(verdict=verdict, facts=run.facts), reused

    def _probe_lean(self, key: Key, began: float) -> ProbeAnswer:
        """Decrypt what was encrypted at registration, with the session that is there.

        The secret is read as well: nothing else tells that it cannot be. What DescribeKey found stays as it was.
        """
        tried = tuple(each for each in key.use.operations if each in {"Decrypt", READ_SECRET})
        run = _Run(self._clock, replace(self._subject(key), operations=tried), began, key.facts)
        if not key.baseline.intact:
            return ProbeAnswer(verdict=run.damaged_baseline(), facts=None, whole=False)
        try:
            credentials, _ = run.attempt(
                "AssumeRole",
                lambda: self._role_credentials().get(key.role_arn, key.external_id, key.project_id),
            )
            with acting_as(credentials):
                run.decrypt(self._kms(key.region), key.key_arn, key.baseline.ciphertext, key.baseline.context)
                self._read_secret(run, key.region, key.probe_secret_arn)
        except _StoppedError as stopped:
            return ProbeAnswer(verdict=run.verdict(stopped), facts=None, whole=False)
        verdict = replace(run.verdict(None), findings=key.verdict.findings)
        return ProbeAnswer(verdict=verdict, facts=None, whole=False)

    def check_restore(self, key: Key, region: str) -> RestoreAnswer:
        """Decrypt the registration ciphertext in a Region, with the key or the related key that is there.

        A denial with a session that was used before is looked at again, as at every probe.
        """
        began = time.monotonic()
        answer, reused = self._check_restore_once(key, region, began)
        if reused and answer.verdict is not None and answer.verdict.cause in _MAY_BE_THE_SESSION:
            self._role_credentials().forget(key.role_arn, key.external_id)
            if time.monotonic() - began <= BUDGET_SECONDS:
                answer, _ = self._check_restore_once(key, region, began)
        return answer

    def _check_restore_once(self, key: Key, region: str, began: float) -> tuple[RestoreAnswer, bool]:
        subject = self._subject(key)
        arn = key.key_arn if region == key.region else related_key_arn(key.key_arn, region)
        there = replace(subject, key_arn=arn, region=region, operations=("DescribeKey", "Decrypt"))
        run, home = _Run(self._clock, there, began), _Run(self._clock, subject, began, key.facts)
        if not key.baseline.intact:
            return RestoreAnswer(verdict=run.damaged_baseline()), False
        reused, asked = False, home
        try:
            credentials, reused = home.attempt(
                "AssumeRole",
                lambda: self._role_credentials().get(key.role_arn, key.external_id, key.project_id),
            )
            with acting_as(credentials):
                # Another Region is asked only if KMS says that the key is there: clients are kept, and a caller can
                # name any Region.
                if region != key.region and region not in key.facts.regions:
                    home.describe(self._kms(key.region), key.key_arn, denial_is_final=True)
                    if home.facts is None or region not in home.facts.regions:
                        return RestoreAnswer(verdict=None), reused
                asked = run
                kms = self._kms(region)
                run.describe(kms, arn, denial_is_final=False)
                run.decrypt(kms, arn, key.baseline.ciphertext, key.baseline.context)
        except _StoppedError as stopped:
            if asked is run and region != key.region and stopped.cause is Cause.KEY_NOT_FOUND:
                return RestoreAnswer(verdict=None), reused
            return RestoreAnswer(verdict=asked.verdict(stopped)), reused
        return RestoreAnswer(verdict=run.verdict(None)), reused

    def probe_registration(self, registration: Registration, *, spent_seconds: float = 0) -> RegistrationAnswer:
        """Try a key and its role before they are registered, and make the registration ciphertext."""
        run = _Run(self._clock, self._registration_subject(registration), time.monotonic() - spent_seconds)
        checks: bool | None = None
        baseline: Baseline | None = None
        healthy: Verdict | None = None
        stopped: _StoppedError | None = None
        try:
            roles = self._role_credentials()
            credentials = run.attempt(
                "AssumeRole",
                lambda: roles.assume(registration.role_arn, registration.external_id, registration.project_id),
            )
            checks = self._role_checks_external_id(run, registration)
            if checks:
                with acting_as(credentials):
                    kms = self._kms(registration.key_arn.split(":")[3])
                    run.describe(kms, registration.key_arn, denial_is_final=True)
                    arn = run.key_arn or registration.key_arn
                    ciphertext = run.encrypt(kms, arn, registration.context)
                    run.decrypt(kms, arn, ciphertext, registration.context)
                    old = registration.baseline
                    if old is not None:
                        run.decrypt(kms, arn, old.ciphertext, old.context)
                    run.generate_data_key(kms, arn, registration.context)
                    self._read_secret(run, registration.key_arn.split(":")[3], registration.probe_secret_arn)
                    baseline = Baseline.of(ciphertext, registration.context, self._clock.now())
                    healthy = run.verdict(None)
                    # An alias was resolved a moment ago, so it needs no look of its own.
                    resolved = AliasTarget(key_arn=arn) if arn != registration.key_arn else None
                    run.look_closer(kms, arn, None, CloserLook(looked_at=baseline.made_at, alias=resolved))
        except _StoppedError as error:
            stopped = error
        return RegistrationAnswer(
            verdict=healthy or run.verdict(stopped),
            role_checks_external_id=checks,
            key_arn=run.key_arn,
            baseline=baseline,
            facts=run.facts,
        )

    def validate(self, registration: Registration) -> ValidationAnswer:
        """Try each operation by itself. What follows a failure is tried too, so that one look shows all of them."""
        run = _Run(self._clock, self._registration_subject(registration), time.monotonic())
        checks: bool | None = None
        try:
            roles = self._role_credentials()
            credentials = run.attempt(
                "AssumeRole",
                lambda: roles.assume(registration.role_arn, registration.external_id, registration.project_id),
            )
            checks = self._role_checks_external_id(run, registration)
        except _StoppedError as stopped:
            not_tried = "not tried: the role could not be assumed"
            operations = [
                OperationAnswer(operation=each, allowed=None, error=not_tried) for each in registration.use.operations
            ]
            return ValidationAnswer(
                verdict=run.verdict(stopped), role_checks_external_id=checks, operations=tuple(operations)
            )
        if not checks:
            return ValidationAnswer(verdict=run.verdict(None), role_checks_external_id=False, operations=())
        with acting_as(credentials):
            first, answers = self._try_each(run, registration)
        return ValidationAnswer(verdict=run.verdict(first), role_checks_external_id=True, operations=answers)

    def _try_each(
        self, run: "_Run", registration: Registration
    ) -> tuple[_StoppedError | None, tuple[OperationAnswer, ...]]:
        """What each operation of the key's use answers, and the first failure, which a registration would show."""
        region = registration.key_arn.split(":")[3]
        kms = self._kms(region)
        first: _StoppedError | None = None
        answers: list[OperationAnswer] = []
        ciphertext = b""

        def arn() -> str:
            return run.key_arn or registration.key_arn

        def encrypt() -> None:
            nonlocal ciphertext
            ciphertext = run.encrypt(kms, arn(), registration.context)

        steps: dict[str, Callable[[], None]] = {
            "DescribeKey": partial(run.describe, kms, registration.key_arn, denial_is_final=True),
            "Encrypt": encrypt,
            "Decrypt": lambda: run.decrypt(kms, arn(), ciphertext, registration.context),
            "GenerateDataKey": lambda: run.generate_data_key(kms, arn(), registration.context),
            READ_SECRET: partial(self._read_secret, run, region, registration.probe_secret_arn),
        }
        for operation in registration.use.operations:
            if operation == "Decrypt" and not ciphertext:
                error = "not tried: Encrypt made no ciphertext to decrypt"
                answers.append(OperationAnswer(operation=operation, allowed=None, error=error))
                continue
            try:
                steps[operation]()
            except _StoppedError as stopped:
                first = first or stopped
                if stopped.operation == operation:
                    answers.append(run.operation_answer(operation, stopped))
                else:  # DescribeKey answered, and what it said is that Encrypt cannot work
                    answers.append(OperationAnswer(operation=operation, allowed=True, error=None))
            else:
                answers.append(OperationAnswer(operation=operation, allowed=True, error=None))
        return first, tuple(answers)

    def _role_checks_external_id(self, run: "_Run", registration: Registration) -> bool:
        """Whether the role refuses us without its ExternalId, and with another (the confused deputy).

        Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html
        """
        for other in (None, secrets.token_hex(16)):
            try:
                run.attempt(
                    "AssumeRole",
                    partial(self._role_credentials().assume, registration.role_arn, other, registration.project_id),
                )
            except _StoppedError as stopped:
                if stopped.cause is not Cause.ROLE_NOT_ASSUMABLE:
                    raise
            else:
                return False
        return True

    def _role_credentials(self) -> RoleCredentials:
        with self._lock:
            if self._roles is None:
                self._roles = RoleCredentials(
                    session().client("sts", config=config(read_timeout=PROBE_READ_TIMEOUT_SECONDS, connections=20))
                )
            return self._roles

    def _read_secret(self, run: "_Run", region: str, secret_arn: str | None) -> None:
        """Read the one secret that was made for the probe, if the key's use has one. Its value is dropped at once."""
        if secret_arn is not None:
            run.read_secret(self._secrets(region), secret_arn)

    def _secrets(self, region: str) -> "SecretsManagerClient":
        with self._lock:
            if region not in self._secrets_clients:
                self._secrets_clients[region] = session().client(
                    "secretsmanager",
                    region_name=region,
                    config=config(read_timeout=PROBE_READ_TIMEOUT_SECONDS, connections=20),
                )
            return _kept(self._secrets_clients, region)

    def _kms(self, region: str) -> KmsTransport:
        with self._lock:
            if region not in self._clients:
                client = session().client(
                    "kms",
                    region_name=region,
                    config=config(read_timeout=PROBE_READ_TIMEOUT_SECONDS, connections=20),
                )
                self._calls.watch(client)
                self._clients[region] = TRANSPORTS[self._transport](client, session().get_credentials())
            return _kept(self._clients, region)

    def _subject(self, key: Key) -> Subject:
        return Subject(
            key_arn=key.key_arn,
            region=key.region,
            role_arn=key.role_arn,
            external_id=key.external_id,
            monitor_role_arn=self._monitor_role_arn,
            operations=key.use.operations,
            probe_secret_arn=key.probe_secret_arn,
            used_by_services=key.use is KeyUse.SERVICE,
        )

    def _registration_subject(self, registration: Registration) -> Subject:
        return Subject(
            key_arn=registration.key_arn,
            region=registration.key_arn.split(":")[3],
            role_arn=registration.role_arn,
            external_id=registration.external_id,
            monitor_role_arn=self._monitor_role_arn,
            operations=registration.use.operations,
            probe_secret_arn=registration.probe_secret_arn,
            used_by_services=registration.use is KeyUse.SERVICE,
        )


def _kept[T](clients: OrderedDict[str, T], region: str) -> T:
    """A Region's client, and none of those that were not asked for longest, if there are too many."""
    clients.move_to_end(region)
    while len(clients) > CACHED_REGIONS:
        clients.popitem(last=False)
    return clients[region]


class _Run:
    """One probe: what it tried, what it learned, how long it took since `began`. `before` was known already."""

    def __init__(self, clock: Clock, subject: Subject, began: float, before: KeyFacts | None = None) -> None:
        self._clock = clock
        self._subject = subject
        self._probed_at: datetime = clock.now()
        # Counted from then and not from before: who adds it to `probed_at` must not get a moment after the end, because
        # a canary that was probed right after a denial would seem to have been probed before it.
        self._probing_since = time.monotonic()
        self._began = began
        self._origin: str | None = None
        self._before = before or KeyFacts()
        self._seen = _seen_before(self._before, self._probed_at)
        self._findings: list[Finding] = []
        self.facts: KeyFacts | None = None
        self.key_arn: str | None = None

    def attempt[T](self, operation: str, call: Callable[[], T], *, within: float = BUDGET_SECONDS) -> T:
        """Make one call, unless the time for this probe is over."""
        if time.monotonic() - self._began > within:
            raise _StoppedError(Cause.TIMEOUT, operation)
        try:
            return call()
        except (ClientError, BotoCoreError) as error:
            classified = classify(operation, error, key_state=self._seen.key_state)
            raise _StoppedError(
                classified.cause, operation, classified.aws_error_code, classified.refused_by
            ) from error
        except (ResponseParserError, binascii.Error, KeyError, AttributeError) as error:
            # Something that is not AWS's answer, or half of it: whoever wrote it, it says nothing about the key.
            raise _StoppedError(Cause.UNCLASSIFIED, operation) from error

    def describe(self, kms: KmsTransport, arn: str, *, denial_is_final: bool) -> None:
        """Learn the key's state. A denied DescribeKey is a finding, not an outage: it encrypts nothing."""
        try:
            metadata = self.attempt("DescribeKey", lambda: kms.describe_key(KeyId=arn)["KeyMetadata"])
        except _StoppedError as stopped:
            if denial_is_final or stopped.cause is not Cause.ACCESS_DENIED:
                raise
            message, remediation = self._explain(stopped)
            self._findings.append(Finding(code="DESCRIBE_KEY_DENIED", message=message, remediation=remediation))
            return
        self.key_arn = metadata.get("Arn")
        self._subject = replace(self._subject, key_arn=self.key_arn or self._subject.key_arn)
        self.facts = _facts(metadata, self._before)
        self._seen = _seen_now(metadata, self.facts, self._probed_at)
        self._origin = metadata.get("Origin")
        symmetric = metadata.get("KeySpec", "SYMMETRIC_DEFAULT") == "SYMMETRIC_DEFAULT"
        if metadata.get("KeyUsage", "ENCRYPT_DECRYPT") != "ENCRYPT_DECRYPT" or not symmetric:
            raise _StoppedError(Cause.KEY_WRONG_USAGE, "Encrypt")

    def encrypt(self, kms: KmsTransport, arn: str, context: Mapping[str, str]) -> bytes:
        """Encrypt the probe's plaintext."""
        return self.attempt(
            "Encrypt",
            lambda: kms.encrypt(KeyId=arn, Plaintext=PLAINTEXT, EncryptionContext=context)["CiphertextBlob"],
        )

    def decrypt(self, kms: KmsTransport, arn: str, ciphertext: bytes, context: Mapping[str, str]) -> None:
        """Decrypt a ciphertext made before; it must give the plaintext back."""
        plaintext = self.attempt(
            "Decrypt",
            lambda: kms.decrypt(KeyId=arn, CiphertextBlob=ciphertext, EncryptionContext=context)["Plaintext"],
        )
        if plaintext != PLAINTEXT:
            raise _StoppedError(Cause.CIPHERTEXT_UNREADABLE, "Decrypt")

    def generate_data_key(self, kms: KmsTransport, arn: str, context: Mapping[str, str]) -> None:
        """Make a data key, if the key's use needs that. The data key is dropped at once."""
        if "GenerateDataKey" in self._subject.operations:
            self.attempt(
                "GenerateDataKey",
                lambda: kms.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=context),
            )

    def read_secret(self, secrets_manager: "SecretsManagerClient", arn: str) -> None:
        """Read a secret. What is in it is nobody's business: nothing of the answer is kept."""
        self.attempt(READ_SECRET, lambda: secrets_manager.get_secret_value(SecretId=arn))

    def look_closer(self, kms: KmsTransport, arn: str, alias_arn: str | None, earlier: CloserLook | None) -> None:
        """Learn what DescribeKey does not tell: rotation, and what an alias stands for.

        Nothing here is a verdict. What the role may not see is not known; what could not be found out this time stays
        as it was. Nothing is looked at where DescribeKey is denied, or if the probe took long.
        """
        if self.facts is None or time.monotonic() - self._began > CLOSER_LOOK_SECONDS:
            return
        known = earlier.alias if earlier else None
        look = CloserLook(
            looked_at=self._probed_at,
            rotation=self._rotation(kms, arn, earlier.rotation if earlier else None),
            alias=self._alias(kms, alias_arn, known) if alias_arn else known,
        )
        self.facts = replace(self.facts, closer=look)

    def _rotation(self, kms: KmsTransport, arn: str, earlier: Rotation | None) -> Rotation | None:
        """KMS rotates by itself only key material that it made itself, outside of custom key stores.

        Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_GetKeyRotationStatus.html
        """
        if self._origin not in {None, "AWS_KMS"}:
            return None
        try:
            answer = self.attempt("GetKeyRotationStatus", lambda: kms.get_key_rotation_status(KeyId=arn))
        except _StoppedError as stopped:
            return None if stopped.cause in _NOT_TO_BE_SEEN else earlier
        return Rotation(
            enabled=bool(answer.get("KeyRotationEnabled")),
            next_at=answer.get("NextRotationDate"),
            period_days=answer.get("RotationPeriodInDays"),
        )

    def _alias(self, kms: KmsTransport, alias_arn: str, earlier: AliasTarget | None) -> AliasTarget | None:
        """What an alias stands for. KMS authorizes this by the key, so a role may see only keys that it may describe.

        Source: https://docs.aws.amazon.com/kms/latest/developerguide/alias-authorization.html
        """
        try:
            answer = self.attempt("DescribeKey", lambda: kms.describe_key(KeyId=alias_arn), within=CLOSER_LOOK_SECONDS)
        except _StoppedError as stopped:
            if stopped.cause is Cause.KEY_NOT_FOUND:
                return AliasTarget(key_arn=None)
            return None if stopped.cause in _NOT_TO_BE_SEEN else earlier
        return AliasTarget(key_arn=answer["KeyMetadata"].get("Arn"))

    def verdict(self, stopped: _StoppedError | None) -> Verdict:
        """The verdict of this probe."""
        latency = timedelta(seconds=time.monotonic() - self._probing_since) // timedelta(milliseconds=1)
        if stopped is None:
            return Verdict(
                outcome=Outcome.HEALTHY,
                cause=None,
                operation=None,
                aws_error_code=None,
                message=f"The key works: {', '.join(self._subject.operations)} succeeded.",
                remediation=None,
                latency_ms=latency,
                probed_at=self._probed_at,
                findings=tuple(self._findings),
            )
        message, remediation = self._explain(stopped)
        return Verdict(
            outcome=OUTCOME_OF_CAUSE[stopped.cause],
            cause=stopped.cause,
            operation=stopped.operation,
            aws_error_code=stopped.aws_error_code,
            message=message,
            remediation=remediation,
            latency_ms=latency,
            probed_at=self._probed_at,
            findings=tuple(self._findings),
            permission=missing_permission(
                stopped.cause, stopped.operation, self._subject, replace(self._seen, refused_by=stopped.refused_by)
            ),
        )

    def _explain(self, stopped: _StoppedError) -> tuple[str, Remediation | None]:
        seen = replace(self._seen, refused_by=stopped.refused_by)
        return explain(stopped.cause, stopped.operation, self._subject, seen)

    def operation_answer(self, operation: str, stopped: _StoppedError) -> OperationAnswer:
        """What a failure says of one operation: refused, or that nothing is known."""
        message, _ = self._explain(stopped)
        refused = OUTCOME_OF_CAUSE[stopped.cause] is Outcome.UNHEALTHY
        error = f"{stopped.aws_error_code or stopped.cause}: {message}"
        return OperationAnswer(operation=operation, allowed=False if refused else None, error=error)

    def damaged_baseline(self) -> Verdict:
        """The verdict if the stored ciphertext is not what KMS once returned: our fault, so UNKNOWN."""
        verdict = self.verdict(_StoppedError(Cause.UNCLASSIFIED, "Decrypt"))
        message = "The stored registration ciphertext is damaged, so nothing can be said about the key."
        return Verdict(
            outcome=verdict.outcome,
            cause=verdict.cause,
            operation=verdict.operation,
            aws_error_code=None,
            message=message,
            remediation=None,
            latency_ms=0,
            probed_at=verdict.probed_at,
        )


def _facts(metadata: "KeyMetadataTypeDef", before: KeyFacts) -> KeyFacts:
    """What DescribeKey says, and of what was known before, what it no longer says."""
    multi = metadata.get("MultiRegionConfiguration", {})
    state = metadata.get("KeyState")
    expires_at = metadata.get("ValidTo")
    if state == "PendingImport" and expires_at is None:
        expires_at = before.material_expires_at
    return KeyFacts(
        multi_region=bool(metadata.get("MultiRegion")),
        replica_regions=tuple(each["Region"] for each in multi.get("ReplicaKeys", []) if "Region" in each),
        deletion_date=metadata.get("DeletionDate"),
        material_expires_at=expires_at,
        primary_region=multi.get("PrimaryKey", {}).get("Region"),
        key_state=state,
        custom_key_store_id=metadata.get("CustomKeyStoreId"),
        deletion_cancelled=state == "Disabled" and (before.deletion_date is not None or before.deletion_cancelled),
    )


def _seen_before(before: KeyFacts, now: datetime) -> Seen:
    """What is known of a key that DescribeKey has said nothing of yet, or is not allowed to."""
    return Seen(
        at=now,
        deletion_date=before.deletion_date,
        deletion_cancelled=before.deletion_cancelled,
        material_expires_at=before.material_expires_at,
        primary_region=before.primary_region,
        replica_regions=before.replica_regions,
        key_store_id=before.custom_key_store_id,
    )


def _seen_now(metadata: "KeyMetadataTypeDef", facts: KeyFacts, now: datetime) -> Seen:
    return replace(
        _seen_before(facts, now),
        key_state=metadata.get("KeyState"),
        key_usage=metadata.get("KeyUsage"),
        key_spec=metadata.get("KeySpec"),
        imported=metadata.get("Origin") == "EXTERNAL",
        deletion_window_days=metadata.get("PendingDeletionWindowInDays"),
    )
