"""The methods of dataclasses, compiled when the layer is built instead of at every cold start.

`dataclasses` writes the text of a class's methods and compiles it whenever the class is made: 100 classes are 60 ms of
CPU, and byte code of their modules does not help, for it holds the call and not what the call makes. What that text
becomes depends on nothing but the text. So the build keeps every text together with its code, and a text that is found
is not compiled again. One that is not found, with another Python or without the file, is compiled as ever.

`dataclasses` offers no place to put this: the name `exec`, which it looks up in its own module before the builtins, is
given to it there. docs/decisions/0034-start-up.md has the figures.
"""

import dataclasses
import importlib
import marshal
import pkgutil
import sys
from pathlib import Path
from types import CodeType
from typing import Any

KEPT = Path(__file__).with_name(f"dataclass_methods.{sys.implementation.cache_tag}.bin")
"""A marshalled dict of texts and of their marshalled code. Only the build writes it."""

OF_THE_API = ("keyvigil.api", "keyvigil.adapters.idempotency")
"""What needs the API's layer. It has no dataclasses."""


def use(file: Path = KEPT) -> None:
    """Have the methods of every dataclass that is made from now on taken from a file, if it is there."""
    try:
        kept: dict[str, bytes] = marshal.loads(file.read_bytes())  # noqa: S302  the layer's own file, beside this one
    except FileNotFoundError:
        return

    def run(text: str, names: dict[str, Any], local_names: dict[str, Any]) -> None:
        code = kept.get(text)
        exec(text if code is None else marshal.loads(code), names, local_names)  # noqa: S102, S302  as dataclasses does

    vars(dataclasses)["exec"] = run


def keep(file: Path = KEPT) -> None:
    """Import every module of the package that a function may import, and write the file for `use`."""
    texts: dict[str, None] = {}

    def run(text: str, names: dict[str, Any], local_names: dict[str, Any]) -> None:
        texts[text] = None
        exec(text, names, local_names)  # noqa: S102  as dataclasses does

    vars(dataclasses)["exec"] = run
    package = importlib.import_module("keyvigil")
    for module in pkgutil.walk_packages(package.__path__, "keyvigil."):
        if not module.name.startswith(OF_THE_API):
            importlib.import_module(module.name)
    file.write_bytes(marshal.dumps({text: marshal.dumps(_compiled(text)) for text in sorted(texts)}))


def _compiled(text: str) -> CodeType:
    return compile(text, "<string>", "exec", dont_inherit=True)
