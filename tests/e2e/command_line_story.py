"""An operator at three in the morning: an outage from end to end, with nothing but the command line."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keyvigil_cli.checkout import Checkout
from keyvigil_cli.local_cloud import OPERATOR_ACCOUNT, REGION, LocalCloud
from keyvigil_cli.project import Project
from keyvigil_cli.waiting import wait_until
from tests.e2e.stage import Stage
from tests.e2e.story import story
from tests.printed import Printed

KEYVIGIL = Checkout.find(Path(__file__).parent).python().with_name("keyvigil")
_COMMAND_SECONDS = 90


@dataclass(frozen=True)
class CommandLine:
    """`keyvigil` in the shell of somebody who has the operator's credentials, and a Region."""

    cloud: LocalCloud
    more: Mapping[str, str] = field(default_factory=dict)
    """Further variables of that shell."""

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYVIGIL_"))}
        return {
            **kept,
            "AWS_ENDPOINT_URL": self.cloud.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": OPERATOR_ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "local-only",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            **self.more,
        }

    def __call__(self, words: str, *more: str, ends: int = 0) -> Printed:
        done = subprocess.run(
            [KEYVIGIL, *words.split(), *more],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        assert done.returncode == ends, f"keyvigil {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Printed(done.returncode, done.stdout, done.stderr)

    def json(self, words: str, *more: str, ends: int = 0) -> Any:
        return self(words, *more, "--output", "json", ends=ends).json

    @contextlib.contextmanager
    def tailing(self, project_id: str) -> Iterator[Path]:
        """Alerts as they come, one JSON document a line, in a file; ended by SIGTERM."""
        with TemporaryDirectory() as folder:
            output, messages = Path(folder) / "output", Path(folder) / "messages"
            with output.open("w") as out, messages.open("w") as err:
                tail = subprocess.Popen(
                    [KEYVIGIL, "alert", "tail", project_id, "--output", "json"],
                    env={**self.environ, "PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
            try:
                wait_until("the tail to wait", messages.read_text, lambda seen: "Waiting for alerts" in seen, within=60)
                yield output
                tail.terminate()
                assert tail.wait(_COMMAND_SECONDS) == 0, messages.read_text()
            finally:
                tail.kill()
                tail.wait()


def types_in(file: Path) -> list[str]:
    return [str(json.loads(line)["type"]) for line in file.read_text(encoding="utf-8").splitlines()]


def page_of_the_fleet(keyvigil: CommandLine, *, ends: int) -> str:
    """What `keyvigil fleet --html` writes."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "fleet.html"
        keyvigil("fleet --html", str(file), ends=ends)
        return file.read_text(encoding="utf-8")


@story
def an_operator_lives_through_an_outage_on_the_command_line(stage: Stage) -> None:
    keyvigil, name = CommandLine(stage.cloud), stage.name()
    made = keyvigil.json(f"project create {name} --enforcement enforce --check-interval-minutes 1")
    project = Project(stage.api, made)
    key = stage.customer.create_key(stage.role(project))
    named = f"--key-arn {key.key_arn} --role-arn {key.role_arn} --use cmek"
    assert [each["allowed"] for each in keyvigil.json(f"key validate {name} {named}")["operations"]] == [True] * 3
    key_id = keyvigil.json(f"key register {name} {named}")["key_id"]
    cluster = keyvigil.json(f"cluster register {name} vectors --key-id {key_id} --lock-via none")
    assert cluster["status"] == "ACTIVE"
    keyvigil(f"backup register {name} monday --cluster-id vectors --key-id {key_id}")
    assert keyvigil.json(f"backup restore-check {name} monday {REGION}")["restorable"] is True
    assert keyvigil.json(f"incident list {name} --open")["items"] == []

    with keyvigil.tailing(name) as alerts:
        stage.customer.disable_key(key)
        seen = keyvigil(f"key check {name} {key_id}", ends=3)
        assert f"  aws kms enable-key --region {REGION} --key-id {key.key_arn}\n" in seen.output
        project.wait_for_clusters(["vectors"], "LOCKED")
        [incident] = keyvigil.json(f"incident list {name} --open")["items"]
        incident_id = incident["incident_id"]
        # The clusters are locked a moment before the lockout is settled.
        project.wait_for_incident(incident_id, "LOCKED")
        told = keyvigil(f"incident show {name} {incident_id}").output
        assert "locked after " in told
        assert told.index("key.suspect") < told.index("key.unhealthy") < told.index("cluster.locked")
        standing = keyvigil.json(f"alert list {name}")["items"]
        assert {"key.unhealthy", "cluster.locked"} <= {each["type"] for each in standing}, standing
        assert incident_id in keyvigil("fleet", ends=3).output
        page = page_of_the_fleet(keyvigil, ends=3)
        assert "<!doctype html>" in page.lower()
        assert incident_id in page
        assert f"aws kms enable-key --region {REGION} --key-id {key.key_arn}" in page
        watched = keyvigil("fleet watch --looks 2 --interval 1 --output json", ends=3).output
        assert [json.loads(line)["open_incidents"] > 0 for line in watched.splitlines()] == [True, True]
        assert keyvigil(f"backup restore-check {name} monday {REGION}", ends=3).output
        too_late = keyvigil(f"incident hold {name} {incident_id} --reason drill", ends=1)
        assert "409 Too late for this decision" in too_late.messages

        stage.customer.enable_key(key)
        project.wait_for_incident(incident_id, "RESOLVED", within=240)
        keyvigil(f"key check {name} {key_id}")
        wanted = {"key.suspect", "key.unhealthy", "cluster.locked", "key.recovered", "cluster.unlocked"}
        wait_until("the alerts", lambda: set(types_in(alerts)), lambda seen: seen >= wanted, within=90)
    # What endangers a key later may stand; the outage does not.
    left = {each["type"] for each in keyvigil.json(f"alert list {name}")["items"]}
    assert left.isdisjoint({"key.suspect", "key.unhealthy", "cluster.locked"}), left
    assert keyvigil.json(f"alert subscriptions {name}")["items"] == []
    queues: Any = stage.cloud.session().client("sqs").list_queues(QueueNamePrefix="keyvigil-tail-")
    assert queues.get("QueueUrls", []) == []

    brake = keyvigil.json(f"fleet brake engage --project {name} --yes --reason", "we move the network")["brake"]
    assert name in [each["project_id"] for each in brake]
    keyvigil(f"fleet brake release --project {name} --yes --reason done")
