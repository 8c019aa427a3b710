"""What a cause means in plain words, and the command or policy statement that mends it."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from keyvigil.domain.keys import READ_SECRET
from keyvigil.domain.verdicts import Cause, Remediation


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The key and role that a message is about. `operations` are those that the key's use needs.

    `used_by_services` says that the key's policy is probably written for AWS services, not for a role.
    """

    key_arn: str
    region: str
    role_arn: str
    external_id: str
    operations: tuple[str, ...]
    probe_secret_arn: str | None = None
    used_by_services: bool = False


def explain(
    cause: Cause, operation: str, subject: Subject, *, deletion_date: datetime | None = None
) -> tuple[str, Remediation | None]:
    """One plain sentence about a cause, and how to mend it; None where only waiting helps."""
    return _sentence(cause, operation, subject, deletion_date), _remediation(cause, subject)


def _sentence(cause: Cause, operation: str, subject: Subject, deletion_date: datetime | None) -> str:  # noqa: C901, PLR0912  one line a cause
    key = subject.key_arn
    match cause:
        case Cause.KEY_DISABLED:
            return f"The key {key} is disabled, so {operation} was refused."
        case Cause.KEY_PENDING_DELETION:
            when = f" on {deletion_date:%Y-%m-%d}" if deletion_date else ""
            return f"The key {key} is going to be deleted{when}, so {operation} was refused."
        case Cause.KEY_NOT_FOUND:
            return f"KMS does not find the key {key} in {subject.region}."
        case Cause.KEY_MATERIAL_MISSING:
            return f"The imported key material of {key} is missing: it was deleted, has expired or was never imported."
        case Cause.KEY_STORE_UNAVAILABLE:
            return f"The custom key store that holds {key} is unavailable."
        case Cause.KEY_WRONG_USAGE:
            return f"The key {key} is not a symmetric encryption key, so it cannot {operation}."
        case Cause.CIPHERTEXT_UNREADABLE:
            return f"What was encrypted under {key} at registration no longer decrypts with it."
        case Cause.ACCESS_DENIED:
            return f"The role {subject.role_arn} may not use kms:{operation} on {key}."
        case Cause.ROLE_NOT_ASSUMABLE:
            return f"The role {subject.role_arn} cannot be assumed: it is gone, or its trust policy no longer lets us."
        case Cause.SECRET_UNREADABLE:
            return f"The role {subject.role_arn} cannot read {subject.probe_secret_arn}, the secret made for the probe."
        case Cause.THROTTLED:
            return f"{operation} was throttled, so nothing is known about {key}."
        case Cause.KMS_FAULT:
            return f"AWS answered {operation} with a fault of its own, so nothing is known about {key}."
        case Cause.KEY_STORE_UNREACHABLE:
            return f"KMS cannot reach the key store that holds {key}; the key itself is enabled."
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


def _remediation(cause: Cause, subject: Subject) -> Remediation | None:  # noqa: C901  one case a cause
    at = f"--region {subject.region} --key-id {subject.key_arn}"
    match cause:
        case Cause.KEY_DISABLED:
            return Remediation(summary="Enable the key again.", commands=(f"aws kms enable-key {at}",))
        case Cause.KEY_PENDING_DELETION:
            return Remediation(
                summary="Cancel the deletion, then enable the key: a cancelled deletion leaves it disabled.",
                commands=(f"aws kms cancel-key-deletion {at}", f"aws kms enable-key {at}"),
            )
        case Cause.KEY_MATERIAL_MISSING:
            return Remediation(
                summary="Import the same key material again; other material will not open the old data.",
                commands=import_commands(subject.region, subject.key_arn),
            )
        case Cause.KEY_NOT_FOUND:
            return Remediation(
                summary="Look whether the key still exists in that Region; a deleted key cannot be brought back.",
                commands=(f"aws kms describe-key {at}",),
            )
        case Cause.KEY_WRONG_USAGE:
            return Remediation(
                summary="Use a symmetric key with usage ENCRYPT_DECRYPT.",
                commands=(f"aws kms describe-key {at}",),
            )
        case Cause.KEY_STORE_UNAVAILABLE:
            return Remediation(
                summary="Reconnect the custom key store.",
                commands=(f"aws kms describe-custom-key-stores --region {subject.region}",),
            )
        case Cause.CIPHERTEXT_UNREADABLE:
            return Remediation(
                summary="Restore the key material that was in use when the key was registered.",
                commands=(f"aws kms describe-key {at}",),
            )
        case Cause.ACCESS_DENIED if subject.used_by_services:
            return Remediation(
                summary=(
                    "Let the role use the key directly, in the key's policy and in the role's: a statement for "
                    "services (kms:ViaService) does not let the probe in."
                ),
                commands=(key_statement(subject), role_statement(subject)),
            )
        case Cause.ACCESS_DENIED:
            return Remediation(
                summary="Allow the operations in the role's policy, and in the key's policy if that limits access.",
                commands=(role_statement(subject), key_statement(subject)),
            )
        case Cause.ROLE_NOT_ASSUMABLE:
            return Remediation(
                summary="Restore the role and its trust policy, with this project's ExternalId.",
                commands=(f"aws iam get-role --role-name {subject.role_arn.rsplit('/', 1)[-1]}",),
            )
        case Cause.SECRET_UNREADABLE:
            return Remediation(
                summary="Restore the secret that was made for the probe, and allow the role to read it.",
                commands=(
                    secret_statement(subject),
                    (
                        f"aws secretsmanager describe-secret --region {subject.region} "
                        f"--secret-id {subject.probe_secret_arn}"
                    ),
                ),
            )
        case _:
            return None


def _kms_actions(subject: Subject) -> list[str]:
    return [f"kms:{operation}" for operation in subject.operations if operation != READ_SECRET]


def secret_statement(subject: Subject) -> str:
    """The statement that lets the role read the secret made for the probe, and no other."""
    action = f"secretsmanager:{READ_SECRET}"
    return json.dumps({"Effect": "Allow", "Action": action, "Resource": subject.probe_secret_arn})


def import_commands(region: str, key_arn: str) -> tuple[str, str]:
    """The commands that import key material which does not expire."""
    at = f"--region {region} --key-id {key_arn}"
    return (
        f"aws kms get-parameters-for-import {at} --wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_4096",
        (
            f"aws kms import-key-material {at} --import-token fileb://token.bin "
            "--encrypted-key-material fileb://material.bin --expiration-model KEY_MATERIAL_DOES_NOT_EXPIRE"
        ),
    )


def role_statement(subject: Subject) -> str:
    """The statement that the role's policy needs."""
    actions = _kms_actions(subject)
    return json.dumps({"Effect": "Allow", "Action": actions, "Resource": subject.key_arn})


def key_statement(subject: Subject) -> str:
    """The statement that the key's policy needs, if it does not delegate to IAM policies."""
    actions = _kms_actions(subject)
    principal = {"AWS": subject.role_arn}
    return json.dumps({"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": "*"})
