"""YAML read safely, every scalar as the text that stands there: a key's id of digits only is no number."""

from typing import Any

import yaml

from keyvigil_cli.imports.found import NotReadableError

_MERGE = "tag:yaml.org,2002:merge"


class TextLoader(yaml.SafeLoader):
    """Makes texts, lists and mappings, and nothing else; `<<` merges, as everywhere."""


TextLoader.yaml_implicit_resolvers = {
    "<": [(tag, pattern) for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers["<"] if tag == _MERGE]
}


def _anything(loader: TextLoader, node: yaml.Node) -> Any:
    """Read what has a tag that is not known as what it looks like; nothing is ever called by its name."""
    match node:
        case yaml.ScalarNode():
            return loader.construct_scalar(node)
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            return loader.construct_mapping(node, deep=True)
        case _:
            return None


TextLoader.add_constructor(None, _anything)  # None: whatever tag has no constructor


def read_yaml(content: bytes | str, what: str, loader: type[TextLoader] = TextLoader) -> Any:
    """Read one document.

    Raises:
        NotReadableError: it is no YAML. The line is named and not shown: there may be a secret in it.
    """
    try:
        return yaml.load(content, Loader=loader)  # noqa: S506 - TextLoader is a SafeLoader that knows fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise NotReadableError(f"this is no YAML{where}; {what}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError):
        raise NotReadableError(f"this is no YAML; {what}") from None
