"""From what was found to what is put under watch: keys that something hangs on, and each of those things."""

from keyvigil_cli.discovery.model import Inventory, KeyUse, Resource
from keyvigil_cli.discovery.stops import KINDS
from keyvigil_cli.imports.found import Dependent, Found, Why, cluster_id_of

_PARTS = {
    "Performance Insights": "performance-insights",
    "master user's secret": "master-user-secret",
    "activity stream": "activity-stream",
}
"""As `keyvigil import` names them, so that the same part is the same cluster whoever registers it."""


def to_watch(found: Inventory) -> Found:
    """Return what can be registered, and what is left out with its reason."""
    watched = Found()
    leading_nowhere = {each.about for each in found.findings if each.code == "alias-not-there"}
    for use in found.customers:
        for resource in use.resources:
            if resource.arn in leading_nowhere:
                watched.leave_out(
                    resource.arn, Why.REFUSED, f"names {resource.key}, which leads to no key",
                    "Make the alias again, or give the resource a key; then run it again.", key=use.key.arn,
                )  # fmt: skip
                continue
            watched.dependents.append(_dependent(resource, use))
    for use in found.of_aws:
        watched.leave_out(
            use.key.name,
            Why.NOT_WATCHABLE,
            f"a key of AWS's own, which nobody can disable and nobody can probe; under it: {len(use.resources):,}",
            key=use.key.arn,
        )
    return watched.settled()


def cluster_id(resource: Resource, key_arn: str) -> str:
    """Return the id under which a resource is registered: the same in every run, and that of `keyvigil import`."""
    service = "rds-cluster" if resource.kind == "rds-cluster" or ":cluster:" in resource.arn else resource.service
    region, account_id = resource.place.region, resource.place.account_id
    name, part = resource.name, _PARTS.get(resource.part, "")
    match resource.kind:
        case "s3-bucket":
            region, account_id = "", ""  # names of buckets are nobody else's
        case "ebs-snapshots":
            name, part = "snapshots", key_arn.rpartition("/")[2]  # their number changes
        case "lambda-function" if resource.part:
            part = key_arn.rpartition("/")[2]  # likewise which versions there are
        case _:
            pass
    return cluster_id_of(service, name, region=region, account_id=account_id, part=part)


def _dependent(resource: Resource, use: KeyUse) -> Dependent:
    kind = KINDS[resource.kind]
    return Dependent(
        address=resource.arn,
        name=f"{resource.name} ({resource.part})" if resource.part in _PARTS else resource.name,
        kind=kind.cluster_kind,
        use="service",
        region=resource.place.region,
        key_arn=use.key.arn,
        cluster_id=cluster_id(resource, use.key.arn),
        detail=f"{kind.singular}, {resource.part}" if resource.part else kind.singular,
    )
