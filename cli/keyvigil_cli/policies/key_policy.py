"""Key policies: for roles, for AWS services, and for KeyVigil's own stack."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keyvigil.domain.arns import role_account
from keyvigil_cli.policies.customer_role import CustomerRole, checked_key
from keyvigil_cli.policies.documents import (
    LONGEST_KEY_POLICY,
    BadPolicyError,
    Document,
    Statement,
    document,
    one_or_many,
    within,
)
from keyvigil_cli.policies.services import BY_THEMSELVES, by_itself, queues, through

ADMINISTERS = (
    "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey",
    "kms:DisableKeyRotation", "kms:EnableKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
    "kms:ListGrants", "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:ScheduleKeyDeletion",
    "kms:TagResource", "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
)  # fmt: skip
"""What administrators of a key do, none of which encrypts or decrypts anything.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html#key-policy-default-allow-administrators
"""


@dataclass(frozen=True, kw_only=True)
class Users:
    """Who uses a key, as a key's policy is asked for. `probe` are roles that KeyVigil assumes."""

    probes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    set_up: bool = False


def iam_decides(account_id: str) -> Statement:
    """Return the statement by which a key's policy leaves it to the account's IAM policies, as a new key's does.

    Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
    """
    return {
        "Sid": "LetIamDecide",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account_id}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }


def key_policy(
    key_arn: str, users: Users, *, use: CustomerRole | None = None, administrators: Sequence[str] = ()
) -> Document:
    """Return the policy of a key. Without administrators, the account's IAM decides as well.

    Args:
        key_arn: the key's ARN.
        users: who uses it.
        use: what `probes` may do; else, what a key of use `cmek` needs.
        administrators: principals who alone manage the key: then IAM does not decide.

    Raises:
        BadPolicyError: something is not of its form, is missing, or AWS would not take so long a policy.
    """
    _, _, _, region, account_id, _ = checked_key(key_arn).split(":")
    for arn in (*users.probes, *users.roles):
        if role_account(arn) is None:
            message = f"{arn} is no role: arn:aws:iam::ACCOUNT_ID:role/NAME"
            raise BadPolicyError(message)
    statements = [_administered(administrators)] if administrators else [iam_decides(account_id)]
    probing = use or CustomerRole(key_arns=(key_arn,))
    if users.probes:
        statements += probing.key_statements(users.probes[0])
        for statement in statements[1:]:
            statement["Principal"] = {"AWS": one_or_many(users.probes)}
    for service in users.services:
        if service in BY_THEMSELVES:
            statements += by_itself(service, account_id, region, resources=_of(service, users.resources))
        else:
            mine = _of(service, users.resources)
            statements += through(service, users.roles, region, resources=mine, set_up=users.set_up)
    return within(LONGEST_KEY_POLICY, document(statements), "key policy")


def stack_key_policy(key_arn: str, *, account_id: str, region: str) -> Document:
    """Return the policy that the key needs that `KmsKeyArn` names: docs/own-key.md says why.

    Raises:
        BadPolicyError: it is not of its form, or the stack could not use it from where it is.
    """
    parts = checked_key(key_arn).split(":")
    if parts[3] != region:
        message = (
            f"the key is in {parts[3]} and the stack in {region}: DynamoDB, SNS, SQS and CloudWatch Logs take keys of "
            "their own Region only. Make a key in the stack's Region, or a replica there if this is a multi-Region key"
        )
        raise BadPolicyError(message)
    if parts[4] != account_id:
        message = (
            f"the key is account {parts[4]}'s and the stack's account is {account_id}: the stack's own key must be in "
            "its own account, whose IAM must decide"
        )
        raise BadPolicyError(message)
    statements = [
        iam_decides(account_id),
        *by_itself("logs", account_id, region),
        queues(("sns", "events"), account_id),
    ]
    return within(LONGEST_KEY_POLICY, document(statements), "key policy")


def _administered(administrators: Iterable[str]) -> Statement:
    return {
        "Sid": "LetAdministratorsManageTheKey",
        "Effect": "Allow",
        "Principal": {"AWS": one_or_many(list(administrators))},
        "Action": list(ADMINISTERS),
        "Resource": "*",
    }


def _of(service: str, resources: Sequence[str]) -> list[str]:
    """The resources that are a service's; a table is given by its name or its ARN."""
    found = [each for each in resources if each.startswith(f"arn:aws:{service}:")]
    if service == "dynamodb":
        return [each.rpartition("/")[2] for each in found]
    return found
