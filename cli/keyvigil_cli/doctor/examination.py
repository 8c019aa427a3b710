"""The examination: every operation tried by itself, policies read where that is allowed, and what to add.

Nothing is changed and nothing of the caller's is read: what is encrypted is a constant text, with the encryption
context of KeyVigil's probes, and dropped at once.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from keyvigil.adapters.kms_errors import Classified, classify
from keyvigil.domain.arns import is_multi_region, related_key_arn
from keyvigil.domain.aws_commands import KeyCommands, add_to_role, aws, trust_again, trust_statement, use_statement
from keyvigil.domain.keys import READ_SECRET, probe_context
from keyvigil.domain.remediation import Seen, Subject, explain
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Outcome, PolicyKind
from keyvigil_cli.doctor.calls import Calls
from keyvigil_cli.doctor.findings import Addition, Check, Diagnosis, Place, Result
from keyvigil_cli.doctor.systems import System
from keyvigil_cli.policies.customer_role import CustomerRole
from keyvigil_cli.policies.documents import Document, Statement, listed, one_or_many
from keyvigil_cli.policies.reading import Says, says
from keyvigil_cli.policies.services import THROUGH, by_itself, through

_NOBODYS_PROJECT = "doctor"
_KES = ("secretsmanager:CreateSecret", "secretsmanager:DeleteSecret", "secretsmanager:GetSecretValue")
_AWS_ERRORS = (ClientError, BotoCoreError)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be examined. `users` and `services` are the stack's own, beside those of the system."""

    key_arn: str
    system: System
    role_arn: str | None = None
    external_id: str | None = None
    project_id: str | None = None
    cluster_region: str | None = None
    restore_region: str | None = None
    users: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    probe_secret_arn: str | None = None
    makes_secret: bool = False

    @property
    def region(self) -> str:
        """The key's Region."""
        return self.key_arn.split(":")[3]

    @property
    def account_id(self) -> str:
        """The key's account."""
        return self.key_arn.split(":")[4]

    @property
    def context(self) -> dict[str, str]:
        """The encryption context of KeyVigil's probes."""
        return probe_context(self.project_id or _NOBODYS_PROJECT)


def examine(question: Question, own: Calls, news: Callable[[str], None]) -> Diagnosis:
    """Try everything; a failure of one thing hides no other.

    Args:
        question: what to examine.
        own: the caller's own calls.
        news: is told what is being tried.

    Raises:
        ClientError, BotoCoreError: not even who calls could be found out.
    """
    news("who calls")
    caller = own.caller()
    checks: list[Check] = []
    acting: Calls | None = own
    if question.role_arn is not None:
        news("AssumeRole")
        acting, assumed = _assume(question, own, caller)
        checks += assumed
    if acting is None:
        left = [*question.system.operations]
        checks += [Check(check=each, result=Result.UNKNOWN, said="The role could not be assumed.") for each in left]
        return _diagnosis(question, caller, checks, ())
    examination = _Examination(question, own, acting, principal=question.role_arn or principal_of(caller))
    found, notes = examination.run(news)
    return _diagnosis(question, caller, [*checks, *found], notes)


def principal_of(caller_arn: str) -> str:
    """Return what a policy calls somebody: a session is its role. A role's path is not to be seen in a session."""
    kind, _, rest = caller_arn.partition(":assumed-role/")
    if not rest:
        return caller_arn
    return f"{kind.replace(':sts:', ':iam:')}:role/{rest.partition('/')[0]}"


def _diagnosis(question: Question, caller: str, checks: list[Check], notes: tuple[str, ...]) -> Diagnosis:
    return Diagnosis(
        key_arn=question.key_arn,
        system=question.system.name,
        caller_arn=caller,
        role_arn=question.role_arn,
        checks=tuple(checks),
        notes=notes,
    )


def _assume(question: Question, own: Calls, caller: str) -> tuple[Calls | None, list[Check]]:
    """The role's calls, or None; and whether the role refuses those who do not know the ExternalId."""
    role = question.role_arn or ""
    who = principal_of(caller)
    trusted = _trust(who, question.external_id)
    try:
        acting = own.assumed(role, question.external_id)
    except _AWS_ERRORS as error:
        found = classify("AssumeRole", error, key_state=None)
        if OUTCOME_OF_CAUSE[found.cause] is not Outcome.UNHEALTHY:
            return None, [_unknown("AssumeRole", found)]
        additions = [Addition(place=Place.TRUST, of=role, statement=trusted)]
        if role.split(":")[4] != who.split(":")[4]:
            allowed = {"Sid": "AssumeTheRole", "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role}
            additions.append(Addition(place=Place.CALLER, of=who, statement=allowed))
        said = f"{who} may not assume {role}, or it is gone, or the ExternalId is another."
        check = Check(
            check="AssumeRole", result=Result.MISSING, cause=found.cause, said=said, additions=tuple(additions)
        )
        return None, [check]
    checks = [Check(check="AssumeRole", result=Result.WORKS, said=f"as {who}")]
    if question.external_id is not None:
        checks += _open_to_anybody(question, own, who, trusted)
    return acting, checks


def _open_to_anybody(question: Question, own: Calls, who: str, trusted: Statement) -> list[Check]:
    role = question.role_arn or ""
    try:
        own.assumed(role, secrets.token_hex(16))
    except _AWS_ERRORS:
        return []
    again = trust_again(role, who, question.external_id or "") if ":role/" in who else ""
    return [
        Check(
            check="ExternalId",
            result=Result.MISSING,
            said="Role does not check the ExternalId: it was assumed with another. KeyVigil refuses such a role.",
            additions=(Addition(place=Place.TRUST, of=role, statement=trusted),),
            commands=(again,) if again else (),
        )
    ]


def _trust(who: str, external_id: str | None) -> Statement:
    """The trust statement for a caller: as KeyVigil's for a role, by its ARN for a user."""
    if ":role/" in who and external_id is not None:
        return trust_statement(who, external_id)
    statement: Statement = {"Effect": "Allow", "Principal": {"AWS": who}, "Action": "sts:AssumeRole"}
    if external_id is not None:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return statement


def _unknown(check: str, found: Classified) -> Check:
    code = f" ({found.aws_error_code})" if found.aws_error_code else ""
    said = f"No answer that says anything about the key: {found.cause}{code}."
    return Check(check=check, result=Result.UNKNOWN, cause=found.cause, said=said)


class _Examination:
    """One key, by one identity."""

    def __init__(self, question: Question, own: Calls, acting: Calls, *, principal: str) -> None:
        self._question = question
        self._own = own
        self._acting = acting
        self._principal = principal
        self._policy: Document | None = None
        self._state: str | None = None
        self._seen = Seen()
        self._ciphertext: bytes | None = None
        self._notes: list[str] = []

    def run(self, news: Callable[[str], None]) -> tuple[list[Check], tuple[str, ...]]:
        news("the key's policy")
        self._policy = self._read_policy()
        checks: list[Check] = []
        for operation in self._question.system.operations:
            news(operation)
            checks.append(self._operation(operation))
        checks += self._regions(news)
        checks += [self._service(each) for each in (*self._question.system.lets_in, *self._question.services)]
        checks += [self._user(each) for each in self._users()]
        if self._question.system.secrets:
            news("Secrets Manager")
            checks += self._secrets()
        checks += self._grants()
        news("rotation")
        self._rotation()
        return checks, tuple(self._notes)

    # --- operations

    def _operation(self, operation: str, *, key_arn: str | None = None) -> Check:
        key = key_arn or self._question.key_arn
        context = self._question.context
        calls: Mapping[str, Callable[[], Any]] = {
            "DescribeKey": partial(self._describe, key),
            "Encrypt": partial(self._acting.encrypt, key, context),
            "GenerateDataKey": partial(self._acting.generate_data_key, key, context),
            "Decrypt": lambda: self._acting.decrypt(key, self._some_ciphertext(key), context),
            "ReEncrypt": lambda: self._acting.re_encrypt(key, self._some_ciphertext(key), context),
        }
        try:
            answer = calls[operation]()
        except _NothingToDecryptError:
            if self._question.system.through is not None:
                return self._only_through(operation, self._question.system.through)
            said = f"There is nothing that {operation} could be tried with: nothing could be encrypted."
            return Check(check=operation, result=Result.UNKNOWN, said=said)
        except _WrongUsageError:
            return self._by_cause(operation, Classified(Cause.KEY_WRONG_USAGE, None))
        except _AWS_ERRORS as error:
            return self._failed(operation, classify(operation, error, key_state=self._state), key)
        if isinstance(answer, bytes) and key_arn is None:
            self._ciphertext = answer
        return Check(check=operation, result=Result.WORKS, said=f"as {self._principal}")

    def _describe(self, key: str) -> None:
        metadata = self._acting.describe(key)
        self._state = metadata.get("KeyState")
        multi = metadata.get("MultiRegionConfiguration", {})
        self._seen = Seen(
            key_state=self._state,
            key_usage=metadata.get("KeyUsage"),
            key_spec=metadata.get("KeySpec"),
            imported=metadata.get("Origin") == "EXTERNAL",
            deletion_date=metadata.get("DeletionDate"),
            replica_regions=tuple(each["Region"] for each in multi.get("ReplicaKeys", [])),
            primary_region=multi.get("PrimaryKey", {}).get("Region"),
            key_store_id=metadata.get("CustomKeyStoreId"),
        )
        if metadata.get("KeyUsage", "ENCRYPT_DECRYPT") != "ENCRYPT_DECRYPT":
            raise _WrongUsageError
        if metadata.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
            raise _WrongUsageError

    def _some_ciphertext(self, key: str) -> bytes:
        """What Encrypt or GenerateDataKey made; or, so that Decrypt is judged by itself, the caller's own Encrypt."""
        if self._ciphertext is None:
            try:
                self._ciphertext = self._own.encrypt(key, self._question.context)
            except _AWS_ERRORS as error:
                raise _NothingToDecryptError from error
        return self._ciphertext

    def _failed(self, operation: str, found: Classified, key: str) -> Check:
        if OUTCOME_OF_CAUSE[found.cause] is not Outcome.UNHEALTHY:
            return _unknown(operation, found)
        if found.cause is not Cause.ACCESS_DENIED:
            return self._by_cause(operation, found)
        if self._question.system.through is not None:
            return self._only_through(operation, self._question.system.through)
        return self._denied(operation, found, key)

    def _by_cause(self, operation: str, found: Classified) -> Check:
        """What the product says of a cause that is not about permissions."""
        subject = Subject(
            key_arn=self._question.key_arn,
            region=self._question.region,
            role_arn=self._principal,
            external_id=self._question.external_id or "",
            monitor_role_arn="",
            operations=self._question.system.operations,
        )
        said, remediation = explain(found.cause, operation, subject, replace(self._seen, refused_by=found.refused_by))
        commands = remediation.commands if remediation else ()
        return Check(check=operation, result=Result.MISSING, cause=found.cause, said=said, commands=commands)

    def _denied(self, operation: str, found: Classified, key: str) -> Check:
        action = f"kms:{operation}"
        refused = found.refused_by
        said = f"{self._principal} may not use {action} on {key}"
        if refused is not None and refused.explicit:
            commands: tuple[str, ...] = (aws("kms", "get-key-policy", "--region", key.split(":")[3], "--key-id", key),)
            if refused.policy is PolicyKind.IDENTITY:
                name = self._principal.rpartition("/")[2]
                commands = (aws("iam", "list-role-policies", "--role-name", name),)
            said = f"{said}: a {refused.policy} denies it. No statement helps; take the denial away."
            return Check(
                check=operation, result=Result.MISSING, cause=Cause.ACCESS_DENIED, said=said, commands=commands
            )
        places = self._places(action, key, refused.policy if refused else None)
        additions = tuple(self._addition(place, action, key) for place in places)
        commands = tuple(self._adding(each, key) for each in additions if each.place is Place.KEY or self._is_role)
        where = " and ".join(f"the {each}" for each in places)
        either = len(places) > 1 and self._same_account
        if either:
            where = where.replace(" and ", " or ")
        return Check(
            check=operation,
            result=Result.MISSING,
            cause=Cause.ACCESS_DENIED,
            said=f"{said}: add it to {where}.",
            additions=additions,
            either=either,
            commands=commands,
        )

    @staticmethod
    def _adding(addition: Addition, key: str) -> str:
        """The command that adds a statement."""
        if addition.place is Place.ROLE:
            return add_to_role(addition.of, key, addition.statement)
        return KeyCommands(key, key.split(":")[3]).add_to_policy(json.dumps(addition.statement))

    @property
    def _is_role(self) -> bool:
        return ":role/" in self._principal

    @property
    def _same_account(self) -> bool:
        return self._principal.split(":")[4] == self._question.account_id

    def _places(self, action: str, key: str, refused_by: PolicyKind | None) -> list[Place]:
        """Which policy must be changed: by what the key's policy says where it was read, else by AWS's words.

        A replica has a policy of its own, which is not read.

        Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-modifying-external-accounts.html
        """
        policy = self._policy if key == self._question.key_arn else None
        heard = says(policy, self._principal, action) if policy is not None else None
        if self._same_account:
            match heard:
                case Says.LEAVES_TO_IAM:
                    return [Place.ROLE]
                case Says.NOTHING | Says.ALLOWS_UNDER_CONDITIONS:
                    return [Place.KEY]
                case _:
                    pass
        elif heard is not None:
            delegated = heard in {Says.LEAVES_TO_IAM, Says.ALLOWS}
            return [Place.ROLE] if delegated else [Place.KEY, Place.ROLE]
        match refused_by:
            case PolicyKind.IDENTITY:
                return [Place.ROLE]
            case PolicyKind.RESOURCE:
                return [Place.KEY]
            case _:
                return [Place.ROLE, Place.KEY]

    def _addition(self, place: Place, action: str, key: str) -> Addition:
        """The statement that `keyvigil policy` would have printed."""
        role = CustomerRole(key_arns=(key,), use=self._question.system.use, project_id=self._question.project_id)
        of_key = role.key_statements(self._principal)
        statements = role.statements() if place is Place.ROLE else of_key
        fitting = [each for each in statements if action in listed(each["Action"])]
        if not fitting:
            extra: Statement = {"Sid": "UseTheKey", **use_statement([action], key)}
            if place is Place.KEY:
                extra = {**extra, "Principal": {"AWS": self._principal}, "Resource": "*"}
            fitting = [extra]
        return Addition(place=place, of=self._principal if place is Place.ROLE else key, statement=fitting[0])

    # --- what is only read

    def _read_policy(self) -> Document | None:
        refused = ""
        for calls in (self._acting, self._own):
            try:
                return calls.key_policy(self._question.key_arn)
            except _AWS_ERRORS as error:
                found = classify("GetKeyPolicy", error, key_state=None)
                refused = found.aws_error_code or found.cause
        self._notes.append(
            f"The key's policy was not read ({refused}): kms:GetKeyPolicy on the key would let the doctor say which "
            "policy lacks what."
        )
        return None

    def _only_through(self, operation: str, service: str) -> Check:
        """A refused direct call of somebody who uses the key through a service: the policy says whether that works."""
        use = THROUGH[service]
        action = f"kms:{'ReEncryptFrom' if operation == 'ReEncrypt' else operation}"
        host = use.host(self._question.region)
        statements = through(service, [self._principal], self._question.region, set_up=True)
        fitting = [each for each in statements if says({"Statement": [each]}, self._principal, action, via=host)
                   is not Says.NOTHING]  # fmt: skip
        if not fitting:
            return Check(check=operation, result=Result.ALLOWED, said=f"{service} does not need it.")
        return self._judged(operation, self._principal, (action,), fitting[0], via=host)

    def _judged(
        self, check: str, principal: str, actions: tuple[str, ...], wanted: Statement, *, via: str | None = None
    ) -> Check:
        """Judge by the key's policy, and by IAM's simulation where that policy leaves it to IAM."""
        key = Addition(place=Place.KEY, of=self._question.key_arn, statement=wanted)
        if self._policy is None:
            said = "The key's policy was not read; this is what it must say, unless IAM allows it."
            return Check(check=check, result=Result.UNKNOWN, said=said, additions=(key,))
        heard = {action: says(self._policy, principal, action, via=via) for action in actions}
        short = [action for action, each in heard.items() if each in {Says.NOTHING, Says.DENIES}]
        if short:
            denied = " denies" if any(heard[each] is Says.DENIES for each in short) else " does not allow"
            said = f"The key's policy{denied} {principal} {', '.join(short)}."
            return Check(
                check=check, result=Result.MISSING, cause=Cause.ACCESS_DENIED, said=said,
                additions=() if "denies" in denied else (key,),
            )  # fmt: skip
        if Says.LEAVES_TO_IAM in heard.values():
            return self._by_iam(check, principal, tuple(heard), wanted, via=via)
        how = f" through {via}" if via else ""
        return Check(check=check, result=Result.ALLOWED, said=f"The key's policy allows it to {principal}{how}.")

    def _by_iam(
        self, check: str, principal: str, actions: tuple[str, ...], wanted: Statement, *, via: str | None
    ) -> Check:
        statement = {name: each for name, each in wanted.items() if name != "Principal"}
        statement["Resource"] = self._question.key_arn
        addition = Addition(place=Place.ROLE, of=principal, statement=statement)
        if via is None:
            try:
                allowed = self._own.simulated(principal, actions, self._question.key_arn)
            except _AWS_ERRORS:
                allowed = {}
            if allowed and all(allowed.get(each) for each in actions):
                return Check(check=check, result=Result.ALLOWED, said=f"Policies of {principal} allow it, says IAM.")
            short = [each for each in actions if allowed and not allowed.get(each)]
            if short:
                said = f"No policy of {principal} allows {', '.join(short)}, says IAM."
                return Check(
                    check=check, result=Result.MISSING, cause=Cause.ACCESS_DENIED, said=said, additions=(addition,)
                )
        said = f"The key's policy leaves it to IAM, and what policies {principal} has was not to be seen."
        return Check(check=check, result=Result.UNKNOWN, said=said, additions=(addition,))

    def _service(self, service: str) -> Check:
        """A service whose principal the key's policy must name: IAM lets no service in."""
        missing: list[Statement] = []
        unconditioned = False
        host = ""
        for wanted in by_itself(service, self._question.account_id, self._question.region):
            host = str(wanted["Principal"]["Service"])
            for action in map(str, listed(wanted["Action"])):
                heard = Says.NOTHING if self._policy is None else says(self._policy, host, action.rstrip("*"))
                if heard in {Says.NOTHING, Says.DENIES} and wanted not in missing:
                    missing.append(wanted)
                unconditioned = unconditioned or heard is Says.ALLOWS
        name = f"{service} itself"
        key = self._question.key_arn
        additions = tuple(Addition(place=Place.KEY, of=key, statement=each) for each in missing)
        if self._policy is None:
            said = "The key's policy was not read; this is what it must say."
            return Check(check=name, result=Result.UNKNOWN, said=said, additions=additions)
        if missing:
            said = f"The key's policy does not let {host} use the key."
            return Check(check=name, result=Result.MISSING, cause=Cause.ACCESS_DENIED, said=said, additions=additions)
        if unconditioned:
            self._notes.append(
                f"The key's policy lets {host} in without a condition, for whatever account it works: "
                f"`keyvigil policy key {key} --service {service}` prints the narrow statement."
            )
        return Check(check=name, result=Result.ALLOWED, said=f"The key's policy lets {host} in.")

    def _users(self) -> tuple[str, ...]:
        if self._question.users:
            return self._question.users
        return tuple(
            f"arn:aws:iam::{self._question.account_id}:role/{name}" for name in self._question.system.user_names
        )

    def _user(self, user: str) -> Check:
        wanted = {
            "Sid": "LetTheStackUseTheKey",
            "Effect": "Allow",
            "Principal": {"AWS": one_or_many(self._users())},
            "Action": list(self._question.system.users),
            "Resource": "*",
        }
        return self._judged(f"role {user.rpartition('/')[2]}", user, self._question.system.users, wanted)

    def _grants(self) -> list[Check]:
        service = self._question.system.through
        if service is None or not THROUGH[service].grants:
            return []
        said = f"Only whoever makes something new needs it, through {service}; a grant would change the key."
        return [Check(check="CreateGrant", result=Result.NOT_TRIED, said=said)]

    def _rotation(self) -> None:
        if self._seen.imported or self._seen.key_store_id:
            return  # KMS does not rotate these by itself
        try:
            if not self._acting.rotated(self._question.key_arn):
                self._notes.append(
                    "Rotation is off: "
                    + aws("kms", "enable-key-rotation", "--region", self._question.region, "--key-id",
                          self._question.key_arn)
                )  # fmt: skip
        except _AWS_ERRORS:
            self._notes.append("Whether the key is rotated was not to be seen (kms:GetKeyRotationStatus).")

    # --- Regions

    def _regions(self, news: Callable[[str], None]) -> list[Check]:
        checks = []
        key, region = self._question.key_arn, self._question.region
        cluster = self._question.cluster_region
        if cluster is not None and cluster != region:
            said = f"The key is in {region} and the system in {cluster}: a key is used in its own Region only."
            checks.append(self._replica("Region", said, cluster))
        elif cluster is not None:
            checks.append(Check(check="Region", result=Result.WORKS, said=f"Key and system are in {region}."))
        restore = self._question.restore_region
        if restore is None or restore == region:
            return checks
        if not is_multi_region(key):
            said = f"A backup restored in {restore} needs this key there, and it is not a multi-Region key."
            checks.append(Check(check=f"Replica in {restore}", result=Result.MISSING, said=said))
            return checks
        replica = related_key_arn(key, restore)
        for operation in self._question.system.operations:
            news(f"{operation} in {restore}")
            found = self._in_replica(operation, replica)
            checks.append(found)
            if operation == "DescribeKey" and found.cause == Cause.KEY_NOT_FOUND:
                said = f"There is no replica in {restore}, so a backup cannot be restored there."
                checks[-1] = self._replica(f"Replica in {restore}", said, restore)
                break
        return checks

    def _in_replica(self, operation: str, replica: str) -> Check:
        """The replica's state and ciphertexts are its own."""
        state, seen, ciphertext = self._state, self._seen, self._ciphertext
        found = self._operation(operation, key_arn=replica)
        self._state, self._seen, self._ciphertext = state, seen, ciphertext
        return replace(found, check=f"{operation} in {replica.split(':')[3]}")

    def _replica(self, check: str, said: str, region: str) -> Check:
        key = self._question.key_arn
        if not is_multi_region(key):
            return Check(check=check, result=Result.MISSING, said=f"{said} It is not a multi-Region key.")
        primary = self._seen.primary_region or self._question.region
        command = aws("kms", "replicate-key", "--region", primary, "--key-id", key.rpartition("/")[2],
                      "--replica-region", region)  # fmt: skip
        return Check(check=check, result=Result.MISSING, cause=Cause.KEY_NOT_FOUND, said=said, commands=(command,))

    # --- Secrets Manager, for KES

    def _secrets(self) -> list[Check]:
        """What KES does there. The secrets of a running KES are never read."""
        question = self._question
        secret = question.probe_secret_arn
        name = f"keyvigil/doctor-{secrets.token_hex(8)}"
        tried = [self._secret_call("ListSecrets", partial(self._acting.list_secrets, question.region))]
        if secret is not None:
            tried.append(self._secret_call(READ_SECRET, partial(self._acting.read_secret, secret)))
        if question.makes_secret:
            make = partial(self._acting.make_and_delete_secret, question.key_arn, name)
            tried.append(self._secret_call("CreateSecret, GetSecretValue, DeleteSecret", make))
        else:
            said = "It would make a secret and delete it at once: --make-secret tries it."
            tried.append(Check(check="CreateSecret, DeleteSecret", result=Result.NOT_TRIED, said=said))
        return tried

    def _secret_call(self, check: str, call: Callable[[], None]) -> Check:
        try:
            call()
        except _AWS_ERRORS as error:
            found = classify(READ_SECRET, error, key_state=self._state)
            if OUTCOME_OF_CAUSE[found.cause] is not Outcome.UNHEALTHY:
                return _unknown(check, found)
            additions = tuple(
                Addition(place=Place.ROLE, of=self._principal, statement=each) for each in self._kes_statements(check)
            )
            said = f"{self._principal} was refused by Secrets Manager, or it by the key ({found.aws_error_code})."
            return Check(
                check=check, result=Result.MISSING, cause=Cause.SECRET_UNREADABLE, said=said, additions=additions
            )
        return Check(check=check, result=Result.WORKS, said=f"as {self._principal}")

    def _kes_statements(self, check: str) -> list[Statement]:
        """As KES's page says, with the key's part through Secrets Manager only."""
        if check == "ListSecrets":
            return [{"Sid": "ListSecrets", "Effect": "Allow", "Action": "secretsmanager:ListSecrets", "Resource": "*"}]
        region, account = self._question.region, self._question.account_id
        of_secrets = self._question.probe_secret_arn or f"arn:aws:secretsmanager:{region}:{account}:secret:*"
        actions = [f"secretsmanager:{READ_SECRET}"] if check == READ_SECRET else list(_KES)
        used = through("secretsmanager", [self._principal], region)[0]
        return [
            {"Sid": "KeepKeysInSecrets", "Effect": "Allow", "Action": one_or_many(actions), "Resource": of_secrets},
            {
                **{name: each for name, each in used.items() if name != "Principal"},
                "Resource": self._question.key_arn,
            },
        ]


class _NothingToDecryptError(Exception):
    """Neither the role nor the caller could encrypt."""


class _WrongUsageError(Exception):
    """The key is for something else than encrypting."""
