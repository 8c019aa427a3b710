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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

NAME = f"dataclass_methods.{sys.implementation.cache_tag}.bin"
KEPT = Path(__file__).with_name(NAME)
"""A marshalled dict of texts and of their marshalled code. Only the build writes it."""

KEPT_FOR_API = f"api_{NAME}"
"""The same of the libraries that only the API imports, at the top of its layer."""

OF_THE_API = ("keyvigil.api", "keyvigil.adapters.idempotency")
"""What needs the API's layer. It has no dataclasses of its own."""

_kept: dict[str, bytes] = {}


def use(file: Path = KEPT) -> None:
    """Have the methods of every dataclass that is made from now on taken from a file, if it is there."""
    try:
        _kept.update(marshal.loads(file.read_bytes()))  # noqa: S302  the layer's own file
    except FileNotFoundError:
        return
    vars(dataclasses)["exec"] = _run


def use_for_api() -> None:
    """The same for what the API imports, wherever its layer lies on the path."""
    for place in sys.path:
        use(Path(place) / KEPT_FOR_API)


def _run(text: str, names: dict[str, Any], local_names: dict[str, Any]) -> None:
    code = _kept.get(text)
    exec(text if code is None else marshal.loads(code), names, local_names)  # noqa: S102, S302  as dataclasses does


def keep(file: Path = KEPT) -> None:
    """Import every module of the package that all functions may import, and write the file for `use`."""
    _write(file, _texts_of(_modules))


def keep_for_api(file: Path) -> None:
    """Import the API, and write what that makes besides the package's own classes."""
    own = _texts_of(_modules)
    _write(file, _texts_of(lambda: ["keyvigil.api.app", "keyvigil.api.idempotency"]) - own)


def _modules() -> Iterator[str]:
    package = importlib.import_module("keyvigil")
    for module in pkgutil.walk_packages(package.__path__, "keyvigil."):
        if not module.name.startswith(OF_THE_API):
            yield module.name


def _texts_of(modules: Callable[[], Iterable[str]]) -> set[str]:
    """What `dataclasses` compiles while modules are imported that were not before."""
    texts: set[str] = set()

    def run(text: str, names: dict[str, Any], local_names: dict[str, Any]) -> None:
        texts.add(text)
        exec(text, names, local_names)  # noqa: S102  as dataclasses does

    vars(dataclasses)["exec"] = run
    for name in modules():
        importlib.import_module(name)
    return texts


def _write(file: Path, texts: set[str]) -> None:
    file.write_bytes(marshal.dumps({text: marshal.dumps(_compiled(text)) for text in sorted(texts)}))


def _compiled(text: str) -> CodeType:
    return compile(text, "<string>", "exec", dont_inherit=True)
