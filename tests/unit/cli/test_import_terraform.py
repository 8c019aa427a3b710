"""Terraform's states and plans, read without Terraform: what hangs on which key, and what is left out, and why."""

import io
import json
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyvigil_cli.imports.found import Found, NotReadableError, Why, cluster_id_of, is_cluster_id
from keyvigil_cli.imports.terraform import BUCKET_CHANGED, KEY_CHANGED, read_terraform
from tests.unit.cli.terraform_documents import (
    ACCOUNT,
    KMS,
    change,
    key_arn,
    plan,
    resource,
    state,
    text,
    zilliz,
)


def read(document: Any, **more: str) -> Found:
    return read_terraform(text(document), **more)


def hanging(found: Found) -> list[tuple[str, str, str]]:
    return [(each.kind, each.name, each.key_arn) for each in found.dependents]


def left(found: Found) -> list[tuple[str, Why]]:
    return [(each.address, each.why) for each in found.left_out]


# --- clusters of Zilliz Cloud


def test_a_byoc_cluster_hangs_on_its_cse_key() -> None:
    bucket = {"bucket_name": "vectors", "prefix": "/prod"}
    [cluster] = read(state(zilliz(bucket_info=bucket))).dependents
    assert (cluster.cluster_id, cluster.name, cluster.kind, cluster.use) == (
        "in01-3f5a", "Production", "zilliz-byoc", "cse",
    )  # fmt: skip
    assert (cluster.region, cluster.key_arn) == ("us-west-2", key_arn())
    assert cluster.detail == "data in s3://vectors/prod"


def test_a_cluster_without_a_key_of_its_own_does_not_hang_on_its_project_s_default() -> None:
    project = resource(
        "zillizcloud_byoc_i_project.this",
        {"id": "proj-1", "aws": {"region": "aws-us-west-2", "cse": {
            "aws_cse_role_arn": "arn:aws:iam::222222222222:role/ZillizCSERole",
            "default_aws_cse_key_arn": key_arn(2), "external_id": "zilliz-secret-external-id"}}},
    )  # fmt: skip
    found = read(state(project, zilliz(aws_cse_key_arn=None)))
    [default] = found.dependents
    assert (default.cluster_id, default.key_arn, default.use) == (None, key_arn(2), "cse")
    assert found.without_key == ["zillizcloud_cluster.prod"]
    assert "zilliz-secret-external-id" not in repr(found)


def test_a_cluster_of_another_cloud_is_refused() -> None:
    assert left(read(state(zilliz(region_id="gcp-us-west1")))) == [("zillizcloud_cluster.prod", Why.REFUSED)]


def test_modules_counts_and_keys_keep_their_addresses() -> None:
    inner = {"address": "module.a.module.b", "resources": [zilliz("x", id="in01-b")]}
    inner["resources"][0]["address"] = 'module.a.module.b.zillizcloud_cluster.x["eu"]'  # type: ignore[index]
    modules = ({"address": "module.a", "child_modules": [inner]},)
    found = read(state(zilliz(), modules=modules))
    assert [each.address for each in found.dependents] == [
        "zillizcloud_cluster.prod",
        'module.a.module.b.zillizcloud_cluster.x["eu"]',
    ]


# --- resources of AWS

ARN = f"arn:aws:{{}}:us-west-2:{ACCOUNT}:{{}}"
SSE = [{"apply_server_side_encryption_by_default": [{"sse_algorithm": "aws:kms", "kms_master_key_id": key_arn()}]}]
DESTINATION = {
    "bucket": "arn:aws:s3:::copy",
    "encryption_configuration": [{"replica_kms_key_id": key_arn(1, "eu-west-1")}],
}


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("aws_db_instance", {"identifier": "main", "arn": ARN.format("rds", "db:main"), "kms_key_id": key_arn(),
                             "performance_insights_kms_key_id": key_arn(2), "master_user_secret_kms_key_id": ""},
         [("aws-rds", "main", key_arn()), ("aws-rds", "main (performance-insights)", key_arn(2))]),
        ("aws_rds_cluster", {"cluster_identifier": "aurora", "arn": ARN.format("rds", "cluster:aurora"),
                             "kms_key_id": key_arn()}, [("aws-rds", "aurora", key_arn())]),
        ("aws_s3_bucket", {"bucket": "logs", "arn": "arn:aws:s3:::logs", "region": "us-west-2",
                           "server_side_encryption_configuration": [{"rule": SSE}]}, [("aws-s3", "logs", key_arn())]),
        ("aws_s3_bucket_server_side_encryption_configuration", {"bucket": "logs", "rule": SSE},
         [("aws-s3", "logs", key_arn())]),
        ("aws_s3_bucket_replication_configuration", {"bucket": "logs", "rule": [{"destination": [DESTINATION]}]},
         [("aws-s3", "logs (replication)", key_arn(1, "eu-west-1"))]),
        ("aws_lambda_function", {"function_name": "f", "arn": ARN.format("lambda", "function:f"),
                                 "kms_key_arn": key_arn()}, [("aws-lambda", "f", key_arn())]),
        ("aws_secretsmanager_secret", {"name": "db", "arn": ARN.format("secretsmanager", "secret:db-AbC123"),
                                       "kms_key_id": KMS.format(1),
                                       "replica": [{"region": "eu-west-1", "kms_key_id": key_arn(2, "eu-west-1")},
                                                   {"region": "eu-north-1", "kms_key_id": ""}]},
         [("aws-secretsmanager", "db", key_arn()), ("aws-secretsmanager", "db", key_arn(2, "eu-west-1"))]),
        ("aws_dynamodb_table", {"name": "orders", "arn": ARN.format("dynamodb", "table/orders"),
                                "server_side_encryption": [{"enabled": True, "kms_key_arn": key_arn()}],
                                "replica": [{"region_name": "eu-west-1", "kms_key_arn": key_arn(2, "eu-west-1")}]},
         [("aws-dynamodb", "orders", key_arn()), ("aws-dynamodb", "orders", key_arn(2, "eu-west-1"))]),
        ("aws_cloudtrail", {"name": "audit", "arn": ARN.format("cloudtrail", "trail/audit"), "kms_key_id": key_arn()},
         [("other", "audit", key_arn())]),
    ],
)  # fmt: skip
def test_resources_of_aws_hang_on_the_keys_they_name(
    kind: str, values: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    found = read(state(resource(f"{kind}.this", values)))
    assert hanging(found) == expected
    assert found.left_out == []
    assert {each.use for each in found.dependents} == {"service"}
    ids = [each.cluster_id for each in found.dependents]
    assert len(set(ids)) == len(ids)
    assert all(is_cluster_id(each or "") for each in ids)


def test_a_bucket_told_twice_is_one() -> None:
    bucket = resource(
        "aws_s3_bucket.logs",
        {"bucket": "logs", "region": "us-west-2", "server_side_encryption_configuration": [{"rule": SSE}]},
    )
    own = resource("aws_s3_bucket_server_side_encryption_configuration.logs", {"bucket": "logs", "rule": SSE})
    assert len(read(state(bucket, own)).dependents) == 1


def test_a_bucket_told_twice_with_two_keys_is_refused_the_second_time() -> None:
    other = json.loads(json.dumps(SSE).replace(key_arn(), key_arn(2)))
    bucket = resource("aws_s3_bucket.logs", {"bucket": "logs", "server_side_encryption_configuration": [{"rule": SSE}]})
    own = resource("aws_s3_bucket_server_side_encryption_configuration.logs", {"bucket": "logs", "rule": other})
    found = read(state(bucket, own))
    assert (len(found.dependents), [each.key for each in found.left_out]) == (1, [key_arn(2)])


def test_what_names_no_key_is_counted() -> None:
    found = read(state(resource("aws_dynamodb_table.t", {"name": "t", "server_side_encryption": []})))
    assert (found.dependents, found.left_out, found.without_key) == ([], [], ["aws_dynamodb_table.t"])


def test_a_key_of_aws_is_not_watchable() -> None:
    found = read(state(resource("aws_cloudtrail.t", {"name": "t", "kms_key_id": "alias/aws/s3"})))
    assert left(found) == [("aws_cloudtrail.t", Why.NOT_WATCHABLE)]


def test_a_type_that_is_not_known_is_not_dropped() -> None:
    found = read(state(resource("aws_ebs_volume.v", {"id": "vol-1", "kms_key_id": key_arn()})))
    assert [(each.address, each.key) for each in found.left_out] == [("aws_ebs_volume.v", key_arn())]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (key_arn(1, "us-west-2", "333333333333"), key_arn(1, "us-west-2", "333333333333")),
        (KMS.format(1), key_arn()),
        ("alias/logs", key_arn(7)),
        ("alias/other", f"arn:aws:kms:us-west-2:{ACCOUNT}:alias/other"),
        (f"arn:aws:kms:us-west-2:{ACCOUNT}:alias/logs", key_arn(7)),
    ],
)
def test_the_ways_to_name_a_key(written: str, expected: str) -> None:
    alias = resource(
        "data.aws_kms_alias.logs",
        {"name": "alias/logs", "arn": f"arn:aws:kms:us-west-2:{ACCOUNT}:alias/logs", "target_key_arn": key_arn(7)},
    )
    trail = resource(
        "aws_cloudtrail.t", {"name": "t", "arn": ARN.format("cloudtrail", "trail/t"), "kms_key_id": written}
    )
    assert [each.key_arn for each in read(state(alias, trail)).dependents] == [expected]


@pytest.mark.parametrize("written", ["key/nonsense", "arn:aws-cn:kms:cn-north-1:222222222222:key/x", "\x1b[2J", "12"])
def test_what_names_no_key_is_refused(written: str) -> None:
    found = read(state(resource("aws_cloudtrail.t", {"name": "t", "kms_key_id": written})))
    assert left(found) == [("aws_cloudtrail.t", Why.REFUSED)]


def test_a_key_without_its_arn_needs_an_account_which_can_be_said() -> None:
    document = state(resource("aws_cloudtrail.t", {"name": "t", "kms_key_id": KMS.format(1)}))
    assert left(read(document)) == [("aws_cloudtrail.t", Why.REFUSED)]
    found = read(document, account_id=ACCOUNT, region="us-west-2")
    assert [each.key_arn for each in found.dependents] == [key_arn()]


@pytest.mark.parametrize("marks", [{"kms_key_id": True}, True])
def test_a_sensitive_value_is_reported_and_not_read(marks: Any) -> None:
    trail = resource("aws_cloudtrail.t", {"name": "t", "kms_key_id": key_arn(9)}, sensitive_values=marks)
    found = read(state(trail))
    assert left(found) == [("aws_cloudtrail.t", Why.REFUSED)]
    assert key_arn(9) not in repr(found)


def test_nothing_that_is_secret_is_kept() -> None:
    function = resource(
        "aws_lambda_function.f",
        {"function_name": "f", "arn": ARN.format("lambda", "function:f"), "kms_key_arn": key_arn(),
         "environment": [{"variables": {"PASSWORD": "hunter3"}}]},
    )  # fmt: skip
    assert "hunter" not in repr(read(state(zilliz(), function)))


# --- plans


def test_a_plan_that_changes_the_key_of_a_cluster_is_told_in_the_platform_s_words() -> None:
    before, after = zilliz()["values"], zilliz(aws_cse_key_arn=key_arn(2))["values"]
    found = read(plan(state(zilliz()), change("zillizcloud_cluster.prod", ["update"], before, after)))
    assert [each.reason for each in found.left_out] == [KEY_CHANGED]
    assert [each.key_arn for each in found.dependents] == [key_arn()]


def test_a_key_that_may_change_is_told_too_and_so_is_a_bucket() -> None:
    before = zilliz(bucket_info={"bucket_name": "a", "prefix": "p"})["values"]
    after = {**zilliz()["values"], "aws_cse_key_arn": None, "bucket_info": {"bucket_name": "b", "prefix": "p"}}
    moved = change("zillizcloud_cluster.prod", ["update"], before, after, {"aws_cse_key_arn": True})
    reasons = [each.reason for each in read(plan(state(zilliz()), moved)).left_out]
    assert reasons == [f"{KEY_CHANGED} (its new value is known only after apply)", BUCKET_CHANGED]


@pytest.mark.parametrize("actions", [["delete", "create"], ["create", "delete"]])
def test_a_replaced_cluster_is_told_to_lose_its_data(actions: list[str]) -> None:
    before, after = zilliz()["values"], zilliz(aws_cse_key_arn=key_arn(2))["values"]
    found = read(plan(state(zilliz()), change("zillizcloud_cluster.prod", actions, before, after)))
    assert [(each.why, "what is in it is lost" in each.reason) for each in found.left_out] == [(Why.LATER, True)]


def test_what_is_not_there_yet_is_later_and_what_goes_is_not_registered() -> None:
    new = change("zillizcloud_cluster.new", ["create"], None, {"aws_cse_key_arn": None}, {"aws_cse_key_arn": True})
    going = change("zillizcloud_cluster.prod", ["delete"], zilliz()["values"], None)
    found = read(plan(state(zilliz()), new, going))
    assert found.dependents == []
    assert left(found) == [("zillizcloud_cluster.new", Why.LATER), ("zillizcloud_cluster.prod", Why.LATER)]
    assert "known only after apply" in found.left_out[0].reason


def test_a_first_plan_has_nothing_to_register() -> None:
    trail = change("aws_cloudtrail.t", ["create"], None, {"name": "t", "kms_key_id": key_arn()})
    found = read(plan(None, trail))
    assert (found.dependents, left(found)) == ([], [("aws_cloudtrail.t", Why.LATER)])


def test_a_resource_that_moves_to_another_key_is_registered_under_the_one_it_has() -> None:
    values = {"name": "t", "arn": ARN.format("cloudtrail", "trail/t"), "kms_key_id": key_arn()}
    moved = change("aws_cloudtrail.t", ["update"], values, {**values, "kms_key_id": key_arn(2)})
    found = read(plan(state(resource("aws_cloudtrail.t", values)), moved))
    assert [each.key_arn for each in found.dependents] == [key_arn()]
    assert [(each.why, key_arn(2) in each.reason) for each in found.left_out] == [(Why.LATER, True)]


def test_a_plan_that_changes_something_else_says_nothing() -> None:
    after = {**zilliz()["values"], "cluster_name": "Renamed"}
    found = read(plan(state(zilliz()), change("zillizcloud_cluster.prod", ["update"], zilliz()["values"], after)))
    assert (len(found.dependents), found.left_out) == (1, [])


# --- what is no state


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("tfplan", b"\x00")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('resource "zillizcloud_cluster" "prod" {}', "no JSON"),
        ('{"version": 4, "serial": 3, "lineage": "x", "resources": []}', "Terraform's own state file"),
        ('{"@level": "info", "@message": "Terraform"}\n{"@level": "info"}', "log of `terraform plan -json`"),
        ('{"format_version": "2.0", "values": {}}', "format version 2.0"),
        ('{"format_version": "1.0", "provider_schemas": {}}', "neither a state nor a plan"),
        ('{"outputs": 1}', "neither a state nor a plan"),
        ("[]", "neither a state nor a plan"),
        ("[" * 100_000, "no JSON"),
        (zipped(), "a plan as Terraform stores it"),
        (b"\xff\xff\xff\xfe\xfd", "neither JSON nor text"),
    ],
)
def test_what_is_no_state_is_told_with_what_to_run(content: str | bytes, words: str) -> None:
    with pytest.raises(NotReadableError, match=words) as caught:
        read_terraform(content)
    assert caught.value.next_steps


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_written_by_any_shell_is_read(encoding: str) -> None:
    assert len(read_terraform(text(state(zilliz())).encode(encoding)).dependents) == 1


@pytest.mark.parametrize("content", ['{"format_version": "1.0"}', text(state())])
def test_an_empty_state_is_fine(content: str) -> None:
    assert read_terraform(content) == Found()


anything = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8) | st.just(key_arn()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["kms_key_id", "aws_cse_key_arn", "replica", "region", "rule", "aws", "cse", "name", "id", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    kind=st.sampled_from(["zillizcloud_cluster", "zillizcloud_byoc_project", "aws_secretsmanager_secret", "aws_x"]),
    values=anything, marks=anything, before=anything, after=anything, unknown=anything,
)  # fmt: skip
@hypothesis_settings(deadline=None, max_examples=150)
def test_no_document_breaks_it(kind: str, values: Any, marks: Any, before: Any, after: Any, unknown: Any) -> None:
    there = resource(f"{kind}.a", values, sensitive_values=marks)
    read(
        plan(
            state(there),
            change(f"{kind}.b", ["update"], before, after, unknown),
            change(f"{kind}.c", ["create"], None, after),
        )
    )


def test_ids_differ_by_all_that_makes_a_resource_another() -> None:
    ids = {
        cluster_id_of("rds", "main", region="us-west-2", account_id="1"),
        cluster_id_of("rds", "main", region="eu-west-1", account_id="1"),
        cluster_id_of("rds", "main", region="us-west-2", account_id="2"),
        cluster_id_of("rds", "main", region="us-west-2", account_id="1", part="code"),
        cluster_id_of("lambda", "main", region="us-west-2", account_id="1"),
        cluster_id_of("s3", "x" * 200),
        cluster_id_of("s3", "x" * 201),
        cluster_id_of("secretsmanager", "a/b"),
        cluster_id_of("secretsmanager", "a+b"),
    }
    assert len(ids) == 9
    assert all(is_cluster_id(each) for each in ids)
