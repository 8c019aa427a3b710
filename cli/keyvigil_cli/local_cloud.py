"""The local cloud: an AWS emulator on this machine's loopback address, and the real stack deployed to it.

Nothing of it leaves the machine or outlives the run, unless :meth:`LocalCloud.keep` is called. Permissions,
trust policies and KMS key states are enforced as on AWS.
"""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import botocore.session
import urllib3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from keyvigil_cli.api_client import ApiClient
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.cloud_processes import OWNER, end_processes
from keyvigil_cli.errors import CliError
from keyvigil_cli.loopback import LOOPBACK, free_port, outside_addresses
from keyvigil_cli.owned_process import (
    OwnedProcess,
    not_interrupted,
    signals_end_the_program,
    tail_of,
)
from keyvigil_cli.sam_deployment import Progress, SamDeployment
from keyvigil_cli.waiting import DeadlineExceededError, wait_until

OPERATOR_ACCOUNT = "111111111111"
CUSTOMER_ACCOUNT = "222222222222"
REGION = "us-west-2"
STACK_NAME = "keyvigil"

STAYS = "stays"
"""The file that marks the folder of a cloud that is to outlive its starter."""

DEFAULT_NAME = "default"
"""The name of the cloud that stays, unless it is given another."""

_OF_A_KEPT_CLOUD = (STAYS, "pid", "credentials", "config")

_START_SECONDS = 60
_START_ATTEMPTS = 3
_KEPT_RUNS = 5
_LOG_LINES = 5000
# What powertools writes when all is well: an INFO line, or a line of metrics.
_ROUTINE = ('"level":"INFO"', '"CloudWatchMetrics"')
_PLATFORM_LINES = ("START RequestId", "END RequestId", "REPORT RequestId")
_ARTIFACT_BUCKET = "keyvigil-local-artifacts"
# The emulator takes an access key id of twelve digits as that account's root user and checks no secret then.
_ROOT_SECRET = "local-only"  # noqa: S105 - nothing outside this machine would take it
_CLIENT_CONFIG = Config(
    connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3}, proxies={}
)


class LocalCloudError(CliError):
    """The local cloud could not be started, or is not as safe as it must be."""


@dataclass(frozen=True)
class StackOutputs:
    """The deployed stack's outputs, and where its API answers on this cloud."""

    values: Mapping[str, str]
    api_url: str

    def __getitem__(self, name: str) -> str:
        """Return one output, or say which one is missing."""
        try:
            return self.values[name]
        except KeyError:
            message = f"the stack has no output {name}; it has {', '.join(sorted(self.values))}"
            raise LocalCloudError(message) from None


class _LocalSession(boto3.Session):
    """A session that talks to the local cloud only, and reads nothing of the caller's AWS settings."""

    def __init__(self, endpoint_url: str, region: str, credentials: Credentials) -> None:
        nothing = (None, None, None, None)
        core = botocore.session.Session(
            session_vars={
                "profile": nothing,
                "config_file": (None, None, os.devnull, None),
                "credentials_file": (None, None, os.devnull, None),
            }
        )
        core.set_default_client_config(_CLIENT_CONFIG)
        super().__init__(
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.token,
            region_name=region,
            botocore_session=core,
        )
        self._endpoint_url = endpoint_url

    def client(self, *args: Any, **kwargs: Any) -> Any:
        return super().client(*args, **{"endpoint_url": self._endpoint_url, **kwargs})


class LocalCloud:
    """One local cloud on a free port: a context manager that ends everything it started.

    Its state and logs lie in ``.local-cloud/<port>/`` of the checkout. The logs of the last few runs stay.
    """

    def __init__(
        self,
        checkout: Checkout,
        *,
        on_progress: Progress | None = None,
        extra_environ: Mapping[str, str] | None = None,
        stays: str | None = None,
    ) -> None:
        """Prepare; nothing starts before the context is entered.

        ``on_progress`` is told in a few words what is happening. ``extra_environ`` is added to the emulator's
        environment, which its functions inherit (``HTTP_PROXY`` for fault injection, say). A cloud that ``stays``
        (by this name) is marked from its first moment, so that it is found whatever became of its starter.
        """
        self._checkout = checkout
        self._report: Progress = on_progress or (lambda _words: None)
        self._extra_environ = dict(extra_environ or {})
        self._home = checkout.root / ".local-cloud"
        self._builds = {checkout: self._home / "build"}
        self._process: OwnedProcess | None = None
        self._port = 0
        self._stays = stays
        self._kept = False
        self._exit = contextlib.ExitStack()

    @classmethod
    def attached(cls, checkout: Checkout, port: int, *, on_progress: Progress | None = None) -> Self:
        """Return a cloud that somebody else started and left running. It is not ended here."""
        cloud = cls(checkout, on_progress=on_progress)
        cloud._port = port
        cloud._kept = True
        return cloud

    def __enter__(self) -> Self:
        """Start the emulator and wait until it answers.

        Raises:
            LocalCloudError: it did not start, or listens where others could reach it.
        """
        ministack = self._checkout.ministack()
        self._home.mkdir(exist_ok=True)
        (self._home / ".gitignore").write_text("*\n", encoding="utf-8")
        self._forget_old_runs()
        with contextlib.ExitStack() as undo:
            undo.enter_context(signals_end_the_program())
            undo.callback(self._end)
            self._start(ministack)
            self._exit = undo.pop_all()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End the process group and remove the state, unless :meth:`keep` was called.

        After an error, the functions' logs are saved first.
        """
        with self._exit:
            if isinstance(error, Exception):
                self.save_function_logs()

    def keep(self, name: str = DEFAULT_NAME) -> Path:
        """Leave the cloud running on exit, by this name; return the file that a shell reads to reach it."""
        process = self._running()
        (self.directory / STAYS).write_text(name, encoding="utf-8")
        (self.directory / "pid").write_text(f"{process.pid}\n", encoding="ascii")
        environment = environment_file(self._checkout, name)
        self._write_environment(environment)
        process.leave()
        self._kept = True
        return environment

    def _write_environment(self, environment: Path) -> None:
        accounts = {"operator": OPERATOR_ACCOUNT, "customer": CUSTOMER_ACCOUNT}
        (self.directory / "credentials").write_text(
            "".join(
                f"[{name}]\naws_access_key_id = {account}\naws_secret_access_key = {_ROOT_SECRET}\n"
                for name, account in accounts.items()
            ),
            encoding="ascii",
        )
        (self.directory / "config").write_text(
            "".join(f"[profile {name}]\nregion = {REGION}\nendpoint_url = {self.endpoint_url}\n" for name in accounts),
            encoding="ascii",
        )
        environment.write_text(
            textwrap.dedent(f"""\
                # Leads a shell to the local cloud: . {shlex.quote(str(environment))}
                # You are the operator, {OPERATOR_ACCOUNT}; profile `customer` is the customer, {CUSTOMER_ACCOUNT}.
                unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION KEYVIGIL_API_URL
                export AWS_ENDPOINT_URL={self.endpoint_url} AWS_DEFAULT_REGION={REGION} AWS_PROFILE=operator
                export AWS_CONFIG_FILE={shlex.quote(str(self.directory / "config"))}
                export AWS_SHARED_CREDENTIALS_FILE={shlex.quote(str(self.directory / "credentials"))}
                export AWS_EC2_METADATA_DISABLED=true KEYVIGIL_STACK={STACK_NAME}
                export NO_PROXY={LOOPBACK},localhost no_proxy={LOOPBACK},localhost
                """),
            encoding="utf-8",
        )

    @property
    def directory(self) -> Path:
        """Where this run's state and logs are."""
        return self._home / str(self._port)

    @property
    def log(self) -> Path:
        """The emulator's log."""
        return self.directory / "ministack.log"

    @property
    def endpoint_url(self) -> str:
        """What ``AWS_ENDPOINT_URL`` must be."""
        return f"http://{LOOPBACK}:{self._port}"

    def logs(self) -> list[Path]:
        """Return the logs of this run."""
        return sorted(self.directory.glob("*.log"))

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the emulator's log."""
        return tail_of(self.log, lines)

    @property
    def function_log(self) -> Path:
        """Where :meth:`save_function_logs` writes to."""
        return self.directory / "functions.log"

    def troubles(self, lines: int = 40) -> str:
        """Save the functions' logs, and return the last lines in which something is not as it should be."""
        saved = self.save_function_logs().read_text(encoding="utf-8").splitlines()
        worth_reading = [line for line in saved if not any(mark in line for mark in _ROUTINE)]
        return "\n".join(worth_reading[-lines:])

    def save_function_logs(self) -> Path:
        """Write what the functions and workflows have logged beside the other logs; return the file.

        It is for people who look for the reason of a failure, so it does not fail itself: what could not be
        read is said in the file.
        """
        path = self.function_log
        with path.open("w", encoding="utf-8") as file:
            try:
                for line in (*_log_lines(self.session()), *_failed_executions(self.session())):
                    file.write(line + "\n")
            except (BotoCoreError, ClientError) as error:
                file.write(f"the rest could not be read: {error}\n")
        return path

    def _start(self, ministack: Path) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._port = free_port()
            self._report(f"starting the local cloud on {LOOPBACK}:{self._port}")
            self.directory.mkdir(parents=True)
            for name in ("tmp", "home", "state"):
                (self.directory / name).mkdir()
            if self._stays:
                (self.directory / STAYS).write_text(self._stays, encoding="utf-8")
            # The emulator inherits the lock: while it runs, no other run takes this folder for an old one.
            with (self.directory / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._process = OwnedProcess(
                    [ministack],
                    cwd=self.directory,
                    environ=self._emulator_environ(),
                    log=self.log,
                    keep_open=lock.fileno(),
                )
            if self._stays:
                (self.directory / "pid").write_text(f"{self._process.pid}\n", encoding="ascii")
            if self._wait_for_health(self._process):
                self._refuse_open_doors(self._process)
                return
            (self.directory / STAYS).unlink(missing_ok=True)
            if attempt == _START_ATTEMPTS or "already in use" not in self.log_tail():
                message = f"the local cloud ended at once; {self.log}:\n{self.log_tail()}"
                raise LocalCloudError(message)

    def _emulator_environ(self) -> dict[str, str]:
        """Build the emulator's whole environment, which its functions inherit: nothing of the caller's."""
        passed_on = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        return {
            **passed_on,
            "BIND_HOST": LOOPBACK,
            "GATEWAY_PORT": str(self._port),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "AUTH": "true",
            "CLOUDTRAIL_RECORDING": "1",
            "MINISTACK_REGION": REGION,
            "MINISTACK_ACCOUNT_ID": OPERATOR_ACCOUNT,
            **self._aws_environ(),
            "HOME": str(self.directory / "home"),
            "TMPDIR": str(self.directory / "tmp"),
            "STATE_DIR": str(self.directory / "state"),
            OWNER: str(self.directory),
            "S3_DATA_DIR": str(self.directory / "state" / "s3"),
            "PYTHONUNBUFFERED": "1",
            **self._extra_environ,
        }

    def _aws_environ(self) -> dict[str, str]:
        """Lead every SDK to this cloud, and to no settings of the caller's."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _refuse_open_doors(self, process: OwnedProcess) -> None:
        outside = outside_addresses(process.pid, self._port)
        if outside:
            message = f"the local cloud can be reached at {', '.join(sorted(outside))}, so it was ended"
            raise LocalCloudError(message)

    def _wait_for_health(self, process: OwnedProcess) -> bool:
        """Wait until the emulator answers; return False when it ended instead."""

        def look() -> dict[str, Any] | None:
            if process.exit_status is not None:
                return {}
            with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError):
                answer = http.request("GET", f"{self.endpoint_url}/_ministack/health", retries=False)
                health: dict[str, Any] = json.loads(answer.data)
                return health
            return None

        with urllib3.PoolManager(timeout=urllib3.Timeout(2.0)) as http:
            try:
                health = wait_until(
                    "the local cloud to answer",
                    look,
                    lambda seen: seen is not None,
                    within=_START_SECONDS,
                    every=0.2,
                )
            except DeadlineExceededError as error:
                message = f"{error}\n{self.log_tail()}"
                raise LocalCloudError(message) from error
        if not health or process.exit_status is not None:
            return False
        if health.get("auth") != "enabled":
            message = "the local cloud does not check permissions, so nothing it shows could be believed"
            raise LocalCloudError(message)
        return True

    def _end(self) -> None:
        if self._kept or self._process is None:
            return
        with not_interrupted():
            self._process.stop()
            end_processes(self.directory)  # what left the group
            self.tidy_up()

    def tidy_up(self) -> None:
        """Remove what an ended cloud leaves, but for its logs."""
        for environment in self._home.glob("env-*"):
            if self.endpoint_url in environment.read_text(encoding="utf-8"):
                environment.unlink()
        for entry in self.directory.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name in _OF_A_KEPT_CLOUD:
                entry.unlink()
        for builds in self._builds.values():
            shutil.rmtree(builds / str(self._port), ignore_errors=True)

    def _forget_old_runs(self) -> None:
        runs = sorted(
            (entry for entry in self._home.iterdir() if entry.name.isdecimal()),
            key=lambda entry: entry.stat().st_mtime,
            reverse=True,
        )
        for run in runs[_KEPT_RUNS:]:
            with contextlib.suppress(OSError), (run / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(run)

    def _running(self) -> OwnedProcess:
        if self._process is None or self._process.exit_status is not None:
            message = f"the local cloud is not running; {self.log}:\n{self.log_tail()}"
            raise LocalCloudError(message)
        return self._process

    def session(
        self, account_id: str = OPERATOR_ACCOUNT, region: str = REGION, credentials: Credentials | None = None
    ) -> boto3.Session:
        """Return a session of the account's root user, or of ``credentials``; its clients have time-outs."""
        return _LocalSession(self.endpoint_url, region, credentials or root_credentials(account_id))

    def client(
        self,
        service: str,
        account_id: str = OPERATOR_ACCOUNT,
        region: str = REGION,
        credentials: Credentials | None = None,
    ) -> BaseClient:
        """Return a client; ``session(...).client("kms")`` has the service's own type."""
        client: BaseClient = _LocalSession(
            self.endpoint_url, region, credentials or root_credentials(account_id)
        ).client(service)
        return client

    def api(self, outputs: StackOutputs, credentials: Credentials | None = None) -> ApiClient:
        """Return a client of the deployed API, as the operator unless ``credentials`` are given."""
        return ApiClient(outputs.api_url, REGION, credentials or root_credentials(OPERATOR_ACCOUNT))

    def deploy(self, parameters: Mapping[str, str] | None = None, *, checkout: Checkout | None = None) -> StackOutputs:
        """Build the checkout's stack and deploy it into the operator's account, as one would to AWS.

        Deploying again updates the stack. ``checkout`` names another one than this cloud's, an older release's say.

        Raises:
            DeploymentFailedError: building or deploying failed; with the tail of the log.
        """
        if not self._kept:
            self._running()
        checkout = checkout or self._checkout
        sam = SamDeployment(
            checkout,
            builds=self._builds.setdefault(checkout, checkout.root / ".local-cloud" / "build"),
            name=str(self._port),
            logs=self.directory,
            aws_environ={
                "AWS_ACCESS_KEY_ID": OPERATOR_ACCOUNT,
                "AWS_SECRET_ACCESS_KEY": _ROOT_SECRET,
                "AWS_DEFAULT_REGION": REGION,
                OWNER: str(self.directory),
                **self._aws_environ(),
            },
            on_progress=self._report,
        )
        sam.build()
        s3 = self.session().client("s3")
        with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=_ARTIFACT_BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        sam.deploy(STACK_NAME, region=REGION, bucket=_ARTIFACT_BUCKET, parameters=parameters or {})
        return self.outputs()

    def outputs(self) -> StackOutputs:
        """Read the deployed stack's outputs."""
        stacks = self.session().client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"]
        values = {output["OutputKey"]: output["OutputValue"] for output in stacks[0].get("Outputs", [])}
        return StackOutputs(values, f"{self.endpoint_url}/_aws/execute-api/{values.get('ApiId')}/$default")


def environment_file(checkout: Checkout, name: str) -> Path:
    """Return what leads a shell to the cloud of a name."""
    return checkout.root / ".local-cloud" / f"env-{name}"


def _failed_executions(session: boto3.Session) -> Iterator[str]:
    workflows = session.client("stepfunctions")
    for page in workflows.get_paginator("list_state_machines").paginate():
        for machine in page["stateMachines"]:
            arn = machine["stateMachineArn"]
            for execution in workflows.list_executions(stateMachineArn=arn)["executions"]:
                if execution["status"] not in {"RUNNING", "SUCCEEDED"}:
                    told = workflows.describe_execution(executionArn=execution["executionArn"])
                    why = f"{told.get('error', '')} {told.get('cause', '')}"
                    yield f"{execution['name']} of {machine['name']}: {execution['status']} {why}".rstrip()


def _log_lines(session: boto3.Session) -> list[str]:
    logs = session.client("logs")
    lines: list[tuple[int, str]] = []
    for page in logs.get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            name = group["logGroupName"]
            events = logs.get_paginator("filter_log_events").paginate(
                logGroupName=name, PaginationConfig={"MaxItems": _LOG_LINES}
            )
            lines.extend(
                (event["timestamp"], f"{name.rpartition('/')[2]} {event['message'].rstrip()}")
                for events_page in events
                for event in events_page["events"]
                if not event["message"].startswith(_PLATFORM_LINES)
            )
    # Sorted by time only: what was logged in one millisecond, a traceback say, stays in its order.
    lines.sort(key=itemgetter(0))
    return [f"{datetime.fromtimestamp(at / 1000, UTC):%H:%M:%S.%f} {words}" for at, words in lines]


def root_credentials(account_id: str) -> Credentials:
    """Return the local cloud's credentials for the root user of an account."""
    return Credentials(account_id, _ROOT_SECRET)
