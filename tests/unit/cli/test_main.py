from pathlib import Path

import pytest
from typer.testing import CliRunner

from keyvigil_cli.main import app


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("template.yaml", "samconfig.toml"):
        (tmp_path / name).touch()
    return tmp_path


def test_the_demo_outside_of_a_checkout_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--checkout", str(tmp_path)])
    assert result.exit_code == 1
    assert "no KeyVigil checkout" in result.stderr


def test_the_demo_without_its_tools_says_what_to_install(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYVIGIL_MINISTACK", raising=False)
    result = CliRunner().invoke(app, ["demo", "--checkout", str(checkout)])
    assert result.exit_code == 1
    assert "DID NOT HAPPEN" in result.stdout
    assert "make install" in result.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["demolish"]).exit_code == 2
