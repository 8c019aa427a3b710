"""Building and deploying the checkout's stack with the SAM command line, to an emulator and nothing else."""

import contextlib
import fcntl
import os
import string
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from keyvigil_cli.checkout import Checkout
from keyvigil_cli.errors import CliError
from keyvigil_cli.loopback import LOOPBACK
from keyvigil_cli.owned_process import ProgramFailedError, run_program

type Progress = Callable[[str], None]

_BUILD_SECONDS = 420
_DEPLOY_SECONDS = 420
_PLAIN_CHARACTERS = set(string.ascii_letters + string.digits + "-_.:/@,+")
_LONGEST_NEWS = 60
_COLUMNS = 3  # of both tables that `sam deploy` prints: change or status, type or name, name or type


class DeploymentFailedError(CliError):
    """``sam build`` or ``sam deploy`` failed; the message carries the tail of its log."""


class SamDeployment:
    """Builds in ``builds/<name>`` and deploys from there, logging to ``logs``."""

    def __init__(
        self,
        checkout: Checkout,
        *,
        builds: Path,
        name: str,
        logs: Path,
        aws_environ: Mapping[str, str],
        on_progress: Progress,
    ) -> None:
        """Take where to build and, in ``aws_environ``, how the emulator is reached."""
        self._checkout = checkout
        # All build directories are siblings: SAM keeps the record of what it has cached in their parent.
        self._builds = builds
        self._directory = builds / name
        self._logs = logs
        self._aws_environ = aws_environ
        self._report = on_progress

    def build(self) -> None:
        """Build what has changed; only one build runs at a time in a checkout.

        Raises:
            DeploymentFailedError: it failed.
        """
        self._builds.mkdir(parents=True, exist_ok=True)
        self._report("waiting for another build to end")
        with _locked(self._builds / "lock"):
            self._report("building")
            self._run(
                "build",
                "--cached",
                *("--template-file", self._checkout.template),
                *("--build-dir", self._directory),
                *("--cache-dir", self._builds / "cache"),
                within=_BUILD_SECONDS,
                on_line=self._report_build_line,
            )

    def deploy(self, stack_name: str, *, region: str, bucket: str, parameters: Mapping[str, str]) -> None:
        """Create or update the stack by a change set.

        Raises:
            DeploymentFailedError: it failed.
        """
        self._report("uploading")
        # SAM takes nothing at all for a mistake, and two quotation marks for an empty value.
        overrides = [f"{name}={_plain(name, value) or '""'}" for name, value in parameters.items()]
        self._run(
            "deploy",
            *("--template-file", self._directory / "template.yaml"),
            *("--stack-name", stack_name),
            *("--region", region),
            *("--s3-bucket", bucket),
            "--no-confirm-changeset",
            "--no-fail-on-empty-changeset",
            "--no-progressbar",
            *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"),
            *(("--parameter-overrides", *overrides) if overrides else ()),
            within=_DEPLOY_SECONDS,
            on_line=DeploymentProgress(self._report).take,
        )

    def _run(self, command: str, *arguments: str | Path, within: float, on_line: Progress) -> None:
        # The checkout's samconfig.toml speaks of real accounts; none of it may apply here.
        neutral = self._logs / "samconfig.toml"
        neutral.write_text("version = 0.1\n", encoding="utf-8")
        try:
            run_program(
                [self._checkout.sam(), command, *arguments, "--config-file", neutral],
                cwd=self._checkout.root,
                environ=self._environ(),
                log=self._logs / f"sam-{command}.log",
                within=within,
                on_line=on_line,
            )
        except ProgramFailedError as error:
            raise DeploymentFailedError(str(error)) from error

    def _environ(self) -> dict[str, str]:
        """Take the caller's environment, which pip may need, without what would lead to a real account."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_CLI_"))}
        return {
            **kept,
            **self._aws_environ,
            "NO_PROXY": f"{LOOPBACK},localhost",
            "no_proxy": f"{LOOPBACK},localhost",
            "SAM_CLI_TELEMETRY": "0",
            "SAM_CLI_POLL_DELAY": "1",
            "PYTHONUNBUFFERED": "1",
            "KEYVIGIL_PYTHON": str(self._checkout.python()),
        }

    def _report_build_line(self, line: str) -> None:
        if line.startswith("Building "):
            self._report(textwrap.shorten(line[0].lower() + line[1:], width=_LONGEST_NEWS))


class DeploymentProgress:
    """Counts, in what ``sam deploy`` prints, the resources that are planned and those that are done."""

    def __init__(self, report: Progress) -> None:
        """Take whom to tell."""
        self._report = report
        self._planned = 0
        self._done = 0

    def take(self, line: str) -> None:
        """Look at one line. A long name goes on in further lines, which begin with a blank."""
        words = line.split()
        if line[:1].isspace() or len(words) < _COLUMNS:
            return
        if words[0] in {"+", "*"}:
            self._planned += 1
        elif words[0] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"} and not words[1].startswith("AWS::CloudF"):
            self._done += 1
            self._report(f"{self._done} of {self._planned} resources")


def _plain(name: str, value: str) -> str:
    if set(value) - _PLAIN_CHARACTERS:
        message = f"parameter {name}: {value!r} has characters that would have to be quoted"
        raise DeploymentFailedError(message)
    return value


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
