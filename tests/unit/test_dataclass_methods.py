"""Classes whose methods were compiled when the layer was built are the classes that they would be without that."""

import dataclasses
import marshal
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvigil import dataclass_methods
from tests.infra.source_template import ROOT

PACKAGE = ROOT / "layers" / "keyvigil"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the build makes, made by an interpreter of its own."""
    file = tmp_path_factory.mktemp("layer") / "methods.bin"
    make = f"from pathlib import Path; from keyvigil import dataclass_methods as d; d.keep(Path({str(file)!r}))"
    subprocess.run([sys.executable, "-c", make], check=True, timeout=60)  # noqa: S603  this interpreter
    return file


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that `dataclasses` has compiled."""
    found: list[str] = []

    def note(source: Any, *names: Any) -> None:
        if isinstance(source, str):
            found.append(source)
        exec(source, *names)  # noqa: S102  as dataclasses does

    monkeypatch.setitem(vars(dataclass_methods), "exec", note)
    monkeypatch.setitem(vars(dataclasses), "exec", note)
    return found


def make_class() -> Any:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
    class Made:
        """What the tests make."""

        name: str
        number: int = dataclasses.field(default=1, repr=False)
        many: list[str] = dataclasses.field(default_factory=list, compare=False)

    return Made


def kept_text_of(make: Callable[[], Any], file: Path, compiled: list[str]) -> None:
    make()
    file.write_bytes(
        marshal.dumps({text: marshal.dumps(compile(text, "<string>", "exec")) for text in compiled}),
    )
    compiled.clear()


def test_a_class_whose_text_was_kept_is_not_compiled_and_is_the_same(compiled: list[str], tmp_path: Path) -> None:
    plain = make_class()
    kept_text_of(make_class, tmp_path / "kept", compiled)

    dataclass_methods.use(tmp_path / "kept")
    ready = make_class()

    assert compiled == []
    for made in (plain, ready):
        one = made(name="a", many=["b"])
        assert repr(one) == f"{made.__qualname__}(name='a', many=['b'])"
        assert one == made(name="a") != made(name="a", number=2) > one
        assert hash(one) == hash(made(name="a"))
        assert dataclasses.replace(one, number=3).number == 3
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.name = "c"
        with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'name'"):
            made()
    assert ready(name="a") != plain(name="a")


def test_a_class_that_changed_since_is_compiled(compiled: list[str], tmp_path: Path) -> None:
    kept_text_of(make_class, tmp_path / "kept", compiled)
    dataclass_methods.use(tmp_path / "kept")

    @dataclasses.dataclass(frozen=True, slots=True)
    class Other:
        """It has one field that nothing kept has."""

        unheard_of: int

    assert Other(2).unheard_of == 2
    assert len(compiled) == 1


def test_without_the_file_nothing_is_different(compiled: list[str], tmp_path: Path) -> None:
    before = vars(dataclasses)["exec"]
    dataclass_methods.use(tmp_path / "missing")
    assert vars(dataclasses)["exec"] is before
    assert make_class()(name="a").number == 1
    assert len(compiled) == 1


def test_the_file_has_every_class_that_a_function_may_import(kept: Path) -> None:
    texts = marshal.loads(kept.read_bytes())  # noqa: S302  made above
    count = f"""
import builtins, dataclasses, importlib, pkgutil
from pathlib import Path
from keyvigil import dataclass_methods
compiled = []
vars(dataclass_methods)["exec"] = lambda source, *names: (
    compiled.append(source) if isinstance(source, str) else None, builtins.exec(source, *names))
dataclass_methods.use(Path({str(kept)!r}))
import keyvigil
for module in pkgutil.walk_packages(keyvigil.__path__, "keyvigil."):
    if not module.name.startswith(dataclass_methods.OF_THE_API):
        importlib.import_module(module.name)
print(len(compiled))
"""
    done = subprocess.run([sys.executable, "-c", count], check=True, capture_output=True, text=True, timeout=60)  # noqa: S603  this interpreter
    assert done.stdout.split() == ["0"]
    assert len(texts) > 100


def test_what_is_left_out_has_no_dataclasses() -> None:
    folder = PACKAGE / "keyvigil"
    files = [*(folder / "api").rglob("*.py"), folder / "adapters" / "idempotency.py"]
    assert len(files) > 5
    assert not [file.name for file in files if "@dataclass" in file.read_text(encoding="utf-8")]


def test_the_same_source_gives_the_same_file(kept: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    make = f"from pathlib import Path; from keyvigil import dataclass_methods as d; d.keep(Path({str(again)!r}))"
    subprocess.run([sys.executable, "-c", make], check=True, timeout=60)  # noqa: S603  this interpreter
    assert again.read_bytes() == kept.read_bytes()


def test_what_the_api_imports_is_kept_for_its_layer_without_what_all_functions_have(kept: Path, tmp_path: Path) -> None:
    file = tmp_path / dataclass_methods.KEPT_FOR_API
    make = f"from pathlib import Path; from keyvigil import dataclass_methods as d; d.keep_for_api(Path({str(file)!r}))"
    subprocess.run([sys.executable, "-c", make], check=True, timeout=60)  # noqa: S603  this interpreter
    texts = marshal.loads(file.read_bytes())  # noqa: S302  made above
    assert len(texts) > 40
    assert not texts.keys() & marshal.loads(kept.read_bytes()).keys()  # noqa: S302  made above

    count = """
import builtins, dataclasses
from keyvigil import dataclass_methods
compiled = []
vars(dataclass_methods)["exec"] = lambda source, *names: (
    compiled.append(source) if isinstance(source, str) else None, builtins.exec(source, *names))
import keyvigil.api
import annotated_types, pydantic.fields, pydantic.types
print(len(compiled))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(  # noqa: S603  this interpreter
        [sys.executable, "-c", count], check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout.split() == ["0"], "the layer's file is found wherever it lies on the path"


def test_in_lambda_the_collector_runs_more_seldom_and_still_runs() -> None:
    asked = "import gc; import keyvigil; print(gc.isenabled(), gc.get_threshold()[0])"
    for name, expected in (("AWS_LAMBDA_FUNCTION_NAME", "True 20000"), ("SOMEWHERE_ELSE", "True 2000")):
        environment = {name: "x", "PATH": os.environ["PATH"]}
        done = subprocess.run(  # noqa: S603  this interpreter
            [sys.executable, "-c", asked], check=True, capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.stdout.strip() == expected
