"""A forward proxy between the functions and the local cloud, which fails the calls that a test names."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3

from keyvigil_cli.loopback import LOOPBACK, free_port
from keyvigil_cli.owned_process import OwnedProcess
from keyvigil_cli.waiting import wait_until

type Rule = dict[str, Any]


class FaultProxy:
    """microburst as a forward proxy: as an endpoint it would rewrite Host and break every signature.

    Rules name the resource that they are about, so that scenarios which run at the same time leave each
    other alone.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._port = free_port()
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(5.0))
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @contextlib.contextmanager
    def in_front_of(self, upstream: str) -> Iterator[None]:
        """Run, and pass on what no rule fails."""
        self._folder.mkdir(parents=True, exist_ok=True)
        process = OwnedProcess(
            [self._program, "--host", LOOPBACK, "--port", str(self._port), "--upstream", upstream, "--no-resign"],
            cwd=self._folder,
            environ={"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},
            log=self._folder / "fault-proxy.log",
        )
        try:
            wait_until("the fault proxy to answer", self._answers, bool, within=30, every=0.1)
            yield
        finally:
            process.stop()
            self._http.clear()

    def _answers(self) -> bool:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self._http.request("GET", f"{self.url}/_microburst/rules", retries=False).status == 200
        return False

    @contextlib.contextmanager
    def failing(self, *rules: Rule) -> Iterator[None]:
        """Let these rules hold inside the context; those of others go on."""
        self._change(lambda now: [*now, *rules])
        try:
            yield
        finally:
            self._change(lambda now: [rule for rule in now if rule not in rules])

    def _change(self, change: Callable[[list[Rule]], list[Rule]]) -> None:
        with self._lock:
            self._rules = change(self._rules)
            answer = self._http.request("POST", f"{self.url}/_microburst/rules", json=self._rules)
        assert answer.status < 300, f"the fault proxy refused {self._rules}: {answer.data!r}"

    def fired(self, service: str) -> int:
        """How often a rule about a service fired."""
        answer = self._http.request("GET", f"{self.url}/_microburst/fired")
        return sum(entry["service"] == service for entry in answer.json())
