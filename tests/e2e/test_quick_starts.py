"""The quick starts and the page on the command line, followed word by word as a new user would, on one local cloud.

The cloud is the one that `keyvigil local up` starts on the way, and `keyvigil local down` ends.
"""

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from keyvigil_cli import local_stack
from keyvigil_cli.teller import Teller
from tests.e2e.aws_shell import CHECKOUT
from tests.e2e.written_commands import FOLLOWED, QUICK_STARTS, Block, commands_of

NAME = "quick-start"
QUICK_SECONDS = 600
_BLOCK_SECONDS = 300
OPERATOR, CUSTOMER = QUICK_STARTS

# What stands on a page as an example, and what it is in this run. Nothing else of a page is changed.
OF_THIS_RUN = {
    # A person may have a local cloud of the default name, which the test must not end.
    r"\bkeyvigil local (up|status|down)\b": rf"keyvigil local \1 --name {NAME}",
    r"\.local-cloud/env-default\b": f".local-cloud/env-{NAME}",
    # The quick start has made acme-prod.
    r"\bproject create acme-prod --enforcement enforce$": "project create acme-cli --enforcement enforce",
    r"EXTERNAL_ID=keyvigil-\w+": "EXTERNAL_ID=$THE_EXTERNAL_ID",
    r"https://a1b2c3d4e5\.execute-api\.us-west-2\.amazonaws\.com": "$THE_API_URL",
    r"\b01M82WGN77FJRK2YSDJC8HCG7F\b": "$THE_INCIDENT",
    r"\bus-west-2\.b616ed49-9199-4b08-ae19-2ede9ded9bb9\b": "$KEY_ID",
    # It asks whether it is meant, and here is no terminal to ask at.
    r"(?=--reason \"confirmed with Acme)": "--yes ",
}


class Reader:
    """Somebody at a shell in the checkout, who pastes block after block. Variables live on from one to the next."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._state = home / "state"
        self._state.touch()
        aws = home / "aws"
        # Version 1 of the command line leads some services past AWS_ENDPOINT_URL.
        aws.write_text(
            f'#!/bin/sh\nexec "{CHECKOUT.root}/.tools/aws/bin/aws" --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n',
            encoding="ascii",
        )
        aws.chmod(0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYVIGIL_", "SAM_"))}
        self._environ = {**kept, "PATH": f"{home}:{os.environ['PATH']}", "SAM_CLI_TELEMETRY": "0"}

    def paste(self, text: str, *, ends: int = 0) -> str:
        """Run it, and return all that it printed."""
        done = subprocess.run(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                f". {self._state}\ntrap 'export -p > {self._state}' EXIT\nset -a\n{text}",
            ],
            cwd=CHECKOUT.root,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_BLOCK_SECONDS,
        )
        assert done.returncode == ends, f"{text}\nended with {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def value(self, name: str) -> str:
        """What a variable holds."""
        return self.paste(f'printf %s "${name}"')


class Pages:
    """The pages that are followed: which blocks were run, and how long each page took."""

    def __init__(self) -> None:
        self.left = {page: [block for block in commands_of(page) if block.why_not_run is None] for page in FOLLOWED}
        self.seconds: dict[str, float] = defaultdict(float)

    def follow(self, reader: Reader, page: str, *chapters: str, statuses: tuple[int, ...] = ()) -> str:
        """Paste the commands of some chapters of a page, or all; with `statuses`, line by line."""
        wanted = [block for block in self.left[page] if not chapters or block.chapter in chapters]
        assert wanted, f"{page} has no commands left in {chapters}"
        began = time.monotonic()
        printed = [self._run(reader, block, statuses) for block in wanted]
        self.seconds[page] += time.monotonic() - began
        self.left[page] = [block for block in self.left[page] if block not in wanted]
        return "".join(printed)

    @staticmethod
    def _run(reader: Reader, block: Block, statuses: tuple[int, ...]) -> str:
        text = block.text
        for shown, real in OF_THIS_RUN.items():
            text = re.sub(shown, real, text, flags=re.MULTILINE)
        if not statuses:
            return reader.paste(text)
        lines = text.splitlines()
        assert len(lines) == len(statuses)
        return "".join(reader.paste(line, ends=status) for line, status in zip(lines, statuses, strict=True))


@pytest.fixture
def pages() -> Iterator[Pages]:
    yield Pages()
    local_stack.down(CHECKOUT, Teller(Console(stderr=True)), name=NAME)


def test_a_new_user_follows_the_quick_starts_and_the_page_on_the_command_line_to_the_letter(
    tmp_path: Path, pages: Pages
) -> None:
    operator, customer = Reader(tmp_path / "operator"), Reader(tmp_path / "customer")
    begun = pages.follow(operator, OPERATOR, "Have KeyVigil")
    assert re.search(r"Local cloud +up", begun), begun[-3000:]
    again = pages.follow(operator, "docs/cli.md", "A cloud of your own")
    assert "acme-cli" in again
    pages.follow(operator, OPERATOR, "Take a customer in")
    assert "HEALTHY" in pages.follow(operator, OPERATOR, "Watch a key")
    outage = pages.follow(operator, OPERATOR, "See an outage")
    assert "aws kms enable-key" in outage
    assert outage.count("ended with 3") == 2
    assert "key.unhealthy" in outage
    assert "LOCKED" in (CHECKOUT.root / ".local-cloud" / "fleet.html").read_text(encoding="utf-8")
    assert "incident.resolved" in settled(operator, pages.follow(operator, OPERATOR, "See it end"))
    pages.follow(operator, OPERATOR, "Let the customer look")

    told = (
        f"THE_EXTERNAL_ID={operator.value('EXTERNAL_ID')}\nROLE_PARAMETERS=RestrictToProbes=false\n"
        f"THE_API_URL=$(. .local-cloud/env-{NAME}; {CHECKOUT.root}/.venv/bin/keyvigil local status --name {NAME}"
        ' -o json | sed -n \'s/.*"api_url": "\\(.*\\)".*/\\1/p\')\n'
    )
    customer.paste(f". .local-cloud/env-{NAME}\nAWS_PROFILE=customer\n{told}")
    pages.follow(customer, CUSTOMER, "What the operator tells you", "Let KeyVigil probe a key", "Call KeyVigil")
    # Where a person approves, there is something to decide at three in the morning.
    operator.paste("keyvigil project update acme-prod --approval manual")
    wondering = pages.follow(customer, CUSTOMER, "Why is my cluster locked?")
    assert "ended with 3" in wondering
    assert "key.suspect" in wondering
    operator.paste(
        f"KEY_ID={customer.value('KEY_ID')}\n"
        "until keyvigil incident list acme-prod --open | grep HELD; do sleep 2; done\n"
        'THE_INCIDENT=$(keyvigil api GET "/projects/acme-prod/keys/$KEY_ID" --field open_incident_id)'
    )
    decided = pages.follow(operator, "docs/cli.md", "At three in the morning", statuses=(3, 0, 3, 0))
    assert operator.value("THE_INCIDENT") in decided
    pages.follow(customer, CUSTOMER, "Mend it", "Be told")
    customer.paste(
        "until keyvigil --profile acme-prod incident list acme-prod --open -o json | grep -F '\"items\": []'"
        "; do sleep 2; done"
    )
    pages.follow(customer, CUSTOMER, "Leave")

    assert "has ended" in pages.follow(operator, OPERATOR, "End it")
    assert "down" in operator.paste(f"keyvigil local status --name {NAME}", ends=3)

    assert {page: blocks for page, blocks in pages.left.items() if blocks} == {}
    for page in QUICK_STARTS:
        sys.stdout.write(f"{page}: {pages.seconds[page]:.0f} s\n")
        assert pages.seconds[page] < QUICK_SECONDS


def settled(operator: Reader, printed: str) -> str:
    """The end of the outage, which may come a moment after the cluster's."""
    if "incident.resolved" in printed:
        return printed
    return operator.paste(
        'until keyvigil incident show acme-prod "$INCIDENT_ID" | grep incident.resolved; do sleep 2; done'
    )
