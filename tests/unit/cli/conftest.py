"""The command line, run in this process against the real API in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from keyvigil_cli.main import app
from tests.printed import Printed
from tests.unit.cli.registry_server import RegistryServer, serving
from tests.unit.test_api import Api


@dataclass(frozen=True)
class Keyvigil:
    """`keyvigil("key list")` runs a command as somebody who has credentials and knows the API's address."""

    server: RegistryServer

    def __call__(self, words: str, *more: str, typed: str | None = None) -> Printed:
        result = CliRunner().invoke(app, [*words.split(), *more], input=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Printed(result.exit_code, result.stdout, result.stderr)

    @property
    def api(self) -> Api:
        return self.server.api


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    api = Api(monkeypatch)
    api.fill()
    with serving(api) as server:
        yield server


@pytest.fixture
def keyvigil(registry: RegistryServer, monkeypatch: pytest.MonkeyPatch, no_aws_settings: None) -> Keyvigil:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-west-2",
        "KEYVIGIL_API_URL": registry.url,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    return Keyvigil(registry)


@pytest.fixture
def no_aws_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of this machine's: neither settings nor an endless width."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL",
                 "KEYVIGIL_STACK", "KEYVIGIL_API_URL", "FORCE_COLOR"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    nowhere = tmp_path_factory.mktemp("aws")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
