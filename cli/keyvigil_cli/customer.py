"""What a customer does in their own account: a key, a role that KeyVigil may assume, and changes of mind."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_kms import KMSClient

ROLE_NAME = "keyvigil-customer"
PROBE_ACTIONS = ("kms:DescribeKey", "kms:Encrypt", "kms:Decrypt")
SECRET_POLICY = "keyvigil-secret"  # noqa: S105 - a policy's name
DELETION_DAYS = 7  # the shortest that KMS accepts

_INLINE_POLICY = "keyvigil-probes"
_LOOKUP_POLICY = "keyvigil-lookups"


@dataclass(frozen=True)
class RegistrableKey:
    """What the registration of a key asks for."""

    key_arn: str
    role_arn: str

    @property
    def role_name(self) -> str:
        """The role's name."""
        return self.role_arn.rpartition("/")[2]


class CustomerAccount:
    """One customer's AWS account, in the hands of its administrator."""

    def __init__(self, session: "boto3.Session", account_id: str) -> None:
        """Take a session of the account's administrator."""
        self.account_id = account_id
        self._session = session
        self._iam = session.client("iam")
        self._keys_of_role: dict[str, list[str]] = {}

    def onboard(self, monitor_role_arn: str, external_id: str, *, role_name: str = ROLE_NAME) -> RegistrableKey:
        """Create a role that trusts KeyVigil and one key that this role may use."""
        role_arn = self.create_role(monitor_role_arn, external_id, role_name=role_name)
        return self.create_key(role_arn)

    def create_role(self, monitor_role_arn: str, external_id: str, *, role_name: str = ROLE_NAME) -> str:
        """Create the role that KeyVigil assumes, allowed nothing yet; return its ARN."""
        created = self._iam.create_role(
            RoleName=role_name,
            AssumeRolePolicyDocument=trust_policy(monitor_role_arn, external_id),
            Description="KeyVigil probes our keys with it",
        )
        self._keys_of_role[role_name] = []
        return created["Role"]["Arn"]

    def trust(self, monitor_role_arn: str, external_id: str, *, role_name: str = ROLE_NAME) -> None:
        """Replace the role's trust policy."""
        self._iam.update_assume_role_policy(
            RoleName=role_name, PolicyDocument=trust_policy(monitor_role_arn, external_id)
        )

    def allow_lookups(self, role_arn: str) -> None:
        """Let the role look up in CloudTrail who broke a key; IAM knows no resource for that."""
        self._iam.put_role_policy(
            RoleName=role_arn.rpartition("/")[2],
            PolicyName=_LOOKUP_POLICY,
            PolicyDocument=_policy(_allow(("cloudtrail:LookupEvents",), Resource="*")),
        )

    def create_key(self, role_arn: str, *, region: str | None = None, data_keys: bool = False) -> RegistrableKey:
        """Create a symmetric key which the role may use for probes and nothing else.

        ``data_keys`` allows GenerateDataKey, which the probes of a key with use ``cse`` need.
        """
        role_name = role_arn.rpartition("/")[2]
        kms = self._session.client("kms", region_name=region)
        created = kms.create_key(Description="encrypts our clusters", Policy=self._key_policy(role_name))
        key = RegistrableKey(key_arn=created["KeyMetadata"]["Arn"], role_arn=role_arn)
        self._keys_of_role[role_name].append(key.key_arn)
        self._iam.put_role_policy(
            RoleName=role_name,
            PolicyName=_INLINE_POLICY,
            PolicyDocument=_policy(
                _allow(
                    (*PROBE_ACTIONS, *(("kms:GenerateDataKey",) if data_keys else ())),
                    Resource=self._keys_of_role[role_name],
                )
            ),
        )
        return key

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
            PolicyDocument=_policy(_allow(("secretsmanager:GetSecretValue",), Resource=secret_arn)),
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

    def schedule_deletion(self, key: RegistrableKey) -> None:
        """Schedule the key's deletion: from now on it cannot be used."""
        self._kms_of(key).schedule_key_deletion(KeyId=key.key_arn, PendingWindowInDays=DELETION_DAYS)

    def cancel_deletion(self, key: RegistrableKey) -> None:
        """Cancel the key's deletion, which leaves it disabled, and enable it."""
        self._kms_of(key).cancel_key_deletion(KeyId=key.key_arn)
        self.enable_key(key)

    def deny(self, key: RegistrableKey, *actions: str) -> None:
        """Deny the role some actions (``kms:Decrypt``) by the key's policy; without any, nothing again."""
        self._kms_of(key).put_key_policy(KeyId=key.key_arn, Policy=self._key_policy(key.role_name, denied=actions))

    def _kms_of(self, key: RegistrableKey) -> "KMSClient":
        return self._session.client("kms", region_name=key.key_arn.split(":")[3])

    def _key_policy(self, role_name: str, *, denied: tuple[str, ...] = ()) -> str:
        role = {"AWS": f"arn:aws:iam::{self.account_id}:role/{role_name}"}
        statements = [
            _allow(("kms:*",), Principal={"AWS": f"arn:aws:iam::{self.account_id}:root"}, Resource="*"),
            _allow(PROBE_ACTIONS, Principal=role, Resource="*"),
        ]
        if denied:
            statements.append({"Effect": "Deny", "Action": list(denied), "Principal": role, "Resource": "*"})
        return _policy(*statements)


def trust_policy(monitor_role_arn: str, external_id: str) -> str:
    """Return the trust policy of a customer's role: the operator's monitor role, with this ExternalId, only.

    The account's root is trusted under conditions instead of the role itself: a policy that names a role is
    bound to that role's unique id, so that after the operator's role was created anew every customer would
    be lost. ``aws:PrincipalArn`` is the role's ARN on AWS, the session's on the local cloud; both are named.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-principalarn
    """
    account_id, role_name = monitor_role_arn.split(":")[4], monitor_role_arn.rpartition("/")[2]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account_id}:root"},
        "Action": "sts:AssumeRole",
        "Condition": {
            "ArnLike": {
                "aws:PrincipalArn": [
                    f"arn:aws:iam::{account_id}:role/{role_name}",
                    f"arn:aws:sts::{account_id}:assumed-role/{role_name}/*",
                ]
            },
            "StringEquals": {"sts:ExternalId": external_id},
        },
    }
    return _policy(statement)


def _allow(actions: tuple[str, ...], **rest: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), **rest}


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
