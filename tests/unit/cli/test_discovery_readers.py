"""What an answer of AWS's means for keys: the shapes are those of its API references."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from keyvigil_cli.discovery import readers
from keyvigil_cli.discovery.keeping import ill_kept, ill_kept_resource
from keyvigil_cli.discovery.kms_keys import key_arn, may_rotate, of_metadata, open_statements
from keyvigil_cli.discovery.model import Key, Manager, Place, Resource, Weight

HERE = Place("222222222222", "us-west-2")
KEY = "arn:aws:kms:us-west-2:222222222222:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER = KEY.replace("1234abcd", "5678abcd")

DATABASE: dict[str, Any] = {
    "DBInstanceIdentifier": "orders",
    "DBInstanceArn": "arn:aws:rds:us-west-2:222222222222:db:orders",
    "StorageEncrypted": True,
    "KmsKeyId": KEY,
}
CLUSTER: dict[str, Any] = {
    "DBClusterIdentifier": "orders",
    "DBClusterArn": "arn:aws:rds:us-west-2:222222222222:cluster:orders",
    "Engine": "aurora-postgresql",
    "KmsKeyId": KEY,
}
TABLE: dict[str, Any] = {
    "TableName": "orders",
    "TableArn": "arn:aws:dynamodb:us-west-2:222222222222:table/orders",
    "SSEDescription": {"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": KEY},
}
SECRET: dict[str, Any] = {"Name": "s", "ARN": "arn:aws:secretsmanager:us-west-2:222222222222:secret:s-AbCdEf"}
METADATA: dict[str, Any] = {
    "Arn": KEY,
    "KeyManager": "CUSTOMER",
    "KeyState": "Enabled",
    "KeySpec": "SYMMETRIC_DEFAULT",
    "Origin": "AWS_KMS",
}


def kept(found: Iterable[Resource]) -> list[tuple[str, str, str | None]]:
    return [(each.kind, each.part, each.key) for each in found]


def codes(resource: Resource) -> list[str]:
    return [each.code for each in resource.findings]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (DATABASE, [("rds-instance", "", KEY)]),
        ({**DATABASE, "KmsKeyId": None}, [("rds-instance", "", None)]),
        ({**DATABASE, "DBClusterIdentifier": "aurora"}, []),
        (
            {**DATABASE, "PerformanceInsightsKMSKeyId": OTHER, "MasterUserSecret": {"KmsKeyId": OTHER}},
            [
                ("rds-instance", "", KEY),
                ("rds-part", "Performance Insights", OTHER),
                ("rds-part", "master user's secret", OTHER),
            ],
        ),
    ],
    ids=["encrypted", "not encrypted", "of a cluster, which has the storage", "parts with keys of their own"],
)
def test_a_database_hangs_on_the_keys_of_its_storage_and_its_parts(
    answer: Mapping[str, Any], expected: list[tuple[str, str, str | None]]
) -> None:
    assert kept(readers.of_database(answer, HERE)) == expected


def test_a_database_cluster_hangs_on_its_key() -> None:
    assert kept(readers.of_database_cluster(CLUSTER, HERE)) == [("rds-cluster", "aurora-postgresql", KEY)]


def rule(algorithm: str, key: str | None = None, *, bucket_key: bool | None = None) -> dict[str, Any]:
    default = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
    return {
        "ApplyServerSideEncryptionByDefault": default,
        **({"BucketKeyEnabled": bucket_key} if bucket_key is not None else {}),
    }


@pytest.mark.parametrize(
    ("rules", "key", "findings"),
    [
        ([], None, []),
        ([rule("AES256")], None, []),
        ([rule("aws:kms", KEY, bucket_key=True)], KEY, []),
        ([rule("aws:kms", KEY, bucket_key=False)], KEY, ["s3-bucket-key-off"]),
        ([rule("aws:kms", KEY)], KEY, ["s3-bucket-key-off"]),
        ([rule("aws:kms")], "alias/aws/s3", ["s3-bucket-key-off"]),
        ([rule("aws:kms:dsse", KEY)], KEY, []),
    ],
    ids=str,
)
def test_a_bucket_hangs_on_the_key_of_its_default_encryption(
    rules: list[dict[str, Any]], key: str | None, findings: list[str]
) -> None:
    bucket = readers.of_bucket("b", rules, HERE)
    assert (bucket.key, codes(bucket)) == (key, findings)


@pytest.mark.parametrize(
    ("constraint", "region"),
    [(None, "us-east-1"), ("", "us-east-1"), ("EU", "eu-west-1"), ("us-west-2", "us-west-2")],
)
def test_a_location_constraint_says_the_region(constraint: str | None, region: str) -> None:
    assert readers.bucket_region(constraint) == region


def function(version: str = "$LATEST", key: str | None = None, **variables: str) -> dict[str, Any]:
    return {
        "FunctionName": "f",
        "FunctionArn": f"arn:aws:lambda:us-west-2:222222222222:function:f:{version}",
        "Version": version,
        "KMSKeyArn": key,
        "Environment": {"Variables": variables},
    }


@pytest.mark.parametrize(
    ("functions", "expected", "findings"),
    [
        ([function(key=KEY, SECRET="s")], [("lambda-function", "", KEY)], []),
        ([function(SECRET="s")], [("lambda-function", "", None)], ["lambda-environment-without-key"]),
        ([function()], [("lambda-function", "", None)], []),
        ([function(key=KEY), function("1", KEY)], [("lambda-function", "", KEY)], []),
        (
            [function(key=KEY), function("1", OTHER), function("2", OTHER)],
            [("lambda-function", "", KEY), ("lambda-function", "versions 1, 2", OTHER)],
            [],
        ),
    ],
    ids=["with a key", "variables without a key", "nothing to encrypt", "versions alike", "versions of another key"],
)
def test_a_function_hangs_on_the_keys_of_all_its_versions(
    functions: list[dict[str, Any]], expected: list[tuple[str, str, str | None]], findings: list[str]
) -> None:
    found = list(readers.of_functions(functions, HERE))
    assert kept(found) == expected
    assert [code for each in found for code in codes(each)] == findings
    assert found[0].arn == "arn:aws:lambda:us-west-2:222222222222:function:f"


@pytest.mark.parametrize(
    ("more", "part", "key"),
    [
        ({}, "", "alias/aws/secretsmanager"),
        ({"KmsKeyId": "alias/app"}, "", "alias/app"),
        ({"KmsKeyId": KEY, "PrimaryRegion": "us-west-2"}, "", KEY),
        ({"KmsKeyId": KEY, "PrimaryRegion": "eu-west-1"}, "replica of eu-west-1", KEY),
    ],
    ids=str,
)
def test_a_secret_without_a_key_is_under_aws_s_own(more: dict[str, Any], part: str, key: str) -> None:
    secret = readers.of_secret({**SECRET, **more}, HERE)
    assert (secret.part, secret.key) == (part, key)


def test_a_replica_of_a_secret_without_a_key_is_found() -> None:
    replicas = [
        {"Region": "eu-west-1", "Status": "InSync", "KmsKeyId": "alias/app"},
        {"Region": "eu-west-2", "Status": "InSync"},
        {"Region": "eu-west-3", "Status": "InSync", "KmsKeyId": "alias/aws/secretsmanager"},
        {"Region": "eu-north-1", "Status": "Failed", "KmsKeyId": KEY, "StatusMessage": "no such key"},
    ]
    found = list(readers.of_replicas(readers.of_secret({**SECRET, "KmsKeyId": KEY}, HERE), replicas))
    assert [each.code for each in found] == ["replica-without-key", "replica-without-key", "replica-failed"]
    assert ["eu-west-2" in found[0].message, "eu-west-3" in found[1].message] == [True, True]
    assert "no such key" in found[2].message


def test_a_table_hangs_on_its_key_and_says_when_it_cannot_use_it() -> None:
    assert readers.of_table({**TABLE, "SSEDescription": None}, HERE).key is None
    assert readers.of_table(TABLE, HERE).key == KEY
    since = {**TABLE["SSEDescription"], "InaccessibleEncryptionDateTime": datetime(2026, 11, 1, tzinfo=UTC)}
    [finding] = readers.of_table({**TABLE, "SSEDescription": since}, HERE).findings
    assert (finding.code, finding.weight) == ("table-inaccessible", Weight.UNHEALTHY)


def test_a_replica_of_a_table_without_a_key_is_found() -> None:
    replicas = [
        {"RegionName": "us-west-2"},
        {"RegionName": "eu-west-1"},
        {"RegionName": "eu-west-2", "KMSMasterKeyId": OTHER},
    ]
    [finding] = readers.of_table({**TABLE, "Replicas": replicas}, HERE).findings
    assert (finding.code, "eu-west-1" in finding.message) == ("replica-without-key", True)


def test_the_other_services_name_their_key() -> None:
    volume = readers.of_volume(
        {"VolumeId": "vol-1", "Encrypted": True, "KmsKeyId": KEY, "Attachments": [{"InstanceId": "i-1"}]}, HERE
    )
    assert (volume.key, volume.part) == (KEY, "attached to i-1")
    trail = readers.of_trail({"Name": "t", "TrailARN": "arn:t", "KmsKeyId": KEY}, HERE)
    parameter = readers.of_parameter({"Name": "/p", "Type": "SecureString", "KeyId": "alias/app"}, HERE)
    topic = readers.of_topic({"KmsMasterKeyId": "alias/app"}, "arn:aws:sns:us-west-2:222222222222:t", HERE)
    queue = readers.of_queue({"KmsMasterKeyId": "alias/app"}, "https://sqs.us-west-2.amazonaws.com/2/q", HERE)
    group = readers.of_log_group({"logGroupName": "g", "arn": "arn:g:*", "kmsKeyId": KEY}, HERE)
    assert [each.key for each in (trail, parameter, topic, queue, group)] == [KEY, *["alias/app"] * 3, KEY]
    assert readers.of_parameter({"Name": "/p"}, HERE).key == "alias/aws/ssm"
    assert readers.of_queue({"KmsMasterKeyId": ""}, "https://q/q", HERE).key is None


# --- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "arn"),
    [
        (KEY, KEY),
        ("1234abcd-12ab-34cd-56ef-1234567890ab", KEY),
        ("alias/app", KEY),
        ("arn:aws:kms:us-west-2:222222222222:alias/app", KEY),
        ("alias/gone", "arn:aws:kms:us-west-2:222222222222:alias/gone"),
        ("alias/aws/sns", "arn:aws:kms:us-west-2:222222222222:alias/aws/sns"),
    ],
)
def test_a_key_is_named_in_many_ways(written: str, arn: str) -> None:
    assert key_arn(written, HERE, {"arn:aws:kms:us-west-2:222222222222:alias/app": KEY}) == arn


def test_keys_of_aws_and_of_other_accounts_are_told_apart() -> None:
    assert of_metadata({**METADATA, "KeyManager": "AWS"}, HERE).manager is Manager.AWS
    assert of_metadata(METADATA, HERE, seen_by="222222222222").of_other_account is False
    assert of_metadata(METADATA, HERE, seen_by="333333333333").of_other_account is True


@pytest.mark.parametrize(
    ("more", "rotates"),
    [({}, True), ({"KeySpec": "RSA_2048"}, False), ({"Origin": "EXTERNAL"}, False), ({"KeyState": "Disabled"}, False)],
    ids=str,
)
def test_only_some_keys_rotate_by_themselves(more: dict[str, str], rotates: bool) -> None:  # noqa: FBT001 - an example
    assert may_rotate(of_metadata({**METADATA, **more}, HERE)) is rotates


def statement(principal: object, **more: object) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": principal, "Action": "kms:*", "Resource": "*", **more}


@pytest.mark.parametrize(
    ("found", "is_open"),
    [
        (statement("*"), True),
        (statement({"AWS": "*"}), True),
        (statement({"AWS": ["arn:aws:iam::222222222222:root", "*"]}), True),
        ({"Effect": "Allow", "NotPrincipal": {"AWS": "x"}, "Action": "kms:*", "Resource": "*"}, True),
        (statement("*", Condition={"StringEquals": {"kms:ViaService": "s3.us-west-2.amazonaws.com"}}), True),
        (statement("*", Condition={"StringEqualsIfExists": {"kms:CallerAccount": "222222222222"}}), True),
        (statement("*", Condition={"StringNotEquals": {"kms:CallerAccount": "222222222222"}}), True),
        (statement("*", Condition={"StringLike": {"aws:PrincipalArn": "*"}}), True),
        (statement("*", Condition={"StringEquals": {"kms:CallerAccount": "222222222222"}}), False),
        (statement("*", Condition={"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": "o-1/*"}}), False),
        (statement({"AWS": "arn:aws:iam::222222222222:root"}), False),
        (statement({"Service": "logs.amazonaws.com"}), False),
        ({**statement("*"), "Effect": "Deny"}, False),
    ],
    ids=str,
)
def test_a_policy_open_to_everybody_is_found(found: dict[str, Any], is_open: bool) -> None:  # noqa: FBT001 - an example
    assert open_statements({"Statement": [found]}) == (["statement 1"] if is_open else [])
    assert open_statements({"Statement": found}) == (["statement 1"] if is_open else [])


KEPT = Key(
    arn=KEY, place=HERE, manager=Manager.CUSTOMER, state="Enabled", aliases=("alias/app",), aliases_known=True,
    rotation_enabled=True, policy={"Statement": [statement({"AWS": "arn:aws:iam::222222222222:root"})]},
)  # fmt: skip
UNDER_IT = [readers.of_table(TABLE, HERE)]


def changed(**fields: Any) -> Key:
    return Key(**{**{name: getattr(KEPT, name) for name in Key.__slots__}, **fields})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (KEPT, []),
        (changed(rotation_enabled=False), ["rotation-off"]),
        (changed(rotation_enabled=None), []),
        (changed(aliases=()), ["alias-missing"]),
        (changed(aliases=(), aliases_known=False), []),
        (changed(policy={"Statement": [statement("*")]}), ["policy-open"]),
        (changed(state="Disabled"), ["key-disabled"]),
        (changed(state="PendingDeletion", deletion_date=datetime(2026, 12, 1, tzinfo=UTC)), ["deletion-scheduled"]),
        (changed(state="PendingReplicaDeletion"), ["deletion-scheduled"]),
        (changed(state="PendingImport"), ["key-material-missing"]),
        (changed(state="Unavailable"), ["key-store-unavailable"]),
        (changed(state="NotFound", aliases=(), rotation_enabled=None, policy=None), ["key-not-there"]),
        (changed(manager=Manager.AWS, rotation_enabled=False, aliases=()), []),
    ],
    ids=[
        "well kept",
        "no rotation",
        "rotation not known",
        "no alias",
        "aliases not known",
        "open",
        "disabled",
        "to be deleted",
        "replicas to be deleted",
        "no material",
        "no key store",
        "gone",
        "of AWS",
    ],
)
def test_what_is_not_well_kept_is_told_of_each_key(key: Key, expected: list[str]) -> None:
    assert [each.code for each in ill_kept(key, UNDER_IT)] == expected


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion"])
def test_a_key_that_nothing_hangs_on_hurts_nobody(state: str) -> None:
    assert [each.weight for each in ill_kept(changed(state=state), UNDER_IT)] == [Weight.UNHEALTHY]
    assert [each.weight for each in ill_kept(changed(state=state), [])] == [Weight.CARELESS]


def test_an_alias_that_leads_nowhere_is_found_where_all_aliases_are_known() -> None:
    queue = readers.of_queue({"KmsMasterKeyId": "alias/gone"}, "https://q/q", HERE)
    arn = key_arn("alias/gone", HERE)
    assert [each.code for each in ill_kept_resource(queue, arn, aliases_are_known=True)] == ["alias-not-there"]
    assert list(ill_kept_resource(queue, arn, aliases_are_known=False)) == []
    elsewhere = arn.replace("222222222222", "333333333333")
    assert list(ill_kept_resource(queue, elsewhere, aliases_are_known=True)) == []
    assert list(ill_kept_resource(queue, key_arn("alias/aws/sqs", HERE), aliases_are_known=True)) == []
