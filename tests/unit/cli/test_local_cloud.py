import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.credentials import Credentials

from keyvigil_cli.checkout import Checkout, ToolMissingError
from keyvigil_cli.local_cloud import LocalCloud, LocalCloudError, StackOutputs

HEALTHY = '{"auth": "enabled"}'
UNGUARDED = '{"auth": "disabled"}'
# Answers every request on GATEWAY_PORT with the same text; a stand-in for the emulator.
STAND_IN = """\
#!{python}
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write({answer!r}.encode())
http.server.HTTPServer((os.environ["BIND_HOST"], int(os.environ["GATEWAY_PORT"])), Handler).serve_forever()
"""

type MakeProgram = Callable[[str], Checkout]


@pytest.fixture
def checkout_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeProgram:
    """``checkout_with(program)`` is a checkout whose emulator is this program."""

    def make(program: str) -> Checkout:
        path = tmp_path / "ministack"
        path.write_text(program)
        path.chmod(0o755)
        monkeypatch.setenv("KEYVIGIL_MINISTACK", str(path))
        return Checkout(tmp_path)

    return make


def stand_in(answer: str) -> str:
    return STAND_IN.format(python=sys.executable, answer=answer)


def alive(cloud: LocalCloud) -> bool:
    assert cloud._process is not None
    return cloud._process.exit_status is None


def test_outputs_say_which_one_is_missing() -> None:
    with pytest.raises(LocalCloudError, match="no output TableName; it has ApiId"):
        StackOutputs({"ApiId": "1"}, "http://127.0.0.1/")["TableName"]


def test_sessions_take_nothing_from_the_caller_s_aws_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://production.example")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    cloud = LocalCloud(Checkout(tmp_path))
    session = cloud.session("222222222222", credentials=Credentials("AKIDEXAMPLE", "secret"))
    client = session.client("sts")
    assert client.meta.endpoint_url == cloud.endpoint_url
    assert client.meta.region_name == "us-west-2"


def test_the_emulator_and_its_functions_get_nothing_of_the_caller_s_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTPS_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "the caller's")
    environ = LocalCloud(Checkout(tmp_path), extra_environ={"HTTP_PROXY": "http://127.0.0.1:1"})._emulator_environ()
    assert "the caller's" not in environ.values()
    assert environ["BIND_HOST"] == "127.0.0.1"
    assert environ["HTTP_PROXY"] == "http://127.0.0.1:1"


def test_a_missing_emulator_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError, match="make install"), LocalCloud(Checkout(tmp_path)):
        pass


def test_an_emulator_that_ends_at_once_is_an_error_with_its_log(checkout_with: MakeProgram) -> None:
    checkout = checkout_with("#!/bin/sh\necho no room; exit 1\n")
    with pytest.raises(LocalCloudError, match=r"ended at once(.|\n)*no room"), LocalCloud(checkout):
        pass


def test_an_emulator_that_checks_no_permissions_is_ended(checkout_with: MakeProgram) -> None:
    cloud = LocalCloud(checkout_with(stand_in(UNGUARDED)))
    with pytest.raises(LocalCloudError, match="does not check permissions"), cloud:
        pass
    assert not alive(cloud)


def test_an_emulator_that_others_could_reach_is_ended(
    checkout_with: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyvigil_cli.local_cloud.outside_addresses", lambda _pid, _port: {"192.0.2.7"})
    cloud = LocalCloud(checkout_with(stand_in(HEALTHY)))
    with pytest.raises(LocalCloudError, match=r"can be reached at 192\.0\.2\.7"), cloud:
        pass
    assert not alive(cloud)


def test_the_emulator_ends_with_the_context_and_leaves_only_logs(checkout_with: MakeProgram) -> None:
    with LocalCloud(checkout_with(stand_in(HEALTHY))) as cloud:
        assert alive(cloud)
        assert (cloud.directory / "state").is_dir()
    assert not alive(cloud)
    assert cloud.log.exists()
    assert not (cloud.directory / "state").exists()


def test_a_kept_emulator_runs_on_and_says_how_to_stop_it(checkout_with: MakeProgram) -> None:
    with LocalCloud(checkout_with(stand_in(HEALTHY))) as cloud:
        words = cloud.keep().read_text()
    try:
        assert alive(cloud)
        assert f"AWS_ENDPOINT_URL={cloud.endpoint_url}" in words
    finally:
        assert cloud._process is not None
        cloud._process.stop()


def test_old_runs_are_forgotten_but_not_those_that_still_run(checkout_with: MakeProgram) -> None:
    checkout = checkout_with(stand_in(HEALTHY))
    runs = [checkout.root / ".local-cloud" / str(40000 + number) for number in range(8)]
    for age, run in enumerate(runs):
        run.mkdir(parents=True)
        (run / "lock").touch()
        os.utime(run, (1_000_000 - age, 1_000_000 - age))
    with (runs[-1] / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with LocalCloud(checkout):
            assert [run.exists() for run in runs] == [True] * 5 + [False, False, True]
