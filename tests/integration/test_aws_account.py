"""What an uninstallation finds in an account: CloudFormation by botocore's Stubber, the rest on moto."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws

from keyvigil_cli.aws_account import AwsAccount, NotConfiguredError
from keyvigil_cli.uninstall import Deletion


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-west-2")


STACK_ID = "arn:aws:cloudformation:us-west-2:111111111111:stack/keyvigil/1"


def described(status: str = "UPDATE_COMPLETE", description: str = "KeyVigil watches keys") -> dict[str, Any]:
    stack = {
        "StackId": STACK_ID,
        "StackName": "keyvigil",
        "CreationTime": datetime(2026, 11, 22, tzinfo=UTC),
        "StackStatus": status,
        "Description": description,
        "Outputs": [{"OutputKey": "ApiUrl", "OutputValue": "https://api.example"}],
    }
    return {"Stacks": [stack]}


@pytest.fixture
def account(session: boto3.Session) -> AwsAccount:
    return AwsAccount("keyvigil", session)


@pytest.fixture
def stacks(account: AwsAccount) -> Iterator[Stubber]:
    """CloudFormation, in answers laid ready."""
    with Stubber(account._stacks) as stubber:
        yield stubber


def test_a_stack_is_found_with_its_api(account: AwsAccount, stacks: Stubber) -> None:
    stacks.add_response("describe_stacks", described(), {"StackName": "keyvigil"})
    found = account.stack()
    assert found is not None
    assert (found.stack_id, found.registry is not None) == (STACK_ID, True)


def test_a_stack_without_a_description_is_known_by_its_monitor_role(account: AwsAccount, stacks: Stubber) -> None:
    nameless = described()
    del nameless["Stacks"][0]["Description"]
    nameless["Stacks"][0]["Outputs"].append({"OutputKey": "MonitorRoleArn", "OutputValue": "arn"})
    stacks.add_response("describe_stacks", nameless)
    assert account.stack() is not None


@pytest.mark.parametrize("status", ["DELETE_IN_PROGRESS", "DELETE_FAILED", "ROLLBACK_COMPLETE"])
def test_the_api_of_a_stack_that_goes_is_not_called(account: AwsAccount, stacks: Stubber, status: str) -> None:
    stacks.add_response("describe_stacks", described(status))
    found = account.stack()
    assert found is not None
    assert found.registry is None


def test_a_stack_whose_deployment_was_declined_has_no_api(account: AwsAccount, stacks: Stubber) -> None:
    declined = described("REVIEW_IN_PROGRESS")
    del declined["Stacks"][0]["Outputs"]
    stacks.add_response("describe_stacks", declined)
    with pytest.raises(NotConfiguredError, match="REVIEW_IN_PROGRESS and has no API"):
        account.api()


def test_another_applications_stack_is_not_touched(account: AwsAccount, stacks: Stubber) -> None:
    stacks.add_response("describe_stacks", described(description="Sells things"))
    with pytest.raises(NotConfiguredError, match=r"not KeyVigil's.*Sells things"):
        account.stack()


def test_an_api_that_is_not_there_is_an_error_that_names_stack_and_region(account: AwsAccount, stacks: Stubber) -> None:
    stacks.add_client_error("describe_stacks", "ValidationError", "Stack with id keyvigil does not exist")
    with pytest.raises(NotConfiguredError, match="no stack keyvigil in us-west-2"):
        account.api()


def test_any_other_refusal_of_cloudformation_is_not_taken_for_no_stack(account: AwsAccount, stacks: Stubber) -> None:
    stacks.add_client_error("describe_stacks", "AccessDenied", "not authorized to perform cloudformation")
    with pytest.raises(ClientError, match="not authorized"):
        account.stack()


def test_a_deletion_is_counted_and_its_failure_explained(account: AwsAccount, stacks: Stubber) -> None:
    failed = described("DELETE_FAILED")
    failed["Stacks"][0]["StackStatusReason"] = "the table is protected"
    at = datetime(2026, 11, 22, tzinfo=UTC)
    resources = [
        {"LogicalResourceId": name, "ResourceType": "T", "LastUpdatedTimestamp": at, "ResourceStatus": status}
        for name, status in (("Api", "DELETE_COMPLETE"), ("Table", "DELETE_FAILED"))
    ]
    stacks.add_response("describe_stacks", failed, {"StackName": STACK_ID})
    stacks.add_response("list_stack_resources", {"StackResourceSummaries": resources}, {"StackName": STACK_ID})
    assert account.deletion(STACK_ID) == Deletion("DELETE_FAILED", 1, 2, "the table is protected")


def test_a_stack_that_is_gone_is_deleted(account: AwsAccount, stacks: Stubber) -> None:
    stacks.add_response("describe_stacks", described("DELETE_COMPLETE"))
    assert account.deletion(STACK_ID).status == "DELETE_COMPLETE"


def test_settings_without_a_region_are_an_error(session: boto3.Session) -> None:
    nowhere = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing")
    with pytest.raises(NotConfiguredError, match="no Region"):
        AwsAccount("keyvigil", nowhere)


def test_what_is_left_is_found_and_removed_and_what_another_stack_left_is_not(
    session: boto3.Session, account: AwsAccount
) -> None:
    topics, logs = session.client("sns"), session.client("logs")
    ours = topics.create_topic(Name="keyvigil-project-acme", Tags=[{"Key": "keyvigil:stack", "Value": "keyvigil"}])[
        "TopicArn"
    ]
    theirs = topics.create_topic(
        Name="keyvigil-project-x-project-acme", Tags=[{"Key": "keyvigil:stack", "Value": "keyvigil-project-x"}]
    )["TopicArn"]
    topics.create_topic(Name="other")
    workflow_logs = "/aws/vendedlogs/states/keyvigil-cluster-recovery"
    for name in (
        "/aws/lambda/keyvigil-check-keys",
        "/aws/apigateway/keyvigil",
        "/aws/lambda/keyvigil-two-check-keys",
        workflow_logs,
    ):
        logs.create_log_group(logGroupName=name)
    session.client("s3").create_bucket(
        Bucket="keyvigil-artifacts", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
    )
    found = {each.name: each.is_ours for each in account.leftovers()}
    assert found == {
        ours: True,
        theirs: False,
        "/aws/lambda/keyvigil-check-keys": True,
        "/aws/apigateway/keyvigil": True,
        workflow_logs: True,
        "keyvigil-artifacts": False,
    }
    for leftover in account.leftovers():
        if leftover.is_ours:
            account.remove(leftover)
    assert [each.name for each in account.leftovers()] == [theirs, "keyvigil-artifacts"]


def test_a_stacks_table_is_found_by_its_outputs(account: AwsAccount, stacks: Stubber) -> None:
    whole = described()
    whole["Stacks"][0]["Outputs"].append({"OutputKey": "TableName", "OutputValue": "keyvigil-Table-1"})
    stacks.add_response("describe_stacks", whole)
    assert account.table_name() == "keyvigil-Table-1"


def test_a_stack_without_a_table_is_said_to_have_none(account: AwsAccount, stacks: Stubber) -> None:
    stacks.add_response("describe_stacks", described())
    with pytest.raises(NotConfiguredError, match="there is no stack keyvigil with a table in us-west-2"):
        account.table_name()
