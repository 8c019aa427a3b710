"""What a cause means in plain words, and the commands or the policy statement that mend it.

The commands are for an administrator of the key's account, and can be pasted into a POSIX shell as they are. The
end-to-end tests run them; docs/causes.md lists every cause and where it is shown.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never

from keyvigil.domain.arns import role_name
from keyvigil.domain.aws_commands import (
    KeyCommands,
    add_to_role,
    aws,
    make_again,
    trust_again,
    trust_statement,
    use_statement,
)
from keyvigil.domain.keys import READ_SECRET
from keyvigil.domain.verdicts import Cause, Permission, PolicyKind, Refusal, Remediation


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The key and role that a message is about. `operations` are those that the key's use needs.

    `used_by_services` says that the key's policy is probably written for AWS services, not for a role.
    """

    key_arn: str
    region: str
    role_arn: str
    external_id: str
    monitor_role_arn: str
    operations: tuple[str, ...]
    probe_secret_arn: str | None = None
    used_by_services: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What else is known of the key, from this probe's DescribeKey or from an earlier one's; `at` is now."""

    at: datetime | None = None
    key_state: str | None = None
    key_usage: str | None = None
    key_spec: str | None = None
    imported: bool = False
    deletion_date: datetime | None = None
    deletion_window_days: int | None = None
    deletion_cancelled: bool = False
    material_expires_at: datetime | None = None
    primary_region: str | None = None
    replica_regions: tuple[str, ...] = ()
    key_store_id: str | None = None
    refused_by: Refusal | None = None


NOTHING = Seen()
EVENTUALLY_GONE = "PendingReplicaDeletion"
BEING_MADE = "Creating"


def explain(cause: Cause, operation: str, subject: Subject, seen: Seen = NOTHING) -> tuple[str, Remediation | None]:
    """One plain sentence about a cause, and how to mend it; None where only waiting helps."""
    return _sentence(cause, operation, subject, seen), _remediation(cause, operation, subject, seen)


def missing_permission(cause: Cause, operation: str, subject: Subject, seen: Seen = NOTHING) -> Permission | None:
    """The permission that a cause is about, None if it is about none."""
    match cause:
        case Cause.ACCESS_DENIED:
            return Permission(action=f"kms:{operation}", resource=subject.key_arn, refused_by=seen.refused_by)
        case Cause.ROLE_NOT_ASSUMABLE:
            return Permission(action="sts:AssumeRole", resource=subject.role_arn, refused_by=seen.refused_by)
        case Cause.SECRET_UNREADABLE if subject.probe_secret_arn is not None:
            action = f"secretsmanager:{READ_SECRET}"
            return Permission(action=action, resource=subject.probe_secret_arn, refused_by=seen.refused_by)
        case _:
            return None


def _sentence(cause: Cause, operation: str, subject: Subject, seen: Seen) -> str:  # noqa: C901, PLR0912  one line a cause
    key = subject.key_arn
    match cause:
        case Cause.KEY_DISABLED:
            why = ", as a cancelled deletion leaves it" if seen.deletion_cancelled else ""
            return f"The key {key} is disabled{why}, so {operation} was refused."
        case Cause.KEY_PENDING_DELETION:
            return f"The key {key} is going to be deleted{_when_deleted(seen)}, so {operation} was refused."
        case Cause.KEY_NOT_FOUND:
            return _not_found(subject, seen)
        case Cause.KEY_MATERIAL_MISSING:
            return f"The imported key material of {key} is missing: {_why_missing(seen)}."
        case Cause.KEY_STORE_UNAVAILABLE:
            return f"The custom key store{_named(seen)} that holds {key} is unavailable."
        case Cause.KEY_WRONG_USAGE:
            return f"The key {key} is not a symmetric encryption key{_kind(seen)}, so it cannot {operation}."
        case Cause.CIPHERTEXT_UNREADABLE:
            return f"What was encrypted under {key} at registration no longer decrypts with it."
        case Cause.ACCESS_DENIED:
            return f"The role {subject.role_arn} may not use kms:{operation} on {key}{_by_whom(seen.refused_by)}."
        case Cause.ROLE_NOT_ASSUMABLE:
            return f"The role {subject.role_arn} cannot be assumed: it is gone, or its trust policy no longer lets us."
        case Cause.SECRET_UNREADABLE:
            return f"The role {subject.role_arn} cannot read {subject.probe_secret_arn}, the secret made for the probe."
        case Cause.THROTTLED:
            return f"{operation} was throttled, so nothing is known about {key}."
        case Cause.KMS_FAULT:
            return f"AWS answered {operation} with a fault of its own, so nothing is known about {key}."
        case Cause.KEY_STORE_UNREACHABLE:
            return f"KMS cannot reach the key store{_named(seen)} that holds {key}; the key itself is enabled."
        case Cause.TIMEOUT:
            return f"{operation} did not answer in time, so nothing is known about {key}."
        case Cause.NETWORK:
            return f"AWS could not be reached for {operation}, so nothing is known about {key}."
        case Cause.OWN_CREDENTIALS:
            return f"KeyVigil's own credentials or clock were refused at {operation}, so nothing is known about {key}."
        case Cause.UNCLASSIFIED:
            return f"{operation} failed in a way that KeyVigil does not know, so nothing is known about {key}."
        case _:
            assert_never(cause)


def _when_deleted(seen: Seen) -> str:
    """When, as a date and in whole days.

    The waiting period of a multi-Region primary begins when its last replica is gone; until then there is no date.
    Source: https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-delete.html
    """
    if seen.key_state == EVENTUALLY_GONE:
        regions = f" in {', '.join(seen.replica_regions)}" if seen.replica_regions else ""
        days = f", {_days(seen.deletion_window_days)} after that" if seen.deletion_window_days else ""
        return f" once its last replica{regions} is gone{days}"
    if seen.deletion_date is None:
        return ""
    left = f", {_left(seen.deletion_date - seen.at)}" if seen.at else ""
    return f" on {seen.deletion_date:%Y-%m-%d}{left}"


def _left(time: timedelta) -> str:
    if time <= timedelta():
        return "any moment now"
    return f"in {_days(time.days)}" if time.days else "in less than a day"


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def _not_found(subject: Subject, seen: Seen) -> str:
    if seen.key_state == BEING_MADE:
        return f"The replica {subject.key_arn} is still being made, so it cannot be used yet."
    found_none = f"KMS does not find the key {subject.key_arn} in {subject.region}, the Region that its ARN names"
    if _was_deleted(seen) and seen.deletion_date is not None:
        return f"{found_none}: its deletion was due on {seen.deletion_date:%Y-%m-%d}."
    return f"{found_none}."


def _was_deleted(seen: Seen) -> bool:
    return seen.deletion_date is not None and seen.at is not None and seen.deletion_date <= seen.at


def _why_missing(seen: Seen) -> str:
    expires = seen.material_expires_at
    if expires is None or seen.at is None:
        return "it was deleted, has expired or was never imported"
    if expires <= seen.at:
        return f"it expired on {expires:%Y-%m-%d}"
    return f"it was deleted before it would have expired on {expires:%Y-%m-%d}"


def _named(seen: Seen) -> str:
    return f" {seen.key_store_id}" if seen.key_store_id else ""


def _kind(seen: Seen) -> str:
    return f" (it is {seen.key_spec} for {seen.key_usage})" if seen.key_spec and seen.key_usage else ""


def _by_whom(refused_by: Refusal | None) -> str:
    match refused_by:
        case None:
            return ""
        case Refusal(policy=PolicyKind.IDENTITY, explicit=explicit):
            return ": a policy of the role denies it" if explicit else ": no policy of the role allows it"
        case Refusal(policy=PolicyKind.RESOURCE, explicit=explicit):
            return f": the key's policy {'denies' if explicit else 'does not allow'} it"
        case Refusal(policy=policy, explicit=explicit):
            return f": a {policy} {'denies' if explicit else 'does not allow'} it"


def _remediation(cause: Cause, operation: str, subject: Subject, seen: Seen) -> Remediation | None:  # noqa: C901  one cause after another
    key = KeyCommands(subject.key_arn, subject.region)
    match cause:
        case Cause.KEY_DISABLED:
            return Remediation(summary="Enable the key again.", commands=(key.kms("enable-key"),))
        case Cause.KEY_PENDING_DELETION:
            return Remediation(
                summary="Cancel the deletion, then enable the key: a cancelled deletion leaves it disabled.",
                commands=(key.kms("cancel-key-deletion"), key.kms("enable-key")),
            )
        case Cause.KEY_MATERIAL_MISSING:
            return Remediation(
                summary="Import the same key material again, from a file key-material.bin; other material will not "
                "open the old data.",
                commands=key.import_material(),
            )
        case Cause.KEY_NOT_FOUND:
            return _find(subject, seen, key)
        case Cause.KEY_WRONG_USAGE:
            return Remediation(
                summary="Register a symmetric key with usage ENCRYPT_DECRYPT, which a key is made with or never has.",
                commands=(
                    aws(
                        "kms", "create-key", "--region", subject.region, "--key-spec", "SYMMETRIC_DEFAULT",
                        "--key-usage", "ENCRYPT_DECRYPT",
                    ),
                ),
            )  # fmt: skip
        case Cause.KEY_STORE_UNAVAILABLE | Cause.KEY_STORE_UNREACHABLE:
            return _reconnect(cause, subject, seen)
        case Cause.CIPHERTEXT_UNREADABLE if seen.imported:
            return Remediation(
                summary="Import the key material that was in use when the key was registered, from a file "
                "key-material.bin.",
                commands=key.import_material(),
            )
        case Cause.CIPHERTEXT_UNREADABLE:
            return Remediation(
                summary="Restore the key material that was in use when the key was registered.",
                commands=(key.describe(),),
            )
        case Cause.ACCESS_DENIED:
            return _allow(operation, subject, seen.refused_by, key)
        case Cause.ROLE_NOT_ASSUMABLE:
            role = (subject.role_arn, subject.monitor_role_arn, subject.external_id)
            return Remediation(
                summary="Restore the role and its trust policy, with this project's ExternalId.",
                commands=(
                    f"{trust_again(*role)} || {make_again(*role)}",
                    _add_to_role(subject),
                ),
                statement=json.dumps(trust_statement(subject.monitor_role_arn, subject.external_id)),
            )
        case Cause.SECRET_UNREADABLE:
            secret = ("--region", subject.region, "--secret-id", subject.probe_secret_arn or "")
            return Remediation(
                summary="Restore the secret that was made for the probe, and allow the role to read it.",
                commands=(_add_to_role(subject), aws("secretsmanager", "describe-secret", *secret)),
                statement=secret_statement(subject),
            )
        case _:
            return None


def _find(subject: Subject, seen: Seen, key: KeyCommands) -> Remediation:
    """A key that is gone is gone, but for a replica: it can be made again from its primary, with the same material.

    Source: https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-delete.html
    """
    if seen.key_state == BEING_MADE:
        return Remediation(summary="Wait until the replica is made.", commands=(key.describe(),))
    if seen.primary_region is not None and seen.primary_region != subject.region:
        replicate = aws(
            "kms", "replicate-key", "--region", seen.primary_region, "--key-id", subject.key_arn.rpartition("/")[2],
            "--replica-region", subject.region,
        )  # fmt: skip
        return Remediation(summary="Make the replica again from its primary key.", commands=(replicate,))
    if _was_deleted(seen):
        return Remediation(
            summary="A deleted key cannot be brought back: restore the data from copies under another key.",
            commands=(key.describe(),),
        )
    return Remediation(
        summary="Look whether the key still exists in that Region; if it is in another, register it with the ARN that "
        "it has there. A deleted key cannot be brought back.",
        commands=(key.describe(),),
    )


def _reconnect(cause: Cause, subject: Subject, seen: Seen) -> Remediation:
    """Look at the key store, and connect it again if that is what it needs.

    Source: https://docs.aws.amazon.com/kms/latest/developerguide/fix-keystore.html
    """
    which = ("--custom-key-store-id", seen.key_store_id) if seen.key_store_id else ()
    look = aws("kms", "describe-custom-key-stores", "--region", subject.region, *which)
    if cause is Cause.KEY_STORE_UNREACHABLE or not which:
        return Remediation(
            summary="Mend what connects KMS to the custom key store: its cluster, or its proxy and the key behind it.",
            commands=(look,),
        )
    connect = aws("kms", "connect-custom-key-store", "--region", subject.region, *which)
    return Remediation(summary="Connect the custom key store again.", commands=(connect, look))


def _allow(operation: str, subject: Subject, refused_by: Refusal | None, key: KeyCommands) -> Remediation:
    """Let the role use the key again, in the policy that refused."""
    action = f"kms:{operation}"
    of_role = _add_to_role(subject)
    match refused_by:
        case None if subject.used_by_services:
            return Remediation(
                summary=(
                    "Let the role use the key directly, in the key's policy and in the role's: a statement for "
                    "services (kms:ViaService) does not let the probe in."
                ),
                commands=(key.add_to_policy(key_statement(subject)), of_role),
                statement=key_statement(subject),
            )
        case None:
            return Remediation(
                summary="Allow the operations in the role's policy, and in the key's policy if that limits access.",
                commands=(of_role, key.add_to_policy(key_statement(subject))),
                statement=role_statement(subject),
            )
        case Refusal(policy=PolicyKind.IDENTITY, explicit=False):
            return Remediation(
                summary="Allow the operations in the role's policy.",
                commands=(of_role,),
                statement=role_statement(subject),
            )
        case Refusal(policy=PolicyKind.RESOURCE, explicit=False):
            return Remediation(
                summary="Allow the operations in the key's policy.",
                commands=(key.add_to_policy(key_statement(subject)),),
                statement=key_statement(subject),
            )
        case Refusal(policy=PolicyKind.RESOURCE):
            return Remediation(
                summary=f"Take the statement that denies {action} out of the key's policy.",
                commands=key.edit_policy(),
                statement=key_statement(subject),
            )
        case Refusal(policy=PolicyKind.IDENTITY):
            return Remediation(
                summary=f"Take the statement that denies {action} out of the role's policies; the command names the "
                "policy.",
                commands=(_simulate(subject, action),),
                statement=role_statement(subject),
            )
        case Refusal(policy=PolicyKind.BOUNDARY):
            return Remediation(
                summary=f"Allow {action} on the key in the role's permissions boundary.",
                commands=(aws("iam", "get-role", "--role-name", role_name(subject.role_arn)),),
                statement=role_statement(subject),
            )
        case Refusal(policy=policy):
            return Remediation(
                summary=f"Have who manages the {policy} allow {action} on the key to the role.",
                commands=(_simulate(subject, action),),
                statement=role_statement(subject),
            )


def _simulate(subject: Subject, action: str) -> str:
    """Ask IAM which policy decides; its answer names the statements that matched.

    Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
    """
    return aws(
        "iam", "simulate-principal-policy", "--policy-source-arn", subject.role_arn, "--action-names", action,
        "--resource-arns", subject.key_arn,
    )  # fmt: skip


def _add_to_role(subject: Subject) -> str:
    """Everything that the role needs for this key, under the key's own policy name."""
    secret = [] if subject.probe_secret_arn is None else [_of_secret(subject)]
    return add_to_role(subject.role_arn, subject.key_arn, _of_role(subject), *secret)


def _kms_actions(subject: Subject) -> list[str]:
    return [f"kms:{operation}" for operation in subject.operations if operation != READ_SECRET]


def _of_role(subject: Subject) -> dict[str, Any]:
    return use_statement(_kms_actions(subject), subject.key_arn)


def _of_secret(subject: Subject) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": f"secretsmanager:{READ_SECRET}", "Resource": subject.probe_secret_arn}


def secret_statement(subject: Subject) -> str:
    """The statement that lets the role read the secret made for the probe, and no other."""
    return json.dumps(_of_secret(subject))


def role_statement(subject: Subject) -> str:
    """The statement that the role's policy needs."""
    return json.dumps(_of_role(subject))


def key_statement(subject: Subject) -> str:
    """The statement that the key's policy needs, if it does not delegate to IAM policies."""
    actions = _kms_actions(subject)
    principal = {"AWS": subject.role_arn}
    return json.dumps({"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": "*"})
