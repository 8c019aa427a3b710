"""Who may do what with a project's topic: nobody publishes to it but KeyVigil, and nobody over plain HTTP."""

import json
from collections.abc import Sequence
from typing import Any

_LOOPBACK = ["127.0.0.0/8", "::1/128"]


def topic_policy(topic_arn: str, publishers: Sequence[str]) -> str:
    """A topic's resource policy, with the ARNs of the roles that publish to it.

    It grants nothing, unlike the policy that SNS gives a topic by itself, by which every principal of the account may
    publish and subscribe: what KeyVigil's own roles may do stands in their policies. It denies publishing to everybody
    else, whatever their policies allow, and to everybody over plain HTTP. A request from the loopback address crosses
    no network, so a local cloud takes it; on AWS there is none.

    Sources: https://docs.aws.amazon.com/sns/latest/dg/sns-security-best-practices.html (`aws:SecureTransport`) and
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html (`aws:PrincipalArn` is the
    role's ARN on AWS; a local cloud has the session's). A negated operator holds of a key that is missing, so that
    services of AWS, which have no such ARN, are denied too.
    """
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "OnlyKeyVigilPublishes",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sns:Publish",
                    "Resource": topic_arn,
                    "Condition": {"ArnNotLike": {"aws:PrincipalArn": [*publishers, *map(_sessions_of, publishers)]}},
                },
                {
                    "Sid": "OnlyOverTls",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sns:Publish",
                    "Resource": topic_arn,
                    "Condition": {
                        "Bool": {"aws:SecureTransport": "false"},
                        "NotIpAddress": {"aws:SourceIp": _LOOPBACK},
                    },
                },
            ],
        }
    )


def same_policy(one: str, other: str) -> bool:
    """Whether two policies are the same document, however they are written."""
    return bool(_parsed(one) == _parsed(other))


def _parsed(policy: str) -> Any:
    return json.loads(policy) if policy else None


def _sessions_of(role_arn: str) -> str:
    """The ARNs of a role's sessions; its path is not among them."""
    _, partition, _, _, account_id, role = role_arn.split(":", 5)
    return f"arn:{partition}:sts::{account_id}:assumed-role/{role.rpartition('/')[2]}/*"
