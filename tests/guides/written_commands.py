"""Every command that a page shows, and what runs it: read by the tests that run them, and by the one that counts them.

A block of a page is a command if its fence says `sh`, or if it begins as a command does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keyvigil_cli.checkout import Checkout

ROOT = Checkout.find(Path(__file__).parent).root

GUIDE = "docs/deploy.md"
"""tests/guides/test_deploy_guide.py runs all its `sh` blocks."""

OPERATOR, CUSTOMER = "docs/quick-start-operator.md", "docs/quick-start-customer.md"
FOLLOWED = {
    OPERATOR: "test_quick_starts.py",
    CUSTOMER: "test_quick_starts.py",
    "docs/cli.md": "test_quick_starts.py",
    **{str(page.relative_to(ROOT)): "test_systems.py" for page in sorted((ROOT / "docs" / "systems").glob("*.md"))},
    "docs/import.md": "test_running_systems.py",
    "docs/discover.md": "test_running_systems.py",
    "docs/doctor.md": "test_running_systems.py",
    "docs/policies.md": "test_running_systems.py",
    "docs/onboarding.md": "test_onboarding_and_alerts.py",
    "docs/api.md": "test_onboarding_and_alerts.py",
    "docs/recipes/chat.md": "test_onboarding_and_alerts.py",
    "docs/recipes/slack.md": "test_onboarding_and_alerts.py",
    "docs/restore.md": "test_whole_stack.py",
    "docs/own-key.md": "test_whole_stack.py",
}
"""Pages, and the test in tests/guides that runs all commands but those below; it says itself if one was forgotten."""

NOT_RUN = {
    "git pull --ff-only\n": "a checkout that is tested has nothing to fetch from",
    "aws cloudformation deploy --stack-name keyvigil-pagerduty-acme-prod": (
        "the local cloud's CloudFormation makes no AWS::Events::Connection and no ApiDestination; "
        "tests/infra/test_recipes.py does what the template's rules would do"
    ),
}
"""How a block begins that no test runs as it stands, and why."""

MAKE = {
    "demo": "takes four minutes; the same steps are told by tests/e2e/test_stories.py, on the same local cloud",
    "test": "is what runs this; CI calls it (.ci/run)",
    "test-guides": "follows the pages; CI calls it (.ci/run)",
    "test-permissions": "takes up to ten minutes",
    "build": "the deployment guide runs it",
    "deploy": "the deployment guide runs it",
    "uninstall": "the deployment guide runs it, and tests/e2e/test_uninstall.py",
}
"""Targets of README's and docs/permissions.md's blocks, and what runs them, or why nothing does."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_BEGINS_AS_A_COMMAND = re.compile(
    r"\s*(?:\$ )?(?:(?:aws|make|keyvigil|git|sam|pip|python\S*|uv|curl|docker|terraform|cd|for|until|while|export|\.) |"
    r"\.venv/|\.tools/|[A-Z_]+=)"
)


@dataclass(frozen=True)
class Block:
    """One fenced block: the chapter it stands in, the fence's word, and the text without its indentation."""

    page: str
    chapter: str
    language: str
    text: str

    @property
    def is_command(self) -> bool:
        """Whether a reader would run it."""
        return self.language in {"sh", "bash", "shell", "console"} or (
            self.language in {"", "text"} and _BEGINS_AS_A_COMMAND.match(self.text) is not None
        )

    @property
    def why_not_run(self) -> str | None:
        """Why no test runs it."""
        return next((why for begin, why in NOT_RUN.items() if self.text.startswith(begin)), None)


def pages() -> list[str]:
    """README and every page of docs/ and onboarding/."""
    found = [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "onboarding").rglob("*.md"),
    ]
    return sorted(str(page.relative_to(ROOT)) for page in found)


def blocks_of(page: str, text: str | None = None) -> Iterator[Block]:
    """Every fenced block of a page."""
    if text is None:
        text = (ROOT / page).read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        headings = re.findall(r"^#+ (.+)$", text[: found.start()], re.MULTILINE)
        body = re.sub(rf"^{found['indent']}", "", found["body"], flags=re.MULTILINE)
        yield Block(page, headings[-1] if headings else "", found["language"].strip(), body)


def commands_of(page: str) -> list[Block]:
    """The blocks of a page that are to be run."""
    return [block for block in blocks_of(page) if block.is_command]
