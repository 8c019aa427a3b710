"""The ARNs that a customer hands in, taken apart and checked before anything else sees them."""

import re
from dataclasses import dataclass

# Source: https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN
# `\Z`, not `$`: `$` lets a trailing newline pass.
_KEY_ARN = re.compile(
    r"arn:aws:kms:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d{1,2}):(?P<account>\d{12}):"
    r"(?:key/(?P<key>(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))"
    r"|(?P<alias>alias/[a-zA-Z0-9/_-]{1,250}))\Z",
    re.ASCII,
)
# Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html (name and path characters)
_ROLE_ARN = re.compile(
    r"arn:aws:iam::(?P<account>\d{12}):role/(?:[\x21-\x7e]{1,510}/)?(?P<name>[\w+=,.@-]{1,64})\Z", re.ASCII
)
_QUEUE_ARN = re.compile(
    r"arn:aws:sqs:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d{1,2}):(?P<account>\d{12}):(?P<name>[\w-]{1,80})\Z",
    re.ASCII,
)
# Source: https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_iam-permissions.html#iam-resources
# (a whole ARN ends with a hyphen and six random characters) and API_CreateSecret.html (the characters of a name).
_SECRET_ARN = re.compile(
    r"arn:aws:secretsmanager:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d{1,2}):(?P<account>\d{12}):"
    r"secret:(?P<name>[a-zA-Z0-9/_+=.@-]{1,512})-[a-zA-Z0-9]{6}\Z",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class KmsArn:
    """A KMS key ARN or alias ARN. Exactly one of `kms_key_id` and `alias_name` is set."""

    arn: str
    region: str
    account_id: str
    kms_key_id: str | None
    alias_name: str | None

    @property
    def key_id(self) -> str:
        """KeyVigil's id for the key: `<region>.<KMS key id>`."""
        if self.kms_key_id is None:
            message = f"{self.arn} names an alias, which has no key id before it is resolved"
            raise ValueError(message)
        return f"{self.region}.{self.kms_key_id}"


def region_of(key_id: str) -> str:
    """The Region in the id that a key has in the registry."""
    return key_id.partition(".")[0]


def parse_kms_arn(text: str) -> KmsArn | None:
    """Take a KMS key or alias ARN apart; None if it is neither."""
    match = _KEY_ARN.match(text)
    if match is None or match["alias"] == "alias/" or (match["alias"] or "").startswith("alias/aws/"):
        return None
    return KmsArn(text, match["region"], match["account"], match["key"], match["alias"])


def is_multi_region(key_arn: str) -> bool:
    """Say whether a key ARN is that of a multi-Region key, primary or replica: their ids begin with `mrk-`.

    Source: https://docs.aws.amazon.com/kms/latest/developerguide/mrk-how-it-works.html
    """
    return key_arn.rsplit("/", 1)[-1].startswith("mrk-")


def related_key_arn(key_arn: str, region: str) -> str:
    """The ARN that a multi-Region key has in another Region: related keys share their id and nothing else of it."""
    parts = key_arn.split(":")
    parts[3] = region
    return ":".join(parts)


def role_account(text: str) -> str | None:
    """The account of an IAM role ARN; None if it is not one."""
    match = _ROLE_ARN.match(text)
    return match["account"] if match else None


def is_queue_arn(text: str) -> bool:
    """Say whether this is the ARN of a standard queue. A standard topic does not deliver to FIFO queues."""
    return _QUEUE_ARN.match(text) is not None


@dataclass(frozen=True, slots=True)
class SecretArn:
    """The whole ARN of a secret, taken apart. `name` is without the six random characters."""

    region: str
    account_id: str
    name: str


def parse_secret_arn(text: str) -> SecretArn | None:
    """Take the ARN of a secret apart; None if it is not one."""
    match = _SECRET_ARN.match(text)
    return SecretArn(match["region"], match["account"], match["name"]) if match else None


def secret_prefix(project_id: str) -> str:
    """What the names of the secrets begin with that a project may name: a tenant names no other tenant's."""
    return f"keyvigil/{project_id}/"


_CUSTOMER_ROLE_PREFIX = "keyvigil-customer-"


def role_name(text: str) -> str:
    """The name at the end of a role ARN, without its path."""
    return text.rsplit("/", 1)[-1]


def is_named_for_customers(role_arn: str) -> bool:
    """Say whether a role in KeyVigil's own account was made to be assumed by the prober.

    Any other role there might trust the whole account, and a tenant could have the prober use it.
    """
    return role_name(role_arn).startswith(_CUSTOMER_ROLE_PREFIX)
