"""JSON as `terraform show -json` writes it, from resources in a few words."""

import json
from typing import Any

ACCOUNT = "222222222222"
REGION = "us-west-2"
KMS = "1234abcd-12ab-34cd-56ef-{:012x}"


def key_arn(number: int = 1, region: str = REGION, account: str = ACCOUNT) -> str:
    return f"arn:aws:kms:{region}:{account}:key/{KMS.format(number)}"


def resource(address: str, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    plain = address.rpartition("]")[0] + "]" if address.endswith("]") else address
    kind = [part for part in plain.partition("[")[0].split(".") if part not in {"data", "module"}]
    return {
        "address": address,
        "mode": "data" if address.startswith("data.") else "managed",
        "type": kind[-2],
        "name": kind[-1],
        "provider_name": "registry.terraform.io/example/example",
        "schema_version": 0,
        "values": values,
        "sensitive_values": {},
        **more,
    }


def state(*resources: dict[str, Any], modules: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    root = {"resources": list(resources), "child_modules": list(modules)}
    return {"format_version": "1.0", "terraform_version": "1.9.8", "values": {"root_module": root}}


def change(
    address: str, actions: list[str], before: Any, after: Any, unknown: Any = None, **more: Any
) -> dict[str, Any]:
    about = {key: value for key, value in resource(address, {}).items() if key not in {"values", "sensitive_values"}}
    planned = {"actions": actions, "before": before, "after": after, "after_unknown": unknown or {}}
    return {**about, "change": {**planned, "before_sensitive": {}, "after_sensitive": {}, **more}}


def plan(prior: dict[str, Any] | None, *changes: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "format_version": "1.2",
        "terraform_version": "1.9.8",
        "planned_values": {"root_module": {}},
        "resource_changes": list(changes),
        "configuration": {"root_module": {}},
    }
    return document if prior is None else {**document, "prior_state": prior}


def zilliz(name: str = "prod", **values: Any) -> dict[str, Any]:
    given = {
        "id": "in01-3f5a",
        "cluster_name": "Production",
        "project_id": "proj-1",
        "region_id": "aws-us-west-2",
        "aws_cse_key_arn": key_arn(),
        "bucket_info": None,
        "password": "hunter2",
    }
    sensitive = {"password": True}
    return resource(f"zillizcloud_cluster.{name}", {**given, **values}, sensitive_values=sensitive)


def text(document: Any) -> str:
    return json.dumps(document)
