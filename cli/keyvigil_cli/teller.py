"""Telling a person what happens: each step when it happens, with the seconds it took, live while it lasts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Teller:
    """Writes to a console: with a spinner on a terminal, one plain line a step elsewhere."""

    def __init__(self, console: Console) -> None:
        """Take the console that is written to."""
        self.console = console
        self._began = time.monotonic()
        self._on_news: Callable[[str], None] = _unheard

    @property
    def seconds(self) -> float:
        """The seconds since the telling began."""
        return time.monotonic() - self._began

    def say(self, words: str = "") -> None:
        """Write one line."""
        self.console.print(words, soft_wrap=True, highlight=False)

    def chapter(self, words: str) -> None:
        """Write a heading."""
        self.say(f"\n[bold]{escape(words)}[/bold]")

    def news(self, words: str) -> None:
        """Say how the current step is getting on: shown on a terminal while it lasts."""
        self._on_news(words)

    @contextmanager
    def step(self, words: str) -> Iterator["Step"]:
        """Show a step while it lasts, then its outcome and the seconds it took."""
        step = Step()
        began = time.monotonic()
        succeeded = False
        try:
            if self.console.is_terminal:
                with self._spinning(words):
                    yield step
            else:
                self.console.print(f"  {words} ... ", end="", soft_wrap=True, highlight=False, markup=False)
                yield step
            succeeded = True
        finally:
            self._tell_end(words, step.outcome if succeeded else "", time.monotonic() - began, succeeded=succeeded)

    @contextmanager
    def _spinning(self, words: str) -> Iterator[None]:
        columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(escape(words))
            self._on_news = lambda news: progress.update(
                task, description=f"{escape(words)} [dim]({escape(news)})[/dim]"
            )
            try:
                yield
            finally:
                self._on_news = _unheard

    def _tell_end(self, words: str, outcome: str, seconds: float, *, succeeded: bool) -> None:
        ending = outcome or ("done" if succeeded else "DID NOT HAPPEN")
        if self.console.is_terminal:
            mark = "[green]✓[/green]" if succeeded else "[red]✗[/red]"
            self.say(f" {mark} [dim]{seconds:6.1f} s[/dim]  {escape(words)}: {escape(ending)}")
        else:
            self.console.print(f"{ending} ({seconds:.1f} s)", soft_wrap=True, highlight=False, markup=False)


class Step:
    """A step in progress: say in ``outcome`` what came of it."""

    def __init__(self) -> None:
        """Start without an outcome."""
        self.outcome = ""


def _unheard(_news: str) -> None:
    return
