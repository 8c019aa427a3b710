"""What is not well kept: judged from what was read, each with what to do about it."""

from collections.abc import Iterator, Sequence

from keyvigil_cli.discovery.kms_keys import is_alias, is_of_aws, open_statements
from keyvigil_cli.discovery.model import Finding, Key, Manager, Resource, Weight

_UNUSABLE = {
    "Disabled": (
        "key-disabled",
        "is disabled",
        "Enable it, if it was not meant: aws kms enable-key --region {region} --key-id {arn}",
    ),
    "PendingImport": (
        "key-material-missing",
        "has no key material: it was deleted, or expired",
        "Import the same key material again: aws kms import-key-material --region {region} --key-id {arn} ...",
    ),
    "Unavailable": (
        "key-store-unavailable",
        "cannot be reached: its custom key store is not connected",
        "Connect the key store again: aws kms connect-custom-key-store ...",
    ),
    "NotFound": (
        "key-not-there",
        "is not there (any more)",
        "A deleted key does not come back: restore what hangs on it from a backup under another key.",
    ),
}
_DELETION = frozenset({"PendingDeletion", "PendingReplicaDeletion"})


def ill_kept(key: Key, resources: Sequence[Resource]) -> Iterator[Finding]:
    """Judge a key. One that cannot be used and that nothing hangs on hurts nobody yet."""
    if key.manager is Manager.AWS:
        return
    hurts = Weight.UNHEALTHY if resources else Weight.CARELESS
    if key.state in _DELETION:
        when = f"on {key.deletion_date:%Y-%m-%d}" if key.deletion_date else "once its replicas are"
        yield _of_key(
            key, "deletion-scheduled", hurts, f"will be deleted {when}, and cannot be used until then",
            "Cancel it, then enable the key, if it was not meant: "
            f"aws kms cancel-key-deletion --region {key.place.region} --key-id {key.arn}",
        )  # fmt: skip
    elif key.state in _UNUSABLE:
        code, message, advice = _UNUSABLE[key.state]
        yield _of_key(key, code, hurts, message, advice.format(region=key.place.region, arn=key.arn))
    elif key.rotation_enabled is False:
        yield _of_key(
            key, "rotation-off", Weight.CARELESS, "keeps the same key material for ever",
            f"aws kms enable-key-rotation --region {key.place.region} --key-id {key.arn}",
        )  # fmt: skip
    if key.aliases_known and not key.aliases and key.state != "NotFound":
        yield _of_key(
            key, "alias-missing", Weight.CARELESS, "has no alias, so that nobody sees what it is for",
            f"aws kms create-alias --region {key.place.region} --alias-name alias/NAME --target-key-id {key.arn}",
        )  # fmt: skip
    opened = open_statements(key.policy) if key.policy is not None else []
    if opened:
        yield _of_key(
            key, "policy-open", Weight.CARELESS,
            f"may be used by everybody in AWS, says its policy: {', '.join(opened)}",
            "Name the principals, or add a condition on kms:CallerAccount or aws:PrincipalOrgID.",
        )  # fmt: skip


def ill_kept_resource(resource: Resource, arn: str | None, *, aliases_are_known: bool) -> Iterator[Finding]:
    """Judge how a resource names its key. An alias still in the ARN leads nowhere, if all aliases are known."""
    if arn is None or not is_alias(arn) or is_of_aws(arn) or not aliases_are_known:
        return
    if arn.split(":")[3:5] != [resource.place.region, resource.place.account_id]:
        return  # nobody has listed the aliases there
    yield Finding(
        code="alias-not-there", weight=Weight.UNHEALTHY, place=resource.place, about=resource.arn, name=resource.name,
        message=f"names {arn.rpartition(':')[2]}, which leads to no key",
        advice="Make the alias again for the key that it led to, or give the resource the key itself.",
    )  # fmt: skip


def _of_key(key: Key, code: str, weight: Weight, message: str, advice: str) -> Finding:
    return Finding(
        code=code, weight=weight, place=key.place, about=key.arn, name=key.name, message=message, advice=advice
    )
