"""What a CloudFormation template says about KMS keys: of a file, of what CDK synthesized, or of a deployed stack.

References are resolved as far as what is known allows; what stays open is told, with the function that left it open.
Functions: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from keyvigil_cli.imports.found import Dependent, Found, NotReadableError, Why, cluster_id_of
from keyvigil_cli.imports.kms_names import NotAKey, Place, key_arn_of, region_of
from keyvigil_cli.imports.yaml_texts import TextLoader, read_yaml

_WHAT = "what is wanted is a CloudFormation template, YAML or JSON"
_SUB = re.compile(r"\$\{([^}]*)\}")
_DYNAMIC = re.compile(r"\{\{resolve:[a-z-]+:")
_SECRET_ARN = re.compile(r"arn:[^:]*:secretsmanager:[^:]*:[^:]*:secret:(.+)-[A-Za-z0-9]{6}\Z")
_DEEPEST = 40
_KEYS = frozenset({"AWS::KMS::Key", "AWS::KMS::ReplicaKey"})
_ALIAS, _NESTED = "AWS::KMS::Alias", "AWS::CloudFormation::Stack"
_SILENT = ("AWS::KMS::", "AWS::IAM::", "AWS::CDK::")
_BY_HAND = "Register it by hand: `keyvigil key register`, then `keyvigil cluster register`."
_BY_STACK = "Import the deployed stack by its name, not the file."

type Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is known of a stack besides its template. For a file that is what the person said: all may be empty.

    `physical` has the ids of what was made, by logical id; `nested` the outputs of nested stacks, likewise.
    """

    region: str = ""
    account_id: str = ""
    name: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    physical: Mapping[str, str] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    nested: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    is_stack: bool = False


@dataclass(frozen=True, slots=True)
class _Shape:
    service: str
    kind: str
    name: str
    keys: tuple[tuple[Path, str], ...]
    is_global: bool = False


_RDS_KEYS = ((("KmsKeyId",), ""), (("MasterUserSecret", "KmsKeyId"), "master-user-secret"))
_FUNCTION = _Shape(
    "lambda", "aws-lambda", "FunctionName", ((("KmsKeyArn",), ""), (("Code", "SourceKMSKeyArn"), "code"))
)
_TABLE = _Shape("dynamodb", "aws-dynamodb", "TableName", ((("SSESpecification", "KMSMasterKeyId"), ""),))

# Properties: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/, a page for each type.
_SHAPES: Mapping[str, _Shape] = {
    "AWS::RDS::DBInstance": _Shape(
        "rds", "aws-rds", "DBInstanceIdentifier",
        (*_RDS_KEYS, (("PerformanceInsightsKMSKeyId",), "performance-insights")),
    ),
    "AWS::RDS::DBCluster": _Shape(
        "rds-cluster", "aws-rds", "DBClusterIdentifier",
        (*_RDS_KEYS, (("PerformanceInsightsKmsKeyId",), "performance-insights")),
    ),
    "AWS::S3::Bucket": _Shape(
        "s3", "aws-s3", "BucketName",
        ((("BucketEncryption", "ServerSideEncryptionConfiguration", "*", "ServerSideEncryptionByDefault",
           "KMSMasterKeyID"), ""),
         (("ReplicationConfiguration", "Rules", "*", "Destination", "EncryptionConfiguration", "ReplicaKmsKeyID"),
          "replication")),
        is_global=True,
    ),
    "AWS::Lambda::Function": _FUNCTION,
    "AWS::Serverless::Function": _FUNCTION,
    "AWS::SecretsManager::Secret": _Shape("secretsmanager", "aws-secretsmanager", "Name", ((("KmsKeyId",), ""),)),
    "AWS::DynamoDB::Table": _TABLE,
    "AWS::Serverless::SimpleTable": _TABLE,
    "AWS::DynamoDB::GlobalTable": _Shape("dynamodb", "aws-dynamodb", "TableName", ()),
    "AWS::CloudTrail::Trail": _Shape("cloudtrail", "other", "TrailName", ((("KMSKeyId",), ""),)),
    "AWS::CloudTrail::EventDataStore": _Shape("cloudtrail-lake", "other", "Name", ((("KmsKeyId",), ""),)),
}  # fmt: skip
_REPLICAS: Mapping[str, tuple[str, Path]] = {
    "AWS::SecretsManager::Secret": ("ReplicaRegions", ("KmsKeyId",)),
    "AWS::DynamoDB::GlobalTable": ("Replicas", ("SSESpecification", "KMSMasterKeyId")),
}


class _OpenError(Exception):
    """A value depends on something that is not known here."""


class _TemplateLoader(TextLoader):
    """Reads the short forms of functions, `!Ref` and the like, as their long ones."""


def _short_form(loader: _TemplateLoader, suffix: str, node: yaml.Node) -> Any:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    match node:
        case yaml.ScalarNode():
            text = loader.construct_scalar(node)
            return {name: text.split(".", 1) if suffix == "GetAtt" and "." in text else text}
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
        case yaml.MappingNode():
            return {name: loader.construct_mapping(node, deep=True)}
        case _:
            return None


_TemplateLoader.add_multi_constructor("!", _short_form)


def read_template(content: bytes | str) -> dict[str, Any]:
    """Read a template's text.

    Raises:
        NotReadableError: it is none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = read_yaml(content, _WHAT, _TemplateLoader)
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        steps: tuple[str, ...] = ()
        if isinstance(document, dict) and "artifacts" in document:
            steps = ("This is CDK's manifest: take STACK.template.json beside it (cdk synth, in cdk.out).",)
        raise NotReadableError(f"this has no Resources; {_WHAT}", *steps)
    return document


def needs_exports(template: object) -> bool:
    """Say whether a template imports values of other stacks."""
    return any("Fn::ImportValue" in each for each in _objects(template))


def read_resources(template: Mapping[str, Any], deployed: Deployed) -> Found:
    """Read what hangs on which key in a template, with what is known of its stack."""
    reading = _Reading(_Resolver(template, deployed), deployed)
    for logical_id, resource in template["Resources"].items():
        if isinstance(resource, dict):
            reading.read(str(logical_id), resource)
    return reading.found.settled()


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    below = [value]
    seen: set[int] = set()  # YAML's aliases may lead to the same object very often
    while below:
        each = below.pop()
        if id(each) in seen:
            continue
        if isinstance(each, dict):
            seen.add(id(each))
            yield each
            below += each.values()
        elif isinstance(each, list):
            seen.add(id(each))
            below += each


class _Resolver:
    """Computes values, as CloudFormation would, from what is known."""

    def __init__(self, template: Mapping[str, Any], deployed: Deployed) -> None:
        self._template = template
        self._deployed = deployed
        self._functions: Mapping[str, Callable[[Any, int], str | None]] = {
            "Ref": lambda argument, _: self._ref(_text(argument)),
            "Fn::GetAtt": self._get_att,
            "Fn::Sub": self._sub,
            "Fn::Join": self._join,
            "Fn::Select": self._select,
            "Fn::ImportValue": self._import_value,
            "Fn::If": self._if,
            "Fn::FindInMap": self._find_in_map,
        }

    def section(self, name: str) -> Mapping[str, Any]:
        found = self._template.get(name)
        return found if isinstance(found, dict) else {}

    def text(self, value: Any, depth: int = 0) -> str | None:
        """Return the text that a value is; None if there is none (AWS::NoValue, or nothing written)."""
        if depth > _DEEPEST:
            raise _OpenError("references that go round in a circle")
        if value is None:
            return None
        if isinstance(value, str):
            if _DYNAMIC.search(value):
                raise _OpenError("a dynamic reference ({{resolve:...}})")
            return value
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            return str(value)
        if isinstance(value, dict) and len(value) == 1:
            name, argument = next(iter(value.items()))
            function = self._functions.get(str(name))
            if function is not None:
                return function(argument, depth + 1)
            raise _OpenError(str(name)[:60])
        raise _OpenError("a value that is no text")

    def _ref(self, name: str) -> str | None:
        deployed = self._deployed
        pseudo = {
            "AWS::Region": deployed.region,
            "AWS::AccountId": deployed.account_id,
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackName": deployed.name,
        }
        if name == "AWS::NoValue":
            return None
        if pseudo.get(name):
            return pseudo[name]
        if name in deployed.parameters:
            return deployed.parameters[name]
        parameter = self.section("Parameters").get(name)
        if isinstance(parameter, dict):
            # The default of a parameter that names an SSM parameter is a name, not the value.
            if "Default" in parameter and not str(parameter.get("Type", "")).startswith("AWS::SSM::"):
                return _text(parameter["Default"])
            raise _OpenError(f"the parameter {name[:60]} (--set {name[:60]}=VALUE)")
        if name in deployed.physical:
            return deployed.physical[name]
        raise _OpenError(f"Ref {name[:60]}")

    def _get_att(self, argument: Any, depth: int) -> str | None:
        del depth
        parts = argument.split(".", 1) if isinstance(argument, str) else argument
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(each, str) for each in parts)):  # noqa: PLR2004 - resource and attribute
            raise _OpenError("Fn::GetAtt")
        logical_id, attribute = parts
        kind = (self.section("Resources").get(logical_id) or {}).get("Type")
        physical, deployed = self._deployed.physical.get(logical_id), self._deployed
        if physical and kind in _KEYS:
            if attribute == "Arn":
                return f"arn:aws:kms:{deployed.region}:{deployed.account_id}:key/{physical}"
            if attribute == "KeyId":
                return physical
        if attribute.startswith("Outputs."):
            found = deployed.nested.get(logical_id, {}).get(attribute.removeprefix("Outputs."))
            if found is not None:
                return found
        raise _OpenError(f"Fn::GetAtt {logical_id[:60]}.{attribute[:60]}")

    def _sub(self, argument: Any, depth: int) -> str | None:
        pattern, names = (argument[0], argument[1]) if _is_pair(argument) else (argument, {})
        names = names if isinstance(names, dict) else {}

        def value(match: re.Match[str]) -> str:
            name = match[1].strip()
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in names:
                return self.text(names[name], depth) or ""
            if "." in name:
                return self._get_att(name, depth) or ""
            return self._ref(name) or ""

        return _SUB.sub(value, _text(pattern))

    def _join(self, argument: Any, depth: int) -> str | None:
        if not _is_pair(argument) or not isinstance(argument[1], list):
            raise _OpenError("Fn::Join")
        parts = [self.text(each, depth) for each in argument[1]]
        return _text(argument[0]).join(each for each in parts if each is not None)

    def _select(self, argument: Any, depth: int) -> str | None:
        if not _is_pair(argument):
            raise _OpenError("Fn::Select")
        place = self.text(argument[0], depth) or ""
        chosen = self._texts(argument[1], depth)
        if not place.isdecimal() or int(place) >= len(chosen):
            raise _OpenError("Fn::Select")
        return chosen[int(place)]

    def _texts(self, value: Any, depth: int) -> Sequence[str]:
        if isinstance(value, list):
            return [self.text(each, depth) or "" for each in value]
        if isinstance(value, dict) and _is_pair(value.get("Fn::Split")):
            separator, whole = value["Fn::Split"]
            return (self.text(whole, depth) or "").split(_text(separator) or ",")
        return (self.text(value, depth) or "").split(",")  # a parameter that is a list

    def _import_value(self, argument: Any, depth: int) -> str | None:
        name = self.text(argument, depth) or ""
        if name in self._deployed.exports:
            return self._deployed.exports[name]
        raise _OpenError(f"Fn::ImportValue {name[:80]}")

    def _if(self, argument: Any, depth: int) -> str | None:
        if not (isinstance(argument, list) and len(argument) == 3):  # noqa: PLR2004 - condition, then, else
            raise _OpenError("Fn::If")
        return self.text(argument[1] if self.holds({"Condition": argument[0]}, depth) else argument[2], depth)

    def _find_in_map(self, argument: Any, depth: int) -> str | None:
        inner: Any = self.section("Mappings")
        for step in argument if isinstance(argument, list) else [None]:
            inner = inner.get(self.text(step, depth)) if isinstance(inner, dict) else None
        if not isinstance(inner, str):
            raise _OpenError("Fn::FindInMap")
        return inner

    def chosen(self, value: Any, depth: int = 0) -> Any:
        """Return a list or an object, where a condition chooses it."""
        while isinstance(value, dict) and len(value) == 1 and isinstance(value.get("Fn::If"), list):
            depth += 1
            branches = value["Fn::If"]
            if len(branches) != 3 or depth > _DEEPEST:  # noqa: PLR2004 - condition, then, else
                raise _OpenError("Fn::If")
            value = branches[1] if self.holds({"Condition": branches[0]}, depth) else branches[2]
        return None if value == {"Ref": "AWS::NoValue"} else value

    def holds(self, condition: Any, depth: int = 0) -> bool:
        """Say whether a condition is true."""
        if depth > _DEEPEST or not isinstance(condition, dict) or len(condition) != 1:
            raise _OpenError("a condition")
        name, argument = next(iter(condition.items()))
        several = argument if isinstance(argument, list) else []
        match name:
            case "Condition":
                return self.holds(self.section("Conditions").get(_text(argument)), depth + 1)
            case "Fn::Equals" if _is_pair(argument):
                return self.text(argument[0], depth + 1) == self.text(argument[1], depth + 1)
            case "Fn::And":
                return all(self.holds(each, depth + 1) for each in several)
            case "Fn::Or":
                return any(self.holds(each, depth + 1) for each in several)
            case "Fn::Not" if several:
                return not self.holds(several[0], depth + 1)
            case _:
                raise _OpenError(str(name)[:60])


def _text(value: Any) -> str:
    if isinstance(value, (str, int)):
        return str(value)
    raise _OpenError("a value that is no text")


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2  # noqa: PLR2004 - a pair


@dataclass
class _Reading:
    resolver: _Resolver
    deployed: Deployed
    found: Found = field(default_factory=Found)

    def read(self, logical_id: str, resource: Mapping[str, Any]) -> None:
        """Take in one resource."""
        kind = str(resource.get("Type", ""))
        properties = resource.get("Properties")
        properties = properties if isinstance(properties, dict) else {}
        if not self._is_there(logical_id, resource, kind):
            return
        address = f"{self.deployed.name}.{logical_id}" if self.deployed.name else logical_id
        if kind in _SHAPES:
            self._known(address, logical_id, kind, properties)
        elif kind == _NESTED:
            if not self.deployed.is_stack:
                reason = "is a nested stack, whose template is another file"
                self.found.leave_out(
                    address, Why.REFUSED, reason, "Import that too, or the deployed stack by its name."
                )
        elif not kind.startswith(_SILENT):
            self._other(address, kind, properties)

    def _is_there(self, logical_id: str, resource: Mapping[str, Any], kind: str) -> bool:
        if self.deployed.is_stack:
            return logical_id in self.deployed.physical or kind == _NESTED
        try:
            return "Condition" not in resource or self.resolver.holds({"Condition": resource["Condition"]})
        except _OpenError:
            return True

    def _known(self, address: str, logical_id: str, kind: str, properties: Mapping[str, Any]) -> None:
        shape, seen_any = _SHAPES[kind], False
        for path, part in shape.keys:
            for key in self._at(address, properties, path):
                seen_any |= self._take(address, logical_id, shape, properties, key, part, self.deployed.region)
        collection, path = _REPLICAS.get(kind, ("", ()))
        if collection:
            for replica in self._at(address, properties, (collection, "*")):
                region = self._or_open(address, replica.get("Region")) if isinstance(replica, dict) else None
                for key in self._at(address, replica, path):
                    seen_any |= self._take(address, logical_id, shape, properties, key, "", region or "")
        if not seen_any:
            self.found.without_key.append(address)

    def _at(self, address: str, value: Any, path: Path) -> Iterator[Any]:
        """Go down a path; `*` goes through a list. What is not there is not returned."""
        try:
            value = self.resolver.chosen(value)
        except _OpenError as error:
            self._leave_open(address, error)
            return
        if value is None:
            return
        if not path:
            yield value
        elif path[0] == "*":
            for each in value if isinstance(value, list) else []:
                yield from self._at(address, each, path[1:])
        elif isinstance(value, dict):
            yield from self._at(address, value.get(path[0]), path[1:])

    def _take(
        self,
        address: str,
        logical_id: str,
        shape: _Shape,
        properties: Mapping[str, Any],
        key: Any,
        part: str,
        region: str,
    ) -> bool:
        arn = self._key(address, key, region)
        if arn is None:
            return bool(key)
        if not arn:
            return True
        name = self._name(address, logical_id, shape, properties)
        if name is None:
            return True
        where = Place() if shape.is_global else Place(region or region_of(arn), self.deployed.account_id)
        self.found.dependents.append(
            Dependent(
                address=address,
                name=f"{name} ({part})" if part else name,
                kind=shape.kind,
                use="service",
                region=region_of(arn) if part == "replication" or not region else region,
                key_arn=arn,
                cluster_id=cluster_id_of(
                    shape.service, name, region=where.region, account_id=where.account_id, part=part
                ),
            )
        )
        return True

    def _name(self, address: str, logical_id: str, shape: _Shape, properties: Mapping[str, Any]) -> str | None:
        """What it is called in AWS: what was made, or what the template says; a file does not know generated names."""
        physical = self.deployed.physical.get(logical_id)
        if physical:
            secret = _SECRET_ARN.match(physical)
            return secret[1] if secret else physical.rpartition("/")[2]
        written = properties.get(shape.name)
        if written is None:
            reason = "gets its name from CloudFormation, so a file does not say what it is called"
            self.found.leave_out(address, Why.REFUSED, reason, _BY_STACK)
            return None
        return self._or_open(address, written)

    def _or_open(self, address: str, value: Any) -> str | None:
        try:
            return self.resolver.text(value)
        except _OpenError as error:
            self._leave_open(address, error)
            return None

    def _leave_open(self, address: str, error: _OpenError) -> None:
        to_do = _BY_HAND if self.deployed.is_stack else f"{_BY_STACK} Or give what is missing: --set NAME=VALUE."
        self.found.leave_out(address, Why.REFUSED, f"depends on {error}, which is not known here", to_do)

    def _key(self, address: str, key: Any, region: str) -> str | None:
        """Return an ARN, nothing if it was left out, None if there is no key."""
        name = self._made_here(key)
        if name is not None:
            reason = f"hangs on the key {name[:60]}, which this template makes: a file does not know its ARN"
            self.found.leave_out(address, Why.REFUSED, reason, _BY_STACK)
            return ""
        try:
            written = self.resolver.text(key)
        except _OpenError as error:
            self._leave_open(address, error)
            return ""
        if not written:
            return None
        arn = key_arn_of(written, Place(region, self.deployed.account_id))
        if isinstance(arn, NotAKey):
            self.found.leave_out(address, arn.why, arn.reason, arn.to_do, key=written if "alias/" in written else "")
            return ""
        return arn

    def _made_here(self, key: Any) -> str | None:
        """The logical id of the template's own key that is meant, if nothing of it is made."""
        if not isinstance(key, dict) or len(key) != 1:
            return None
        argument = key.get("Ref") or key.get("Fn::GetAtt")
        argument = argument[0] if isinstance(argument, list) and argument else argument
        name = str(argument).partition(".")[0]
        kind = (self.resolver.section("Resources").get(name) or {}).get("Type")
        return name if kind in {*_KEYS, _ALIAS} and name not in self.deployed.physical else None

    def _other(self, address: str, kind: str, properties: Mapping[str, Any]) -> None:
        for each in _objects(properties):
            for name, value in each.items():
                if "kms" not in str(name).lower() or not isinstance(value, (str, dict)):
                    continue
                try:
                    written = self.resolver.text(value)
                except _OpenError:
                    self._tell_other(address, kind, "")
                    continue
                if written:
                    self._tell_other(address, kind, written)

    def _tell_other(self, address: str, kind: str, written: str) -> None:
        arn = key_arn_of(written, Place(self.deployed.region, self.deployed.account_id))
        if isinstance(arn, NotAKey) and arn.why is Why.NOT_WATCHABLE:
            self.found.leave_out(address, arn.why, arn.reason, arn.to_do, key=written)
            return
        reason = f"may hang on a KMS key, and {kind[:60]} is none of what can be imported"
        to_do = "If it stops working without the key: `keyvigil cluster register --kind other`."
        self.found.leave_out(address, Why.REFUSED, reason, to_do, key=arn if isinstance(arn, str) else "")
