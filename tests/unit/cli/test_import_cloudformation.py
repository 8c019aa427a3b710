"""CloudFormation's templates, read from files and from deployed stacks: references resolved, or told where they end."""

import json
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyvigil_cli.deployed_stack import StackUnreadableError, read_stack
from keyvigil_cli.imports.cloudformation import Deployed, needs_exports, read_resources, read_template
from keyvigil_cli.imports.found import Found, NotReadableError, Why, cluster_id_of
from tests.unit.cli.terraform_documents import ACCOUNT, KMS, key_arn

HERE = Deployed(region="us-west-2", account_id=ACCOUNT)
STACK = Deployed(
    region="us-west-2",
    account_id=ACCOUNT,
    name="app",
    parameters={"KeyArn": key_arn(), "Stage": "prod", "Keys": f"{key_arn(4)},{key_arn(5)}"},
    physical={"Key": KMS.format(2), "Alias": "alias/app", "Trail": "audit", "Nested": "arn:aws:cloudformation:x"},
    exports={"shared-key": key_arn(3)},
    nested={"Nested": {"KeyArn": key_arn(6)}},
    is_stack=True,
)


def template(key: Any, **sections: Any) -> dict[str, Any]:
    resources = {
        "Key": {"Type": "AWS::KMS::Key"},
        "Alias": {"Type": "AWS::KMS::Alias", "Properties": {"AliasName": "alias/app"}},
        "Trail": {"Type": "AWS::CloudTrail::Trail", "Properties": {"TrailName": "audit", "KMSKeyId": key}},
    }
    return {"Resources": resources, **sections}


def left(found: Found) -> list[tuple[str, Why]]:
    return [(each.address, each.why) for each in found.left_out]


CONDITIONS = {
    "IsProd": {"Fn::Equals": [{"Ref": "Stage"}, "prod"]},
    "Both": {"Fn::And": [{"Condition": "IsProd"}, {"Fn::Not": [{"Fn::Equals": ["a", "b"]}]}]},
    "Never": {"Fn::Or": [{"Fn::Not": [{"Condition": "IsProd"}]}, {"Fn::Equals": ["a", "b"]}]},
}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (key_arn(), key_arn()),
        ({"Ref": "KeyArn"}, key_arn()),
        ({"Ref": "Key"}, key_arn(2)),
        ({"Fn::GetAtt": ["Key", "Arn"]}, key_arn(2)),
        ({"Fn::GetAtt": "Key.KeyId"}, key_arn(2)),
        ({"Ref": "Alias"}, f"arn:aws:kms:us-west-2:{ACCOUNT}:alias/app"),
        ({"Fn::Sub": "${Key.Arn}"}, key_arn(2)),
        ({"Fn::Sub": "arn:${AWS::Partition}:kms:${AWS::Region}:${AWS::AccountId}:key/${Key}"}, key_arn(2)),
        ({"Fn::Sub": ["${It}", {"It": {"Ref": "KeyArn"}}]}, key_arn()),
        ({"Fn::Join": [":", ["arn", {"Ref": "AWS::Partition"}, "kms", {"Ref": "AWS::Region"}, ACCOUNT,
                             f"key/{KMS.format(9)}"]]}, key_arn(9)),
        ({"Fn::ImportValue": "shared-key"}, key_arn(3)),
        ({"Fn::ImportValue": {"Fn::Sub": "shared-key"}}, key_arn(3)),
        ({"Fn::Select": ["1", {"Ref": "Keys"}]}, key_arn(5)),
        ({"Fn::Select": [0, {"Fn::Split": [",", {"Ref": "Keys"}]}]}, key_arn(4)),
        ({"Fn::If": ["Both", {"Ref": "KeyArn"}, {"Ref": "AWS::NoValue"}]}, key_arn()),
        ({"Fn::If": ["Never", "nonsense", {"Ref": "KeyArn"}]}, key_arn()),
        ({"Fn::FindInMap": ["Keys", {"Ref": "Stage"}, "Arn"]}, key_arn(8)),
        ({"Fn::GetAtt": ["Nested", "Outputs.KeyArn"]}, key_arn(6)),
    ],
)  # fmt: skip
def test_references_are_resolved_as_cloudformation_would(key: Any, expected: str) -> None:
    text = template(key, Conditions=CONDITIONS, Mappings={"Keys": {"prod": {"Arn": key_arn(8)}}})
    text["Resources"]["Nested"] = {"Type": "AWS::CloudFormation::Stack"}
    found = read_resources(text, STACK)
    assert ([each.key_arn for each in found.dependents], found.left_out) == ([expected], [])
    [trail] = found.dependents
    assert (trail.address, trail.name, trail.kind, trail.use) == ("app.Trail", "audit", "other", "service")


@pytest.mark.parametrize(
    "key",
    [
        {"Ref": "Missing"},
        {"Fn::GetAtt": ["Custom", "KeyArn"]},
        {"Fn::ImportValue": "other"},
        "{{resolve:ssm:/keys/main}}",
        {"Fn::Transform": {"Name": "x"}},
        {"Fn::If": ["Unknown", "a", "b"]},
        {"Fn::Select": ["9", ["a"]]},
        {"Fn::Sub": "${Missing}"},
        ["a"],
        {"a": 1, "b": 2},
    ],
)
def test_what_cannot_be_resolved_is_told(key: Any) -> None:
    assert left(read_resources(template(key), STACK)) == [("app.Trail", Why.REFUSED)]


def test_a_dynamic_reference_is_told_by_what_it_is() -> None:
    [told] = read_resources(template("{{resolve:secretsmanager:keys:SecretString:main}}"), STACK).left_out
    assert "a dynamic reference" in told.reason


def test_no_value_is_no_key() -> None:
    found = read_resources(template({"Ref": "AWS::NoValue"}), STACK)
    assert (found.dependents, found.left_out, found.without_key) == ([], [], ["app.Trail"])


def test_conditions_that_go_round_in_a_circle_end() -> None:
    conditions = {"A": {"Condition": "B"}, "B": {"Condition": "A"}}
    found = read_resources(template({"Fn::If": ["A", "x", "y"]}, Conditions=conditions), STACK)
    assert left(found) == [("app.Trail", Why.REFUSED)]


@pytest.mark.parametrize("key", [{"Ref": "Key"}, {"Fn::GetAtt": ["Key", "Arn"]}])
def test_a_file_does_not_know_the_arn_of_the_key_that_it_makes(key: Any) -> None:
    [told] = read_resources(template(key), HERE).left_out
    assert (told.why, "by its name" in told.to_do) == (Why.REFUSED, True)


def test_a_file_s_parameters_have_their_defaults_or_what_was_said() -> None:
    parameters = {"KeyArn": {"Type": "String", "Default": key_arn()}}
    text = template({"Ref": "KeyArn"}, Parameters=parameters)
    assert [each.key_arn for each in read_resources(text, HERE).dependents] == [key_arn()]
    said = Deployed(parameters={"KeyArn": key_arn(2)})
    assert [each.key_arn for each in read_resources(text, said).dependents] == [key_arn(2)]
    parameters["KeyArn"]["Type"] = "AWS::SSM::Parameter::Value<String>"
    assert "--set KeyArn=VALUE" in read_resources(text, HERE).left_out[0].reason


def test_a_file_does_not_know_names_that_cloudformation_makes() -> None:
    text = template(key_arn())
    del text["Resources"]["Trail"]["Properties"]["TrailName"]
    found = read_resources(text, HERE)
    assert (found.dependents, "import the deployed stack" in found.left_out[0].to_do.lower()) == ([], True)


def test_a_resource_whose_condition_is_false_is_not_there() -> None:
    text = template(key_arn(), Conditions={"Off": {"Fn::Equals": ["a", "b"]}})
    text["Resources"]["Trail"]["Condition"] = "Off"
    assert read_resources(text, HERE).settled().dependents == []


YAML = f"""\
Resources:
  Bucket:
    Type: AWS::S3::Bucket
    Properties:
      BucketName: !Sub "logs-${{AWS::AccountId}}"
      BucketEncryption:
        ServerSideEncryptionConfiguration:
          - BucketKeyEnabled: true
            ServerSideEncryptionByDefault:
              SSEAlgorithm: aws:kms
              KMSMasterKeyID: !Join [":", [arn, aws, kms, us-west-2, "{ACCOUNT}", "key/{KMS.format(1)}"]]
  Secret:
    Type: AWS::SecretsManager::Secret
    Properties:
      Name: db
      KmsKeyId: {KMS.format(1)}
      ReplicaRegions: [{{Region: eu-west-1, KmsKeyId: "{key_arn(2, "eu-west-1")}"}}, {{Region: eu-north-1}}]
  Function:
    Type: AWS::Serverless::Function
    Properties: {{FunctionName: f, KmsKeyArn: !Ref Arn}}
  Table:
    Type: AWS::DynamoDB::GlobalTable
    Properties:
      TableName: orders
      Replicas: [{{Region: us-west-2, SSESpecification: {{KMSMasterKeyId: "{key_arn()}"}}}}]
  Database:
    Type: AWS::RDS::DBInstance
    Properties: {{DBInstanceIdentifier: main, KmsKeyId: alias/rds, PerformanceInsightsKMSKeyId: alias/aws/rds}}
  Topic:
    Type: AWS::SNS::Topic
    Properties: {{KmsMasterKeyId: !GetAtt Other.Arn}}
Parameters:
  Arn: {{Type: String, Default: "{key_arn(3)}"}}
"""


def test_a_yaml_file_with_short_forms() -> None:
    found = read_resources(read_template(YAML), HERE)
    assert [(each.kind, each.name, each.key_arn) for each in found.dependents] == [
        ("aws-s3", f"logs-{ACCOUNT}", key_arn()),
        ("aws-secretsmanager", "db", key_arn()),
        ("aws-secretsmanager", "db", key_arn(2, "eu-west-1")),
        ("aws-lambda", "f", key_arn(3)),
        ("aws-dynamodb", "orders", key_arn()),
        ("aws-rds", "main", f"arn:aws:kms:us-west-2:{ACCOUNT}:alias/rds"),
    ]
    assert left(found) == [("Database", Why.NOT_WATCHABLE), ("Topic", Why.REFUSED)]


def test_a_resource_is_the_same_cluster_whoever_imports_it() -> None:
    secret = read_resources(read_template(YAML), HERE).dependents[1]
    assert secret.cluster_id == cluster_id_of("secretsmanager", "db", region="us-west-2", account_id=ACCOUNT)


def test_what_cdk_synthesized_is_a_template() -> None:
    synthesized = {
        "Resources": {
            "Bucket83908E77": {
                "Type": "AWS::S3::Bucket",
                "Properties": {
                    "BucketEncryption": {"ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {
                        "KMSMasterKeyID": {"Fn::ImportValue": "Keys:ExportsOutputFnGetAttKey961B73FDArn5A860C43"},
                        "SSEAlgorithm": "aws:kms"}}]}
                },
                "Metadata": {"aws:cdk:path": "App/Bucket/Resource"},
            },
            "CDKMetadata": {"Type": "AWS::CDK::Metadata", "Properties": {"Analytics": "v2:deflate64:kms"}},
        },
        "Parameters": {"BootstrapVersion": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/cdk"}},
        "Rules": {"CheckBootstrapVersion": {"Assertions": []}},
    }  # fmt: skip
    text = read_template(json.dumps(synthesized))
    assert needs_exports(text)
    assert left(read_resources(text, HERE)) == [("Bucket83908E77", Why.REFUSED)]
    stack = Deployed(
        region="us-west-2", account_id=ACCOUNT, name="App", physical={"Bucket83908E77": "app-bucket83908e77-x"},
        exports={"Keys:ExportsOutputFnGetAttKey961B73FDArn5A860C43": key_arn()}, is_stack=True,
    )  # fmt: skip
    assert [(each.name, each.key_arn) for each in read_resources(text, stack).dependents] == [
        ("app-bucket83908e77-x", key_arn())
    ]


def test_a_nested_stack_of_a_file_is_another_file() -> None:
    text = {"Resources": {"Inner": {"Type": "AWS::CloudFormation::Stack"}}}
    assert left(read_resources(text, HERE)) == [("Inner", Why.REFUSED)]


@pytest.mark.parametrize("text", ["", "[]", "{}", "Resources: []", "a: [", '{"artifacts": {}}', "{" * 3000, "\x00"])
def test_what_is_no_template_is_told(text: str) -> None:
    with pytest.raises(NotReadableError, match="CloudFormation template"):
        read_template(text)


FUNCTIONS = ["Ref", "Condition", "KmsKeyId"] + [
    f"Fn::{name}" for name in ("GetAtt", "Sub", "Join", "Select", "Split", "If", "FindInMap", "ImportValue")
]
inner = st.recursive(
    st.none() | st.booleans() | st.sampled_from(["", "Key", "A", "${Key.Arn}", "x", key_arn()]) | st.integers(0, 3),
    lambda below: st.lists(below, max_size=3)
    | st.dictionaries(
        st.sampled_from(FUNCTIONS), below, max_size=2),
    max_leaves=10,
)  # fmt: skip


@given(key=inner, conditions=st.dictionaries(st.sampled_from(["A", "Key"]), inner, max_size=2), mappings=inner)
@hypothesis_settings(deadline=None, max_examples=200)
def test_no_template_breaks_it(key: Any, conditions: Any, mappings: Any) -> None:
    for deployed in (HERE, STACK):
        read_resources(template(key, Conditions=conditions, Mappings=mappings), deployed)


# --- deployed stacks


class Account:
    """A session whose CloudFormation answers what a test says, in the order in which it is asked."""

    def __init__(self) -> None:
        self.cloudformation: Any = boto3.Session("AKIDEXAMPLE", "secret", region_name="us-west-2").client(
            "cloudformation"
        )
        self.stubber = Stubber(self.cloudformation)
        self.stubber.activate()

    def client(self, name: str) -> Any:
        assert name == "cloudformation"
        return self.cloudformation

    def describes(self, stack: str, asked: str, **more: Any) -> None:
        told = {
            "StackName": stack,
            "StackId": f"arn:aws:cloudformation:us-west-2:{ACCOUNT}:stack/{stack}/1",
            "CreationTime": datetime(2026, 1, 1, tzinfo=UTC),
            "StackStatus": "CREATE_COMPLETE",
            **more,
        }
        self.stubber.add_response("describe_stacks", {"Stacks": [told]}, {"StackName": asked})

    def has(self, asked: str, body: Any, *pages: list[tuple[str, str, str]]) -> None:
        wanted = {"StackName": asked, "TemplateStage": "Processed"}
        self.stubber.add_response("get_template", {"TemplateBody": json.dumps(body)}, wanted)
        for number, page in enumerate(pages, start=1):
            summaries = [
                {"LogicalResourceId": name, "ResourceType": kind, "PhysicalResourceId": physical,
                 "LastUpdatedTimestamp": datetime(2026, 1, 1, tzinfo=UTC), "ResourceStatus": "CREATE_COMPLETE"}
                for name, kind, physical in page
            ]  # fmt: skip
            answer: dict[str, Any] = {"StackResourceSummaries": summaries}
            if number < len(pages):
                answer["NextToken"] = str(number)
            token = {"NextToken": str(number - 1)} if number > 1 else {}
            self.stubber.add_response("list_stack_resources", answer, {"StackName": asked, **token})


KEY_TYPE, BUCKET_TYPE, STACK_TYPE = "AWS::KMS::Key", "AWS::S3::Bucket", "AWS::CloudFormation::Stack"
INNER = f"arn:aws:cloudformation:us-west-2:{ACCOUNT}:stack/app-Inner-X/2"


def bucket(key: Any) -> dict[str, Any]:
    by_default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    rules = [{"ServerSideEncryptionByDefault": by_default}]
    return {"Type": BUCKET_TYPE, "Properties": {"BucketEncryption": {"ServerSideEncryptionConfiguration": rules}}}


def test_a_deployed_stack_knows_what_was_made_and_its_nested_stacks_are_read_too() -> None:
    account = Account()
    parameters = [{"ParameterKey": "Given", "ParameterValue": "/name", "ResolvedValue": key_arn(2)}]
    account.describes("app", "app", Parameters=parameters)
    outer = {
        "Parameters": {"Given": {"Type": "AWS::SSM::Parameter::Value<String>"}},
        "Resources": {
            "Key": {"Type": KEY_TYPE},
            "Own": bucket({"Fn::GetAtt": ["Key", "Arn"]}),
            "Said": bucket({"Ref": "Given"}),
            "Theirs": bucket({"Fn::GetAtt": ["Inner", "Outputs.KeyArn"]}),
            "Shared": bucket({"Fn::ImportValue": "shared"}),
            "NotMade": bucket(key_arn(7)),
            "Inner": {"Type": STACK_TYPE},
        },
    }
    first = [("Key", KEY_TYPE, KMS.format(1)), ("Own", BUCKET_TYPE, "app-own"), ("Said", BUCKET_TYPE, "app-said")]
    second = [
        ("Theirs", BUCKET_TYPE, "theirs"),
        ("Shared", BUCKET_TYPE, "x-shared"),
        ("Inner", STACK_TYPE, INNER),
    ]
    account.has("app", outer, first, second)
    exported = {"ExportingStackId": "x", "Name": "shared", "Value": key_arn(4)}
    account.stubber.add_response("list_exports", {"Exports": [exported]}, {})
    outputs = [{"OutputKey": "KeyArn", "OutputValue": key_arn(3)}]
    account.describes("app-Inner-X", INNER, Outputs=outputs)
    account.describes("app-Inner-X", INNER, Outputs=outputs)
    account.has(INNER, {"Resources": {"Deep": bucket(key_arn(5))}}, [("Deep", BUCKET_TYPE, "app-deep")])

    news: list[str] = []
    found = read_stack(account, "app", news.append)
    account.stubber.assert_no_pending_responses()
    assert [(each.address, each.name, each.key_arn) for each in found.dependents] == [
        ("app.Own", "app-own", key_arn()),
        ("app.Said", "app-said", key_arn(2)),
        ("app.Theirs", "theirs", key_arn(3)),
        ("app.Shared", "x-shared", key_arn(4)),
        ("app-Inner-X.Deep", "app-deep", key_arn(5)),
    ]
    assert (found.left_out, news) == ([], ["1 stacks", "2 stacks"])


def test_a_stack_that_may_not_be_read_is_told_with_what_is_needed() -> None:
    account = Account()
    account.stubber.add_client_error("describe_stacks", "AccessDenied", "not authorized")
    with pytest.raises(StackUnreadableError, match="app") as caught:
        read_stack(account, "app", lambda _: None)
    assert "cloudformation:GetTemplate" in " ".join(caught.value.next_steps)


def test_exports_that_may_not_be_listed_leave_what_needs_them_open() -> None:
    account = Account()
    account.describes("app", "app")
    account.has("app", {"Resources": {"B": bucket({"Fn::ImportValue": "shared"})}}, [("B", BUCKET_TYPE, "app-b")])
    account.stubber.add_client_error("list_exports", "AccessDenied", "not authorized")
    [told] = read_stack(account, "app", lambda _: None).left_out
    assert "Fn::ImportValue shared" in told.reason
