"""What a Terraform state or plan says about KMS keys, from the JSON of `terraform show -json`.

The format: https://developer.hashicorp.com/terraform/internals/json-format. Only the attributes named here are
looked at. A value that Terraform marks sensitive is not, and neither printed nor sent.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from keyvigil.domain.arns import parse_kms_arn
from keyvigil_cli.imports.found import Dependent, Found, NotReadableError, Why, cluster_id_of, is_cluster_id
from keyvigil_cli.imports.kms_names import NotAKey, Place, key_arn_of, place_of, region_of

KEY_CHANGED = "Cannot change AWS CSE key ARN after cluster is created"
BUCKET_CHANGED = "Cannot change bucket info after cluster is created"
"""The words of the platform's Terraform provider for what it will refuse."""

_SHOW = "terraform show -json > state.json"
_SHOW_PLAN = "terraform plan -out tfplan && terraform show -json tfplan > plan.json"
_MAJORS = ("0", "1")
_ZILLIZ_CLUSTER = "zillizcloud_cluster"
_ZILLIZ_PROJECTS = frozenset({"zillizcloud_byoc_i_project", "zillizcloud_byoc_project"})
_SECRET, _TABLE = "aws_secretsmanager_secret", "aws_dynamodb_table"
_SILENT = ("aws_kms_", "aws_iam_")  # keys themselves, and who may use them
_BY_HAND = "Register it by hand: `keyvigil key register`, then `keyvigil cluster register`."
_AFTER_APPLY = f"Apply it, and import the state: {_SHOW}"

type Path = tuple[str, ...]


class Hidden(Enum):
    """Why a value that is there is not read."""

    SENSITIVE = "sensitive"
    UNKNOWN = "unknown"


type Seen = str | Hidden | None


@dataclass(frozen=True, slots=True)
class _Attributes:
    """The attributes of one resource, with what Terraform marks about each."""

    values: Any
    sensitive: Any = None
    unknown: Any = None

    def first(self, *path: str) -> Seen:
        """Return the first text there is at a path; `*` goes through the elements of a list."""
        return next((seen for seen in self.all(path) if seen is not None), None)

    def text(self, *path: str) -> str:
        """Return a text that may be shown, or nothing."""
        seen = self.first(*path)
        return seen if isinstance(seen, str) else ""

    def all(self, path: Path) -> Iterator[Seen]:
        """Return each text at a path, or why it is not read."""
        for each in self.at(path):
            yield each.own()

    def own(self) -> Seen:
        """Return the text that this is, or why it is not read."""
        if self.sensitive is True:
            return Hidden.SENSITIVE if self.values is not None else None
        if self.unknown is True:
            return Hidden.UNKNOWN
        return self.values if isinstance(self.values, str) and self.values else None

    def at(self, path: Path) -> "Iterator[_Attributes]":
        """Go down a path."""
        if not path or self.sensitive is True or self.unknown is True:
            yield self
            return
        step, rest = path[0], path[1:]
        if step == "*":
            # A provider may make a block of at most one a list, or an object.
            elements = self.values if isinstance(self.values, list) else [self.values]
            for place, element in enumerate(elements):
                down = _Attributes(element, _element(self.sensitive, place), _element(self.unknown, place))
                yield from down.at(rest)
            return
        if isinstance(self.values, dict):
            down = _Attributes(self.values.get(step), _member(self.sensitive, step), _member(self.unknown, step))
            yield from down.at(rest)
        elif _member(self.unknown, step) is not None:
            yield from _Attributes(None, None, _member(self.unknown, step)).at(rest)


def _member(marks: Any, name: str) -> Any:
    return marks.get(name) if isinstance(marks, dict) else marks if marks is True else None


def _element(marks: Any, place: int) -> Any:
    if isinstance(marks, list):
        return marks[place] if place < len(marks) else None
    return marks if isinstance(marks, (bool, dict)) else None


@dataclass(frozen=True, slots=True)
class _Resource:
    address: str
    mode: str
    type: str
    attributes: _Attributes


@dataclass(frozen=True, slots=True)
class _Shape:
    """A type of resource of AWS's: what it is called, and where it names keys, each with the part that hangs on it."""

    service: str
    kind: str
    name: Path
    keys: tuple[tuple[Path, str], ...]
    is_global: bool = False


_DEFAULT_ENCRYPTION = ("rule", "*", "apply_server_side_encryption_by_default", "*", "kms_master_key_id")

# Attributes: https://registry.terraform.io/providers/hashicorp/aws/latest/docs, a page for each resource.
_SHAPES: Mapping[str, _Shape] = {
    "aws_db_instance": _Shape(
        "rds", "aws-rds", ("identifier",),
        ((("kms_key_id",), ""), (("performance_insights_kms_key_id",), "performance-insights"),
         (("master_user_secret_kms_key_id",), "master-user-secret")),
    ),
    "aws_rds_cluster": _Shape(
        "rds-cluster", "aws-rds", ("cluster_identifier",),
        ((("kms_key_id",), ""), (("performance_insights_kms_key_id",), "performance-insights"),
         (("master_user_secret_kms_key_id",), "master-user-secret")),
    ),
    "aws_rds_cluster_instance": _Shape(
        "rds", "aws-rds", ("identifier",), ((("performance_insights_kms_key_id",), "performance-insights"),),
    ),
    "aws_s3_bucket": _Shape(
        "s3", "aws-s3", ("bucket",),
        ((("server_side_encryption_configuration", "*", *_DEFAULT_ENCRYPTION), ""),),
        is_global=True,
    ),
    "aws_s3_bucket_server_side_encryption_configuration": _Shape(
        "s3", "aws-s3", ("bucket",), ((_DEFAULT_ENCRYPTION, ""),), is_global=True,
    ),
    "aws_s3_bucket_replication_configuration": _Shape(
        "s3", "aws-s3", ("bucket",),
        ((("rule", "*", "destination", "*", "encryption_configuration", "*", "replica_kms_key_id"), "replication"),),
        is_global=True,
    ),
    "aws_lambda_function": _Shape(
        "lambda", "aws-lambda", ("function_name",), ((("kms_key_arn",), ""), (("source_kms_key_arn",), "code")),
    ),
    _SECRET: _Shape("secretsmanager", "aws-secretsmanager", ("name",), ((("kms_key_id",), ""),)),
    _TABLE: _Shape(
        "dynamodb", "aws-dynamodb", ("name",), ((("server_side_encryption", "*", "kms_key_arn"), ""),),
    ),
    "aws_dynamodb_table_replica": _Shape("dynamodb", "aws-dynamodb", ("id",), ((("kms_key_arn",), ""),)),
    "aws_cloudtrail": _Shape("cloudtrail", "other", ("name",), ((("kms_key_id",), ""),)),
    "aws_cloudtrail_event_data_store": _Shape("cloudtrail-lake", "other", ("name",), ((("kms_key_id",), ""),)),
}  # fmt: skip


def read_terraform(content: str | bytes, *, account_id: str = "", region: str = "") -> Found:
    """Read the JSON of a state or plan. `account_id` and `region` are where a key is that is named without its ARN.

    Raises:
        NotReadableError: it is something else; the error says what to run.
    """
    document = _document(content)
    reading = _Reading(Place(region, account_id))
    if "planned_values" in document or "resource_changes" in document:
        there = _object(_object(document, "prior_state"), "values")
        changes = [each for each in _list(document, "resource_changes") if isinstance(each, dict)]
    else:
        there, changes = _object(document, "values"), []
    resources = list(_resources(_object(there, "root_module")))
    reading.learn(resources)
    going = {str(each.get("address")): _actions(each) for each in changes if "delete" in _actions(each)}
    for resource in resources:
        if resource.mode == "managed" and going.get(resource.address) != ["delete"]:
            reading.read(resource)
    for change in changes:
        reading.read_change(change)
    return reading.found.settled()


def _document(content: str | bytes) -> dict[str, Any]:
    text = _text_of(content) if isinstance(content, bytes) else content
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        if '"@level"' in text[:2000] or '"@message"' in text[:2000]:
            message = "this is the log of `terraform plan -json`, not a plan"
            raise NotReadableError(message, f"Run: {_SHOW_PLAN}") from None
        message = "this is no JSON; Terraform's configuration (.tf) does not say what is there"
        raise NotReadableError(message, f"Run: {_SHOW}", f"or, for what is planned: {_SHOW_PLAN}") from None
    if isinstance(document, dict) and "format_version" not in document and {"lineage", "serial"} & set(document):
        message = "this is Terraform's own state file (.tfstate), whose form changes with its version"
        raise NotReadableError(message, f"Run, where Terraform runs: {_SHOW}")
    if not isinstance(document, dict) or not _is_shown(document):
        raise NotReadableError("this JSON is neither a state nor a plan", f"Run: {_SHOW}")
    version = str(document["format_version"])
    if version.partition(".")[0] not in _MAJORS:
        raise NotReadableError(f"format version {version[:20]} is not known; 1.x is", "Look for a newer KeyVigil.")
    return document


def _is_shown(document: Mapping[str, Any]) -> bool:
    """Say whether this is what `terraform show` makes; of an empty state it says nothing but its versions."""
    there = {"values", "planned_values", "resource_changes", "prior_state"} & set(document)
    return "format_version" in document and bool(there or set(document) <= {"format_version", "terraform_version"})


def _text_of(content: bytes) -> str:
    if content.startswith(b"PK\x03\x04"):
        message = "this is a plan as Terraform stores it, not JSON"
        raise NotReadableError(message, "Run: terraform show -json FILE > plan.json")
    try:
        # PowerShell's `>` writes UTF-16.
        return content.decode("utf-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig")
    except UnicodeDecodeError:
        raise NotReadableError("this is neither JSON nor text", f"Run: {_SHOW}") from None


def _object(holder: Any, name: str) -> dict[str, Any]:
    found = holder.get(name) if isinstance(holder, dict) else None
    return found if isinstance(found, dict) else {}


def _list(holder: Any, name: str) -> list[Any]:
    found = holder.get(name) if isinstance(holder, dict) else None
    return found if isinstance(found, list) else []


def _resources(module: dict[str, Any]) -> Iterator[_Resource]:
    modules = [module]
    while modules:  # not by recursion: a file may nest as deep as it likes
        module = modules.pop()
        for each in _list(module, "resources"):
            if isinstance(each, dict) and "deposed_key" not in each:
                attributes = _Attributes(each.get("values"), each.get("sensitive_values"))
                yield _Resource(
                    str(each.get("address", "")),
                    str(each.get("mode", "managed")),
                    str(each.get("type", "")),
                    attributes,
                )
        modules += [each for each in reversed(_list(module, "child_modules")) if isinstance(each, dict)]


def _actions(change: Mapping[str, Any]) -> list[str]:
    return [str(each) for each in _list(change.get("change"), "actions")]


@dataclass
class _Reading:
    """What has been understood so far."""

    given: Place
    found: Found = field(default_factory=Found)
    targets: dict[str, str] = field(default_factory=dict)
    buckets: dict[str, Place] = field(default_factory=dict)
    home: str = ""

    def learn(self, resources: Sequence[_Resource]) -> None:
        """Look first at what helps to understand the rest: aliases, buckets' Regions, whose account it is."""
        accounts: set[str] = set()
        for each in resources:
            arn = each.attributes.text("arn")
            accounts.add(place_of(arn).account_id)
            if each.type == "aws_caller_identity":
                accounts.add(each.attributes.text("account_id"))
            elif each.type == "aws_kms_alias":
                self._learn_alias(arn, each.attributes.text("target_key_arn"))
            elif each.type == "aws_s3_bucket":
                region = each.attributes.text("bucket_region") or each.attributes.text("region")
                self.buckets[each.attributes.text("bucket")] = Place(region)
        accounts = {each for each in accounts if each.isdecimal()}
        self.home = accounts.pop() if len(accounts) == 1 else ""

    def _learn_alias(self, arn: str, target: str) -> None:
        parsed = parse_kms_arn(target)
        if parse_kms_arn(arn) is not None and parsed is not None and parsed.kms_key_id is not None:
            self.targets[arn] = target

    def read(self, resource: _Resource) -> None:
        """Take in one resource that is there."""
        if resource.type == _ZILLIZ_CLUSTER:
            self._zilliz_cluster(resource)
        elif resource.type in _ZILLIZ_PROJECTS:
            self._zilliz_project(resource)
        elif resource.type in _SHAPES:
            self._of_aws(resource, _SHAPES[resource.type])
        elif not resource.type.startswith(_SILENT):
            self._unknown_type(resource)

    def read_change(self, change: Mapping[str, Any]) -> None:
        """Take in what a plan is going to do, as far as keys are concerned."""
        kind, address, actions = str(change.get("type", "")), str(change.get("address", "")), _actions(change)
        if change.get("mode", "managed") != "managed" or actions in (["no-op"], ["read"], [], ["forget"]):
            return
        paths = _key_paths(kind)
        if not paths:
            return
        planned = _object(change, "change")
        before = _Attributes(planned.get("before"), planned.get("before_sensitive"))
        after = _Attributes(planned.get("after"), planned.get("after_sensitive"), planned.get("after_unknown"))
        now = [seen for path in paths for seen in before.all(path) if seen is not None]
        then = [seen for path in paths for seen in after.all(path) if seen is not None]
        if actions == ["create"]:
            if then:
                reason = "is not there before the plan is applied" + _known(then)
                self.found.leave_out(address, Why.LATER, reason, _AFTER_APPLY)
            return
        if actions == ["delete"]:
            if now:
                self.found.leave_out(
                    address,
                    Why.LATER,
                    "goes when the plan is applied",
                    "If it is registered: `keyvigil cluster delete`, after that.",
                )
            return
        if kind == _ZILLIZ_CLUSTER:
            self._zilliz_change(address, actions, before, after)
        elif set(now) != set(then):
            how = "makes it anew under" if "delete" in actions else "moves it to"
            self.found.leave_out(
                address,
                Why.LATER,
                f"the plan {how} another KMS key{_known(then)}; what is there now is registered",
                "Keep the old key until nothing needs it. After the apply: `keyvigil cluster delete`; import the state",
            )

    def _zilliz_change(self, address: str, actions: list[str], before: _Attributes, after: _Attributes) -> None:
        now, then = before.first("aws_cse_key_arn"), after.first("aws_cse_key_arn")
        if "delete" in actions:
            if now is not None or then is not None:
                self.found.leave_out(
                    address,
                    Why.LATER,
                    "the plan destroys this cluster and makes another: what is in it is lost",
                    "Make a backup first. After the apply: `keyvigil cluster delete`, and import the state.",
                )
            return
        if now != then:
            doubt = " (its new value is known only after apply)" if then is Hidden.UNKNOWN else ""
            self.found.leave_out(
                address,
                Why.REFUSED,
                f"{KEY_CHANGED}{doubt}",
                "The provider will refuse this plan. Put the old ARN back; another key needs another cluster: make a "
                "backup, destroy, create, restore.",
            )
        names = (("bucket_info", "bucket_name"), ("bucket_info", "prefix"))
        if any(before.first(*name) != after.first(*name) for name in names):
            self.found.leave_out(address, Why.REFUSED, BUCKET_CHANGED, "The provider will refuse this plan.")

    def _zilliz_cluster(self, resource: _Resource) -> None:
        attributes = resource.attributes
        key = attributes.first("aws_cse_key_arn")
        if key is None:
            self.found.without_key.append(resource.address)
            return
        platform_region = attributes.text("region_id")
        region = platform_region.removeprefix("aws-")
        if platform_region and region == platform_region:
            self.found.leave_out(
                resource.address, Why.REFUSED, f"is in {platform_region[:40]}, which is no Region of AWS's (aws-REGION)"
            )
            return
        arn = self._key(resource.address, key, Place(region))
        cluster_id = attributes.text("id")
        if arn is None:
            return
        if not is_cluster_id(cluster_id):
            self.found.leave_out(resource.address, Why.REFUSED, "has no id that a cluster can have", _BY_HAND, key=arn)
            return
        bucket, prefix = attributes.text("bucket_info", "bucket_name"), attributes.text("bucket_info", "prefix")
        self.found.dependents.append(
            Dependent(
                address=resource.address,
                name=attributes.text("cluster_name") or cluster_id,
                kind="zilliz-byoc",
                use="cse",
                region=region or region_of(arn),
                key_arn=arn,
                cluster_id=cluster_id,
                detail=f"data in s3://{bucket}/{prefix.strip('/')}" if bucket else "",
            )
        )

    def _zilliz_project(self, resource: _Resource) -> None:
        for block in ("cse", "kms"):
            key = resource.attributes.first("aws", "*", block, "*", "default_aws_cse_key_arn")
            if key is None:
                continue
            region = resource.attributes.text("aws", "*", "region").removeprefix("aws-")
            arn = self._key(resource.address, key, Place(region))
            if arn is not None:
                self.found.dependents.append(
                    Dependent(
                        address=resource.address,
                        name="default CSE key of a BYOC project",
                        kind="zilliz-byoc",
                        use="cse",
                        region=region_of(arn),
                        key_arn=arn,
                        cluster_id=None,
                        detail="a cluster uses it only if it names it in aws_cse_key_arn",
                    )
                )
            return
        self.found.without_key.append(resource.address)

    def _of_aws(self, resource: _Resource, shape: _Shape) -> None:
        attributes, seen_any = resource.attributes, False
        name = attributes.text(*shape.name)
        place = place_of(attributes.text("arn"))
        place = Place(place.region or attributes.text("region"), place.account_id)
        if shape.service == "s3":
            place = self.buckets.get(name, place)
        if resource.type == "aws_dynamodb_table_replica":
            name = attributes.text("arn").rpartition("/")[2] or name
        for path, part in shape.keys:
            for key in attributes.all(path):
                if key is not None:
                    seen_any = True
                    self._aws_dependent(resource, shape, name, place, key, part)
        if resource.type in {_SECRET, _TABLE}:
            region_name = "region" if resource.type == _SECRET else "region_name"
            key_name = "kms_key_id" if resource.type == _SECRET else "kms_key_arn"
            for replica in attributes.at(("replica", "*")):
                key = replica.first(key_name)
                if key is not None:
                    seen_any = True
                    there = Place(replica.text(region_name), place.account_id)
                    self._aws_dependent(resource, shape, name, there, key, "")
        if not seen_any:
            self.found.without_key.append(resource.address)

    def _aws_dependent(
        self, resource: _Resource, shape: _Shape, name: str, place: Place, key: str | Hidden, part: str
    ) -> None:
        arn = self._key(resource.address, key, place)
        if arn is None:
            return
        if not name:
            self.found.leave_out(resource.address, Why.REFUSED, "its name is not shown in this file", _BY_HAND, key=arn)
            return
        where = Place() if shape.is_global else Place(place.region or region_of(arn), place.account_id or self.home)
        self.found.dependents.append(
            Dependent(
                address=resource.address,
                name=f"{name} ({part})" if part else name,
                kind=shape.kind,
                use="service",
                region=place.region if part != "replication" and place.region else region_of(arn),
                key_arn=arn,
                cluster_id=cluster_id_of(
                    shape.service, name, region=where.region, account_id=where.account_id, part=part
                ),
            )
        )

    def _unknown_type(self, resource: _Resource) -> None:
        for arn in sorted(set(_kms_arns(resource.attributes))):
            self.found.leave_out(
                resource.address,
                Why.REFUSED,
                f"names a KMS key, and {resource.type[:60]} is none of what can be imported",
                "If it stops working without the key: `keyvigil cluster register --kind other`.",
                key=arn,
            )

    def _key(self, address: str, key: str | Hidden, place: Place) -> str | None:
        """Return the ARN; what names none is left out with its reason."""
        if key is Hidden.SENSITIVE:
            self.found.leave_out(
                address, Why.REFUSED, "its key is marked sensitive in Terraform, so it is not read", _BY_HAND
            )
            return None
        if isinstance(key, Hidden):
            self.found.leave_out(address, Why.LATER, "its key is known only after apply", _AFTER_APPLY)
            return None
        known = Place(place.region or self.given.region, place.account_id or self.given.account_id or self.home)
        arn = key_arn_of(key, known, self.targets)
        if isinstance(arn, NotAKey):
            self.found.leave_out(address, arn.why, arn.reason, arn.to_do, key=key if "alias/" in key else "")
            return None
        return arn


def _key_paths(kind: str) -> list[Path]:
    if kind == _ZILLIZ_CLUSTER:
        return [("aws_cse_key_arn",), ("bucket_info", "bucket_name")]
    if kind in _ZILLIZ_PROJECTS:
        return [("aws", "*", block, "*", "default_aws_cse_key_arn") for block in ("cse", "kms")]
    shape = _SHAPES.get(kind)
    if shape is None:
        return []
    replicas = {_SECRET: [("replica", "*", "kms_key_id")], _TABLE: [("replica", "*", "kms_key_arn")]}
    return [path for path, _ in shape.keys] + replicas.get(kind, [])


def _known(keys: Iterable[Seen]) -> str:
    known = sorted({each for each in keys if isinstance(each, str)})
    if known:
        return f" ({', '.join(known)[:400]})"
    return " (the key is known only after apply)" if Hidden.UNKNOWN in list(keys) else ""


def _kms_arns(attributes: _Attributes) -> Iterator[str]:
    """Every text below that is the ARN of a key or an alias, unless it is marked sensitive."""
    below = [attributes]
    while below:
        each = below.pop()
        if each.sensitive is True:
            continue
        if isinstance(each.values, dict):
            below += [_Attributes(value, _member(each.sensitive, name)) for name, value in each.values.items()]
        elif isinstance(each.values, list):
            below += [_Attributes(value, _element(each.sensitive, place)) for place, value in enumerate(each.values)]
        elif isinstance(each.values, str) and parse_kms_arn(each.values) is not None:
            yield each.values
