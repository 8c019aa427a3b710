"""Stories: end-to-end scenarios that are told at the same time."""

from collections.abc import Callable

from tests.e2e.stage import Stage

type Tell = Callable[[Stage], None]

STORIES: dict[str, Tell] = {}


def story(tell: Tell) -> Tell:
    """Make a function a story. Its name is the story's sentence."""
    STORIES[tell.__name__] = tell
    return tell
