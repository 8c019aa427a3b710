"""The local cloud's services encrypt nothing at rest. Loaded into its process, this lets them ask the key, as AWS's do.

What is asked, and in whose name, is what AWS's pages say (tests/infra/service_needs.py and
`keyvigil_cli.policies.services` name them); whether it is allowed is decided by the local cloud's own evaluator, from
the caller's policies and the policy that is on the key. So this proves that the policies fit what AWS's pages say, and
not that AWS's services do as their pages say.

- DynamoDB, SQS and SNS ask on behalf of whoever calls them, and the request says through whom (`kms:ViaService`).
- CloudWatch Logs, and SNS and EventBridge when they put something into an encrypted queue, ask in their own names.
- Not built: what Lambda's pollers and the scheduler ask with their roles, and DynamoDB's grant.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import_module("ministack.app")  # first, as its own program does
_iam: Any = import_module("ministack.core.iam_evaluator")
_request: Any = import_module("ministack.core.responses")
_kms: Any = import_module("ministack.services.kms")
_tables: Any = import_module("ministack.services.dynamodb")
_queues: Any = import_module("ministack.services.sqs")
_topics: Any = import_module("ministack.services.sns")
_events: Any = import_module("ministack.services.eventbridge")
_formation: Any = import_module("ministack.services.cloudformation.provisioners")

_TABLES_DATA = frozenset(
    f"dynamodb:{name}"
    for name in ("BatchGetItem", "BatchWriteItem", "ConditionCheckItem", "DeleteItem", "GetItem", "PutItem", "Query",
                 "Scan", "UpdateItem")
)  # fmt: skip
_SENDS = ("kms:GenerateDataKey", "kms:Decrypt")
_QUEUE = {"sqs:SendMessage": _SENDS, "sqs:SendMessageBatch": _SENDS, "sqs:ReceiveMessage": ("kms:Decrypt",)}
_LOGS = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:GenerateDataKey", "kms:DescribeKey")

_enforce = _iam.enforce
_queue_policy_allows = _queues.queue_policy_allows
_dispatch_to_sqs = _events._dispatch_to_sqs
_GROUP = _formation._RESOURCE_HANDLERS["AWS::Logs::LogGroup"]
_create_group, _update_group = _GROUP["create"], _GROUP["update"]


class KeyRefusedError(Exception):
    """A service may not use the key."""


def install() -> None:
    """Put the questions where the local cloud decides."""
    _iam.enforce = enforce
    _queues.queue_policy_allows = queue_policy_allows
    _events._dispatch_to_sqs = dispatch_to_sqs
    _GROUP["create"], _GROUP["update"] = create_group, update_group


def usable(key_id: str) -> Any:
    """The key, if it is there and enabled."""
    key = _kms._resolve_key(key_id)
    return key if key is not None and key["KeyState"] == "Enabled" else None


def asked(action: str, key: Any, principal: Any, more: dict[str, str]) -> Any:
    return _iam.EvalContext(
        principal_arn=principal.arn if principal else "*",
        principal_type=principal.type if principal else "Service",
        principal_account=principal.account if principal else "",
        action=action,
        resource_arn=key["Arn"],
        region=key["Arn"].split(":")[3],
        service_context=more,
        principal_keys=principal.keys if principal else {},
    )


def may_through(service: str, principal: Any, action: str, key_id: str) -> bool:
    """Whether a caller may do something with a key through a service."""
    if (key := usable(key_id)) is None:
        return False
    _, _, _, region, account, _ = key["Arn"].split(":")
    question = asked(action, key, principal, {"kms:viaservice": f"{service}.{region}.amazonaws.com"})
    mine = (
        # An account's root user has no policies, and may do whatever the key's policy lets the account do.
        _iam.EvalResult("Allow", principal.arn)
        if principal.policies is None
        else _iam.evaluate(question, principal.policies, *principal.limits)
    )
    decided = _iam.combine_resource_policy(
        mine, question, key["Policy"], account, required=True, limits=principal.limits
    )
    return bool(decided.decision == "Allow")


def may_itself(service: str, actions: tuple[str, ...], key_id: str, more: dict[str, str]) -> bool:
    """Whether a service may do something with a key in its own name."""
    if (key := usable(key_id)) is None:
        return False
    return all(
        _iam.evaluate_resource_policy(key["Policy"], asked(action, key, None, more), service=service).decision
        == "Allow"
        for action in actions
    )


def key_of_queue(queue_arn: str) -> str | None:
    queue = _queues._queue_by_arn(queue_arn) or {"attributes": {}}
    return queue["attributes"].get("KmsMasterKeyId") or None


def key_of_topic(topic_arn: str) -> str | None:
    topic = _topics._topic_by_arn_any_scope(topic_arn) or {"attributes": {}}
    return topic["attributes"].get("KmsMasterKeyId") or None


def key_of_table(arn: str) -> str | None:
    table = _tables._tables.get(arn.partition("table/")[2].partition("/")[0]) or {}
    # The local cloud says DISABLED of a table from a template, whose property has another name; a table without a key
    # has AWS's own alias.
    key_arn: str = (table.get("SSEDescription") or {}).get("KMSMasterKeyArn", "")
    return key_arn if ":key/" in key_arn else None


def needed(service: str, action: str, arn: str) -> Iterator[tuple[str | None, str]]:
    """Which key is asked for which of KMS's actions when a call is made."""
    if service == "dynamodb" and action in _TABLES_DATA:
        yield key_of_table(arn), "kms:Decrypt"
    elif service == "sqs" and action in _QUEUE:
        yield from ((key_of_queue(arn), each) for each in _QUEUE[action])
    elif service == "sns" and action == "sns:Publish":
        yield from ((key_of_topic(arn), each) for each in _SENDS)


def enforce(
    access_key_id: str, iam_action: str, service: str, region: str, resource_arn: str = "*",
    service_context: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    refused = _enforce(access_key_id, iam_action, service, region, resource_arn, service_context)
    if refused is not None:
        return refused
    for key_id, action in needed(service, iam_action, resource_arn):
        principal = _iam.resolve_principal(access_key_id or "", _request.get_account_id())
        if key_id and not may_through(service, principal, action, key_id):
            return _iam.EvalResult("ImplicitDeny", principal.arn, reason=f"{action} on {key_id}")
    return None


def queue_policy_allows(queue_arn: str, service: str, source_arn: str, source_account: str) -> bool:
    if not _queue_policy_allows(queue_arn, service, source_arn, source_account):
        return False
    key_id = key_of_queue(queue_arn)
    return key_id is None or may_itself(service, _SENDS, key_id, {"aws:sourceaccount": source_account})


def dispatch_to_sqs(spec: Any, payload: str, sqs_parameters: Any = None) -> None:
    key_id, whose = key_of_queue(str(spec)), {"aws:sourceaccount": _request.get_account_id()}
    if key_id is None or may_itself("events.amazonaws.com", _SENDS, key_id, whose):
        _dispatch_to_sqs(spec, payload, sqs_parameters)


def check_group(name: str, key_id: str | None) -> None:
    region = _request.get_region()
    arn = f"arn:aws:logs:{region}:{_request.get_account_id()}:log-group:{name}"
    context = {"kms:encryptioncontext:aws:logs:arn": arn}
    if key_id and not may_itself(f"logs.{region}.amazonaws.com", _LOGS, key_id, context):
        message = f"The specified KMS key does not exist or is not allowed to be used with Arn '{arn}'"
        raise KeyRefusedError(message)


def create_group(logical_id: str, props: Any, stack_name: str) -> Any:
    check_group(props.get("LogGroupName", logical_id), props.get("KmsKeyId"))
    return _create_group(logical_id, props, stack_name)


def update_group(physical_id: str, old: Any, new: Any, stack_name: str, logical_id: str | None = None) -> Any:
    check_group(physical_id, new.get("KmsKeyId"))
    return _update_group(physical_id, old, new, stack_name, logical_id)
