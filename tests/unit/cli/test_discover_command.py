"""`keyvigil discover` as people run it: what it prints, what it registers, and how it ends."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from keyvigil.domain.keys import Registration
from keyvigil.ports import OperationAnswer, RegistrationAnswer, ValidationAnswer
from keyvigil_cli.discovery.model import Finding, Inventory, Key, KeyUse, Manager, Place, Resource, Unread, Weight
from keyvigil_cli.discovery.page import page
from keyvigil_cli.discovery.report import as_plain
from keyvigil_cli.discovery.stops import KINDS
from keyvigil_cli.discovery.watching import cluster_id, to_watch
from keyvigil_cli.imports.found import Why
from keyvigil_cli.imports.terraform import read_terraform
from tests.examples import verdict
from tests.fakes import changed
from tests.page.fleets import HOSTILE
from tests.unit.cli.conftest import Keyvigil
from tests.unit.cli.terraform_documents import ACCOUNT, REGION, key_arn, resource, state, text
from tests.unit.test_page import Document

P = "acme-prod"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/keyvigil-customer"
REGISTER = ("--register", "--project", P, "--probe-role", ROLE)
HERE = Place(ACCOUNT, REGION)


@pytest.fixture
def account(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A customer's account with two things under one key; its probes are HEALTHY. The key's ARN."""
    monkeypatch.setenv("MOTO_ACCOUNT_ID", ACCOUNT)
    checker = keyvigil.api.checker
    example = checker.answer
    assert example is not None

    def probe(registration: Registration) -> RegistrationAnswer:
        checker.seen.append(registration)
        answer: RegistrationAnswer = changed(example, key_arn=registration.key_arn)
        return answer

    monkeypatch.setattr(checker, "probe_registration", probe)
    allowed = OperationAnswer(operation="Encrypt", allowed=True, error=None)
    checker.validation = ValidationAnswer(verdict=verdict(), role_checks_external_id=True, operations=(allowed,))
    with mock_aws():
        session = boto3.Session(region_name=REGION)
        kms = session.client("kms")
        key = kms.create_key()["KeyMetadata"]["Arn"]
        kms.create_alias(AliasName="alias/app", TargetKeyId=key)
        session.client("sqs").create_queue(QueueName="orders", Attributes={"KmsMasterKeyId": "alias/app"})
        session.client("sns").create_topic(Name="alarms", Attributes={"KmsMasterKeyId": key})
        yield key


def test_it_shows_what_hangs_on_which_key_and_what_is_not_well_kept(keyvigil: Keyvigil, account: str) -> None:
    shown = keyvigil("discover")
    assert shown.status == 0
    for words in ("alias/app", "SQS queue", "orders", "SNS topic", "Nothing can be published", "rotation-off"):
        assert words in shown.output
    assert keyvigil.server.asked() == []


def test_it_registers_what_it_found_and_nothing_twice(keyvigil: Keyvigil, account: str) -> None:
    first = keyvigil("discover -o json", *REGISTER)
    assert first.status == 0, first.output + first.messages
    items = first.json["registration"]["items"]
    assert [(each["what"], each["outcome"]) for each in items] == [
        ("key", "registered"),
        *[("other", "registered")] * 2,
    ]
    assert first.json["keys"][0]["key_arn"] == account
    clusters = keyvigil(f"cluster list {P} -o json").json["items"]
    mine = [each for each in clusters if each["cluster_id"] in {item["id"] for item in items}]
    assert {(each["name"], each["lock"]["via"]) for each in mine} == {("orders", "none"), ("alarms", "none")}

    asked = len([1 for method, _ in keyvigil.server.asked() if method == "POST"])
    second = keyvigil("discover -o json", *REGISTER)
    assert {each["outcome"] for each in second.json["registration"]["items"]} == {"there already"}
    assert len([1 for method, _ in keyvigil.server.asked() if method == "POST"]) == asked


def test_a_dry_run_registers_nothing(keyvigil: Keyvigil, account: str) -> None:
    tried = keyvigil("discover --dry-run -o json", *REGISTER)
    assert {each["outcome"] for each in tried.json["registration"]["items"]} == {"would register"}
    assert [path for method, path in keyvigil.server.asked() if method == "POST"] == [f"/projects/{P}/key-validations"]


def test_without_a_role_for_probes_each_key_is_refused_with_what_to_do(keyvigil: Keyvigil, account: str) -> None:
    refused = keyvigil("discover --register --project", P)
    assert refused.status == 1
    assert "no role was given for account" in refused.output
    assert "discover again with --probe-role" in refused.output


@pytest.mark.parametrize(
    "words",
    [
        "discover --register",
        f"discover --project {P}",
        f"discover --probe-role {ROLE}",
        "discover --dry-run",
        "discover --in-region everywhere",
        "discover --role somebody",
        f"discover --register --project {P} --probe-role somebody",
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(keyvigil: Keyvigil, words: str) -> None:
    assert keyvigil(words).status == 2


def test_the_policy_is_printed_without_asking_anybody(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    printed = keyvigil("discover --permissions --role", ROLE)
    assert printed.status == 0
    assert [each["Sid"] for each in printed.json["Statement"]] == [
        "ReadWhatHangsOnKeys",
        "AssumeTheRolesOfOtherAccounts",
    ]


def test_without_credentials_nothing_is_read(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused = keyvigil("discover")
    assert refused.status == 1
    assert "credentials" in refused.messages


def test_the_page_is_written_and_says_the_same(keyvigil: Keyvigil, account: str, tmp_path: Path) -> None:
    shown = keyvigil("discover --html", str(tmp_path / "keys.html"))
    drawn = Document((tmp_path / "keys.html").read_text(encoding="utf-8"))
    assert (shown.status, shown.output) == (0, "")
    for words in ("alias/app", "orders", "alarms", "rotation-off"):
        assert words in drawn.text


# --- names -----------------------------------------------------------------------------------------------------------


def inventory(words: str) -> Inventory:
    """An account in which every text that somebody else wrote is this."""
    finding = Finding(
        code="rotation-off", weight=Weight.CARELESS, place=HERE, about=words, name=words, message=words, advice=words
    )
    things = tuple(
        Resource(place=HERE, service="s3", kind=kind, name=words, arn=words, key=words, part=words) for kind in KINDS
    )
    key = Key(
        arn=key_arn(), place=HERE, manager=Manager.CUSTOMER, state="Enabled", aliases=(words,), description=words,
        rotation_enabled=False,
    )  # fmt: skip
    strange = replace(key, arn=words, manager=Manager.UNKNOWN, aliases=(), of_other_account=True, state=None)
    return Inventory(
        taken_at=datetime(2026, 11, 23, tzinfo=UTC),
        places=(HERE,),
        keys=(
            KeyUse(key=key, resources=things, findings=(finding,)),
            KeyUse(key=strange, resources=(), findings=()),
        ),
        keyless=things[:1],
        findings=(finding,),
        unread=(Unread(place=HERE, what=words, why=words, code="AccessDenied"),),
        notes=(words,),
        answered=1,
    )


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_name_breaks_out_of_the_page(kind: str) -> None:
    drawn, plain = Document(page(inventory(HOSTILE[kind]))), Document(page(inventory("plain")))
    assert drawn.elements == plain.elements
    assert drawn.attributes == plain.attributes
    assert drawn.others == []


def test_the_page_shows_all_that_the_json_has() -> None:
    words = "a name of somebody's"
    plain, drawn = as_plain(inventory(words)), Document(page(inventory(words)))
    assert drawn.texts.count(words) >= len(KINDS) + len(plain["keys"])  # type: ignore[arg-type] # JSON
    assert "AccessDenied" in drawn.text


# --- what comes under watch ------------------------------------------------------------------------------------------


def test_a_resource_has_the_id_that_an_import_gives_it() -> None:
    rds = {"region": REGION, "kms_key_id": key_arn(), "performance_insights_kms_key_id": key_arn()}
    arn = f"arn:aws:rds:{REGION}:{ACCOUNT}:{{}}"
    document = state(
        resource("aws_db_instance.a", {"identifier": "main", "arn": arn.format("db:main"), **rds}),
        resource("aws_rds_cluster.a", {"cluster_identifier": "main", "arn": arn.format("cluster:main"), **rds}),
        resource("aws_secretsmanager_secret.a", {"name": "s", "region": REGION, "kms_key_id": key_arn()}),
        resource(
            "aws_s3_bucket.a",
            {"bucket": "logs", "region": REGION, "server_side_encryption_configuration": [
                {"rule": [{"apply_server_side_encryption_by_default": [{"kms_master_key_id": key_arn()}]}]}]},
        ),
    )  # fmt: skip
    imported = {
        each.cluster_id for each in read_terraform(text(document), account_id=ACCOUNT, region=REGION).dependents
    }

    def found(service: str, kind: str, name: str, arn: str = "", part: str = "") -> str:
        thing = Resource(place=HERE, service=service, kind=kind, name=name, arn=arn, key=key_arn(), part=part)
        return cluster_id(thing, key_arn())

    assert imported == {
        found("rds", "rds-instance", "main", arn.format("db:main")),
        found("rds", "rds-part", "main", arn.format("db:main"), "Performance Insights"),
        found("rds", "rds-cluster", "main", arn.format("cluster:main"), "aurora-postgresql"),
        found("rds", "rds-part", "main", arn.format("cluster:main"), "Performance Insights"),
        found("secretsmanager", "secret", "s"),
        found("s3", "s3-bucket", "logs"),
    }


def test_the_id_of_snapshots_and_of_old_versions_stays_when_their_number_changes() -> None:
    def snapshots(name: str) -> Resource:
        return Resource(place=HERE, service="ebs", kind="ebs-snapshots", name=name, arn="a", key=key_arn())

    def versions(part: str) -> Resource:
        return Resource(
            place=HERE, service="lambda", kind="lambda-function", name="f", arn="a", key=key_arn(), part=part
        )

    assert cluster_id(snapshots("3 snapshots"), key_arn()) == cluster_id(snapshots("4 snapshots"), key_arn())
    assert cluster_id(versions("versions 1"), key_arn()) == cluster_id(versions("versions 1, 2"), key_arn())
    assert cluster_id(versions("versions 1"), key_arn()) != cluster_id(versions(""), key_arn())


def test_keys_of_aws_and_aliases_that_lead_nowhere_are_left_out_with_their_reason() -> None:
    thing = Resource(place=HERE, service="sqs", kind="sqs-queue", name="q", arn="arn:q", key="alias/gone")
    gone = Finding(
        code="alias-not-there", weight=Weight.UNHEALTHY, place=HERE, about="arn:q", name="q", message="m", advice="a"
    )
    alias = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/"
    unknown = Key(arn=f"{alias}gone", place=HERE, manager=Manager.UNKNOWN)
    managed = Key(arn=f"{alias}aws/sqs", place=HERE, manager=Manager.AWS)
    found = replace(
        inventory("plain"),
        keys=(
            KeyUse(key=unknown, resources=(thing,), findings=()),
            KeyUse(key=managed, resources=(thing,), findings=()),
        ),
        findings=(gone,),
    )
    watched: Any = to_watch(found)
    assert watched.dependents == []
    assert [each.why for each in watched.left_out] == [Why.REFUSED, Why.NOT_WATCHABLE]
