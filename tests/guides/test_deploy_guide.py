"""docs/deploy.md, followed word by word against a local cloud of its own: every `sh` block, in order, in one shell."""

import re
import subprocess
from pathlib import Path

from rich.console import Console

from keyvigil_cli.aws_account import AwsAccount
from keyvigil_cli.local_cloud import OPERATOR_ACCOUNT, STACK_NAME, LocalCloud
from keyvigil_cli.teller import Teller
from keyvigil_cli.uninstall import Uninstallation
from tests.e2e.aws_shell import CHECKOUT, AwsShell

GUIDE = CHECKOUT.root / "docs" / "deploy.md"
# What it waits for in between is polled without a deadline of its own.
GUIDE_SECONDS = 480
SETTINGS = {
    "SAM_CLI_TELEMETRY": "0",
    "SAM_CLI_POLL_DELAY": "1",
    # The local cloud compares no encryption context: the guide says what that needs.
    "ROLE_PARAMETERS": "RestrictToProbes=false",
}

STEPS = ("Deploy", "The first project", "The first customer", "The first key", "The first cluster",
         "The first alert", "Upgrade", "Uninstall")  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_guide_has_a_block_for_every_step_and_only_fetching_a_version_is_not_run() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    chapters = dict(chapter.split("\n", 1) for chapter in re.split("^## ", text, flags=re.MULTILINE)[1:])
    assert tuple(chapters) == STEPS
    assert [name for name, chapter in chapters.items() if "```sh\n" not in chapter] == []
    assert blocks("text") == ["git pull --ff-only\n"]
    fences = re.findall(r"^```(\w+)$", text, re.MULTILINE)
    assert set(fences) == {"sh", "text"}


def test_who_follows_the_guide_sees_the_first_alert_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "guide.sh"
    script.write_text("\n".join(blocks("sh")), encoding="utf-8")
    with LocalCloud(CHECKOUT) as cloud:
        followed = subprocess.run(
            # `sam deploy` asks each time, and takes all the answers that it can get.
            ["sh", "-c", f"yes | bash -euo pipefail {script}"],
            cwd=CHECKOUT.root,
            env={**AwsShell(cloud, tmp_path, OPERATOR_ACCOUNT).environ, **SETTINGS},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=GUIDE_SECONDS,
        )
        told = followed.stdout
        assert followed.returncode == 0, told[-6000:]
        account = AwsAccount(STACK_NAME, cloud.session(), endpoint_url=cloud.endpoint_url)
        assert account.stack() is None
        left = [each for each in account.leftovers() if each.is_ours]
        # A sweep that was under way when the stack went writes its log last, and the local cloud makes it a group.
        # On AWS none does: no function may create a log group. To uninstall again removes it.
        assert [each for each in left if each.kind != "log group"] == []
        if left:
            Uninstallation(account, Teller(Console(stderr=True))).run(STACK_NAME, release=False)
        assert [each for each in account.leftovers() if each.is_ours] == []
    assert re.search(r'"type": ?"key\.suspect"', told), told[-6000:]
    assert told.count("Successfully created/updated stack - keyvigil in ") == 2  # the deployment and the upgrade
    assert "KeyVigil is gone" in told
