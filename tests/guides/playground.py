"""The local cloud that all guides share: brought up by the first chapter of the operator's quick start."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyvigil_cli import local_stack
from keyvigil_cli.customer import CustomerAccount, RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT, REGION, LocalCloud
from keyvigil_cli.project import Project
from tests.guides.reader import CHECKOUT, NAME, Page, Reader
from tests.guides.written_commands import OPERATOR


@dataclass(frozen=True)
class Customer:
    """A project, and the customer's key and role with which it probes: what most pages take for granted."""

    project: Project
    key: RegistrableKey
    account: CustomerAccount

    @property
    def key_id(self) -> str:
        """The key's id in the registry, registered or not."""
        arn = self.key.key_arn.split(":")
        return f"{arn[3]}.{arn[5].removeprefix('key/')}"

    def allow(self, key_arn: str) -> None:
        """Let the role probe one key more."""
        self.account.allow(RegistrableKey(key_arn, self.key.role_arn))


class Playground:
    """What `keyvigil local up` gives: an operator's account with the deployed stack, and a customer's."""

    def __init__(self, home: Path) -> None:
        """Follow the operator's quick start as far as the cloud.

        Args:
            home: a folder for the readers' own.
        """
        self._home = home
        self._numbers = itertools.count(1)
        self.first = Reader(home / "first-operator")
        self.quick_start = Page(OPERATOR)
        """The operator's quick start, as far as it was followed."""
        begun = self.quick_start.follow(self.first, "Have KeyVigil")
        assert re.search(r"Local cloud +up", begun), begun[-3000:]
        standing = local_stack.standing(CHECKOUT, name=NAME)
        assert standing.directory is not None
        self.cloud = LocalCloud.attached(CHECKOUT, int(standing.directory.name))
        self.outputs = self.cloud.outputs()

    def end(self) -> None:
        """Follow the operator's quick start to its end, which is the cloud's."""
        assert "has ended" in self.quick_start.follow(self.first, "End it")
        assert "down" in self.first.paste(f"keyvigil local status --name {NAME}", ends=3)

    def operator(self, project: str, *, folder: Path | None = None) -> Reader:
        """A reader in the operator's account, who has done what the first chapter of the quick start says.

        Args:
            project: what `acme-prod` on a page stands for. It is not made.
            folder: where commands run; a new folder if nothing is said, in which the checkout's files are seen.
        """
        home = self._home / f"{project}-{next(self._numbers)}"
        reader = Reader(home, project=project, folder=folder or _seen_from(home.with_suffix(".files")))
        reader.paste(
            f'PATH="{CHECKOUT.root}/.venv/bin:$PATH" AWS_PAGER=""\n. {CHECKOUT.root}/.local-cloud/env-{NAME}\n'
            # The local cloud compares no encryption context.
            f"THE_API_URL='{self.outputs.api_url}'\nROLE_PARAMETERS=RestrictToProbes=false"
        )
        return reader

    def customer(self, project: str, *, folder: Path | None = None) -> Reader:
        """A reader in the customer's account, otherwise as an operator."""
        reader = self.operator(project, folder=folder)
        reader.paste("AWS_PROFILE=customer")
        return reader

    def take_in(
        self,
        project: str,
        *,
        data_keys: bool = False,
        account: CustomerAccount | None = None,
        monitor_role_arn: str | None = None,
        **settings: str | int,
    ) -> Customer:
        """Make a project, and a customer's key and role for it. The key is not registered yet.

        Args:
            project: its id. The role's name is what `keyvigil-customer` on a page stands for.
            data_keys: whether probes of use `cse` are allowed.
            account: whose key it is; the one that the profile `customer` leads to if nothing is said.
            monitor_role_arn: whom the role trusts; KeyVigil's monitor if nothing is said.
            settings: fields of `POST /projects`.
        """
        made = Project.create(self.cloud.api(self.outputs), project, **settings)
        account = account or CustomerAccount(self.cloud.session(CUSTOMER_ACCOUNT), CUSTOMER_ACCOUNT)
        monitor = monitor_role_arn or self.outputs["MonitorRoleArn"]
        role = account.role_for(monitor, made.external_id, project, role_name=f"keyvigil-customer-{project}")
        return Customer(made, account.create_key(role, data_keys=data_keys), account)

    def tell(self, reader: Reader, customer: Customer) -> None:
        """Set the variables that a reader's page calls by examples."""
        reader.tell(
            {
                "THE_EXTERNAL_ID": customer.project.external_id,
                "EXTERNAL_ID": customer.project.external_id,
                "KEY_ARN": customer.key.key_arn,
                "KEY_ID": customer.key_id,
                "ROLE_ARN": customer.key.role_arn,
            }
        )

    def client(self, service: str, account: str = OPERATOR_ACCOUNT, region: str = REGION) -> Any:
        """A boto3 client, for what a page takes for granted."""
        return self.cloud.session(account).client(service, region_name=region)  # type: ignore[call-overload]  # any


def _seen_from(folder: Path) -> Path:
    """Make a folder in which the checkout's files are seen, and whose new files stay out of it."""
    folder.mkdir()
    for each in CHECKOUT.root.iterdir():
        (folder / each.name).symlink_to(each)
    return folder
