"""Commands of the AWS command line, and policy documents: to be pasted into a POSIX shell as they are.

Everything that a tenant could have named is quoted. Nothing here is ever run by KeyVigil: a person does that.
"""

import json
import shlex
from collections.abc import Iterable
from typing import Any

from keyvigil.domain.arns import role_name

PROBES_POLICY = "keyvigil"
"""What the names of the role policies begin with that a command here makes; the rest is the key's, so that mending one
key overwrites nothing that another one needs."""

LONGEST_POLICY_NAME = 128
"""Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_PutRolePolicy.html"""


def aws(*words: str) -> str:
    """One call of the AWS command line, each word quoted where it must be."""
    return " ".join(("aws", *map(shlex.quote, words)))


def policy(*statements: dict[str, Any]) -> str:
    """A policy document of these statements."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust_statement(monitor_role_arn: str, external_id: str) -> dict[str, Any]:
    """The statement by which a customer's role trusts KeyVigil: the monitor's role, with this ExternalId, only.

    The account's root is trusted under conditions instead of the role itself: a policy that names a role is
    bound to that role's unique id, so that after the operator's role was created anew every customer would
    be lost. `aws:PrincipalArn` is the role's ARN on AWS; the session's form beside it is what a local cloud
    compares. Sources:
        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-principalarn
        https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html
    """
    account_id, role = monitor_role_arn.split(":")[4], role_name(monitor_role_arn)
    return {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account_id}:root"},
        "Action": "sts:AssumeRole",
        "Condition": {
            "ArnLike": {
                "aws:PrincipalArn": [
                    f"arn:aws:iam::{account_id}:role/{role}",
                    f"arn:aws:sts::{account_id}:assumed-role/{role}/*",
                ]
            },
            "StringEquals": {"sts:ExternalId": external_id},
        },
    }


def use_statement(actions: Iterable[str], key_arn: str) -> dict[str, Any]:
    """The statement by which a role's policy allows the use of a key.

    In a policy an alias's ARN stands for the alias alone, so a key that is only known by its alias is allowed by
    the condition made for that: https://docs.aws.amazon.com/kms/latest/developerguide/alias-authorization.html
    """
    statement: dict[str, Any] = {"Effect": "Allow", "Action": list(actions), "Resource": key_arn}
    prefix, separator, alias = key_arn.partition(":alias/")
    if separator:
        statement["Resource"] = f"{prefix}:key/*"
        statement["Condition"] = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": f"alias/{alias}"}}
    return statement


def role_path(role_arn: str) -> str:
    """The path of a role ARN, `/` if it has none."""
    return f"/{role_arn.partition(':role/')[2].rpartition('/')[0]}/".replace("//", "/")


def trust_again(role_arn: str, monitor_role_arn: str, external_id: str) -> str:
    """Give a role its trust policy back."""
    document = policy(trust_statement(monitor_role_arn, external_id))
    name = role_name(role_arn)
    return aws("iam", "update-assume-role-policy", "--role-name", name, "--policy-document", document)


def make_again(role_arn: str, monitor_role_arn: str, external_id: str) -> str:
    """Make a role that is gone, with its trust policy."""
    document = policy(trust_statement(monitor_role_arn, external_id))
    name = role_name(role_arn)
    path = role_path(role_arn)
    return aws("iam", "create-role", "--role-name", name, "--path", path, "--assume-role-policy-document", document)


def add_to_role(role_arn: str, key_arn: str, *statements: dict[str, Any]) -> str:
    """Add a policy to a role, under a name that is this key's, so that nothing else is overwritten."""
    region, name = key_arn.split(":")[3], key_arn.rpartition("/")[2]
    words = ["iam", "put-role-policy", "--role-name", role_name(role_arn)]
    policy_name = f"{PROBES_POLICY}-{region}-{name}"[:LONGEST_POLICY_NAME]
    return aws(*words, "--policy-name", policy_name, "--policy-document", policy(*statements))


class KeyCommands:
    """Commands about one key. Only `describe-key` takes an alias; for the others an alias is looked up on the spot."""

    def __init__(self, key_arn: str, region: str) -> None:
        """Keep the key's or the alias's ARN."""
        self._region = region
        self._arn = key_arn
        self._file = key_arn.rpartition("/")[2]
        self._key = shlex.quote(key_arn)
        if ":alias/" in key_arn:
            self._key = f'"$({self.describe()} --query KeyMetadata.Arn --output text)"'

    def describe(self) -> str:
        """Show the key."""
        return aws("kms", "describe-key", "--region", self._region, "--key-id", self._arn)

    def kms(self, operation: str, *words: str) -> str:
        """One call of KMS about the key."""
        rest = f" {' '.join(map(shlex.quote, words))}" if words else ""
        return f"{aws('kms', operation, '--region', self._region)} --key-id {self._key}{rest}"

    def add_to_policy(self, statement: str) -> str:
        """Put a statement before the others of the key's policy, which KMS only takes whole.

        If the policy is not of the usual form, with a list of statements, it is put back as it is.
        """
        insert = statement.replace("\\", r"\\").replace("&", r"\&").replace("|", r"\|")
        edit = shlex.join(("sed", f's|"Statement"[[:space:]]*:[[:space:]]*\\[|&{insert},|'))
        return f"{self._get_policy()} | {edit} | {self._put_policy('/dev/stdin')}"

    def edit_policy(self) -> tuple[str, str, str]:
        """Fetch the key's policy, let a person edit it, and put it back."""
        file = f"key-policy-{self._file}.json"
        named = shlex.quote(file)
        return f"{self._get_policy()} > {named}", f"${{EDITOR:-vi}} {named}", self._put_policy(file)

    def _get_policy(self) -> str:
        return self.kms("get-key-policy", "--policy-name", "default", "--query", "Policy", "--output", "text")

    def _put_policy(self, file: str) -> str:
        return self.kms("put-key-policy", "--policy-name", "default", "--policy", f"file://{file}")

    def import_material(self) -> tuple[str, ...]:
        """Import key material from the file `key-material.bin`, wrapped as KMS asks for it.

        Sources:
            https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
            https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-encrypt-key-material.html
            https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-import-key-material.html
        """
        asked, token, public, wrapped = (
            f"import-{self._file}.{ending}" for ending in ("txt", "token", "public.der", "wrapped")
        )
        wrapping = ("--wrapping-algorithm", "RSAES_OAEP_SHA_256", "--wrapping-key-spec", "RSA_4096")
        ask = self.kms("get-parameters-for-import", *wrapping, "--query", "[ImportToken,PublicKey]", "--output", "text")
        wrap = shlex.join(
            (
                *("openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", public),
                *("-in", "key-material.bin", "-out", wrapped, "-pkeyopt", "rsa_padding_mode:oaep"),
                *("-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"),
            )
        )
        files = ("--import-token", f"fileb://{token}", "--encrypted-key-material", f"fileb://{wrapped}")
        asked = shlex.quote(asked)
        return (
            f"{ask} > {asked}",
            f"cut -f 1 {asked} | base64 --decode > {shlex.quote(token)}",
            f"cut -f 2 {asked} | base64 --decode > {shlex.quote(public)}",
            wrap,
            self.kms("import-key-material", *files, "--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE"),
        )
