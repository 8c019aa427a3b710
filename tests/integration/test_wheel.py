"""`pip install .` gives the command: the wheel with what it declares, in an interpreter of its own."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.infra.source_template import ROOT
from tests.unit.cli.registry_server import RegistryServer, serving
from tests.unit.test_api import Api

OF_THE_FUNCTIONS = ("aws_lambda_powertools", "pynamodb", "cattrs", "ulid", "standardwebhooks")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages: the wheel's own, and links to those that it declares and those that these declare."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    [wheel] = place.glob("keyvigil-*.whl")
    site = place / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in closure(declared_by(next(site.glob("keyvigil-*.dist-info")) / "METADATA")):
        for file in metadata.distribution(name).files or ():
            source, link = Path(str(file.locate())), site / file.parts[0]
            if ".." not in file.parts and not link.exists():
                top = source
                for _ in file.parts[1:]:
                    top = top.parent
                link.symlink_to(top)
    return site


def declared_by(file: Path) -> list[str]:
    declared = metadata.PathDistribution(file.parent).requires or []
    return [named(each) for each in declared if "extra ==" not in each]


def named(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0]


def closure(names: list[str]) -> set[str]:
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system, such as colorama
        found.add(name)
        names += [named(each) for each in requires if "extra ==" not in each]
    return found


def keyvigil(site: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the wheel's entry point, isolated from this environment."""
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv = ['keyvigil', *sys.argv[1:]]; "
        "from importlib.metadata import entry_points; "
        "[command] = entry_points(group='console_scripts', name='keyvigil'); command.load()()"
    )
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *words],
        env={"PATH": os.environ["PATH"], "COLUMNS": "100", "NO_PROXY": "127.0.0.1", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_wheel_alone_has_the_command_with_all_its_groups(site: Path) -> None:
    helped = keyvigil(site, "--help")
    assert helped.returncode == 0, helped.stderr
    for group in ("project", "key", "cluster", "backup", "incident", "alert", "silence", "fleet", "local", "demo"):
        assert re.search(rf"^│ {group} ", helped.stdout, re.MULTILINE), group


def test_what_it_declares_is_enough_to_call_the_api(site: Path, registry: RegistryServer) -> None:
    listed = keyvigil(
        site,
        "key", "list", "--api-url", registry.url, "--region", "us-west-2", "--output", "json",
        AWS_ACCESS_KEY_ID="AKIDEXAMPLE",
        AWS_SECRET_ACCESS_KEY="secret",
    )  # fmt: skip
    assert listed.returncode in {0, 3, 4}, listed.stderr
    assert '"key_id"' in listed.stdout
    refused = keyvigil(site, "key", "list", "--api-url", registry.url, "--region", "us-west-2")
    assert (refused.returncode, "name no credentials" in refused.stderr) == (1, True)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    api = Api(monkeypatch)
    api.fill()
    with serving(api) as server:
        yield server


def test_nothing_of_the_functions_is_needed(site: Path) -> None:
    assert [name for name in OF_THE_FUNCTIONS if (site / name).exists()] == []


def test_help_loads_no_aws_sdk(site: Path) -> None:
    """It is what a shell asks for at each completion, too."""
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import keyvigil_cli.main; "
        "print(sorted(name for name in sys.modules if name in {'boto3', 'botocore', 'urllib3', 'pynamodb'}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout == "[]\n"


def test_the_shell_completes_groups_verbs_and_choices(site: Path) -> None:
    def completed(*words: str) -> set[str]:
        asked = keyvigil(
            site, _KEYVIGIL_COMPLETE="complete_bash", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1)
        )
        return set(asked.stdout.split())

    assert completed("keyvigil", "in") >= {"incident"}
    assert completed("keyvigil", "incident", "a") == {"approve"}
    assert completed("keyvigil", "key", "list", "--status", "UN") == {"UNHEALTHY"}
