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


class _NoManagedPolicies:
    """Stands for the list of AWS's managed policies, which the translator would ask IAM for.

    The roles of this project name their permissions one by one.
    """

    def load(self) -> dict[str, str]:
        return {}
