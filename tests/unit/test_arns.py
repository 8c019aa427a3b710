"""What a customer hands in as an ARN is taken apart strictly, because AWS is asked with it and policies quote it."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.arns import is_queue_arn, parse_kms_arn, parse_secret_arn, role_account, secret_prefix
from tests.examples import CUSTOMER, KEY_ARN, KEY_ID, KMS_KEY, ROLE_ARN, SECRET_ARN

MULTI_REGION = "mrk-1234abcd12ab34cd56ef1234567890ab"
QUEUE_ARN = f"arn:aws:sqs:us-west-2:{CUSTOMER}:alerts"
FOREIGN_PARTITIONS = ["aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-eusc", "AWS", "", "*"]


def arn_of(resource: str) -> str:
    return f"arn:aws:kms:us-west-2:{CUSTOMER}:{resource}"


def test_a_key_arn_is_taken_apart() -> None:
    parsed = parse_kms_arn(KEY_ARN)

    assert parsed is not None
    assert (parsed.arn, parsed.region, parsed.account_id) == (KEY_ARN, "us-west-2", CUSTOMER)
    assert (parsed.kms_key_id, parsed.alias_name) == (KMS_KEY, None)
    assert parsed.key_id == KEY_ID


def test_a_multi_region_key_keeps_its_mrk_id() -> None:
    parsed = parse_kms_arn(arn_of(f"key/{MULTI_REGION}"))

    assert parsed is not None
    assert parsed.key_id == f"us-west-2.{MULTI_REGION}"


@pytest.mark.parametrize("name", ["alias/vectors", "alias/team/vectors_1-a", f"alias/{'a' * 250}", "alias/awsome"])
def test_an_alias_arn_names_no_key_before_it_is_resolved(name: str) -> None:
    parsed = parse_kms_arn(arn_of(name))

    assert parsed is not None
    assert (parsed.kms_key_id, parsed.alias_name) == (None, name)
    with pytest.raises(ValueError, match="names an alias"):
        _ = parsed.key_id


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-2", "ap-southeast-7", "ca-west-1", "il-central-1"])
def test_regions_are_taken_by_their_form_so_that_new_ones_need_no_release(region: str) -> None:
    parsed = parse_kms_arn(KEY_ARN.replace("us-west-2", region))

    assert parsed is not None
    assert parsed.region == region


@pytest.mark.parametrize(
    "text",
    [
        "",
        KMS_KEY,
        "alias/vectors",
        "arn:aws:kms",
        arn_of(""),
        arn_of("key/"),
        arn_of("key/*"),
        arn_of(f"key/{KMS_KEY}/"),
        arn_of(f"key/{KMS_KEY[:-1]}"),
        arn_of(f"key/{KMS_KEY}0"),
        arn_of(f"key/{KMS_KEY.upper()}"),
        arn_of("key/mrk-1234"),
        arn_of("alias/"),
        arn_of("alias/aws/s3"),
        arn_of("alias/aws/secretsmanager"),
        arn_of(f"alias/{'a' * 251}"),
        arn_of("alias/with space"),
        arn_of("alias/with:colon"),
        KEY_ARN.replace("us-west-2", ""),
        KEY_ARN.replace("us-west-2", "US-WEST-2"),
        KEY_ARN.replace("us-west-2", "west"),
        KEY_ARN.replace(CUSTOMER, ""),
        KEY_ARN.replace(CUSTOMER, f"{CUSTOMER}2"),
        KEY_ARN.replace(CUSTOMER, "٢٢٢٢٢٢٢٢٢٢٢٢"),
        KEY_ARN.replace(":kms:", ":iam:"),
        f"x{KEY_ARN}",
        f"{KEY_ARN}\n",
        f"\n{KEY_ARN}",
        f"{KEY_ARN} ",
        f"{KEY_ARN}\n{KEY_ARN}",
    ],
    ids=ascii,
)
def test_what_is_not_exactly_a_kms_arn_is_none(text: str) -> None:
    assert parse_kms_arn(text) is None


@pytest.mark.parametrize("partition", FOREIGN_PARTITIONS)
def test_another_partition_is_refused_everywhere(partition: str) -> None:
    for arn, taken in ((KEY_ARN, parse_kms_arn), (ROLE_ARN, role_account), (QUEUE_ARN, is_queue_arn)):
        assert taken(arn)
        assert not taken(arn.replace("arn:aws:", f"arn:{partition}:"))


@pytest.mark.parametrize(
    "text", [ROLE_ARN, ROLE_ARN.replace("role/", "role/service/path/"), ROLE_ARN.replace("keyvigil-", "a+b=c,d.e@f_")]
)
def test_a_role_arn_says_whose_role_it_is(text: str) -> None:
    assert role_account(text) == CUSTOMER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keyvigil-customer",
        ROLE_ARN.replace("role/", "user/"),
        ROLE_ARN.replace("iam::", "iam:us-west-2:"),
        ROLE_ARN.replace("iam::", "sts::").replace("role/", "assumed-role/"),
        f"arn:aws:iam::{CUSTOMER}:root",
        f"arn:aws:iam::{CUSTOMER}:role/",
        f"arn:aws:iam::{CUSTOMER}:role/*",
        f"arn:aws:iam::{CUSTOMER}:role/{'a' * 65}",
        f"arn:aws:iam::{CUSTOMER}:role/pa th/name",
        f"{ROLE_ARN}\n",
        f"{ROLE_ARN} ",
    ],
    ids=ascii,
)
def test_what_is_not_exactly_a_role_arn_is_none(text: str) -> None:
    assert role_account(text) is None


@pytest.mark.parametrize("text", [QUEUE_ARN, f"{QUEUE_ARN}-with_both"])
def test_a_queue_arn_is_recognized(text: str) -> None:
    assert is_queue_arn(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alerts",
        QUEUE_ARN.replace(":sqs:", ":sns:"),
        f"{QUEUE_ARN}\n",
        f"{QUEUE_ARN}/x",
        QUEUE_ARN[:-6],
        f"{QUEUE_ARN}.fifo",
    ],
)
def test_what_is_not_exactly_a_queue_arn_is_not_recognized(text: str) -> None:
    assert not is_queue_arn(text)


def _spoiled(arn: str) -> st.SearchStrategy[str]:
    """An ARN with any text put in anywhere, or any part of it replaced."""
    places = st.integers(0, len(arn))
    insertion = st.builds(lambda at, text: arn[:at] + text + arn[at:], places, st.text(min_size=1, max_size=5))
    replacement = st.builds(
        lambda at, text: ":".join([*arn.split(":")[:at], text, *arn.split(":")[at + 1 :]]),
        st.integers(0, 5),
        st.text(max_size=20) | st.sampled_from(FOREIGN_PARTITIONS),
    )
    return insertion | replacement


ANY = st.one_of(
    st.text(),
    _spoiled(KEY_ARN),
    _spoiled(arn_of("alias/vectors")),
    _spoiled(ROLE_ARN),
    _spoiled(QUEUE_ARN),
    # The dangerous ones are those that a careless expression would let pass, so they are built on purpose.
    st.from_regex(re.compile(r"arn:aws(-[a-z]+)?:kms:[a-z]{2}-[a-z]+-\d:\d{12}:(key/[0-9a-f-]{36}|alias/\S{1,20})$")),
    st.from_regex(re.compile(r"arn:aws(-[a-z]+)?:iam::\d{12}:role/\S{1,20}$")),
)


def _clean(text: str) -> bool:
    return all(not unicodedata.category(char).startswith(("C", "Z")) for char in text)


@given(ANY)
def test_nothing_with_a_control_character_or_of_another_partition_is_ever_accepted(text: str) -> None:
    for taken in (parse_kms_arn, role_account, is_queue_arn):
        if taken(text):
            assert text.startswith("arn:aws:")
            assert text.isascii()
            assert _clean(text)


@given(ANY)
def test_what_is_accepted_as_a_key_is_put_together_again_from_its_parts(text: str) -> None:
    parsed = parse_kms_arn(text)
    if parsed is not None:
        resource = parsed.alias_name or f"key/{parsed.kms_key_id}"
        assert f"arn:aws:kms:{parsed.region}:{parsed.account_id}:{resource}" == text
        assert (parsed.kms_key_id is None) != (parsed.alias_name is None)


def test_the_arn_of_a_secret_is_taken_apart_without_its_random_end() -> None:
    parsed = parse_secret_arn(SECRET_ARN)

    assert parsed is not None
    assert (parsed.region, parsed.account_id, parsed.name) == ("us-west-2", CUSTOMER, "keyvigil/acme-prod/probe")
    assert parsed.name.startswith(secret_prefix("acme-prod"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keyvigil/acme-prod/probe",
        SECRET_ARN.removesuffix("-AbC123"),
        SECRET_ARN.replace("-AbC123", "-AbC12"),
        f"{SECRET_ARN}\n",
        SECRET_ARN.replace("secret:", "secret:\n"),
        SECRET_ARN.replace("probe", "pro*be"),
        SECRET_ARN.replace("probe", "pröbe"),
        SECRET_ARN.replace(CUSTOMER, "2222"),
        SECRET_ARN.replace("us-west-2", "nowhere"),
        SECRET_ARN.replace("secretsmanager", "ssm"),
        SECRET_ARN.replace("probe", "p" * 513),
        *(SECRET_ARN.replace("arn:aws:", f"arn:{each}:") for each in FOREIGN_PARTITIONS),
    ],
)
def test_what_is_not_the_whole_arn_of_a_secret_is_none(text: str) -> None:
    assert parse_secret_arn(text) is None


def test_no_projects_secrets_begin_like_another_projects() -> None:
    # `acme` must not reach what belongs to `acme-prod`.
    assert not SECRET_ARN.rpartition("secret:")[2].startswith(secret_prefix("acme"))
