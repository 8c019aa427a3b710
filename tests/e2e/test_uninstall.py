"""Removal, on a local cloud of its own: it refuses, releases, and leaves nothing behind."""

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyvigil_cli.aws_account import AwsAccount
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.customer import CustomerAccount
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT, REGION, STACK_NAME, LocalCloud
from keyvigil_cli.project import Project

CHECKOUT = Checkout.find(Path(__file__).parent)


@pytest.fixture
def own_cloud() -> Iterator[LocalCloud]:
    """A cloud that nobody else uses: its stack goes."""
    with LocalCloud(CHECKOUT) as cloud:
        yield cloud


def operator_environ(cloud: LocalCloud) -> dict[str, str]:
    """What an operator's shell says, and nothing that would lead elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {
        **kept,
        "AWS_ENDPOINT_URL": cloud.endpoint_url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": OPERATOR_ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "local-only",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


def uninstall(cloud: LocalCloud, *variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "uninstall", *variables],
        cwd=CHECKOUT.root,
        env=operator_environ(cloud),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def test_a_stack_with_a_locked_cluster_goes_only_when_told_to_release_it_and_leaves_nothing(
    own_cloud: LocalCloud,
) -> None:
    outputs = own_cloud.deploy()
    project = Project.create(own_cloud.api(outputs), "acme-prod", enforcement="enforce")
    Project.create(own_cloud.api(outputs), "empty")
    customer = CustomerAccount(own_cloud.session(CUSTOMER_ACCOUNT), CUSTOMER_ACCOUNT)
    key = customer.onboard(outputs["MonitorRoleArn"], project.external_id, project.project_id)
    key_id = project.register_key(key)["key_id"]
    project.register_cluster("vectors", key_id, {"via": "none"})
    customer.disable_key(key)
    project.api.post("projects", "acme-prod", "keys", key_id, "check")
    project.wait_for_clusters(["vectors"], "LOCKED")

    refused = uninstall(own_cloud)
    assert refused.returncode != 0
    assert "acme-prod/vectors (LOCKED)" in refused.stderr
    assert project.cluster("vectors")["status"] == "LOCKED"
    assert project.api.get("projects", "acme-prod")["enforcement"] == "enforce"

    released = uninstall(own_cloud, "RELEASE=1")
    assert released.returncode == 0, released.stdout + released.stderr
    account = AwsAccount(STACK_NAME, own_cloud.session(), endpoint_url=own_cloud.endpoint_url)
    assert account.stack() is None
    assert [each for each in account.leftovers() if each.is_ours] == []
    assert own_cloud.session().client("sns").list_topics()["Topics"] == []
    assert own_cloud.session().client("sns").list_subscriptions()["Subscriptions"] == []
    assert own_cloud.session().client("lambda").list_layers()["Layers"] == []
    assert own_cloud.session().client("lambda").list_functions()["Functions"] == []
    assert own_cloud.session().client("dynamodb").list_tables()["TableNames"] == []
    assert own_cloud.session().client("iam").list_roles()["Roles"] == []
    # The canary's key is the one thing that takes longer: KMS deletes none in less than seven days.
    kms = own_cloud.session().client("kms")
    keys = [kms.describe_key(KeyId=each["KeyId"])["KeyMetadata"] for each in kms.list_keys()["Keys"]]
    [canary] = [each for each in keys if each["KeyManager"] == "CUSTOMER"]
    assert canary["KeyState"] == "PendingDeletion"
    assert canary["DeletionDate"] - datetime.now(UTC) <= timedelta(days=7)

    again = uninstall(own_cloud)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "There is no stack keyvigil here" in again.stdout
