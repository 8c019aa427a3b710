"""Who follows a page to the letter: somebody at a shell, and what of a page that person has pasted.

How to add a page: name it in FOLLOWED (tests/guides/written_commands.py) with the test that follows it. In that test

    def test_a_page(playground: Playground, pages: Pages) -> None:
        operator = playground.operator("acme-mine")
        taken_in = playground.take_in("acme-mine")  # what the page takes for granted: a project, a key and its role
        playground.tell(operator, taken_in)
        with pages.open("docs/mine.md") as page:
            printed = page.follow(operator, "A chapter")
        assert "HEALTHY" in printed

pastes every `sh` block of the chapter, in order; without a chapter those that are left. A page that is closed with
blocks left fails. What stands on pages as an example and is something else in a run is in OF_THIS_RUN, or in the
reader's own `stands_for`; what no test can run is in NOT_RUN, with the reason. Each test has a project of its own,
which `acme-prod` on the page stands for, and does not build on another's: one page's failure hides no other.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from keyvigil_cli.checkout import Checkout
from tests.guides.written_commands import Block, commands_of

CHECKOUT = Checkout.find(Path(__file__).parent)
NAME = "guides"
"""The local cloud's: a person may have one of the default name, which no test may end."""
_BLOCK_SECONDS = 300

# What stands on a page as an example, and what it is in this run. Nothing else of a page is changed.
OF_THIS_RUN = {
    r"\bkeyvigil local (up|status|down)\b": rf"keyvigil local \1 --name {NAME}",
    r"\.local-cloud/env-default\b": f".local-cloud/env-{NAME}",
    r"\bkeyvigil-(1acd682c8a5f6400c79ca277276a1eea|0123456789abcdef)\b": "$THE_EXTERNAL_ID",
    r"https://a1b2c3d4e5\.execute-api\.us-west-2\.amazonaws\.com": "$THE_API_URL",
    r"\b01M82WGN77FJRK2YSDJC8HCG7F\b": "$THE_INCIDENT",
    r"\bus-west-2\.b616ed49-9199-4b08-ae19-2ede9ded9bb9\b": "$KEY_ID",
    r"arn:aws:kms:us-west-2:222222222222:key/1234abcd-12ab-34cd-56ef-1234567890ab": "$KEY_ARN",
    # They ask whether it is meant, and here is no terminal to ask at.
    r"^(\.tools/sam/bin/sam deploy .*)$": r"\1 <<< y",
    r"(?=--reason \"confirmed with Acme)": "--yes ",
}


class Reader:
    """Somebody at a shell in the checkout, who pastes block after block. Variables live on from one to the next."""

    def __init__(self, home: Path, *, project: str = "acme-prod", folder: Path = CHECKOUT.root) -> None:
        """Make the shell.

        Args:
            home: a new folder for what makes this shell this reader's.
            project: what `acme-prod` on a page stands for, in the name of the customer's role too.
            folder: where commands run, and leave their files.
        """
        home.mkdir()
        self.home = home
        self.folder = folder
        self.stands_for: dict[str, str] = {}
        if project != "acme-prod":
            self.stands_for = {r"\bacme-prod\b": project, r"\bkeyvigil-customer\b": f"keyvigil-customer-{project}"}
        self._state = home / "state"
        self._state.touch()
        # Version 1 of the command line leads some services past AWS_ENDPOINT_URL.
        self.add_command("aws", f'exec "{CHECKOUT.root}/.tools/aws/bin/aws" --endpoint-url "$AWS_ENDPOINT_URL" "$@"')
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYVIGIL_", "SAM_"))}
        self._environ = {**kept, "PATH": f"{home}:{os.environ['PATH']}", "SAM_CLI_TELEMETRY": "0"}

    def add_command(self, name: str, script: str) -> None:
        """Put a command before all others on the PATH: one that needs its hand led, or that a machine may not have."""
        command = self.home / name
        command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        command.chmod(0o700)

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
            cwd=self.folder,
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

    def tell(self, variables: Mapping[str, str]) -> None:
        """Set variables."""
        self.paste("".join(f"{name}='{value}'\n" for name, value in variables.items()))

    def value(self, name: str) -> str:
        """What a variable holds."""
        return self.paste(f'printf %s "${name}"')

    def read(self, text: str) -> str:
        """What a block means to this reader in this run."""
        for shown, real in {**OF_THIS_RUN, **self.stands_for}.items():
            text = re.sub(shown, real, text, flags=re.MULTILINE)
        return text


class Page:
    """A page that is followed: which of its blocks are left, and the seconds that the others took."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.left = [block for block in commands_of(path) if block.why_not_run is None]
        self.seconds = 0.0

    def follow(self, reader: Reader, *chapters: str, statuses: tuple[int, ...] = ()) -> str:
        """Paste the commands of some chapters, or all that are left, and return what they printed.

        With `statuses` they are pasted line by line, and each must end with its own; otherwise all with 0.
        """
        wanted = [block for block in self.left if not chapters or block.chapter in chapters]
        assert wanted, f"{self.path} has no commands left in {chapters}"
        began = time.monotonic()
        printed = [self._run(reader, block, statuses) for block in wanted]
        self.seconds += time.monotonic() - began
        self.left = [block for block in self.left if block not in wanted]
        return "".join(printed)

    @staticmethod
    def _run(reader: Reader, block: Block, statuses: tuple[int, ...]) -> str:
        text = reader.read(block.text)
        if not statuses:
            return reader.paste(text)
        lines = text.splitlines()
        assert len(lines) == len(statuses)
        return "".join(reader.paste(line, ends=status) for line, status in zip(lines, statuses, strict=True))


class Pages:
    """The pages that were followed to their end, and the seconds that each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Page]:
        """Follow a page to its end: what was not pasted by then fails."""
        page = Page(path)
        yield page
        self.close(page)

    def close(self, page: Page) -> None:
        """Note that a page was followed to its end."""
        assert page.left == [], f"not followed: {page.left}"
        self.seconds[page.path] = page.seconds
