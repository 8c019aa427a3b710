"""Reading accounts: paged, throttled, denied; what could not be read is never left out."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from botocore.stub import Stubber
from moto import mock_aws

from keyvigil_cli.discovery.account import discover
from keyvigil_cli.discovery.aws_calls import ATTEMPTS, Account, Calls
from keyvigil_cli.discovery.credentials import accounts_of
from keyvigil_cli.discovery.model import Inventory, Manager, Place, Reading
from keyvigil_cli.discovery.permissions import policy
from keyvigil_cli.discovery.readers import read_ebs, read_s3, read_secrets, read_sqs
from keyvigil_cli.discovery.report import as_plain, status_of
from keyvigil_cli.exit_status import ExitStatus

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ACCOUNT, REGION = "123456789012", "us-west-2"  # the account is moto's
HERE = Place(ACCOUNT, REGION)
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture(autouse=True)
def customer(monkeypatch: pytest.MonkeyPatch, no_aws_settings: None) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


def client(service: str) -> Any:
    make: Any = boto3.Session()
    return make.client(service)


# --- pages ---------------------------------------------------------------------------------------------------------


def test_every_page_is_read_and_what_came_before_a_refusal_is_kept() -> None:
    secrets = client("secretsmanager")
    secret = {"Name": "s", "ARN": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:s-AbCdEf"}
    found = Reading()
    with Stubber(secrets) as stub:
        stub.add_response("list_secrets", {"SecretList": [secret], "NextToken": "more"}, {})
        stub.add_client_error("list_secrets", "AccessDeniedException", expected_params={"NextToken": "more"})
        with pytest.raises(secrets.exceptions.ClientError):
            read_secrets(lambda _name: Calls(secrets), HERE, found)
    assert [each.name for each in found.resources] == ["s"]


def test_snapshots_are_counted_over_all_pages() -> None:
    ec2 = client("ec2")
    encrypted = [{"Name": "encrypted", "Values": ["true"]}]
    asked: dict[str, Any] = {"OwnerIds": ["self"], "Filters": encrypted}
    found = Reading()
    with Stubber(ec2) as stub:
        stub.add_response("describe_volumes", {"Volumes": []}, {"Filters": encrypted})
        stub.add_response("describe_snapshots", {"Snapshots": [{"KmsKeyId": KEY}] * 2, "NextToken": "more"}, asked)
        stub.add_response("describe_snapshots", {"Snapshots": [{"KmsKeyId": KEY}]}, {**asked, "NextToken": "more"})
        read_ebs(lambda _name: Calls(ec2), HERE, found)
    assert [(each.name, each.key) for each in found.resources] == [("3 snapshots", KEY)]


def test_a_bucket_that_may_not_be_looked_into_is_told_and_the_others_are_read() -> None:
    s3 = client("s3")
    found = Reading()
    buckets = [{"Name": name, "BucketRegion": region} for name, region in
               (("closed", REGION), ("plain", REGION), ("far", "eu-west-1"))]  # fmt: skip
    with Stubber(s3) as stub:
        stub.add_response("list_buckets", {"Buckets": buckets}, {"MaxBuckets": 1000})
        stub.add_client_error("get_bucket_encryption", "AccessDenied", expected_params={"Bucket": "closed"})
        stub.add_client_error(
            "get_bucket_encryption",
            "ServerSideEncryptionConfigurationNotFoundError",
            expected_params={"Bucket": "plain"},
        )
        read_s3([REGION])(lambda _name: Calls(s3), HERE, found)
    assert [each.name for each in found.resources] == ["plain"]
    assert [(each.what, each.code) for each in found.unread] == [("s3 bucket closed", "AccessDenied")]
    assert found.notes == [f"Buckets of {ACCOUNT} in Regions that were not asked for: 1 in eu-west-1."]


def test_queues_are_asked_for_in_pages() -> None:
    sqs = client("sqs")
    found = Reading()
    with Stubber(sqs) as stub:
        stub.add_response("list_queues", {"QueueUrls": ["https://q/1/a"], "NextToken": "more"}, {"MaxResults": 1000})
        asked = {"QueueUrl": "https://q/1/a", "AttributeNames": ["QueueArn", "KmsMasterKeyId"]}
        stub.add_response("get_queue_attributes", {"Attributes": {"KmsMasterKeyId": KEY}}, asked)
        stub.add_response("list_queues", {"QueueUrls": ["https://q/1/b"]}, {"MaxResults": 1000, "NextToken": "more"})
        stub.add_response("get_queue_attributes", {}, {**asked, "QueueUrl": "https://q/1/b"})
        read_sqs(lambda _name: Calls(sqs), HERE, found)
    assert [(each.name, each.key) for each in found.resources] == [("a", KEY), ("b", None)]


# --- a whole account -----------------------------------------------------------------------------------------------

type Answer = Callable[[], AWSResponse | Exception | None]


class Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_options: object) -> Iterator[bytes]:
        yield self._body


def response(status: int, body: bytes, **headers: str) -> AWSResponse:
    kept: Any = {name.replace("_", "-"): value for name, value in headers.items()}
    return AWSResponse("https://aws", status, kept, Raw(body))


def refusal(code: str, status: int = 400) -> AWSResponse:
    body = json.dumps({"__type": code, "message": f"{code} it was"}).encode()
    return response(status, body, x_amzn_errortype=code, content_type="application/x-amz-json-1.1")


_LOADER = botocore.loaders.create_loader()
"""Reads each service's description once for all tests: that is most of a client's making."""


class Wire:
    """A session on moto's cloud, on whose way some calls meet another answer. Retries are botocore's own."""

    def __init__(self) -> None:
        core = botocore.session.Session()
        core.register_component("data_loader", _LOADER)
        self.session = boto3.Session(botocore_session=core)
        self.sent: Counter[str] = Counter()
        self.called: set[str] = set()
        self.session.events.register_first("before-send", self._count)
        self.session.events.register("provide-client-params", self._call)

    def _count(self, event_name: str, **_request: object) -> None:
        _, _, call = event_name.partition(".")
        self.sent[call] += 1

    def _call(self, model: Any, **_call: object) -> None:
        self.called.add(f"{model.service_model.service_name}:{model.name}")

    def answers(self, call: str, answer: Answer) -> None:
        def handle(**_request: object) -> AWSResponse | None:
            given = answer()
            if isinstance(given, Exception):
                raise given
            return given

        events: Any = self.session.events  # whose stubs know no handler that answers
        events.register_first(f"before-send.{call}", handle)

    def read(self, *regions: str) -> Inventory:
        return discover([Account(ACCOUNT, self.session)], regions or [REGION], taken_at=NOW)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with mock_aws():
        yield Wire()


def key_of(wire: Wire, region: str = REGION, **settings: Any) -> str:
    return wire.session.client("kms", region_name=region).create_key(**settings)["KeyMetadata"]["Arn"]


def table_under(wire: Wire, key: str) -> None:
    wire.session.client("dynamodb").create_table(
        TableName="orders",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
        SSESpecification={"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": key},
    )


def test_resources_are_shown_under_their_key_however_they_name_it(wire: Wire) -> None:
    key = key_of(wire)
    wire.session.client("kms").create_alias(AliasName="alias/app", TargetKeyId=key)
    table_under(wire, key)
    wire.session.client("sns").create_topic(Name="alarms", Attributes={"KmsMasterKeyId": "alias/app"})
    wire.session.client("ssm").put_parameter(Name="/p", Value="v", Type="SecureString", KeyId=key.rpartition("/")[2])
    found = wire.read()
    [use] = found.customers
    assert (use.key.arn, use.key.name) == (key, "alias/app")
    assert {each.name for each in use.resources} == {"orders", "alarms", "/p"}
    assert [each.code for each in found.findings] == ["rotation-off"]
    assert status_of(found) is ExitStatus.FINE


def test_keys_of_aws_are_shown_apart(wire: Wire) -> None:
    wire.session.client("sqs").create_queue(QueueName="q", Attributes={"KmsMasterKeyId": "alias/aws/sqs"})
    found = wire.read()
    assert (found.customers, found.findings) == ((), ())
    [use] = found.of_aws
    assert (use.key.manager, [each.name for each in use.resources]) == (Manager.AWS, ["q"])


def test_a_key_of_another_account_is_named_as_such_though_it_may_not_be_looked_into(wire: Wire) -> None:
    foreign = KEY.replace(ACCOUNT, "333333333333")
    wire.session.client("sqs").create_queue(QueueName="q", Attributes={"KmsMasterKeyId": foreign})
    wire.answers("kms.DescribeKey", lambda: refusal("AccessDeniedException"))
    found = wire.read()
    [use] = found.customers
    assert (use.key.arn, use.key.of_other_account, use.key.manager) == (foreign, True, Manager.UNKNOWN)
    assert [each.what for each in found.unread] == [f"kms key {foreign}"]
    assert status_of(found) is ExitStatus.UNKNOWN


def test_a_key_that_is_not_there_any_more_is_unhealthy(wire: Wire) -> None:
    wire.session.client("sqs").create_queue(QueueName="q", Attributes={"KmsMasterKeyId": KEY})
    found = wire.read()
    assert [(each.code, each.name) for each in found.findings] == [("key-not-there", KEY.rpartition("/")[2])]
    assert status_of(found) is ExitStatus.UNHEALTHY


def test_a_key_to_be_deleted_is_unhealthy_only_if_something_hangs_on_it(wire: Wire) -> None:
    key = key_of(wire)
    wire.session.client("kms").schedule_key_deletion(KeyId=key.rpartition("/")[2], PendingWindowInDays=7)
    assert status_of(wire.read()) is ExitStatus.FINE
    table_under(wire, key)
    found = wire.read()
    assert status_of(found) is ExitStatus.UNHEALTHY
    assert found.findings[0].code == "deletion-scheduled"


def test_what_is_throttled_in_passing_is_read_in_the_end(wire: Wire) -> None:
    table_under(wire, key_of(wire))
    refusals = iter([refusal("ThrottlingException")] * (ATTEMPTS - 1))
    wire.answers("dynamodb.ListTables", lambda: next(refusals, None))
    found = wire.read()
    assert [each.name for use in found.customers for each in use.resources] == ["orders"]
    assert found.unread == ()


def test_what_is_throttled_to_the_end_is_told_and_asked_no_more(wire: Wire) -> None:
    wire.answers("dynamodb.ListTables", lambda: refusal("ThrottlingException"))
    found = wire.read()
    [unread] = found.unread
    assert (unread.what, unread.code, "throttled" in unread.why) == ("dynamodb", "ThrottlingException", True)
    assert wire.sent["dynamodb.ListTables"] == ATTEMPTS
    assert status_of(found) is ExitStatus.UNKNOWN


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("kms.ListKeys", "kms"),
        ("kms.ListAliases", "kms aliases"),
        ("kms.DescribeKey", "kms key "),
        ("kms.GetKeyRotationStatus", "rotation of kms key "),
        ("kms.GetKeyPolicy", "policy of kms key "),
        ("dynamodb.ListTables", "dynamodb"),
        ("dynamodb.DescribeTable", "dynamodb table orders"),
        ("logs.DescribeLogGroups", "logs"),
        ("ssm.DescribeParameters", "ssm"),
        ("secretsmanager.ListSecrets", "secretsmanager"),
        ("lambda.ListFunctions", "lambda"),
        ("cloudtrail.DescribeTrails", "cloudtrail"),
    ],
)
def test_what_is_denied_is_told_and_the_rest_is_read(wire: Wire, call: str, what: str) -> None:
    key = key_of(wire)
    table_under(wire, key)
    wire.session.client("sqs").create_queue(QueueName="q", Attributes={"KmsMasterKeyId": key})
    wire.answers(call, lambda: refusal("AccessDeniedException"))
    found = wire.read()
    assert any(each.what.startswith(what) and "denied" in each.why for each in found.unread)
    assert [key] == [use.key.arn for use in found.keys]
    assert "q" in [each.name for use in found.keys for each in use.resources]
    assert status_of(found) is ExitStatus.UNKNOWN
    assert [each["what"] for each in as_plain(found)["unread"]] == [each.what for each in found.unread]  # type: ignore[attr-defined] # JSON


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "InvalidClientTokenId", "OptInRequired"])
def test_a_region_that_is_not_enabled_is_told_once_and_nothing_else_is_asked_there(wire: Wire, code: str) -> None:
    key = key_of(wire)
    wire.answers("kms.ListAliases", lambda: refusal(code, 403))
    wire.answers("kms.ListKeys", lambda: refusal(code, 403))
    found = wire.read()
    assert [(each.place, each.what, each.code) for each in found.unread] == [(HERE, "everything", "RegionNotEnabled")]
    assert {call.partition(".")[0] for call in wire.sent} == {"kms"}
    assert status_of(found) is ExitStatus.ERROR, f"{key} was not seen, nor anything else"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EndpointConnectionError(endpoint_url="https://kms.us-west-9.amazonaws.com"), "NoEndpoint"),
        (ReadTimeoutError(endpoint_url="https://kms.us-west-2.amazonaws.com"), "ReadTimeoutError"),
    ],
    ids=["no such Region", "no answer in time"],
)
def test_silence_is_told(wire: Wire, error: Exception, code: str) -> None:
    wire.answers("kms.ListAliases", lambda: error)
    wire.answers("kms.ListKeys", lambda: error)
    found = wire.read()
    assert code in {each.code for each in found.unread}
    assert status_of(found) in {ExitStatus.ERROR, ExitStatus.UNKNOWN}


def test_several_regions_are_read_and_each_is_named(wire: Wire) -> None:
    keys = {region: key_of(wire, region) for region in (REGION, "eu-west-1")}
    found = wire.read(*keys)
    assert {use.key.place.region: use.key.arn for use in found.customers} == keys


def test_a_key_in_a_region_that_was_not_asked_for_is_looked_up_there(wire: Wire) -> None:
    far = key_of(wire, "eu-west-1", Description="far away")
    wire.session.client("sqs").create_queue(QueueName="q", Attributes={"KmsMasterKeyId": far})
    [use] = wire.read().customers
    assert (use.key.arn, use.key.description) == (far, "far away")


def test_values_of_environment_variables_go_nowhere(wire: Wire) -> None:
    answer = {"Functions": [{"FunctionName": "f", "FunctionArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f",
                             "Version": "$LATEST", "Environment": {"Variables": {"PASSWORD": "hunter2"}}}]}  # fmt: skip
    body = json.dumps(answer).encode()
    wire.answers("lambda.ListFunctions", lambda: response(200, body, content_type="application/json"))
    found = wire.read()
    assert [each.code for each in found.findings] == ["lambda-environment-without-key"]
    assert "hunter2" not in repr(found)


# --- roles ---------------------------------------------------------------------------------------------------------


def test_accounts_are_entered_through_their_roles_and_a_closed_one_is_told(wire: Wire) -> None:
    roles = [f"arn:aws:iam::{number * 12}:role/reader" for number in "23"]
    answers = iter([None, 1])
    denied = (
        b"<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error>"
        b"</ErrorResponse>"
    )
    wire.answers("sts.AssumeRole", lambda: response(403, denied) if next(answers) else None)
    accounts, unread = accounts_of(wire.session, roles, "shared-secret", [REGION])
    assert [each.account_id for each in accounts] == ["222222222222"]
    assert [(each.place.account_id, each.code) for each in unread] == [("333333333333", "AccessDenied")]
    found = discover(accounts, [REGION], taken_at=NOW, unread=unread)
    assert status_of(found) is ExitStatus.UNKNOWN
    assert [each.what for each in found.unread] == [f"everything: {roles[1]}"]


# --- permissions ---------------------------------------------------------------------------------------------------

# Where IAM's action is not the operation's name.
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
OTHERWISE_NAMED = {
    "s3:ListBuckets": "s3:ListAllMyBuckets",
    "s3:GetBucketEncryption": "s3:GetEncryptionConfiguration",
}


def test_the_policy_allows_exactly_what_is_called(wire: Wire) -> None:
    key = key_of(wire)
    table_under(wire, key)
    session = wire.session
    session.client("sqs").create_queue(QueueName="q")
    session.client("sns").create_topic(Name="t")
    session.client("secretsmanager").create_secret(Name="s", SecretString="v", KmsKeyId=key)
    here: Any = {"LocationConstraint": REGION}
    client("s3").create_bucket(Bucket="bucket", CreateBucketConfiguration=here)
    wire.called.clear()
    wire.read()
    [statement] = policy()["Statement"]
    assert set(statement["Action"]) == {OTHERWISE_NAMED.get(call, call) for call in wire.called}


def test_the_policy_names_the_roles_that_are_assumed() -> None:
    role = "arn:aws:iam::222222222222:role/reader"
    assert policy([role])["Statement"][1] == {
        "Sid": "AssumeTheRolesOfOtherAccounts",
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Resource": [role],
    }
