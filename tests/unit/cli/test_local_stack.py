"""`keyvigil local`: up once, found again, down with everything, also after a crash. The emulator is a stand-in."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from keyvigil_cli import cloud_processes, local_stack, owned_process
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.cloud_processes import processes_of
from keyvigil_cli.local_cloud import LocalCloud, StackOutputs
from keyvigil_cli.main import app
from keyvigil_cli.sam_deployment import DeploymentFailedError
from keyvigil_cli.teller import Teller
from keyvigil_cli.waiting import wait_until
from tests.printed import Printed

# Answers on its port like the emulator, and has started a program that left its process group.
STAND_IN = f"""\
#!{sys.executable}
import http.server, os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"auth": "enabled"}}')
    def log_message(self, *_):
        pass
http.server.HTTPServer((os.environ["BIND_HOST"], int(os.environ["GATEWAY_PORT"])), Handler).serve_forever()
"""


class FakeApi:
    """The deployed API, as far as `local` looks at it."""

    def get(self, *_segments: str) -> dict[str, Any]:
        return {"last_sweep": None}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    program = tmp_path / "ministack"
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    for name in ("template.yaml", "samconfig.toml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("KEYVIGIL_MINISTACK", str(program))
    monkeypatch.chdir(tmp_path)
    deployed: list[int] = []

    def deploy(cloud: LocalCloud, parameters: Mapping[str, str] | None = None) -> StackOutputs:
        deployed.append(1)
        return outputs(cloud)

    def outputs(cloud: LocalCloud) -> StackOutputs:
        return StackOutputs({"ApiId": "1"} if deployed else {}, f"{cloud.endpoint_url}/api")

    monkeypatch.setattr(LocalCloud, "deploy", deploy)
    monkeypatch.setattr(LocalCloud, "outputs", outputs)
    monkeypatch.setattr(LocalCloud, "api", lambda _cloud, _outputs: FakeApi())
    found = Checkout(tmp_path)
    yield found
    for folder in local_stack.kept_folders(found):
        for pid in processes_of(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    while owned_process._LEFT:
        owned_process._LEFT.pop().wait(10)


def local(verb: str, *more: str) -> Printed:
    result = CliRunner().invoke(app, ["local", verb, *more, "--output", "json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Printed(result.exit_code, result.stdout, result.stderr)


def processes(printed: Printed) -> set[int]:
    return processes_of(Path(printed.json["directory"]))


def test_up_leaves_a_cloud_running_and_says_how_to_reach_it(checkout: Checkout) -> None:
    started = local("up")
    assert (started.status, started.json["up"]) == (0, True)
    assert len(processes(started)) == 2
    said = Path(started.json["environment_file"]).read_text(encoding="utf-8")
    assert f"AWS_ENDPOINT_URL={started.json['endpoint_url']}" in said
    assert f". {started.json['environment_file']}" in started.messages
    assert "[profile customer]" in (Path(started.json["directory"]) / "config").read_text(encoding="utf-8")


def test_up_again_finds_what_is_up(checkout: Checkout) -> None:
    first, second = local("up"), local("up")
    assert second.json == first.json
    assert "a local cloud starts" not in second.messages
    assert "sam deploy" not in second.messages
    assert "sam deploy" in local("up", "--redeploy").messages


def test_status_says_how_it_is(checkout: Checkout) -> None:
    assert local("status").status == 3
    started = local("up")
    assert (local("status").status, local("status").json) == (0, started.json)


def test_a_cloud_whose_stack_is_gone_is_broken(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    local("up")
    monkeypatch.setattr(LocalCloud, "outputs", lambda _cloud: StackOutputs({}, ""))
    broken = local("status")
    assert (broken.status, broken.json["up"], broken.json["cloud_answers"]) == (3, False, True)
    assert "has not ended well" in broken.json["trouble"]


def test_down_ends_everything_and_leaves_only_logs(checkout: Checkout) -> None:
    started = local("up")
    folder = Path(started.json["directory"])
    ended = local("down")
    assert (ended.status, ended.output) == (0, "")
    assert processes_of(folder) == set()
    assert {entry.name for entry in folder.iterdir()} == {"lock", "ministack.log"}
    assert local("status").status == 3
    again = local("down")
    assert (again.status, "No local cloud is up." in again.messages) == (0, True)


def test_down_ends_what_a_crashed_cloud_left_behind(checkout: Checkout) -> None:
    started = local("up")
    os.kill(started.json["pid"], signal.SIGKILL)
    wait_until("the emulator to be gone", lambda: len(processes(started)), lambda left: left == 1, within=10)
    assert local("status").status == 3
    assert local("down").status == 0
    assert processes(started) == set()


def test_a_crashed_cloud_is_called_so(checkout: Checkout) -> None:
    os.kill(local("up").json["pid"], signal.SIGKILL)
    wait_until("the lock to be free", lambda: local("status").json, lambda seen: not seen["cloud_answers"], within=10)
    crashed = local("status")
    assert (crashed.status, crashed.json["pid"]) == (3, None)
    assert "it crashed" in crashed.json["trouble"]


def test_clouds_of_other_names_are_other_clouds(checkout: Checkout) -> None:
    first, second = local("up"), local("up", "--name", "other")
    assert first.json["pid"] != second.json["pid"]
    assert first.json["environment_file"] != second.json["environment_file"]
    local("down", "--name", "other")
    assert local("status", "--name", "other").status == 3
    assert local("status").json == first.json
    assert Path(first.json["environment_file"]).exists()
    assert not Path(second.json["environment_file"]).exists()


def test_up_after_a_crash_starts_afresh(checkout: Checkout) -> None:
    crashed = local("up")
    os.kill(crashed.json["pid"], signal.SIGKILL)
    wait_until("the emulator to be gone", lambda: len(processes(crashed)), lambda left: left == 1, within=10)
    started = local("up")
    assert started.json["up"] is True
    assert started.json["directory"] != crashed.json["directory"]
    assert processes(crashed) == set()


def test_what_died_while_it_started_a_cloud_leaves_one_that_down_finds(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a SIGKILL leaves it: nothing was tidied up, and nobody has said where it is."""
    with ExitStack() as running:
        cloud = local_stack.start_cloud(checkout, quiet(), running, stays="default")
        running.pop_all()
    cloud._running().leave()
    assert len(processes_of(cloud.directory)) == 2
    assert local("down").status == 0
    assert processes_of(cloud.directory) == set()


def test_a_deployment_that_fails_leaves_nothing_running(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_cloud: LocalCloud) -> None:
        raise DeploymentFailedError("no template")

    monkeypatch.setattr(LocalCloud, "deploy", fail)
    failed = local("up")
    assert (failed.status, failed.output) == (1, "")
    assert "no template" in failed.messages
    assert local_stack.kept_folders(checkout) == []
    assert [processes_of(folder) for folder in (checkout.root / ".local-cloud").glob("*/")] == [set()]


def test_down_leaves_clouds_alone_that_others_own(checkout: Checkout) -> None:
    with LocalCloud(checkout) as theirs:
        local("up")
        local("down")
        assert len(processes_of(theirs.directory)) == 2
    assert processes_of(theirs.directory) == set()


def test_what_cannot_be_ended_is_an_error(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    local("up")
    monkeypatch.setattr(cloud_processes, "_signal", lambda _pid, _number: None)
    monkeypatch.setattr(cloud_processes, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(cloud_processes, "_END_SECONDS", 0.1)
    stuck = local("down")
    assert (stuck.status, "could not be ended" in stuck.messages) == (1, True)


def test_where_there_is_no_proc_only_the_emulator_is_known_and_only_while_it_runs(
    checkout: Checkout, tmp_path: Path
) -> None:
    started = local("up")
    folder = Path(started.json["directory"])
    assert processes_of(folder, proc=tmp_path) == {started.json["pid"]}
    local("down")
    (folder / "pid").write_text("1\n", encoding="ascii")
    assert processes_of(folder, proc=tmp_path) == set()


def test_outside_of_a_checkout_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("up", "down", "status"):
        assert "no KeyVigil checkout" in local(verb).messages


def quiet() -> Teller:
    return Teller(Console(file=StringIO()))
