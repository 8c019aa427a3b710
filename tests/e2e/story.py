"""Stories: end-to-end scenarios that are told at the same time."""

from collections.abc import Callable

from tests.e2e.stage import Stage

type Tell = Callable[[Stage], None]

STORIES: dict[str, Tell] = {}
ON_THEIR_OWN_CLOUDS: set[str] = set()
"""Stories that deploy a stack of their own: a few at a time, or nothing else has time to answer."""


def story(tell: Tell) -> Tell:
    """Make a function a story. Its name is the story's sentence."""
    STORIES[tell.__name__] = tell
    return tell


def story_on_its_own_cloud(tell: Tell) -> Tell:
    """Make a function a story that deploys a stack of its own."""
    ON_THEIR_OWN_CLOUDS.add(tell.__name__)
    return story(tell)
