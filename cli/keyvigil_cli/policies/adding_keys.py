"""One more key in a policy that exists."""

from keyvigil_cli.policies.customer_role import checked_key
from keyvigil_cli.policies.documents import (
    LONGEST_ROLE_POLICY,
    BadPolicyError,
    Document,
    Statement,
    listed,
    within,
)


def with_key(policy: Document, key_arn: str) -> Document:
    """Return a role's policy in which every statement that allows something on keys allows it on one more.

    The same again changes nothing. Other statements stay as they are.

    Raises:
        BadPolicyError: it is a key's policy, or nothing in it is allowed on keys by their ARN.
    """
    checked_key(key_arn)
    if any("Principal" in each or "NotPrincipal" in each for each in policy["Statement"]):
        raise BadPolicyError(
            "this is the policy of a resource, which belongs to one key alone: "
            "`keyvigil policy key` prints the other key's"
        )
    statements = [_with_key(each, key_arn) for each in policy["Statement"]]
    if not any(_names_keys(each) for each in policy["Statement"]):
        raise BadPolicyError(
            "no statement of this policy allows something on keys by their ARN, so nothing says what to allow: "
            "`keyvigil policy role` prints a whole policy"
        )
    return within(LONGEST_ROLE_POLICY, {**policy, "Statement": statements}, "role policy")


def _names_keys(statement: Statement) -> bool:
    """Whether a statement allows actions of KMS on keys that it names."""
    actions = [str(each).lower() for each in listed(statement.get("Action"))]
    resources = listed(statement.get("Resource"))
    return (
        statement.get("Effect") == "Allow"
        and any(each.startswith("kms:") for each in actions)
        and any(":kms:" in str(each) and ":key/" in str(each) for each in resources)
    )


def _with_key(statement: Statement, key_arn: str) -> Statement:
    if not _names_keys(statement):
        return statement
    actions = [str(each).lower() for each in listed(statement["Action"])]
    if not all(each.startswith("kms:") for each in actions):
        message = (
            f"the statement {statement.get('Sid', actions)} allows actions of KMS and of others together: take it "
            "apart first, so that one key more is not one key more to the others"
        )
        raise BadPolicyError(message)
    resources = listed(statement["Resource"])
    return statement if key_arn in resources else {**statement, "Resource": [*resources, key_arn]}
