"""`keyvigil import` against the real API: nothing twice, nothing dropped, nothing secret told."""

from pathlib import Path
from typing import Any

import pytest

from keyvigil.domain.keys import Registration
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import OperationAnswer, RegistrationAnswer, ValidationAnswer
from keyvigil_cli.commands import imports as import_commands
from keyvigil_cli.imports.found import Found
from tests.examples import KEY_ARN, KEY_ID, ROLE_ARN, verdict
from tests.fakes import changed
from tests.printed import Printed
from tests.unit.cli.conftest import Keyvigil
from tests.unit.cli.registry_server import Canned
from tests.unit.cli.terraform_documents import key_arn, resource, state, text, zilliz

P = "acme-prod"
HEALTHY_ROLE = ROLE_ARN


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


@pytest.fixture(autouse=True)
def every_key_answers(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker finds whatever key it is asked about, an alias's own; it is HEALTHY unless a test says otherwise."""
    checker = keyvigil.api.checker
    example = checker.answer
    assert example is not None

    def probe(registration: Registration) -> RegistrationAnswer:
        checker.seen.append(registration)
        arn = KEY_ARN if ":alias/" in registration.key_arn else registration.key_arn
        answer: RegistrationAnswer = changed(checker.answer or example, key_arn=arn)
        return answer

    monkeypatch.setattr(checker, "probe_registration", probe)
    checker.validation = ValidationAnswer(
        verdict=verdict(),
        role_checks_external_id=True,
        operations=(OperationAnswer(operation="Encrypt", allowed=True, error=None),),
    )


def terraform(keyvigil: Keyvigil, file: Path, document: Any, *more: str) -> Printed:
    file.write_text(document if isinstance(document, str) else text(document), encoding="utf-8")
    return keyvigil("import terraform", str(file), "--project", P, "--role", HEALTHY_ROLE, *more)


def outcomes(printed: Printed) -> list[tuple[str, str, str | None]]:
    return [(each["what"], each["outcome"], each["id"]) for each in printed.json["items"]]


TWO = state(
    zilliz(),
    resource(
        "aws_s3_bucket.logs",
        {
            "bucket": "logs",
            "region": "us-west-2",
            "server_side_encryption_configuration": [
                {"rule": [{"apply_server_side_encryption_by_default": [{"kms_master_key_id": key_arn(2)}]}]}
            ],
        },
    ),
)


def posted(keyvigil: Keyvigil) -> list[str]:
    return [path for method, path in keyvigil.server.asked() if method == "POST"]


def test_a_state_comes_under_watch_and_the_second_time_nothing_is_made(keyvigil: Keyvigil, file: Path) -> None:
    first = terraform(keyvigil, file, TWO, "--output", "json")
    assert first.status == 0, first.output + first.messages
    assert [each[:2] for each in outcomes(first)] == [
        ("key", "registered"), ("zilliz-byoc", "registered"), ("key", "registered"), ("aws-s3", "registered"),
    ]  # fmt: skip
    cluster = keyvigil(f"cluster show {P} in01-3f5a -o json").json
    assert (cluster["kind"], cluster["lock"]["via"], cluster["key_id"]) == (
        "zilliz-byoc", "none", "us-west-2.1234abcd-12ab-34cd-56ef-000000000001",
    )  # fmt: skip
    key = keyvigil(f"key show {P} us-west-2.1234abcd-12ab-34cd-56ef-000000000001 -o json").json
    assert (key["use"], key["clusters"]) == ("cse", 1)

    before = len(posted(keyvigil))
    second = terraform(keyvigil, file, TWO, "--output", "json")
    assert second.status == 0
    assert {outcome for _, outcome, _ in outcomes(second)} == {"there already"}
    assert len(posted(keyvigil)) == before


def test_a_dry_run_tries_keys_and_registers_nothing(keyvigil: Keyvigil, file: Path) -> None:
    tried = terraform(keyvigil, file, TWO, "--dry-run", "--output", "json")
    assert tried.status == 0
    assert {outcome for _, outcome, _ in outcomes(tried)} == {"would register"}
    assert posted(keyvigil) == [f"/projects/{P}/key-validations"] * 2
    assert len(keyvigil(f"key list {P} -o json").json["items"]) == 1


def test_a_dry_run_without_a_project_asks_nobody(keyvigil: Keyvigil, file: Path) -> None:
    file.write_text(text(TWO), encoding="utf-8")
    tried = keyvigil("import terraform --dry-run", str(file))
    assert (tried.status, keyvigil.server.seen) == (0, [])
    assert "would register" in tried.output
    assert "in01-3f5a" in tried.output


def test_an_import_without_a_project_is_a_mistake_in_usage(keyvigil: Keyvigil, file: Path) -> None:
    file.write_text(text(TWO), encoding="utf-8")
    assert keyvigil("import terraform", str(file)).status == 2


def test_a_dry_run_says_what_a_key_would_be_refused_for(keyvigil: Keyvigil, file: Path) -> None:
    assert keyvigil.api.checker.validation is not None
    keyvigil.api.checker.validation = changed(keyvigil.api.checker.validation, verdict=verdict(Cause.KEY_DISABLED))
    tried = terraform(keyvigil, file, TWO, "--dry-run")
    assert tried.status == 3
    assert "KEY_DISABLED" in tried.output
    assert "aws kms enable-key" in tried.output


def test_a_refused_key_is_told_with_what_mends_it_and_its_clusters_wait(keyvigil: Keyvigil, file: Path) -> None:
    keyvigil.api.checker.answer = changed(
        keyvigil.api.checker.answer, verdict=verdict(Cause.KEY_DISABLED), baseline=None
    )
    refused = terraform(keyvigil, file, TWO, "--output", "json")
    assert refused.status == 3
    assert {outcome for _, outcome, _ in outcomes(refused)} == {"refused"}
    assert refused.json["items"][0]["reason"].startswith("KMS key is disabled")
    assert "aws kms enable-key" in str(refused.json["items"][0]["to_do"])


def test_what_nobody_knows_is_4(keyvigil: Keyvigil, file: Path) -> None:
    keyvigil.api.checker.answer = changed(keyvigil.api.checker.answer, verdict=verdict(Cause.THROTTLED), baseline=None)
    assert terraform(keyvigil, file, TWO).status == 4


def test_one_refused_key_does_not_hide_the_rest(keyvigil: Keyvigil, file: Path) -> None:
    foreign = zilliz("theirs", id="in01-theirs", aws_cse_key_arn=key_arn(3, account="333333333333"))
    told = terraform(keyvigil, file, state(foreign, zilliz()), "--output", "json")
    assert told.status == 1
    assert [each[:2] for each in outcomes(told)] == [
        ("key", "refused"), ("zilliz-byoc", "refused"), ("key", "registered"), ("zilliz-byoc", "registered"),
    ]  # fmt: skip
    first = told.json["items"][0]
    assert first["reason"] == "no role was given for account 333333333333"
    assert "customer-role.yaml" in first["to_do"][0]


def test_a_registered_key_is_used_and_its_use_is_not_changed(keyvigil: Keyvigil, file: Path) -> None:
    told = terraform(keyvigil, file, state(zilliz(aws_cse_key_arn=KEY_ARN)), "--output", "json")
    assert told.status == 0
    [key, cluster] = told.json["items"]
    assert (key["outcome"], key["id"]) == ("there already", KEY_ID)
    assert key["to_do"] == [f"keyvigil key update {P} {KEY_ID} --use cse"]
    assert cluster["outcome"] == "registered"


def test_an_alias_of_a_registered_key_leads_to_it(keyvigil: Keyvigil, file: Path) -> None:
    alias = "arn:aws:kms:us-west-2:222222222222:alias/vectors"
    told = terraform(keyvigil, file, state(zilliz(aws_cse_key_arn=alias)), "--output", "json")
    assert told.status == 0, told.output
    assert [each[:2] for each in outcomes(told)] == [("key", "there already"), ("zilliz-byoc", "registered")]


def test_a_cluster_that_is_registered_under_another_key_is_refused_in_the_fixed_words(
    keyvigil: Keyvigil, file: Path
) -> None:
    told = terraform(keyvigil, file, state(zilliz(id="vectors-prod")), "--output", "json")
    assert told.status == 1
    assert "Cannot change AWS CSE key ARN after cluster is created" in told.json["items"][1]["reason"]


def test_a_key_in_another_region_than_its_cluster_is_refused(keyvigil: Keyvigil, file: Path) -> None:
    told = terraform(keyvigil, file, state(zilliz(region_id="aws-eu-central-1")), "--output", "json")
    assert told.status == 1
    assert "different Regions" in told.json["items"][1]["reason"]


def test_a_project_that_is_not_there_is_made_and_the_role_s_external_id_told(keyvigil: Keyvigil, file: Path) -> None:
    file.write_text(text(TWO), encoding="utf-8")
    dry = keyvigil("import terraform --project new-one --dry-run", str(file))
    assert (dry.status, posted(keyvigil)) == (1, [])
    told = keyvigil("import terraform --project new-one --output json", str(file), "--role", f"{ROLE_ARN}-new")
    assert told.status == 1
    external_id = keyvigil("project show new-one -o json").json["external_id"]
    assert outcomes(told)[0] == ("project", "registered", "new-one")
    assert f"ExternalId={external_id}" in told.json["items"][1]["to_do"][0]
    again = keyvigil("import terraform --project new-one --output json", str(file), "--role", f"{ROLE_ARN}-new")
    assert again.status == 0, again.output
    assert {outcome for _, outcome, _ in outcomes(again)} == {"registered"}


def test_no_answer_in_the_middle_is_told_and_the_next_run_goes_on(keyvigil: Keyvigil, file: Path) -> None:
    keyvigil.server.instead = [None, None, None, *[Canned(None)] * 3]
    broken = terraform(keyvigil, file, TWO, "--output", "json")
    assert broken.status == 4
    assert [outcome for _, outcome, _ in outcomes(broken)] == ["unknown", "unknown", "registered", "registered"]
    assert terraform(keyvigil, file, TWO).status == 0


def test_hostile_names_neither_move_the_cursor_nor_break_the_registration(keyvigil: Keyvigil, file: Path) -> None:
    evil = zilliz(
        "x", cluster_name="\x1b[2J\u202eevil\n" + "x" * 300, bucket_info={"bucket_name": "\x07", "prefix": ""}
    )
    evil["address"] = 'zillizcloud_cluster.x["\x1b]0;owned\x07"]'
    told = terraform(keyvigil, file, state(evil))
    assert told.status == 0, told.output
    assert all(each.isprintable() for each in told.output.splitlines())
    assert len(keyvigil(f"cluster show {P} in01-3f5a -o json").json["name"]) == 120


def test_no_secret_of_the_state_is_sent_or_printed(keyvigil: Keyvigil, file: Path) -> None:
    told = terraform(keyvigil, file, TWO)
    assert "hunter2" in file.read_text(encoding="utf-8")
    assert "hunter2" not in told.output + told.messages + repr(keyvigil.server.seen)


def test_standard_input_is_a_file_too(keyvigil: Keyvigil) -> None:
    told = keyvigil("import terraform - --dry-run", typed=text(TWO))
    assert (told.status, "in01-3f5a" in told.output) == (0, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"version": 4, "serial": 1}', "terraform show -json > state.json"), ('resource "x" "y" {}', "no JSON")],
)
def test_another_file_is_an_error_that_says_what_to_run(
    keyvigil: Keyvigil, file: Path, content: str, words: str
) -> None:
    told = terraform(keyvigil, file, content)
    assert (told.status, told.output) == (1, "")
    assert words in told.messages


def test_a_file_that_is_not_there_or_too_large_is_told(
    keyvigil: Keyvigil, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot read" in keyvigil("import terraform --dry-run", str(file)).messages
    monkeypatch.setattr(import_commands, "_LARGEST_FILE", 10)
    assert "larger than" in terraform(keyvigil, file, TWO).messages


def test_an_account_has_twelve_digits(keyvigil: Keyvigil, file: Path) -> None:
    assert terraform(keyvigil, file, TWO, "--account", "123").status == 2


# --- KES

SECRET_ARN = f"arn:aws:secretsmanager:us-west-2:222222222222:secret:keyvigil/{P}/probe-AbC123"
KES = """\
keys: [{name: minio-sse}]
keystore:
  aws:
    secretsmanager:
      region: us-west-2
      kmskey: ${KMS_KEY}
      credentials: {accesskey: AKIAIOSFODNN7EXAMPLE, secretkey: hunter2}
"""


def kes(keyvigil: Keyvigil, file: Path, *more: str) -> Printed:
    file.write_text(KES, encoding="utf-8")
    return keyvigil("import kes", str(file), "--project", P, "--role", HEALTHY_ROLE, *more)


def test_a_minio_comes_under_watch_and_the_second_time_nothing_is_made(keyvigil: Keyvigil, file: Path) -> None:
    named = ("--set", f"KMS_KEY={key_arn()}", "--probe-secret-arn", SECRET_ARN, "--output", "json")
    first = kes(keyvigil, file, *named)
    assert first.status == 0, first.output + first.messages
    assert [each[:2] for each in outcomes(first)] == [("key", "registered"), ("minio-kes", "registered")]
    assert keyvigil.api.checker.seen[-1].probe_secret_arn == SECRET_ARN
    before = len(posted(keyvigil))
    assert {outcome for _, outcome, _ in outcomes(kes(keyvigil, file, *named))} == {"there already"}
    assert len(posted(keyvigil)) == before
    assert "hunter2" not in first.output + first.messages + repr(keyvigil.server.seen)


def test_a_minio_without_the_probe_s_secret_is_told_how_to_make_it(keyvigil: Keyvigil, file: Path) -> None:
    told = kes(keyvigil, file, "--set", f"KMS_KEY={key_arn()}")
    assert told.status == 1
    assert f"--name keyvigil/{P}/probe --kms-key-id {key_arn()}" in told.output
    assert not [each for each in posted(keyvigil) if each.endswith("/keys")]


def test_a_variable_comes_from_the_environment_only_when_that_is_asked_for(
    keyvigil: Keyvigil, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMS_KEY", "1234abcd-12ab-34cd-56ef-000000000001")
    told = kes(keyvigil, file, "--probe-secret-arn", SECRET_ARN)
    assert (told.status, "--set KMS_KEY=VALUE" in told.output) == (1, True)
    taken = kes(keyvigil, file, "--probe-secret-arn", SECRET_ARN, "--environment", "--output", "json")
    assert taken.status == 0, taken.output
    assert taken.json["items"][0]["key"] == key_arn()  # in the account of the role


@pytest.mark.parametrize("wrong", [("--set", "KMS_KEY"), ("--set", "=x"), ("--cluster-id", "../x")])
def test_what_cannot_be_meant_is_a_mistake_in_usage(keyvigil: Keyvigil, file: Path, wrong: tuple[str, str]) -> None:
    assert kes(keyvigil, file, *wrong).status == 2


# --- CloudFormation

TEMPLATE = f"""\
Parameters: {{KeyArn: {{Type: String}}}}
Resources:
  Trail: {{Type: "AWS::CloudTrail::Trail", Properties: {{TrailName: audit, KMSKeyId: !Ref KeyArn}}}}
  Topic: {{Type: "AWS::SNS::Topic", Properties: {{KmsMasterKeyId: "{key_arn(2)}"}}}}
"""


def cloudformation(keyvigil: Keyvigil, source: str, *more: str) -> Printed:
    return keyvigil("import cloudformation", source, "--project", P, "--role", HEALTHY_ROLE, *more)


def test_a_template_comes_under_watch_and_what_is_not_known_is_told(keyvigil: Keyvigil, tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(TEMPLATE, encoding="utf-8")
    told = cloudformation(keyvigil, str(file), "--set", f"KeyArn={key_arn()}", "--output", "json")
    assert told.status == 1
    assert [each[:2] for each in outcomes(told)] == [("-", "refused"), ("key", "registered"), ("other", "registered")]
    again = cloudformation(keyvigil, str(file), "--set", f"KeyArn={key_arn()}", "--output", "json")
    assert [each[1] for each in outcomes(again)] == ["refused", "there already", "there already"]


def test_a_stack_is_read_where_it_is_and_registered_where_keyvigil_is(
    keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, str]] = []

    def read_stack(session: Any, stack: str, news: Any) -> Found:
        asked.append((session.region_name, stack))
        news("1 stacks")
        return Found()

    monkeypatch.setattr("keyvigil_cli.deployed_stack.read_stack", read_stack)
    told = cloudformation(keyvigil, "app", "--stack-region", "eu-west-1")
    assert (told.status, told.output, asked) == (0, "", [("eu-west-1", "app")])
    assert "Nothing in it names a KMS key." in told.messages
    arn = "arn:aws:cloudformation:us-west-2:222222222222:stack/app/1"
    cloudformation(keyvigil, arn)
    assert asked[-1] == ("us-west-2", arn)
    assert cloudformation(keyvigil, "app", "--set", "A=b").status == 2


# --- docs/import.md

GUIDE = (Path(__file__).parents[3] / "docs" / "import.md").read_text(encoding="utf-8").replace("\\\n  ", " ")
COMMANDS = [line for line in GUIDE.splitlines() if line.startswith("keyvigil import ") and " - " not in line]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_guide_s_commands_are_commands(
    keyvigil: Keyvigil, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cdk.out").mkdir()
    Path("state.json").write_text(text(TWO), encoding="utf-8")
    Path("server-config.yaml").write_text(KES.replace("${KMS_KEY}", key_arn()), encoding="utf-8")
    Path("cdk.out/App.template.json").write_text(text({"Resources": {}}), encoding="utf-8")
    monkeypatch.setattr("keyvigil_cli.deployed_stack.read_stack", lambda *_: Found())
    # Whose profile reads the stack is asked for before the stack is, and there is none here.
    told = keyvigil(line.removeprefix("keyvigil ").replace(" --stack-profile customer", ""))
    assert told.status == 0, told.messages


def test_the_guide_shows_all_three() -> None:
    assert {line.split()[2] for line in COMMANDS} == {"terraform", "kes", "cloudformation"}
