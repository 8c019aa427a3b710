"""What a customer does in their own account: a key, the role of onboarding/customer-role.yaml, and changes of mind."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyvigil.domain.aws_commands import policy, trust_statement
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.errors import CliError
from keyvigil_cli.waiting import wait_until

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_kms import KMSClient

ROLE_NAME = "keyvigil-customer"
SECRET_POLICY = "keyvigil-secret"  # noqa: S105 - a policy's name
DELETION_DAYS = 7  # the shortest that KMS accepts

_STACK_SECONDS = 120


class OnboardingFailedError(CliError):
    """CloudFormation did not deploy a template of onboarding/."""


@dataclass(frozen=True)
class RegistrableKey:
    """What the registration of a key asks for."""

    key_arn: str
    role_arn: str

    @property
    def role_name(self) -> str:
        """The role's name."""
        return self.role_arn.rpartition("/")[2]


@dataclass
class _Role:
    """The stack of one role: its parameters, and the keys that it may use so far."""

    parameters: dict[str, str]
    key_arns: list[str] = field(default_factory=list)


class CustomerAccount:
    """One customer's AWS account, in the hands of its administrator."""

    def __init__(self, session: "boto3.Session", account_id: str) -> None:
        """Take a session of the account's administrator."""
        self.account_id = account_id
        self._session = session
        self._iam = session.client("iam")
        self._roles: dict[str, _Role] = {}

    def onboard(
        self, monitor_role_arn: str, external_id: str, project_id: str, *, role_name: str = ROLE_NAME
    ) -> RegistrableKey:
        """Create one key, and the role with which KeyVigil may probe it."""
        role_arn = self.role_for(monitor_role_arn, external_id, project_id, role_name=role_name)
        return self.create_key(role_arn)

    def role_for(self, monitor_role_arn: str, external_id: str, project_id: str, *, role_name: str = ROLE_NAME) -> str:
        """Return the ARN of the role that a project's keys will have. Its stack is deployed with the first key.

        The local cloud compares no encryption context, so the role is not restricted by it here.
        """
        role_arn = f"arn:aws:iam::{self.account_id}:role/{role_name}"
        self._roles[role_arn] = _Role(
            {
                "KeyVigilAccountId": monitor_role_arn.split(":")[4],
                "MonitorRoleName": monitor_role_arn.rpartition("/")[2],
                "ProjectId": project_id,
                "ExternalId": external_id,
                "RoleName": role_name,
                "RestrictToProbes": "false",
            }
        )
        return role_arn

    def trust(self, monitor_role_arn: str, external_id: str, *, role_name: str = ROLE_NAME) -> None:
        """Replace the role's trust policy, by hand."""
        self._iam.update_assume_role_policy(
            RoleName=role_name, PolicyDocument=trust_policy(monitor_role_arn, external_id)
        )

    def allow_lookups(self, role_arn: str) -> None:
        """Let the role look up in CloudTrail who broke a key."""
        role = self._roles[role_arn]
        role.parameters["AllowLookupEvents"] = "true"
        if role.key_arns:
            self._deploy(role_arn)

    def create_key(self, role_arn: str, *, region: str | None = None, data_keys: bool = False) -> RegistrableKey:
        """Create a symmetric key which the role may use for probes and nothing else.

        ``data_keys`` allows GenerateDataKey, which the probes of a key with use ``cse`` need.
        """
        kms = self._session.client("kms", region_name=region)
        key = RegistrableKey(kms.create_key(Description="encrypts our clusters")["KeyMetadata"]["Arn"], role_arn)
        self.allow(key, data_keys=data_keys)
        return key

    def allow(self, key: RegistrableKey, *, data_keys: bool = False) -> None:
        """Let the role use a key too: its stack is deployed, or updated, with all its keys."""
        role = self._roles[key.role_arn]
        role.key_arns.append(key.key_arn)
        if data_keys:
            role.parameters["Use"] = "cse"
        self._deploy(key.role_arn)

    def _deploy(self, role_arn: str) -> None:
        role = self._roles[role_arn]
        parameters = {**role.parameters, "KeyArns": ",".join(role.key_arns)}
        deploy(self._session, f"keyvigil-role-{role_arn.rpartition('/')[2]}", "customer-role.yaml", parameters)

    def create_probe_secret(self, key: RegistrableKey, name: str) -> str:
        """Create the secret that the probe of a ``kes`` key reads, under that key, and let the role read it."""
        region = key.key_arn.split(":")[3]
        secrets_manager = self._session.client("secretsmanager", region_name=region)
        created = secrets_manager.create_secret(
            Name=name, KmsKeyId=key.key_arn, SecretString="KeyVigil availability probe"
        )
        self.allow_secret(key, created["ARN"])
        return created["ARN"]

    def allow_secret(self, key: RegistrableKey, secret_arn: str) -> None:
        """Let the role read the probe's secret, and no other."""
        self._iam.put_role_policy(
            RoleName=key.role_name,
            PolicyName=SECRET_POLICY,
            PolicyDocument=policy(
                {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": secret_arn}
            ),
        )

    def forbid_secret(self, key: RegistrableKey) -> None:
        """Take from the role what lets it read the probe's secret."""
        self._iam.delete_role_policy(RoleName=key.role_name, PolicyName=SECRET_POLICY)

    def disable_key(self, key: RegistrableKey) -> None:
        """Disable the key: whatever is encrypted under it can no longer be read."""
        self._kms_of(key).disable_key(KeyId=key.key_arn)

    def enable_key(self, key: RegistrableKey) -> None:
        """Enable the key again."""
        self._kms_of(key).enable_key(KeyId=key.key_arn)

    def deny(self, key: RegistrableKey, *actions: str) -> None:
        """Deny the role some actions (``kms:Decrypt``) by the key's policy; without any, nothing again."""
        self._kms_of(key).put_key_policy(KeyId=key.key_arn, Policy=self._key_policy(key.role_name, denied=actions))

    def name_role(self, key: RegistrableKey) -> None:
        """Allow the role all uses by the key's policy, and not only by its own.

        The local cloud asks the role's policy about an alias's ARN, where AWS asks about the key behind it.
        """
        kms = self._kms_of(key)
        document = json.loads(self._key_policy(key.role_name))
        document["Statement"].append(
            {"Effect": "Allow", "Action": "kms:*", "Principal": {"AWS": key.role_arn}, "Resource": "*"}
        )
        kms.put_key_policy(KeyId=key.key_arn, Policy=json.dumps(document))

    def _kms_of(self, key: RegistrableKey) -> "KMSClient":
        return self._session.client("kms", region_name=key.key_arn.split(":")[3])

    def _key_policy(self, role_name: str, *, denied: tuple[str, ...] = ()) -> str:
        """The policy that KMS gives a new key, which lets IAM decide, and what is denied beside that."""
        role = {"AWS": f"arn:aws:iam::{self.account_id}:role/{role_name}"}
        root = {"AWS": f"arn:aws:iam::{self.account_id}:root"}
        statements: list[dict[str, Any]] = [
            {"Effect": "Allow", "Action": "kms:*", "Principal": root, "Resource": "*"},
        ]
        if denied:
            statements.append({"Effect": "Deny", "Action": list(denied), "Principal": role, "Resource": "*"})
        return policy(*statements)


def trust_policy(monitor_role_arn: str, external_id: str) -> str:
    """Return the trust policy that onboarding/customer-role.yaml gives a role."""
    return policy(trust_statement(monitor_role_arn, external_id))


def deploy(session: "boto3.Session", stack: str, template: str, parameters: dict[str, str]) -> dict[str, str]:
    """Deploy, or update, a template of onboarding/ in a customer's account; return its outputs.

    Raises:
        OnboardingFailedError: CloudFormation refused it or could not make what it says.
    """
    cloudformation = session.client("cloudformation")
    asked: dict[str, Any] = {
        "StackName": stack,
        "TemplateBody": (Checkout.find(Path(__file__)).root / "onboarding" / template).read_text(encoding="utf-8"),
        "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
    }
    try:
        cloudformation.create_stack(**asked)
    except cloudformation.exceptions.AlreadyExistsException:
        cloudformation.update_stack(**asked)
    status, outputs = wait_until(
        f"stack {stack}",
        lambda: _look(cloudformation, stack),
        lambda seen: not seen[0].endswith("IN_PROGRESS"),
        within=_STACK_SECONDS,
        every=0.2,
    )
    if status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
        message = f"{template} was not deployed as stack {stack}: {status}"
        raise OnboardingFailedError(message)
    return outputs


def _look(cloudformation: "CloudFormationClient", stack: str) -> tuple[str, dict[str, str]]:
    (found,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
    return found["StackStatus"], outputs
