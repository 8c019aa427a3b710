"""What a customer deploys: least privilege for each use, input that cannot be got wrong, and Terraform's equal."""

import json
import re
import subprocess
from typing import Any

import pytest

from keyvigil.adapters.clock_and_ids import RandomIds
from keyvigil.domain.aws_commands import trust_statement
from keyvigil.domain.key_events import CALLS
from keyvigil.domain.keys import KeyUse, probe_context
from tests.infra.onboarding import MODULES, TERRAFORM, Onboarding, TerraformModule, declared_in

MONITOR = "arn:aws:iam::111111111111:role/keyvigil-monitor"
KEY = "arn:aws:kms:us-west-2:222222222222:key/1234abcd-12ab-34cd-56ef-1234567890ab"
REPLICA = f"arn:aws:kms:eu-west-1:222222222222:key/mrk-{'0' * 32}"
SECRET = "arn:aws:secretsmanager:eu-west-1:222222222222:secret:keyvigil/acme-prod/probe-AbC123"
BUS = "arn:aws:events:us-west-2:111111111111:event-bus/keyvigil-intake"
GIVEN = {
    "KeyVigilAccountId": "111111111111",
    "ProjectId": "acme-prod",
    "ExternalId": "keyvigil-0123456789abcdef",
    "KeyArns": f"{KEY},{REPLICA}",
}
USES: dict[str, dict[str, str]] = {
    "cmek": {},
    "cse": {"Use": "cse"},
    "kes": {"Use": "kes", "ProbeSecretArn": SECRET},
    "service": {"Use": "service"},
}
EVERYTHING = {"AllowLookupEvents": "true", "AllowRotationStatus": "true", **USES["kes"]}
NOTHING = {"AllowRotationStatus": "false", "RestrictToProbes": "false"}

# What EventBridge and CloudTrail tell of a key: design, kms-facts.md. The intake's own rules must take the same.
KMS_EVENTS = {"KMS CMK Deletion", "KMS CMK Rotation", "KMS Imported Key Material Expiration"}
KMS_CALLS = {
    *("DisableKey", "EnableKey", "ScheduleKeyDeletion", "CancelKeyDeletion", "PutKeyPolicy", "CreateGrant"),
    *("RevokeGrant", "RetireGrant", "DeleteImportedKeyMaterial", "ImportKeyMaterial", "UpdateAlias", "DeleteAlias"),
    *("EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand", "UpdatePrimaryRegion", "ReplicateKey"),
    *("DisconnectCustomKeyStore", "ConnectCustomKeyStore", "UpdateCustomKeyStore", "DeleteCustomKeyStore"),
    *("TagResource", "UntagResource"),
}
IAM_CALLS = {
    *("UpdateAssumeRolePolicy", "CreateRole", "DeleteRole", "PutRolePolicy", "DeleteRolePolicy"),
    *("AttachRolePolicy", "DetachRolePolicy", "PutRolePermissionsBoundary", "DeleteRolePermissionsBoundary"),
}

role_template = Onboarding.load("customer-role.yaml")
events_template = Onboarding.load("customer-events.yaml")


def role(**parameters: str) -> dict[str, Any]:
    properties: dict[str, Any] = role_template.given(**{**GIVEN, **parameters}).resources["Role"]
    return properties


def statements(**parameters: str) -> dict[str, dict[str, Any]]:
    """The role's permissions by their Sid."""
    (policy,) = role(**parameters)["Policies"]
    return {each["Sid"]: each for each in policy["PolicyDocument"]["Statement"]}


def actions(*of: dict[str, Any]) -> set[str]:
    found = [each["Action"] for each in of]
    return {action for each in found for action in ([each] if isinstance(each, str) else each)}


# --- the role ---------------------------------------------------------------------------------------------------


def test_the_role_trusts_exactly_what_a_verdict_s_remediation_would_restore() -> None:
    trust = role()["AssumeRolePolicyDocument"]

    assert trust["Statement"] == [trust_statement(MONITOR, GIVEN["ExternalId"])]


def test_the_trust_is_the_account_s_root_under_both_conditions() -> None:
    (statement,) = role(MonitorRoleName="watcher")["AssumeRolePolicyDocument"]["Statement"]

    assert statement["Principal"] == {"AWS": "arn:aws:iam::111111111111:root"}
    assert statement["Condition"] == {
        "ArnLike": {
            "aws:PrincipalArn": [
                "arn:aws:iam::111111111111:role/watcher",
                "arn:aws:sts::111111111111:assumed-role/watcher/*",
            ]
        },
        "StringEquals": {"sts:ExternalId": GIVEN["ExternalId"]},
    }


@pytest.mark.parametrize("use", KeyUse)
def test_each_use_gets_the_operations_of_its_probe_and_no_other(use: KeyUse) -> None:
    allowed = statements(**NOTHING, **USES[use])

    assert actions(allowed["SeeTheKeys"], allowed["ProbeTheKeys"]) == {
        f"kms:{operation}" for operation in use.operations if operation != "GetSecretValue"
    }
    assert set(allowed) - {"ReadTheProbesSecret", "DecryptTheProbesSecret"} == {"SeeTheKeys", "ProbeTheKeys"}


@pytest.mark.parametrize("use", USES)
def test_only_the_chosen_keys_and_secret_are_reached(use: str) -> None:
    for sid, statement in statements(**{**EVERYTHING, **USES[use]}).items():
        reached = statement["Resource"]
        if sid == "SeeWhoDidIt":
            assert reached == "*", "CloudTrail knows no resources here"
        elif sid == "ReadTheProbesSecret":
            assert reached == SECRET
        else:
            assert reached == [KEY, REPLICA]


def test_the_role_encrypts_and_decrypts_nothing_but_the_project_s_probes() -> None:
    allowed = statements(**USES["cse"])

    compared = allowed["ProbeTheKeys"]["Condition"]["StringEquals"]
    assert set(compared) == {"kms:EncryptionContext:tested-by", "kms:EncryptionContext:project"}
    context = probe_context("acme-prod")
    assert {name.removeprefix("kms:EncryptionContext:"): value for name, value in compared.items()}.items() <= (
        context.items()
    )
    # No other statement lets it decrypt, and DescribeKey carries no context to compare.
    assert [sid for sid, each in allowed.items() if "kms:Decrypt" in actions(each)] == ["ProbeTheKeys"]
    assert "Condition" not in allowed["SeeTheKeys"]
    assert "Condition" not in statements(RestrictToProbes="false")["ProbeTheKeys"]


def test_a_secret_under_the_key_is_decrypted_through_secrets_manager_only_and_no_other() -> None:
    assert statements(**USES["kes"])["DecryptTheProbesSecret"]["Condition"] == {
        "StringEquals": {
            "kms:ViaService": "secretsmanager.eu-west-1.amazonaws.com",
            "kms:EncryptionContext:SecretARN": SECRET,
        }
    }


@pytest.mark.parametrize(
    ("parameter", "sid", "action"),
    [
        ("AllowLookupEvents", "SeeWhoDidIt", "cloudtrail:LookupEvents"),
        ("AllowRotationStatus", "SeeRotation", "kms:GetKeyRotationStatus"),
    ],
)
def test_what_else_may_be_seen_is_the_customer_s_choice(parameter: str, sid: str, action: str) -> None:
    assert actions(statements(**{parameter: "true"})[sid]) == {action}
    assert sid not in statements(**{parameter: "false"})


def test_nothing_that_the_role_may_do_changes_anything() -> None:
    everything = actions(*statements(**EVERYTHING).values()) | actions(*statements(**USES["cse"]).values())

    assert everything == {
        *("kms:DescribeKey", "kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:GetKeyRotationStatus"),
        *("secretsmanager:GetSecretValue", "cloudtrail:LookupEvents"),
    }


GOOD = {
    "KeyVigilAccountId": ["111111111111"],
    "MonitorRoleName": ["keyvigil-monitor", "a"],
    "ProjectId": ["acme-prod"],
    "ExternalId": ["keyvigil-0123456789abcdef", "a:b/c=d@e,f+g.h_i", "x" * 1224],
    "KeyArns": [KEY, REPLICA, f"{KEY},{REPLICA}"],
    "Use": ["cmek", "cse", "kes", "service"],
    "ProbeSecretArn": ["", SECRET],
    "RoleName": ["keyvigil-customer"],
}
BAD = {
    "KeyVigilAccountId": ["", "11111111111", "1111111111111", "acme"],
    "MonitorRoleName": ["", "path/role", MONITOR, "a" * 65],
    "ProjectId": ["", "ab", "Acme", "acme_prod", "a" * 41],
    "ExternalId": ["", "a", "with space", 'quote"', "x" * 1225],
    "KeyArns": ["", "*", "1234abcd-12ab-34cd-56ef-1234567890ab", KEY.replace("key/", "alias/"), f"{KEY},*", f"{KEY},",
                KEY.replace("222222222222", "*"), f"{KEY}*", KEY.replace("us-west-2", "*")],
    "Use": ["", "everything"],
    "ProbeSecretArn": ["*", SECRET.replace("keyvigil/", "theirs/"), SECRET.removesuffix("-AbC123"), f"{SECRET}*"],
    "RoleName": ["", "path/role"],
}  # fmt: skip


@pytest.mark.parametrize("parameter", GOOD)
def test_input_that_is_wrong_is_refused_before_anything_is_made(parameter: str) -> None:
    assert [value for value in GOOD[parameter] if role_template.refuses(parameter, value)] == []
    assert [value for value in BAD[parameter] if not role_template.refuses(parameter, value)] == []


def test_the_external_ids_that_keyvigil_makes_are_taken() -> None:
    assert not role_template.refuses("ExternalId", RandomIds().external_id())


def test_every_parameter_without_allowed_values_has_a_pattern_and_says_what_it_wants() -> None:
    for template in (role_template, events_template):
        for name, declared in template.content["Parameters"].items():
            assert declared["Description"], name
            assert ("AllowedValues" in declared) or (declared["AllowedPattern"] and declared["ConstraintDescription"])


# --- the events -------------------------------------------------------------------------------------------------


def rules(region: str) -> dict[str, dict[str, Any]]:
    made = events_template.given(region, IntakeBusArn=BUS, RoleNames="keyvigil-customer,other").resources
    return {name: each for name, each in made.items() if "EventPattern" in each}


def test_every_event_that_can_tell_of_a_key_s_end_is_forwarded() -> None:
    made = rules("us-west-2")

    assert set(made) == {"KeyEvents", "KeyChanges"}
    assert {"source": ["aws.kms"], "detail-type": set(made["KeyEvents"]["EventPattern"]["detail-type"])} == {
        "source": made["KeyEvents"]["EventPattern"]["source"],
        "detail-type": KMS_EVENTS,
    }
    called = made["KeyChanges"]["EventPattern"]
    assert (called["source"], called["detail-type"]) == (["aws.kms"], ["AWS API Call via CloudTrail"])
    assert called["detail"]["eventSource"] == ["kms.amazonaws.com"]
    assert called["detail"]["errorCode"] == [{"exists": False}], "what was refused changed nothing"
    assert set(called["detail"]["eventName"]) == KMS_CALLS
    assert len(called["detail"]["eventName"]) == len(KMS_CALLS)


def test_iam_s_events_are_forwarded_from_the_one_region_that_has_them_and_about_the_customer_s_roles_only() -> None:
    pattern = rules("us-east-1")["RoleChanges"]["EventPattern"]

    assert (pattern["source"], pattern["detail-type"]) == (["aws.iam"], ["AWS API Call via CloudTrail"])
    assert pattern["detail"]["eventSource"] == ["iam.amazonaws.com"]
    assert pattern["detail"]["errorCode"] == [{"exists": False}], "what was refused changed nothing"
    assert set(pattern["detail"]["eventName"]) == IAM_CALLS
    assert pattern["detail"]["requestParameters"] == {"roleName": ["keyvigil-customer", "other"]}


def test_each_rule_forwards_to_the_intake_bus_with_a_role_that_can_do_nothing_else() -> None:
    made = events_template.given("us-east-1", IntakeBusArn=BUS).resources

    for rule in rules("us-east-1").values():
        (target,) = rule["Targets"]
        assert (target["Arn"], target["RoleArn"]) == (BUS, "<ForwardRole.Arn>")
        assert target["DeadLetterConfig"] == {"Arn": "<Undelivered.Arn>"}
    (policy,) = made["ForwardRole"]["Policies"]
    assert policy["PolicyDocument"]["Statement"] == [{"Effect": "Allow", "Action": "events:PutEvents", "Resource": BUS}]
    (trust,) = made["ForwardRole"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "events.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "222222222222"}}


def test_only_eventbridge_s_rules_of_the_stack_may_fill_the_queue() -> None:
    made = events_template.given(IntakeBusArn=BUS).resources

    (statement,) = made["UndeliveredPolicy"]["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"] == {
        "ArnLike": {"aws:SourceArn": "arn:aws:events:us-west-2:222222222222:rule/keyvigil-events-*"}
    }
    assert made["Undelivered"]["SqsManagedSseEnabled"] is True


def test_what_is_forwarded_is_what_the_intake_takes() -> None:
    assert CALLS["aws.kms"] == KMS_CALLS
    assert CALLS["aws.iam"] == IAM_CALLS


@pytest.mark.parametrize(
    "bus", ["", "keyvigil-intake", "arn:aws:events:us-west-2:111111111111:rule/x", BUS.replace("111111111111", "*")]
)
def test_what_is_no_bus_is_refused(bus: str) -> None:
    assert events_template.refuses("IntakeBusArn", bus)
    assert not events_template.refuses("IntakeBusArn", BUS)


# --- Terraform --------------------------------------------------------------------------------------------------


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


TERRAFORM_ONLY = {"events": {"region", "account_id", "name"}, "role": set()}
"""What CloudFormation knows by itself."""


@pytest.mark.parametrize(("module", "template"), [("role", role_template), ("events", events_template)])
def test_a_module_has_the_template_s_parameters_with_the_same_words_defaults_and_patterns(
    module: str, template: Onboarding
) -> None:
    variables = declared_in(module)
    parameters = {
        snake(name).replace("key_vigil", "keyvigil"): each for name, each in template.content["Parameters"].items()
    }

    assert set(variables) - TERRAFORM_ONLY[module] == set(parameters)
    for name, declared in parameters.items():
        variable = variables[name]
        assert _without_list_syntax(json.loads(variable["description"])) == _without_list_syntax(
            declared["Description"]
        )
        default = json.loads(variable["default"]) if "default" in variable else None
        wanted = declared.get("Default")
        if declared["Type"] == "CommaDelimitedList" and wanted is not None:
            wanted = [wanted]
        assert default == ({"true": True, "false": False}.get(wanted, wanted) if isinstance(wanted, str) else wanted)
        if "AllowedPattern" in declared and name != "external_id":
            text = (MODULES / module / "variables.tf").read_text(encoding="utf-8")
            assert declared["AllowedPattern"].replace("\\", "\\\\") in text, name


def _without_list_syntax(description: str) -> str:
    """How a list is written and what the role's stack is called differ."""
    return description.replace(", separated by commas", "").replace("customer-role.yaml", "the module role")


@pytest.mark.parametrize("module", ["role", "events"])
def test_a_module_uses_what_it_declares_and_declares_what_it_uses(module: str) -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in (MODULES / module).glob("*.tf"))
    declared = set(re.findall(r'^variable "(\w+)"', text, re.MULTILINE))
    named = set(re.findall(r"^  (\w+) +=? ?[=]", re.sub(r"^variable.*?^\}", "", text, flags=re.MULTILINE | re.DOTALL),
                           re.MULTILINE))  # fmt: skip

    assert set(re.findall(r"var\.(\w+)", text)) == declared
    assert set(re.findall(r"local\.(\w+)", text)) <= named
    resources = {f"{kind}.{name}" for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', text, re.MULTILINE)}
    assert {f"{kind}.{name}" for kind, name in re.findall(r"\b(aws_\w+)\.(\w+)", text)} <= resources


@pytest.mark.parametrize(
    ("module", "resource", "words"),
    [
        ("role", '"aws_iam_role" "keyvigil"', "assume_role_policy = local.trust_policy_json"),
        ("role", '"aws_iam_role_policy" "probes"', "policy = local.probes_policy_json"),
        ("events", '"aws_cloudwatch_event_rule" "forward"', "for_each = local.patterns_json"),
        ("events", '"aws_cloudwatch_event_rule" "forward"', "event_pattern = each.value"),
        ("events", '"aws_cloudwatch_event_target" "keyvigil"', "for_each = local.patterns_json"),
        ("events", '"aws_cloudwatch_event_target" "keyvigil"', "arn = var.intake_bus_arn"),
        ("events", '"aws_cloudwatch_event_target" "keyvigil"', "role_arn = aws_iam_role.forward.arn"),
        ("events", '"aws_iam_role" "forward"', "assume_role_policy = local.trust_policy_json"),
        ("events", '"aws_iam_role_policy" "forward"', "policy = local.forward_policy_json"),
        ("events", '"aws_sqs_queue_policy" "undelivered"', "policy = local.queue_policy_json"),
    ],
)
def test_a_module_hands_the_documents_that_are_compared_here_to_aws(module: str, resource: str, words: str) -> None:
    text = (MODULES / module / "main.tf").read_text(encoding="utf-8")
    block = re.search(rf"^resource {resource} \{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    assert block is not None

    assert words in [" ".join(line.split()) for line in block[1].splitlines()]


def as_variables(**parameters: str) -> dict[str, Any]:
    """CloudFormation's parameters as the role module takes them."""
    given: dict[str, Any] = {snake(name).replace("key_vigil", "keyvigil"): value for name, value in parameters.items()}
    given["key_arns"] = given["key_arns"].split(",")
    return {
        name: {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
        for name, value in given.items()
    }


ROLES = {
    **USES,
    "everything": EVERYTHING,
    "nothing": NOTHING,
    "another monitor": {"MonitorRoleName": "watcher", "RoleName": "keyvigil-customer-2"},
}


if TERRAFORM is not None:  # the machine's own; without one the comparisons above are what is tested

    @pytest.fixture(scope="module")
    def role_module(tmp_path_factory: pytest.TempPathFactory) -> TerraformModule:
        return TerraformModule("role", tmp_path_factory.mktemp("role"))

    @pytest.fixture(scope="module")
    def events_module(tmp_path_factory: pytest.TempPathFactory) -> TerraformModule:
        return TerraformModule("events", tmp_path_factory.mktemp("events"))

    @pytest.mark.parametrize("parameters", ROLES.values(), ids=ROLES)
    def test_terraform_renders_the_role_s_documents_as_cloudformation_does(
        role_module: TerraformModule, parameters: dict[str, str]
    ) -> None:
        documents = role_module.documents(**as_variables(**{**GIVEN, **parameters}))

        made = role(**parameters)
        assert documents["trust_policy_json"] == made["AssumeRolePolicyDocument"]
        assert documents["probes_policy_json"] == made["Policies"][0]["PolicyDocument"]

    @pytest.mark.parametrize("region", ["us-west-2", "us-east-1"])
    def test_terraform_renders_the_patterns_as_cloudformation_does(events_module: TerraformModule, region: str) -> None:
        documents = events_module.documents(
            intake_bus_arn=BUS, role_names=["keyvigil-customer", "other"], region=region, account_id="222222222222"
        )

        made = events_template.given(region, IntakeBusArn=BUS, RoleNames="keyvigil-customer,other").resources
        assert documents["patterns_json"] == {name: each["EventPattern"] for name, each in rules(region).items()}
        assert documents["trust_policy_json"] == made["ForwardRole"]["AssumeRolePolicyDocument"]
        assert documents["forward_policy_json"] == made["ForwardRole"]["Policies"][0]["PolicyDocument"]
        queue = made["UndeliveredPolicy"]["PolicyDocument"]
        queue["Statement"][0]["Resource"] = "arn:aws:sqs:us-west-2:222222222222:keyvigil-events-undelivered".replace(
            "us-west-2", region
        )
        assert documents["queue_policy_json"] == queue

    @pytest.mark.parametrize("parameter", BAD)
    def test_terraform_refuses_what_cloudformation_refuses(role_module: TerraformModule, parameter: str) -> None:
        for value in GOOD[parameter]:
            assert not role_module.refuses(**as_variables(**{**GIVEN, parameter: value})), value
        for value in BAD[parameter]:
            assert role_module.refuses(**as_variables(**{**GIVEN, parameter: value})), value

    def test_the_modules_are_in_terraform_s_own_form() -> None:
        command = [TERRAFORM or "", "fmt", "-check", "-diff", "-no-color", "-recursive", str(MODULES)]
        formed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (formed.returncode, formed.stdout) == (0, "")
