"""The customer's role, as onboarding/customer-role.yaml and onboarding/terraform/role make it.

tests/infra/test_policies.py holds the three against each other. What is compared and why stands in the template.
"""

import re
from dataclasses import dataclass

from keyvigil.domain.arns import parse_kms_arn, parse_secret_arn
from keyvigil.domain.aws_commands import trust_statement
from keyvigil.domain.keys import READ_SECRET, KeyUse, probe_context
from keyvigil_cli.policies.documents import (
    LONGEST_ROLE_POLICY,
    LONGEST_TRUST_POLICY,
    BadPolicyError,
    Document,
    Statement,
    document,
    within,
)

COMPARED = ("tested-by", "project")
"""The parts of a probe's encryption context that the role is restricted to."""

_PROJECT = re.compile(r"[a-z][a-z0-9-]{2,39}\Z", re.ASCII)
_ACCOUNT = re.compile(r"\d{12}\Z", re.ASCII)
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}\Z", re.ASCII)
_ROLE_NAME = re.compile(r"[\w+=,.@-]{1,64}\Z", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class CustomerRole:
    """What a customer's role may do. `project_id` None: not only the probes of one project."""

    key_arns: tuple[str, ...]
    use: KeyUse = KeyUse.CMEK
    project_id: str | None = None
    probe_secret_arn: str | None = None
    rotation_status: bool = True
    lookup_events: bool = False

    def __post_init__(self) -> None:
        """Refuse what onboarding's template refuses.

        Raises:
            BadPolicyError: something is not of its form, or is missing.
        """
        if not self.key_arns:
            raise BadPolicyError("name a key at least")
        for arn in self.key_arns:
            checked_key(arn)
        if self.project_id is not None:
            checked_project(self.project_id)
        if self.use is KeyUse.KES and self.probe_secret_arn is None:
            raise BadPolicyError("use kes needs --probe-secret-arn, the secret that is read by each probe")
        if self.probe_secret_arn is not None:
            secret = parse_secret_arn(self.probe_secret_arn)
            if secret is None or not secret.name.startswith("keyvigil/"):
                message = f"{self.probe_secret_arn} is not the whole ARN of a secret whose name begins with keyvigil/"
                raise BadPolicyError(message)

    def permissions(self) -> Document:
        """Return the role's policy."""
        return within(LONGEST_ROLE_POLICY, document(self.statements()), "role policy")

    def statements(self) -> list[Statement]:
        """Return the statements of the role's policy."""
        keys = list(self.key_arns)
        found: list[Statement] = [
            {"Sid": "SeeTheKeys", "Effect": "Allow", "Action": "kms:DescribeKey", "Resource": keys},
            {"Sid": "ProbeTheKeys", "Effect": "Allow", "Action": list(self._used), "Resource": keys} | self._condition,
        ]
        if self.rotation_status:
            found.append(
                {"Sid": "SeeRotation", "Effect": "Allow", "Action": "kms:GetKeyRotationStatus", "Resource": keys}
            )
        if self.use is KeyUse.KES and self.probe_secret_arn is not None:
            found += self._of_secret(self.probe_secret_arn, keys)
        if self.lookup_events:
            found.append(
                {"Sid": "SeeWhoDidIt", "Effect": "Allow", "Action": "cloudtrail:LookupEvents", "Resource": "*"}
            )
        return found

    def key_statements(self, role_arn: str) -> list[Statement]:
        """Return the same for a key's policy, for a key that does not let IAM decide or is in another account."""
        found = [each for each in self.statements() if each["Sid"] in {"SeeTheKeys", "ProbeTheKeys", "SeeRotation"}]
        principal = {"AWS": role_arn}
        return [
            {
                "Sid": each["Sid"].replace("TheKeys", "TheKey"),
                "Effect": "Allow",
                "Principal": principal,
                **{name: value for name, value in each.items() if name not in {"Sid", "Effect", "Resource"}},
                "Resource": "*",
            }
            for each in found
        ]

    @property
    def _used(self) -> tuple[str, ...]:
        others = ("DescribeKey", READ_SECRET)
        return tuple(f"kms:{operation}" for operation in self.use.operations if operation not in others)

    @property
    def _condition(self) -> Statement:
        if self.project_id is None:
            return {}
        context = probe_context(self.project_id)
        return {"Condition": {"StringEquals": {f"kms:EncryptionContext:{name}": context[name] for name in COMPARED}}}

    @staticmethod
    def _of_secret(secret_arn: str, keys: list[str]) -> list[Statement]:
        region = secret_arn.split(":")[3]
        return [
            {
                "Sid": "ReadTheProbesSecret",
                "Effect": "Allow",
                "Action": "secretsmanager:GetSecretValue",
                "Resource": secret_arn,
            },
            {
                "Sid": "DecryptTheProbesSecret",
                "Effect": "Allow",
                "Action": "kms:Decrypt",
                "Resource": keys,
                "Condition": {
                    "StringEquals": {
                        "kms:ViaService": f"secretsmanager.{region}.amazonaws.com",
                        "kms:EncryptionContext:SecretARN": secret_arn,
                    }
                },
            },
        ]


def trust(account_id: str, external_id: str, *, monitor_role_name: str = "keyvigil-monitor") -> Document:
    """Return the trust policy of a customer's role.

    Raises:
        BadPolicyError: something is not of its form.
    """
    if not _ACCOUNT.match(account_id):
        message = f"{account_id} is no account: 12 digits"
        raise BadPolicyError(message)
    if not _EXTERNAL_ID.match(external_id):
        raise BadPolicyError("an ExternalId has 2 to 1224 letters, digits and +=,.@:/-")
    if not _ROLE_NAME.match(monitor_role_name):
        message = f"{monitor_role_name} is not the name of an IAM role, without its path"
        raise BadPolicyError(message)
    statement = trust_statement(f"arn:aws:iam::{account_id}:role/{monitor_role_name}", external_id)
    return within(LONGEST_TRUST_POLICY, document([statement]), "trust policy")


def checked_key(arn: str) -> str:
    """Return a key's ARN.

    Raises:
        BadPolicyError: it is none. In a policy an alias's ARN stands for the alias alone.
    """
    found = parse_kms_arn(arn)
    if found is None:
        message = f"Invalid KMS key ARN format: {arn} is not arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID"
        raise BadPolicyError(message)
    if found.kms_key_id is None:
        message = (
            f"{arn} is an alias, and a policy must name the key: "
            f"`aws kms describe-key --region {found.region} --key-id {arn} --query KeyMetadata.Arn` tells it"
        )
        raise BadPolicyError(message)
    return arn


def checked_project(project_id: str) -> str:
    """Return a project's id.

    Raises:
        BadPolicyError: it is none.
    """
    if not _PROJECT.match(project_id):
        message = f"{project_id} is no project: 3 to 40 small letters, digits and hyphens, a letter first"
        raise BadPolicyError(message)
    return project_id


def checked_account(account_id: str) -> str:
    """Return an account's id.

    Raises:
        BadPolicyError: it is none.
    """
    if not _ACCOUNT.match(account_id):
        message = f"{account_id} is no account: 12 digits"
        raise BadPolicyError(message)
    return account_id
