"""docs/deploy.md, followed word by word against a local cloud of its own: every `sh` block, in order, in one shell."""

import os
import re
import subprocess
from pathlib import Path

from keyvigil_cli.aws_account import AwsAccount
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT, REGION, STACK_NAME, LocalCloud

CHECKOUT = Checkout.find(Path(__file__).parent)
GUIDE = CHECKOUT.root / "docs" / "deploy.md"
# What it waits for in between is polled without a deadline of its own.
GUIDE_SECONDS = 480

STEPS = ("Deploy", "The first project", "The first customer", "The first key", "The first cluster",
         "The first alert", "Upgrade", "Uninstall")  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def shell_environ(cloud: LocalCloud, home: Path) -> dict[str, str]:
    """What the guide asks for: the operator's credentials, a profile `customer`, and the AWS command line.

    Version 1 of that leads some services, SQS among them, past AWS_ENDPOINT_URL, so it is told the address by hand.
    https://github.com/aws/aws-cli/blob/v1/awscli/customizations/overridesslcommonname.py
    """
    aws = home / "aws"
    real = CHECKOUT.root / ".tools/aws/bin/aws"
    aws.write_text(f'#!/bin/sh\nexec "{real}" --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n', encoding="utf-8")
    aws.chmod(0o700)
    secrets = home / "credentials"
    secrets.write_text(
        f"[customer]\naws_access_key_id = {CUSTOMER_ACCOUNT}\naws_secret_access_key = local-only\n", encoding="utf-8"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_CLI_"))}
    return {
        **kept,
        "PATH": f"{home}:{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": cloud.endpoint_url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": OPERATOR_ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "local-only",
        "AWS_SHARED_CREDENTIALS_FILE": str(secrets),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "1",
    }


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
            env=shell_environ(cloud, tmp_path),
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
        assert [each for each in account.leftovers() if each.is_ours] == []
    assert re.search(r'"type": ?"key\.suspect"', told), told[-6000:]
    assert told.count("Successfully created/updated stack - keyvigil") == 2  # the deployment and the upgrade
    assert "KeyVigil is gone" in told
