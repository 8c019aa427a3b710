"""KES's configurations of all forms, read without KES: which KMS key, where, and which keys of KES's own hang on it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyvigil_cli.imports.found import Found, NotReadableError, Why
from keyvigil_cli.imports.kes import read_kes
from tests.unit.cli.terraform_documents import ACCOUNT, KMS, key_arn

OLD = """\
address: 0.0.0.0:7373
root: c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d
tls: {key: ./server.key, cert: ./server.cert}
keys:
  fs:
    path: "" # none
  vault:
    endpoint: ""
    approle: {id: "", secret: "", retry: 15s}
    status: {ping: 10s}
  aws:
    secretsmanager:
      endpoint: secretsmanager.us-west-2.amazonaws.com
      region: us-west-2
      kmskey: KEY
      credentials: {accesskey: AKIAIOSFODNN7EXAMPLE, secretkey: hunter2, token: ""}
"""
NEW = """\
version: v1
admin: {identity: c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d}
keys:
  - name: minio-sse
  - name: ${TENANT_KEY}
keystore:
  aws:
    secretsmanager:
      endpoint: secretsmanager.us-west-2.amazonaws.com
      region: us-west-2
      kmskey: KEY
      credentials:
        accesskey: AKIAIOSFODNN7EXAMPLE
        secretkey: hunter2
"""


def read(text: str, key: str = key_arn(), **more: Any) -> Found:
    return read_kes(text.replace("KEY\n", f"{key}\n", 1), "server-config.yaml", **more)


@pytest.mark.parametrize(("form", "detail"), [(OLD, ""), (NEW, "keys minio-sse, ${TENANT_KEY}")])
def test_both_forms_name_the_key_and_its_region(form: str, detail: str) -> None:
    [minio] = read(form).dependents
    assert (minio.kind, minio.use, minio.region, minio.key_arn) == ("minio-kes", "kes", "us-west-2", key_arn())
    assert minio.detail == detail
    assert (minio.cluster_id or "").startswith("minio-kes-us-west-2-")


def test_servers_with_one_key_are_one_cluster_and_another_key_is_another() -> None:
    ids = [
        read(form, key).dependents[0].cluster_id
        for form, key in ((OLD, key_arn()), (NEW, key_arn()), (NEW, key_arn(2)))
    ]
    assert (ids[0] == ids[1], ids[0] == ids[2]) == (True, False)
    assert read(NEW, cluster_id="minio-1", name="Our MinIO").dependents[0].cluster_id == "minio-1"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (KMS.format(1), key_arn()),
        ("alias/minio", f"arn:aws:kms:us-west-2:{ACCOUNT}:alias/minio"),
        (key_arn(3, "us-west-2", "333333333333"), key_arn(3, "us-west-2", "333333333333")),
    ],
)
def test_a_key_without_its_arn_is_in_the_account_that_was_said(written: str, expected: str) -> None:
    assert read(NEW, written, account_id=ACCOUNT).dependents[0].key_arn == expected


def test_without_an_account_a_bare_id_is_refused() -> None:
    assert [each.why for each in read(NEW, KMS.format(1)).left_out] == [Why.REFUSED]


@pytest.mark.parametrize("empty", ['""', "", "''", "${EMPTY}"])
def test_an_empty_kmskey_is_the_account_s_own_and_is_told_what_to_do(empty: str) -> None:
    found = read(NEW, empty, variables={"EMPTY": ""})
    assert found.dependents == []
    [left] = found.left_out
    assert (left.why, "alias/aws/secretsmanager" in left.reason) == (Why.NOT_WATCHABLE, True)
    assert "aws secretsmanager update-secret --region us-west-2" in left.to_do


def test_a_variable_is_filled_in_or_asked_for() -> None:
    text = NEW.replace("region: us-west-2", "region: ${AWS_REGION}")
    found = read(text, "${ KMS_KEY }", variables={"AWS_REGION": "us-west-2", "KMS_KEY": key_arn()})
    assert found.dependents[0].key_arn == key_arn()
    [left] = read(text, "${ KMS_KEY }", variables={"AWS_REGION": "us-west-2"}).left_out
    assert (left.why, "--set KMS_KEY=VALUE" in left.to_do) == (Why.REFUSED, True)


def test_the_variables_of_credentials_are_not_asked_for() -> None:
    assert len(read(NEW.replace("secretkey: hunter2", "secretkey: ${SECRET}")).dependents) == 1


def test_the_region_is_in_the_endpoint_too() -> None:
    assert read(NEW.replace("      region: us-west-2\n", "")).dependents[0].region == "us-west-2"


def test_a_file_that_says_no_region_is_refused() -> None:
    text = NEW.replace("      region: us-west-2\n", "").replace("secretsmanager.us-west-2.amazonaws.com", "10.0.0.1")
    assert [each.why for each in read(text).left_out] == [Why.REFUSED]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keystore: {vault: {endpoint: https://127.0.0.1:8200}}", "vault"),
        ("keystore: {gcp: {secretmanager: {project_id: p}}}", "gcp"),
        ("keystore: {fs: {path: /tmp/keys}}", "fs"),
        ("keystore: {fs: {path: /x}, aws: {secretsmanager: {region: us-west-2}}}", "aws, fs"),
        ("keystore: {aws: {}}", "no store"),
        ("keystore: {aws: {secretsmanager: [1]}}", "no store"),
    ],
)
def test_another_store_is_refused_by_its_name(text: str, words: str) -> None:
    [left] = read_kes(text, "f").left_out
    assert (left.why, f"keeps its keys in {words}," in left.reason) == (Why.REFUSED, True)


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "just words", "address: x", "keys: [{name: a}]", "a: [", "{" * 3000, "\x00",
     "!!python/object/apply:os.system ['true']"],
)  # fmt: skip
def test_what_is_no_configuration_is_told(text: str) -> None:
    with pytest.raises(NotReadableError, match="server-config"):
        read_kes(text, "f")


def test_an_object_of_kubernetes_is_told_how_to_unwrap() -> None:
    with pytest.raises(NotReadableError, match="Kubernetes") as caught:
        read_kes("apiVersion: v1\nkind: Secret\ndata: {}", "f")
    assert "base64 -d" in caught.value.next_steps[0]


def test_a_broken_line_is_named_and_not_shown() -> None:
    with pytest.raises(NotReadableError, match="line") as caught:
        read_kes(NEW + "      secretkey: 'hunter2\n", "f")
    assert "hunter2" not in str(caught.value)


def test_no_secret_is_kept() -> None:
    for form in (OLD, NEW):
        assert "hunter2" not in repr(read(form))
        assert "AKIA" not in repr(read(form))


def test_an_id_of_digits_only_is_no_number() -> None:
    digits = "12345678-1234-1234-1234-123456789012"
    assert read(NEW, digits, account_id=ACCOUNT).dependents[0].key_arn.endswith(f"key/{digits}")


def test_a_bomb_of_aliases_does_not_go_off() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    assert len(read("\n".join(lines) + "\n" + NEW).dependents) == 1


inner = st.recursive(
    st.sampled_from(["", "${X}", "us-west-2", "x", key_arn()]),
    lambda below: (
        st.lists(below, max_size=2)
        | st.dictionaries(
            st.sampled_from(["aws", "secretsmanager", "region", "kmskey", "endpoint", "name", "fs"]), below, max_size=3
        )
    ),
    max_leaves=8,
)


@given(keys=inner, store=inner)
@hypothesis_settings(deadline=None, max_examples=150)
def test_no_configuration_breaks_it(keys: Any, store: Any) -> None:
    import yaml  # noqa: PLC0415 - to write what is read

    try:
        read_kes(yaml.safe_dump({"keys": keys, "keystore": store}), "f")
    except NotReadableError:
        return
