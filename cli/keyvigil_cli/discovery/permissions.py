"""The IAM policy that discovery needs: what it calls, and nothing that changes, decrypts or reads a value."""

from collections.abc import Sequence
from typing import Any

from keyvigil_cli.discovery.kms_keys import ACTIONS
from keyvigil_cli.discovery.readers import readers


def policy(role_arns: Sequence[str] = ()) -> dict[str, Any]:
    """Return the policy of the reading identity; with roles, also what the caller needs to assume them.

    Lists have no resources to name, so that all stand on `*`:
    https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
    """
    actions = sorted({*ACTIONS, *(action for each in readers(()) for action in each.actions)})
    statements: list[dict[str, Any]] = [
        {"Sid": "ReadWhatHangsOnKeys", "Effect": "Allow", "Action": actions, "Resource": "*"}
    ]
    if role_arns:
        statements.append(
            {
                "Sid": "AssumeTheRolesOfOtherAccounts",
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Resource": list(role_arns),
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}
