"""Saying what is being waited for, on standard error, when it takes longer than a second."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from keyvigil_cli.printable import printable

PATIENCE_SECONDS = 1.0

type News = Callable[[str], None]


@contextmanager
def working(console: Console, words: str, *, patience: float = PATIENCE_SECONDS) -> Iterator[News]:
    """Say `words` once they have been true for a second: with a spinner on a terminal, as one line elsewhere.

    What is yielded takes news of how far it is; they are shown on a terminal.
    """
    began = time.monotonic()
    status = console.status(_shown(words, ""))
    lock, ended = threading.Lock(), threading.Event()

    def begin() -> None:
        with lock:
            if ended.is_set():
                return
            if console.is_terminal:
                status.start()
            else:
                console.print(f"{words} ...", markup=False, highlight=False, soft_wrap=True)

    def news(latest: str) -> None:
        status.update(_shown(words, f"{latest}, {time.monotonic() - began:.0f} s"))

    timer = threading.Timer(patience, begin)
    timer.daemon = True
    timer.start()
    try:
        yield news
    finally:
        timer.cancel()
        with lock:
            ended.set()
        status.stop()


def _shown(words: str, news: str) -> str:
    return escape(words) + (f" [dim]({escape(printable(news))})[/dim]" if news else "")
