"""What CloudFormation and Terraform make of the onboarding folder, given some parameters."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from samtranslator.yaml_helper import yaml_parse

from tests.infra.source_template import ROOT

ONBOARDING = ROOT / "onboarding"
MODULES = ONBOARDING / "terraform"
TERRAFORM = shutil.which("terraform")
"""Terraform's program, if this machine has one. Its AWS provider is never asked for: policies need none."""

_NOTHING = object()
_TERRAFORM_SECONDS = 60


@dataclass(frozen=True)
class Onboarding:
    """A template of onboarding/, rendered as CloudFormation would for one stack."""

    content: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> Self:
        return cls(yaml_parse((ONBOARDING / name).read_text(encoding="utf-8")))

    def given(self, region: str = "us-west-2", **parameters: str) -> "Onboarding":
        """The template with these parameters, and the defaults of the others."""
        values: dict[str, Any] = {
            "AWS::Region": region,
            "AWS::AccountId": "222222222222",
            "AWS::StackName": "keyvigil-events",
            "AWS::NoValue": _NOTHING,
        }
        for name, declared in self.content["Parameters"].items():
            value = parameters.pop(name, declared.get("Default", _NOTHING))
            assert value is not _NOTHING, f"{name} has no default"
            values[name] = value.split(",") if declared["Type"] == "CommaDelimitedList" else value
        assert not parameters, f"unknown parameters: {parameters}"
        return Onboarding(self.content, values)

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """What is made: resources whose condition holds, all functions but attributes of resources carried out."""
        return {
            name: self._value(resource["Properties"])
            for name, resource in self.content["Resources"].items()
            if "Condition" not in resource or self._holds(resource["Condition"])
        }

    def refuses(self, parameter: str, value: str) -> bool:
        """Whether CloudFormation would not take a value; of a list each member is compared."""
        declared = self.content["Parameters"][parameter]
        members = value.split(",") if declared["Type"] == "CommaDelimitedList" else [value]
        if "AllowedValues" in declared:
            return value not in declared["AllowedValues"]
        return not all(re.fullmatch(declared["AllowedPattern"], member, re.ASCII) for member in members)

    def _holds(self, condition: str) -> bool:
        return bool(self._value(self.content["Conditions"][condition]))

    def _value(self, value: Any) -> Any:  # noqa: C901  one function of CloudFormation's a case
        match value:
            case {"Ref": str(name)}:
                return self.parameters.get(name, f"<{name}>")
            case {"Fn::GetAtt": [*path]}:
                return f"<{'.'.join(path)}>"
            case {"Fn::GetAtt": str(path)}:
                return f"<{path}>"
            case {"Fn::If": [str(condition), yes, no]}:
                return self._value(yes if self._holds(condition) else no)
            case {"Fn::Equals": [one, other]}:
                return self._value(one) == self._value(other)
            case {"Fn::Select": [index, items]}:
                return self._value(items)[int(index)]
            case {"Fn::Split": [separator, text]}:
                return self._value(text).split(separator)
            case {"Fn::Sub": str(text)}:
                return self._substituted(text, {})
            case {"Fn::Sub": [str(text), dict(names)]}:
                return self._substituted(text, {name: self._value(each) for name, each in names.items()})
            case dict():
                items = {name: self._value(each) for name, each in value.items()}
                return {name: each for name, each in items.items() if each is not _NOTHING}
            case list():
                return [each for each in map(self._value, value) if each is not _NOTHING]
            case _:
                return value

    def _substituted(self, text: str, names: Mapping[str, Any]) -> str:
        known = {**self.parameters, **names}
        return re.sub(r"\$\{([^}]+)\}", lambda found: str(known.get(found[1], f"<{found[1]}>")), text)


class TerraformModule:
    """The expressions of a module, evaluated by Terraform itself, in a copy without what needs the AWS provider."""

    def __init__(self, name: str, home: Path) -> None:
        self._home = home
        for file in (MODULES / name).glob("*.tf"):
            if file.name not in {"main.tf", "outputs.tf", "versions.tf"}:
                shutil.copy(file, home)
        shown = sorted(set(re.findall(r"^  (\w+_json) +=", self._text(), re.MULTILINE)))
        (home / "shown.tf").write_text("".join(f'output "{each}" {{\n  value = local.{each}\n}}\n' for each in shown))
        self._run("init", "-no-color", "-input=false").check_returncode()

    def _text(self) -> str:
        return "\n".join(file.read_text(encoding="utf-8") for file in self._home.glob("*.tf"))

    def documents(self, **variables: Any) -> dict[str, Any]:
        """The documents that the module gives to AWS, as data."""
        applied = self._apply(variables)
        assert applied.returncode == 0, applied.stdout
        shown = json.loads(self._run("output", "-json").stdout)
        values = {name: each["value"] for name, each in shown.items()}
        return {name: _parsed(value) for name, value in values.items()}

    def refuses(self, **variables: Any) -> bool:
        """Whether a variable's own validation refuses it."""
        applied = self._apply(variables)
        assert (applied.returncode == 0) or "Invalid value for variable" in applied.stdout, applied.stdout
        return applied.returncode != 0

    def _apply(self, variables: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        (self._home / "given.tfvars.json").write_text(json.dumps(variables))
        return self._run("apply", "-no-color", "-input=false", "-auto-approve", "-var-file=given.tfvars.json")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert TERRAFORM is not None
        return subprocess.run(
            [TERRAFORM, *arguments],
            cwd=self._home,
            # Nobody is asked for a newer version, and no settings of the caller's are used.
            env={"PATH": "/usr/bin:/bin", "CHECKPOINT_DISABLE": "1", "HOME": str(self._home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_TERRAFORM_SECONDS,
        )


def _parsed(value: Any) -> Any:
    return {name: _parsed(each) for name, each in value.items()} if isinstance(value, dict) else json.loads(value)


def declared_in(module: str) -> dict[str, dict[str, str]]:
    """A module's variables, with the words of their settings."""
    text = (MODULES / module / "variables.tf").read_text(encoding="utf-8")
    found = {}
    for name, body in re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL):
        found[name] = dict(re.findall(r"^ +(\w+) += (.*)$", body, re.MULTILINE))
    return found
