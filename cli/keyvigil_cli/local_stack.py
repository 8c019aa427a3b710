"""A local cloud with the deployed stack that stays: started, found again, and ended, also after a crash.

The folder of such a cloud is marked before anything runs in it, and everything that runs for it has the folder's name
in its environment. So it is found and ended whoever started it, and whatever became of that.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from keyvigil_cli.api_client import ApiProblemError, ApiUnreachableError, JsonObject
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.cloud_processes import end_processes, is_running, pid_in
from keyvigil_cli.local_cloud import (
    CUSTOMER_ACCOUNT,
    DEFAULT_NAME,
    OPERATOR_ACCOUNT,
    REGION,
    STAYS,
    LocalCloud,
    StackOutputs,
    environment_file,
)
from keyvigil_cli.owned_process import not_interrupted
from keyvigil_cli.teller import Teller


@dataclass(frozen=True)
class Standing:
    """How a local cloud stands. Without a cloud all is None."""

    directory: Path | None = None
    pid: int | None = None
    endpoint_url: str | None = None
    api_url: str | None = None
    cloud_answers: bool = False
    api_answers: bool = False
    trouble: str | None = None
    fleet: JsonObject | None = None
    environment_file: Path | None = None

    @property
    def is_up(self) -> bool:
        """Whether it can be played with."""
        return self.cloud_answers and self.api_answers

    def as_plain(self) -> JsonObject:
        """Return it for programs."""
        return {
            "up": self.is_up,
            "endpoint_url": self.endpoint_url,
            "api_url": self.api_url,
            "cloud_answers": self.cloud_answers,
            "api_answers": self.api_answers,
            "trouble": self.trouble,
            "region": REGION if self.directory else None,
            "accounts": {"operator": OPERATOR_ACCOUNT, "customer": CUSTOMER_ACCOUNT} if self.directory else None,
            "pid": self.pid,
            "directory": str(self.directory) if self.directory else None,
            "environment_file": str(self.environment_file) if self.environment_file else None,
            "last_sweep": (self.fleet or {}).get("last_sweep"),
        }


def home_of(checkout: Checkout) -> Path:
    """Return where a checkout's local clouds have their folders."""
    return checkout.root / ".local-cloud"


def kept_folders(checkout: Checkout, name: str = DEFAULT_NAME) -> list[Path]:
    """Return the folders of the clouds that stay by this name, newest first, whether they still run or not."""
    marks = [mark for mark in home_of(checkout).glob(f"*/{STAYS}") if mark.read_text(encoding="utf-8") == name]
    return [mark.parent for mark in sorted(marks, key=lambda mark: mark.stat().st_mtime, reverse=True)]


def start_cloud(
    checkout: Checkout, teller: Teller, running: contextlib.ExitStack, *, stays: str | None = None
) -> LocalCloud:
    """Start a local cloud that ``running`` ends, unless it is kept."""
    with teller.step("a local cloud starts on this machine") as step:
        cloud = running.enter_context(LocalCloud(checkout, on_progress=teller.news, stays=stays))
        step.outcome = f"{cloud.endpoint_url}, with nothing in it"
    return cloud


def deploy(cloud: LocalCloud, teller: Teller) -> StackOutputs:
    """Build and deploy the stack."""
    with teller.step("sam build, then sam deploy of the real template") as step:
        outputs = cloud.deploy()
        step.outcome = outputs.api_url
    return outputs


def up(checkout: Checkout, teller: Teller, *, name: str = DEFAULT_NAME, redeploy: bool = False) -> Standing:
    """Have one local cloud with the deployed stack: start it, or find that it is there. Say how it stands.

    Raises:
        CliError: it could not be started or deployed; then what was started has ended.
    """
    with _alone(checkout, teller):
        found = _running_cloud(checkout, name, teller)
        if found is not None and standing_of(found).is_up:
            if redeploy:
                deploy(found, teller)
            return _with_environment(checkout, name, standing_of(found))
        for folder in kept_folders(checkout, name):
            _end(checkout, folder, teller)
        with contextlib.ExitStack() as running:
            cloud = start_cloud(checkout, teller, running, stays=name)
            deploy(cloud, teller)
            cloud.keep(name)
        return _with_environment(checkout, name, standing_of(cloud))


def down(checkout: Checkout, teller: Teller, *, name: str = DEFAULT_NAME) -> int:
    """End every local cloud that stays, and all that it started; return how many there were.

    Raises:
        NotEndedError: something of it could not be ended.
    """
    with _alone(checkout, teller):
        folders = kept_folders(checkout, name)
        for folder in folders:
            _end(checkout, folder, teller)
        return len(folders)


def standing(checkout: Checkout, *, name: str = DEFAULT_NAME) -> Standing:
    """Say how the local cloud of this name stands."""
    cloud = _running_cloud(checkout, name, None)
    if cloud is not None:
        return _with_environment(checkout, name, standing_of(cloud))
    crashed = kept_folders(checkout, name)
    if crashed:
        return Standing(directory=crashed[0], trouble="it crashed; `keyvigil local up` starts it afresh")
    return Standing()


def _with_environment(checkout: Checkout, name: str, known: Standing) -> Standing:
    return replace(known, environment_file=environment_file(checkout, name))


def standing_of(cloud: LocalCloud) -> Standing:
    """Say how a cloud stands that runs, or should."""
    folder = cloud.directory
    known = Standing(directory=folder, pid=pid_in(folder), endpoint_url=cloud.endpoint_url)
    trouble = _trouble_of(cloud.endpoint_url)
    if trouble is not None:
        return replace(known, trouble=trouble)
    try:
        outputs = cloud.outputs()
    except (BotoCoreError, ClientError) as error:
        return replace(known, cloud_answers=True, trouble=f"the stack is not deployed: {error}")
    if "ApiId" not in outputs.values:
        return replace(known, cloud_answers=True, trouble="the stack's deployment has not ended well")
    try:
        fleet = cloud.api(outputs).get("fleet")
    except (ApiProblemError, ApiUnreachableError) as error:
        return replace(known, api_url=outputs.api_url, cloud_answers=True, trouble=f"the API does not answer: {error}")
    return replace(known, api_url=outputs.api_url, cloud_answers=True, api_answers=True, fleet=fleet)


def _trouble_of(endpoint_url: str) -> str | None:
    with urllib3.PoolManager(timeout=urllib3.Timeout(5.0)) as http:
        try:
            answer = http.request("GET", f"{endpoint_url}/_ministack/health", retries=False)
            json.loads(answer.data)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            return f"the cloud does not answer: {error}"
    return None


def _running_cloud(checkout: Checkout, name: str, teller: Teller | None) -> LocalCloud | None:
    for folder in kept_folders(checkout, name):
        if is_running(folder):
            return LocalCloud.attached(checkout, int(folder.name), on_progress=teller.news if teller else None)
    return None


@contextlib.contextmanager
def _alone(checkout: Checkout, teller: Teller) -> Iterator[None]:
    """One `up` or `down` at a time in a checkout: the second waits, and then finds what the first has done."""
    home = home_of(checkout)
    home.mkdir(exist_ok=True)
    with (home / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            teller.say("Another `keyvigil local` is at work in this checkout; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end(checkout: Checkout, folder: Path, teller: Teller) -> None:
    with teller.step(f"the local cloud on port {folder.name} ends") as step, not_interrupted():
        was_running = is_running(folder)
        ended = end_processes(folder)
        LocalCloud.attached(checkout, int(folder.name)).tidy_up()
        step.outcome = f"{ended} processes ended" if was_running or ended else "it had crashed; nothing of it runs"
