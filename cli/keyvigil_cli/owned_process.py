"""A program and everything it starts: one process group, which ends with us."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from keyvigil_cli.errors import CliError

_GRACE_SECONDS = 5.0
_FOLLOW_SECONDS = 0.1
_LEFT: list[subprocess.Popen[bytes]] = []
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. What stops for Ctrl-C (typer, pytest) stops for this, too."""


class ProgramFailedError(CliError):
    """A program ended with an error, or not in time."""


def tail_of(log: Path, lines: int = 40) -> str:
    """Return the last lines of a log, or say that there is none."""
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, maxlen=lines)).rstrip()
    except FileNotFoundError:
        return f"({log} was never written)"


class OwnedProcess:
    """A program in a session of its own, so that a terminal's Ctrl-C reaches it only through us."""

    def __init__(
        self,
        command: Iterable[str | Path],
        *,
        cwd: Path,
        environ: Mapping[str, str],
        log: Path,
        keep_open: int = -1,
    ) -> None:
        """Start it; its output goes to ``log``. ``keep_open`` is a file descriptor that it inherits."""
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the checkout's own tools
                [str(word) for word in command],
                cwd=cwd,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(keep_open,) if keep_open >= 0 else (),
            )

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def leave(self) -> None:
        """Let it outlive us. Python would complain of a program that still runs when its object goes."""
        _LEFT.append(self._process)

    def stop(self) -> None:
        """End the whole group: politely, then after a few seconds not."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        # What the program started may outlive it: the group is killed even when its first process has gone.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def name(self) -> str:
        """Program and first argument, for messages."""
        arguments = self._process.args
        return " ".join(Path(str(word)).name for word in arguments[:2]) if isinstance(arguments, list) else "it"


def run_program(
    command: Iterable[str | Path],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    log: Path,
    within: float,
    on_line: Callable[[str], None],
) -> None:
    """Run a program to its end; hand over each line of its output as it comes.

    Raises:
        ProgramFailedError: its exit status is not 0, or it took longer than ``within`` seconds.
    """
    earlier = log.stat().st_size if log.exists() else 0
    process = OwnedProcess(command, cwd=cwd, environ=environ, log=log)
    try:
        for line in _follow(process, offset=earlier, within=within):
            on_line(line)
    except BaseException:
        process.stop()
        raise
    if process.exit_status:
        message = f"{process.name} ended with exit status {process.exit_status}; {log}:\n{tail_of(log)}"
        raise ProgramFailedError(message)


def _follow(process: OwnedProcess, *, offset: int, within: float) -> Iterator[str]:
    deadline = time.monotonic() + within
    with process.log.open(encoding="utf-8", errors="replace") as output:
        output.seek(offset)
        ended = False
        while True:
            if line := output.readline():
                yield line.rstrip()
            elif ended:
                return
            elif process.exit_status is not None:
                ended = True  # one more round: the last lines may have come after the last look
            elif time.monotonic() > deadline:
                message = f"{process.name} did not end within {within:.0f} s:\n{tail_of(process.log)}"
                raise ProgramFailedError(message)
            else:
                time.sleep(_FOLLOW_SECONDS)


@contextmanager
def signals_end_the_program() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, as SIGINT already is one: cleaning up then happens.

    A signal that is ignored (SIGHUP under nohup) stays ignored. Only the main thread may set handlers; elsewhere
    this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise EndedBySignal(signal.Signals(number).name)

    before = {
        number: signal.signal(number, leave)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Ignore ending signals meanwhile: a second Ctrl-C must not leave half of the processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
