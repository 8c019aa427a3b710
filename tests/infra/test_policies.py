"""What `keyvigil policy` prints: the same as onboarding, what AWS knows, and what the template needs of its own key."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from policy_sentry.querying.actions import get_action_data
from policy_sentry.querying.all import get_all_actions

from keyvigil.domain.keys import KeyUse
from keyvigil_cli.policies.adding_keys import with_key
from keyvigil_cli.policies.customer_role import CustomerRole, trust
from keyvigil_cli.policies.documents import Document, Statement, listed
from keyvigil_cli.policies.key_policy import Users, key_policy, stack_key_policy
from keyvigil_cli.policies.services import BY_THEMSELVES, THROUGH
from keyvigil_cli.policies.tenant import tenant_policy
from tests.infra.onboarding import Onboarding
from tests.infra.source_template import ROOT, Template

KEY = "arn:aws:kms:us-west-2:222222222222:key/1234abcd-12ab-34cd-56ef-1234567890ab"
REPLICA = f"arn:aws:kms:eu-west-1:222222222222:key/mrk-{'0' * 32}"
SECRET = "arn:aws:secretsmanager:eu-west-1:222222222222:secret:keyvigil/acme-prod/probe-AbC123"
STACK_KEY = "arn:aws:kms:us-west-2:111111111111:key/8d2e5b1c-0000-4000-8000-000000000000"
ROLE = "arn:aws:iam::222222222222:role/keyvigil-customer"
EXTERNAL_ID = "keyvigil-0123456789abcdef"

template = Onboarding.load("customer-role.yaml")


def onboarded(keys: tuple[str, ...], **parameters: str) -> dict[str, Any]:
    given = {"KeyVigilAccountId": "111111111111", "ProjectId": "acme-prod", "ExternalId": EXTERNAL_ID,
             "KeyArns": ",".join(keys), **parameters}  # fmt: skip
    made: dict[str, Any] = template.given(**given).resources["Role"]
    return made


@pytest.mark.parametrize("keys", [(KEY,), (KEY, REPLICA)], ids=["one key", "a key and a replica"])
@pytest.mark.parametrize("use", KeyUse)
@pytest.mark.parametrize("rotation", [True, False], ids=["rotation", "no rotation"])
@pytest.mark.parametrize("lookup", [True, False], ids=["events", "no events"])
@pytest.mark.parametrize("restricted", [True, False], ids=["probes only", "everything"])
def test_the_role_is_the_one_that_onboarding_makes(
    keys: tuple[str, ...], use: KeyUse, *, rotation: bool, lookup: bool, restricted: bool
) -> None:
    secret = SECRET if use is KeyUse.KES else None
    made = CustomerRole(
        key_arns=keys,
        use=use,
        project_id="acme-prod" if restricted else None,
        probe_secret_arn=secret,
        rotation_status=rotation,
        lookup_events=lookup,
    )
    (policy,) = onboarded(
        keys,
        Use=use,
        ProbeSecretArn=secret or "",
        AllowRotationStatus=str(rotation).lower(),
        AllowLookupEvents=str(lookup).lower(),
        RestrictToProbes=str(restricted).lower(),
    )["Policies"]

    assert made.permissions() == policy["PolicyDocument"]


@pytest.mark.parametrize("monitor", ["keyvigil-monitor", "watcher"])
def test_the_trust_is_the_one_that_onboarding_makes(monitor: str) -> None:
    made = trust("111111111111", EXTERNAL_ID, monitor_role_name=monitor)

    assert made == onboarded((KEY,), MonitorRoleName=monitor)["AssumeRolePolicyDocument"]


@pytest.mark.parametrize("use", KeyUse)
def test_a_key_that_is_added_is_one_that_was_there_from_the_start(use: KeyUse) -> None:
    secret = SECRET if use is KeyUse.KES else None
    one = CustomerRole(key_arns=(KEY,), use=use, project_id="acme-prod", probe_secret_arn=secret, lookup_events=True)
    both = CustomerRole(
        key_arns=(KEY, REPLICA), use=use, project_id="acme-prod", probe_secret_arn=secret, lookup_events=True
    )

    assert with_key(one.permissions(), REPLICA) == both.permissions()


# --- the stack's own key ------------------------------------------------------------------------------------------


def bare(statement: Statement) -> Statement:
    return {name: value for name, value in statement.items() if name != "Sid"}


def test_the_stack_s_key_policy_is_the_one_in_docs_permissions() -> None:
    page = (ROOT / "docs" / "permissions.md").read_text(encoding="utf-8").partition("## The stack's own key")[2]
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block is not None
    told = json.loads(block[1].replace("YOUR_ACCOUNT", "111111111111").replace("YOUR_REGION", "us-west-2"))

    made = stack_key_policy(STACK_KEY, account_id="111111111111", region="us-west-2")

    assert [bare(each) for each in made["Statement"]] == told


def under_the_key(full_template: Template) -> dict[str, set[str]]:
    """Types of resources that name the stack's key outside of IAM policies, and the resources."""
    found: dict[str, set[str]] = {}
    for name, resource in full_template["Resources"].items():
        properties = {
            key: value
            for key, value in resource.get("Properties", {}).items()
            if key not in {"Policies", "PolicyDocument", "Environment"}
        }
        if "KmsKeyArn" in json.dumps(properties):
            found.setdefault(resource["Type"], set()).add(name)
    return found


def test_the_stack_s_key_policy_lets_in_whatever_is_encrypted_with_it(full_template: Template) -> None:
    made = stack_key_policy(STACK_KEY, account_id="111111111111", region="us-west-2")["Statement"]
    services = {service for each in made for service in listed(each["Principal"].get("Service"))}
    encrypted = under_the_key(full_template)

    # Of these, Logs works in its own name; the others on behalf of roles, whom the account's IAM lets in.
    assert set(encrypted) == {"AWS::DynamoDB::Table", "AWS::Logs::LogGroup", "AWS::SQS::Queue"}
    assert made[0]["Principal"] == {"AWS": "arn:aws:iam::111111111111:root"}
    senders = {
        service
        for resource in full_template["Resources"].values()
        if resource["Type"] == "AWS::SQS::QueuePolicy"
        for statement in listed(resource["Properties"]["PolicyDocument"]["Statement"])
        for service in listed(statement["Principal"].get("Service"))
    }
    assert senders == {"sns.amazonaws.com", "events.amazonaws.com"}
    assert services == senders | {"logs.us-west-2.amazonaws.com"}


# --- what AWS knows -----------------------------------------------------------------------------------------------

ACTIONS = {each.lower(): each for each in get_all_actions()}
GLOBAL_KEYS = {"aws:SourceAccount", "aws:SourceArn", "aws:PrincipalArn"}
# Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html


AWS_S_OWN = {("kms:DescribeKey", "kms:EncryptionContext:aws:logs:arn")}
"""CloudWatch Logs' page has it so: https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html"""


def expanded(action: str) -> list[str]:
    if action == "kms:*":
        return []
    pattern = re.escape(action.lower()).replace(r"\*", ".*")
    found = [name for each, name in ACTIONS.items() if re.fullmatch(pattern, each)]
    assert found, f"AWS has no action {action}"
    return found


def allowed_keys(action: str) -> set[str]:
    service, _, name = action.partition(":")
    data: Any = get_action_data(service, name)
    return {key for each in data[service] for key in each["condition_keys"]}


def compared(statement: Statement) -> Iterator[str]:
    for keys in statement.get("Condition", {}).values():
        yield from keys


def troubles(made: Document) -> list[str]:
    """What is wrong with a policy by AWS's own list of actions and condition keys, as policy_sentry has it."""
    found = []
    for statement in made["Statement"]:
        for action in (each for asked in listed(statement["Action"]) for each in expanded(asked)):
            known = allowed_keys(action)
            for key in compared(statement):
                prefix = "kms:EncryptionContext:"
                fits = f"{prefix}${{EncryptionContextKey}}" in known if key.startswith(prefix) else key in known
                if not fits and key not in GLOBAL_KEYS and (action, key) not in AWS_S_OWN:
                    found.append(f"{statement['Sid']}: {action} does not know {key}")
    return found


def every_policy() -> Iterator[Any]:
    for use in KeyUse:
        role = CustomerRole(
            key_arns=(KEY, REPLICA), use=use, project_id="acme-prod", lookup_events=True,
            probe_secret_arn=SECRET if use is KeyUse.KES else None,
        )  # fmt: skip
        yield pytest.param(role.permissions(), id=f"role for {use}")
        yield pytest.param(key_policy(KEY, Users(probes=(ROLE,)), use=role), id=f"key for {use}")
    resources = {
        "s3": "arn:aws:s3:::vectors", "dynamodb": "arn:aws:dynamodb:us-west-2:222222222222:table/vectors",
        "lambda": "arn:aws:lambda:us-west-2:222222222222:function:f",
        "secretsmanager": "arn:aws:secretsmanager:us-west-2:222222222222:secret:s-??????",
        "ssm": "arn:aws:ssm:us-west-2:222222222222:parameter/p", "rds": "arn:aws:rds:us-west-2:222222222222:db:d",
    }  # fmt: skip
    for service in THROUGH:
        users = Users(roles=(ROLE,), services=(service,), resources=(resources[service],), set_up=True)
        yield pytest.param(key_policy(KEY, users), id=f"key for {service}")
    for service in BY_THEMSELVES:
        yield pytest.param(key_policy(KEY, Users(services=(service,))), id=f"key for {service}")
    administered = key_policy(KEY, Users(probes=(ROLE,)), administrators=(ROLE,))
    yield pytest.param(administered, id="key with administrators")
    yield pytest.param(stack_key_policy(STACK_KEY, account_id="111111111111", region="us-west-2"), id="the stack's key")
    tenant = tenant_policy("a1b2c3d4e5", account_id="111111111111", region="us-west-2", project_id="acme-prod")
    yield pytest.param(tenant, id="tenant")


@pytest.mark.parametrize("made", list(every_policy()))
def test_every_policy_names_actions_and_condition_keys_that_aws_knows_together(made: Document) -> None:
    assert troubles(made) == []


def test_a_condition_that_can_never_hold_is_found() -> None:
    """DescribeKey has no encryption context: with a condition on one it would be allowed never."""
    statement = CustomerRole(key_arns=(KEY,), project_id="acme-prod").statements()[1]
    wrong = {"Statement": [{**statement, "Action": "kms:DescribeKey"}]}

    assert len(troubles(wrong)) == 2
    with pytest.raises(AssertionError, match="no action"):
        troubles({"Statement": [{**statement, "Action": "kms:EncryptEverything"}]})


@pytest.mark.parametrize("made", list(every_policy()))
def test_a_service_is_let_in_under_a_condition_and_nothing_is_allowed_to_everybody(made: Document) -> None:
    for statement in made["Statement"]:
        principal = statement.get("Principal", {})
        assert principal != "*"
        assert "*" not in listed(principal.get("AWS"))
        if "Service" in principal:
            assert statement["Condition"], statement["Sid"]
