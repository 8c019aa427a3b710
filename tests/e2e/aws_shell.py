"""A POSIX shell with the AWS command line that `make install` brings, led to a local cloud."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from keyvigil_cli.checkout import Checkout
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, REGION, LocalCloud

CHECKOUT = Checkout.find(Path(__file__).parent)
_SECRET = "local-only"
_COMMAND_SECONDS = 60


class AwsShell:
    """A folder to work in, and an environment in which `aws` is one account's administrator.

    A profile `customer` is the customer's account, whoever the shell's own is.
    """

    def __init__(self, cloud: LocalCloud, home: Path, account_id: str) -> None:
        """Write the command and the profile into `home`.

        Version 1 of the command line leads some services, SQS among them, past AWS_ENDPOINT_URL, so it is told the
        address by hand: https://github.com/aws/aws-cli/blob/v1/awscli/customizations/overridesslcommonname.py
        """
        self.home = home
        self.add_command("aws", f'exec "{CHECKOUT.root}/.tools/aws/bin/aws" --endpoint-url "$AWS_ENDPOINT_URL" "$@"')
        secrets = home / "credentials"
        secrets.write_text(
            f"[customer]\naws_access_key_id = {CUSTOMER_ACCOUNT}\naws_secret_access_key = {_SECRET}\n", encoding="utf-8"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_CLI_"))}
        self.environ = {
            **kept,
            "PATH": f"{home}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": cloud.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": account_id,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_SHARED_CREDENTIALS_FILE": str(secrets),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def add_command(self, name: str, script: str) -> Path:
        """Put a command before all others on the PATH."""
        command = self.home / name
        command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        command.chmod(0o700)
        return command

    def paste(self, command: str, environ: Mapping[str, str] | None = None) -> str:
        """Run a command as if somebody had pasted it; return what it printed, which must not be a failure."""
        done = subprocess.run(
            ["sh", "-euc", command],
            cwd=self.home,
            env={**self.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout
