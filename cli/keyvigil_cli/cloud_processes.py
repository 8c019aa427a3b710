"""What runs for a local cloud: found by the cloud's folder in its environment, and ended, whoever started it."""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from keyvigil_cli.errors import CliError
from keyvigil_cli.waiting import DeadlineExceededError, wait_until

OWNER = "KEYVIGIL_LOCAL_CLOUD"
"""The environment variable that names a cloud's folder to everything that is started for it."""

_GRACE_SECONDS = 5.0
_END_SECONDS = 15.0


class NotEndedError(CliError):
    """Something of a local cloud still runs."""


def is_running(folder: Path) -> bool:
    """Whether a cloud's emulator runs: it holds the lock for as long."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def end_processes(folder: Path) -> int:
    """End all that runs for a cloud: politely, then after a few seconds not."""
    first = processes_of(folder)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_of(folder):
            _signal(pid, number)
        with contextlib.suppress(DeadlineExceededError):
            wait_until(
                "the local cloud's processes to end",
                lambda: processes_of(folder),
                lambda left: not left,
                within=_GRACE_SECONDS if number is signal.SIGTERM else _END_SECONDS,
                every=0.1,
            )
    left = processes_of(folder)
    if left:
        message = f"processes {', '.join(map(str, sorted(left)))} of the local cloud in {folder} could not be ended"
        raise NotEndedError(message)
    return len(first)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def processes_of(folder: Path, proc: Path = Path("/proc")) -> set[int]:
    """Return the processes that were started for a cloud: those that have its folder in their environment.

    Where there is no ``/proc``, the emulator alone is known, and only while it holds its lock: its number may be
    somebody else's later.
    """
    if not (proc / "self" / "environ").exists():
        pid = pid_in(folder)
        return {pid} if pid is not None and is_running(folder) else set()
    mark = f"{OWNER}={folder}".encode()
    found = set()
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def pid_in(folder: Path) -> int | None:
    """Return the number of a cloud's emulator, as it was written down; None if it was not."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / "pid").read_text(encoding="ascii"))
    return None
