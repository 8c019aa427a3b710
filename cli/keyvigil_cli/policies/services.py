"""How AWS services use a customer's key: which policy must say so, for whom, and under which conditions.

Two ways. Most services act on behalf of whoever calls them, so that the caller needs the permission, and
`kms:ViaService` keeps it to calls through the service. Some act by themselves: their principal stands in the key's
policy, and `aws:SourceAccount` or `aws:SourceArn` keeps other customers of the service out (the confused deputy:
https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from keyvigil_cli.policies.documents import BadPolicyError, Statement, one_or_many


@dataclass(frozen=True, kw_only=True)
class ThroughService:
    """A service that uses a key on behalf of its callers.

    `uses` are what callers need while what is encrypted is in use; `sets_up` what is needed beside them by whoever
    makes something new under the key. `grants`: the service is given a grant then, and works by that afterwards.
    `context` is the part of the encryption context that names what is encrypted, `resource` what its value looks like.
    """

    service: str
    uses: tuple[str, ...]
    sets_up: tuple[str, ...]
    grants: bool
    context: str | None
    resource: str
    source: str

    def host(self, region: str) -> str:
        """The service's name in `kms:ViaService`."""
        return f"{self.service}.{region}.amazonaws.com"


_VIA = (
    ThroughService(
        service="rds",
        uses=(),
        sets_up=("kms:DescribeKey",),
        grants=True,
        context=None,  # the instance's id, which AWS chooses when it is made
        resource="",
        source="https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Overview.Encryption.Keys.html",
    ),
    ThroughService(
        service="s3",
        uses=("kms:Decrypt", "kms:GenerateDataKey"),
        sets_up=(),
        grants=False,
        context="aws:s3:arn",  # the bucket with an S3 bucket key, the object without
        resource="arn:aws:s3:::BUCKET",
        source="https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html",
    ),
    ThroughService(
        service="lambda",
        uses=("kms:Decrypt",),
        sets_up=("kms:Encrypt",),
        grants=True,
        context="aws:lambda:FunctionArn",
        resource="arn:aws:lambda:REGION:ACCOUNT_ID:function:NAME",
        source="https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html",
    ),
    ThroughService(
        service="secretsmanager",
        uses=("kms:Decrypt", "kms:GenerateDataKey"),
        sets_up=("kms:DescribeKey",),
        grants=False,
        context="SecretARN",
        resource="arn:aws:secretsmanager:REGION:ACCOUNT_ID:secret:NAME-??????",
        source="https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html",
    ),
    ThroughService(
        service="dynamodb",
        uses=("kms:Decrypt",),
        sets_up=("kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"),
        grants=True,
        context="aws:dynamodb:tableName",
        resource="TABLE",
        source="https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html",
    ),
    ThroughService(
        service="ssm",
        uses=("kms:Decrypt",),
        sets_up=("kms:Encrypt", "kms:GenerateDataKey"),  # a standard parameter's; an advanced one's
        grants=False,
        context="PARAMETER_ARN",
        resource="arn:aws:ssm:REGION:ACCOUNT_ID:parameter/NAME",
        source="https://docs.aws.amazon.com/kms/latest/developerguide/services-parameter-store.html",
    ),
)
THROUGH = MappingProxyType({each.service: each for each in _VIA})
"""Services by the name that they have in `kms:ViaService`."""

BY_THEMSELVES = ("cloudtrail", "events", "logs", "sns")
"""Services whose principal stands in the key's policy."""

SERVICES = tuple(sorted((*THROUGH, *BY_THEMSELVES)))


def through(
    service: str, role_arns: Sequence[str], region: str, *, resources: Sequence[str] = (), set_up: bool = False
) -> list[Statement]:
    """Return what a key's policy says for roles that use the key through a service.

    `resources` narrow it by the encryption context; `set_up` adds what making something new needs.

    Raises:
        BadPolicyError: there is no role, or nothing that it would need.
    """
    use = THROUGH[service]
    if not role_arns:
        message = f"{service} uses a key on behalf of whoever calls it: name the roles that do with --role"
        raise BadPolicyError(message)
    if not use.uses and not set_up:
        message = (
            f"{service} uses a key by the grant that it was given when the resource was made: roles need nothing while "
            "it is in use. --set-up prints what the role needs that makes one"
        )
        raise BadPolicyError(message)
    equal = {"kms:ViaService": use.host(region)}
    principal = {"AWS": one_or_many(role_arns)}
    found = []
    actions = sorted({*use.uses, *(use.sets_up if set_up else ())})
    described = [each for each in actions if each == "kms:DescribeKey"]
    used = [each for each in actions if each != "kms:DescribeKey"]
    if used:
        condition = {"StringEquals": equal} | _context(use, resources)
        found.append(_statement(f"UseThrough{_title(service)}", principal, used, condition))
    if described:  # it has no encryption context, so that no condition on one could hold
        found.append(_statement(f"SeeThrough{_title(service)}", principal, described, {"StringEquals": equal}))
    if use.grants and set_up:
        only_the_service = {"StringEquals": equal, "Bool": {"kms:GrantIsForAWSResource": "true"}}
        found.append(_statement(f"GrantTo{_title(service)}", principal, ["kms:CreateGrant"], only_the_service))
    return found


def by_itself(service: str, account_id: str, region: str, *, resources: Sequence[str] = ()) -> list[Statement]:
    """Return what a key's policy says for a service that uses the key in its own name."""
    match service:
        case "cloudtrail":
            return _cloudtrail(account_id, region, resources)
        case "logs":
            groups = list(resources) or [f"arn:aws:logs:{region}:{account_id}:log-group:*"]
            # Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
            return [
                {
                    "Sid": "LetLogsUseTheKey",
                    "Effect": "Allow",
                    "Principal": {"Service": f"logs.{region}.amazonaws.com"},
                    "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*",
                               "kms:DescribeKey"],
                    "Resource": "*",
                    "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": one_or_many(groups)}},
                }
            ]  # fmt: skip
        case _:
            return [queues((service,), account_id, resources=resources)]


def queues(services: Sequence[str], account_id: str, *, resources: Sequence[str] = ()) -> Statement:
    """Return the statement for services that put messages into encrypted queues and topics in their own names.

    Sources:
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
        https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    """
    condition: Statement = {"StringEquals": {"aws:SourceAccount": account_id}}
    if resources:
        condition["ArnLike"] = {"aws:SourceArn": one_or_many(resources)}
    return {
        "Sid": f"Let{'And'.join(_title(each) for each in services)}UseTheKey",
        "Effect": "Allow",
        "Principal": {"Service": one_or_many([f"{each}.amazonaws.com" for each in services])},
        "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
        "Resource": "*",
        "Condition": condition,
    }


def _cloudtrail(account_id: str, region: str, trails: Sequence[str]) -> list[Statement]:
    """Trails encrypt by themselves; Decrypt is what they need for a bucket with an S3 bucket key.

    Source: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/create-kms-key-policy-for-cloudtrail.html
    """
    named = list(trails) or [f"arn:aws:cloudtrail:{region}:{account_id}:trail/*"]
    principal = {"Service": "cloudtrail.amazonaws.com"}
    whose = {"ArnLike": {"aws:SourceArn": one_or_many(named)}}
    context = {"StringLike": {"kms:EncryptionContext:aws:cloudtrail:arn": f"arn:aws:cloudtrail:*:{account_id}:trail/*"}}
    return [
        _statement("LetTrailsEncrypt", principal, ["kms:Decrypt", "kms:GenerateDataKey*"], whose | context),
        _statement("LetTrailsSeeTheKey", principal, ["kms:DescribeKey"], whose),
    ]


def _statement(sid: str, principal: Statement, actions: Sequence[str], condition: Statement) -> Statement:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": principal,
        "Action": one_or_many(actions),
        "Resource": "*",
        "Condition": condition,
    }


def _context(use: ThroughService, resources: Sequence[str]) -> Statement:
    if use.context is None or not resources:
        return {}
    values = list(resources)
    if use.service == "s3":
        values = [value for each in values for value in ((each,) if each.endswith("*") else (each, f"{each}/*"))]
    return {"StringLike": {f"kms:EncryptionContext:{use.context}": one_or_many(values)}}


def _title(service: str) -> str:
    return {"cloudtrail": "CloudTrail", "dynamodb": "DynamoDB", "rds": "RDS", "secretsmanager": "SecretsManager",
            "sns": "SNS", "ssm": "ParameterStore"}.get(service, service.capitalize())  # fmt: skip
