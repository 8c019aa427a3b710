"""The ways in which a system's settings name a KMS key, and the ARN that is meant.

Where a setting takes a key's id or an alias by its name, a key of the resource's own account and Region is meant:
https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from keyvigil.domain.arns import parse_kms_arn
from keyvigil_cli.imports.found import Why

# What the contract says of a malformed ARN, in the platforms' own words.
ARN_FORM = "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID"
_OF_AWS = re.compile(r"(?:arn:aws[a-z-]*:kms:[a-z0-9-]*:\d*:)?alias/aws/")
_OTHER_PARTITION = re.compile(r"arn:(aws-[a-z-]+):kms:")
_BARE_ID = re.compile(r"(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")
_BARE_ALIAS = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a resource is, as far as that is known."""

    region: str = ""
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class NotAKey:
    """What was written names no key that can be registered."""

    why: Why
    reason: str
    to_do: str = ""


def key_arn_of(written: str, place: Place, targets: Mapping[str, str] | None = None) -> str | NotAKey:
    """Return the ARN of the key or alias that is meant. `targets` says which key an alias's ARN leads to."""
    if _OF_AWS.match(written):
        return NotAKey(
            Why.NOT_WATCHABLE,
            "hangs on a key of AWS's own (alias/aws/...), which nobody can disable or probe",
            "Nothing, unless it should hang on a key of yours: then give it one and import again.",
        )
    other = _OTHER_PARTITION.match(written)
    if other is not None:
        return NotAKey(Why.REFUSED, f"the key is in partition {other[1]}, and KeyVigil watches keys in aws only")
    arn = written
    if _BARE_ID.match(written) or _BARE_ALIAS.match(written):
        if not place.region or not place.account_id:
            missing = " and ".join(
                word for word, known in (("account", place.account_id), ("Region", place.region)) if not known
            )
            return NotAKey(
                Why.REFUSED,
                "names the key without its ARN, and nothing says which account or Region it is in",
                f"Say in which {missing} it is: --account (and --key-region); or write the key's ARN.",
            )
        resource = written if written.startswith("alias/") else f"key/{written}"
        arn = f"arn:aws:kms:{place.region}:{place.account_id}:{resource}"
    if parse_kms_arn(arn) is None:
        return NotAKey(Why.REFUSED, "Invalid KMS key ARN format", f"A key's ARN is like {ARN_FORM}.")
    return (targets or {}).get(arn, arn)


def region_of(key_arn: str) -> str:
    """The Region in the ARN of a key or an alias."""
    return key_arn.split(":")[3]


def account_of(arn: str) -> str:
    """The account in an ARN."""
    return arn.split(":")[4]


def place_of(arn: str | None) -> Place:
    """Where a resource with this ARN is; some ARNs, such as a bucket's, do not say."""
    parts = (arn or "").split(":")
    return Place(parts[3], parts[4]) if len(parts) >= 6 and parts[0] == "arn" else Place()  # noqa: PLR2004 - arn:partition:service:region:account:resource
