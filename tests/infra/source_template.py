"""``template.yaml`` as it was written, and what the SAM transform makes of it."""

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]

EVERYTHING = {
    "KmsKeyArn": "arn:aws:kms:us-west-2:111111111111:key/8d2e5b1c-0000-0000-0000-000000000000",
    "OperatorEmail": "operator@example.com",
    "Tracing": "Active",
    "TrustedEventAccounts": "222222222222,333333333333",
    "TrustedEventOrganization": "o-a1b2c3d4e5",
    "AllowRunbooks": "true",
    "SecurityHub": "true",
}
"""The parameters that ask for everything optional."""

type Template = dict[str, Any]
type Resources = dict[str, dict[str, Any]]

# Properties that name local files, which `sam package` replaces by objects in a bucket.
_LOCAL_FILES = ("CodeUri", "ContentUri", "DefinitionUri")
# SAM ends the ids of what it replaces rather than updates (layers, versions, deployments) with a hash of it.
_HASHED_ID = re.compile(r"[0-9a-f]{10}$")


@dataclass(frozen=True)
class SourceTemplate:
    """The template before any transformation."""

    content: Template

    @classmethod
    def load(cls, path: Path = ROOT / "template.yaml") -> "SourceTemplate":
        return cls(yaml_parse(path.read_text(encoding="utf-8")))

    @property
    def resources(self) -> Resources:
        resources: Resources = self.content["Resources"]
        return resources

    def _state_machines(self) -> list[dict[str, Any]]:
        kinds = ("AWS::Serverless::StateMachine", "AWS::StepFunctions::StateMachine")
        return [resource["Properties"] for resource in self.resources.values() if resource["Type"] in kinds]

    def state_machine_definitions(self) -> list[Path]:
        """Return the files that hold the state machines' definitions."""
        return sorted(ROOT / machine["DefinitionUri"] for machine in self._state_machines())

    def substitutions_of(self, definition: Path) -> set[str]:
        """Return the names that the template substitutes in one definition."""
        for machine in self._state_machines():
            if ROOT / machine["DefinitionUri"] == definition:
                return set(machine.get("DefinitionSubstitutions", {}))
        message = f"no state machine of the template is defined by {definition.name}"
        raise LookupError(message)

    def resolve(self, rendered: Template, **given: str) -> Template:
        """Do what CloudFormation does with a rendered template's conditions, some parameters being given.

        What a false condition leaves out is gone, what only a true one puts in is there, and what was given stands as
        its parameter's default.
        """
        parameters = {name: str(each.get("Default", "")) for name, each in rendered["Parameters"].items()}
        resolver = _Resolver(parameters | given, rendered.get("Conditions", {}), rendered.get("Mappings", {}))
        kept = {
            logical_id: {name: value for name, value in resource.items() if name != "Condition"}
            for logical_id, resource in rendered["Resources"].items()
            if "Condition" not in resource or resolver.holds(resource["Condition"])
        }
        template: Template = resolver.resolved({**rendered, "Resources": kept})
        del template["Conditions"]
        for name, value in given.items():
            template["Parameters"][name] = {**template["Parameters"][name], "Default": value}
        return template

    def render(self) -> Template:
        """Do what CloudFormation's SAM transform does, offline, with every parameter's default.

        Hashes in logical ids are replaced by a word, so that the same template renders to the same text.
        """
        fragment = copy.deepcopy(self.content)
        for resource in fragment["Resources"].values():
            properties = resource.get("Properties", {})
            for name in _LOCAL_FILES:
                if isinstance(properties.get(name), str):
                    properties[name] = f"s3://artifacts/{properties[name].strip('/')}"
        parameters = {
            name: parameter["Default"]
            for name, parameter in fragment.get("Parameters", {}).items()
            if "Default" in parameter
        }
        rendered = json.dumps(transform(fragment, parameters, _NoManagedPolicies()))
        for logical_id in json.loads(rendered)["Resources"].keys() - self.resources.keys():
            if _HASHED_ID.search(logical_id):
                rendered = rendered.replace(logical_id, f"{_HASHED_ID.sub('', logical_id)}Hash")
        template: Template = json.loads(rendered)
        return template


_NOTHING = {"Ref": "AWS::NoValue"}


@dataclass(frozen=True)
class _Resolver:
    parameters: dict[str, str]
    conditions: dict[str, Any]
    mappings: dict[str, Any]

    def holds(self, condition: str) -> bool:
        return self._test(self.conditions[condition])

    def _test(self, test: dict[str, Any]) -> bool:
        match test:
            case {"Fn::Equals": [one, other]}:
                return bool(self.resolved(one, parameters=True) == self.resolved(other, parameters=True))
            case {"Fn::Not": [inner]}:
                return not self._test(inner)
            case {"Fn::And": list(parts)}:
                return all(self._test(part) for part in parts)
            case {"Fn::Or": list(parts)}:
                return any(self._test(part) for part in parts)
            case {"Condition": str(name)}:
                return self.holds(name)
            case _:
                message = f"{test} is no test that this resolver knows"
                raise ValueError(message)

    def resolved(self, value: Any, *, parameters: bool = False) -> Any:
        """The value without Fn::If, and with its parameters filled in if they are wanted."""
        match value:
            case {"Fn::If": [str(condition), yes, no]}:
                return self.resolved(yes if self.holds(condition) else no, parameters=parameters)
            case {"Fn::FindInMap": [name, {"Ref": str(parameter)}, column]}:
                return self.mappings[name][self.parameters[parameter]][column]
            case {"Ref": str(name)} if parameters and name in self.parameters:
                return self.parameters[name]
            case {"Fn::Select": [place, {"Ref": str(name)}]} if parameters and name in self.parameters:
                return self.parameters[name].split(",")[int(place)]  # a list is one text here
            case dict():
                items = {name: self.resolved(item, parameters=parameters) for name, item in value.items()}
                return {name: item for name, item in items.items() if item != _NOTHING}
            case list():
                parts = [self.resolved(item, parameters=parameters) for item in value]
                return [part for part in parts if part != _NOTHING]
            case _:
                return value


class _NoManagedPolicies:
    """Stands for the list of AWS's managed policies, which the translator would ask IAM for.

    The roles of this project name their permissions one by one.
    """

    def load(self) -> dict[str, str]:
        return {}
