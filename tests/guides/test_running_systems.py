"""docs/import.md, docs/discover.md, docs/doctor.md, docs/policies.md: what people run already, page by page."""

import json
import re
from typing import Any

from keyvigil_cli.customer import CustomerAccount
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, REGION
from tests.e2e.discover_story import let_read
from tests.e2e.import_story import STACK, terraform_state
from tests.e2e.test_doctor import Caller
from tests.guides.playground import Customer, Playground
from tests.guides.reader import Pages, Reader

KES = """\
keystore:
  aws:
    secretsmanager:
      endpoint: secretsmanager.us-west-2.amazonaws.com
      region: us-west-2
      kmskey: {key}
      credentials: {{accesskey: "", secretkey: ""}}
"""
CDK: Any = {
    "Parameters": {"KeyArn": {"Type": "String"}},
    "Resources": {
        "Orders": {
            "Type": "AWS::DynamoDB::Table",
            "Properties": {
                "TableName": "orders",
                "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": {"Ref": "KeyArn"}},
            },
        }
    },
}


def test_terraform_kes_and_cloudformation_come_under_watch(playground: Playground, pages: Pages) -> None:
    taken_in = playground.take_in("acme-import", data_keys=True)
    operator = playground.operator("acme-import")
    playground.tell(operator, taken_in)
    has_terraform(operator, taken_in.key.key_arn)
    has_kes(operator, taken_in)
    has_a_stack(playground, taken_in)
    (operator.folder / "cdk.out").mkdir()
    (operator.folder / "cdk.out" / "App.template.json").write_text(json.dumps(CDK), encoding="utf-8")

    with pages.open("docs/import.md") as page:
        assert "registered" in page.follow(operator, "Terraform")
        again = page.follow(operator, "What you run already, under watch")
        assert again.count("there already") == 2, again
        assert "would register" in page.follow(operator, "MinIO behind KES")
        stack_and_file = page.follow(operator, "CloudFormation and CDK")
    assert "aws-secretsmanager" in stack_and_file
    assert "aws-dynamodb" in stack_and_file
    assert taken_in.project.cluster("in01-story")["status"] == "ACTIVE"


def has_terraform(reader: Reader, key_arn: str) -> None:
    """Terraform as the page calls it, which no requirement brings: it prints the state of one encrypted cluster."""
    state = reader.home / "state.json"
    state.write_text(json.dumps(terraform_state(key_arn)), encoding="utf-8")
    reader.add_command("terraform", f'[ "$1" = plan ] || cat {state}')


def has_kes(reader: Reader, customer: Customer) -> None:
    key = customer.account.create_key(customer.key.role_arn)
    secret = customer.account.create_probe_secret(key, f"keyvigil/{customer.project.project_id}/probe")
    (reader.folder / "server-config.yaml").write_text(KES.format(key=key.key_arn), encoding="utf-8")
    reader.stands_for[rf"arn:aws:secretsmanager:us-west-2:{CUSTOMER_ACCOUNT}:secret:\S+"] = secret


def has_a_stack(playground: Playground, customer: Customer) -> None:
    """A deployed stack with a key of its own, which the role may probe."""
    client = playground.client("cloudformation", CUSTOMER_ACCOUNT)
    client.create_stack(StackName="my-stack", TemplateBody=STACK)
    client.get_waiter("stack_create_complete").wait(StackName="my-stack", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    [key] = [
        each["PhysicalResourceId"]
        for each in client.list_stack_resources(StackName="my-stack")["StackResourceSummaries"]
        if each["LogicalResourceId"] == "Key"
    ]
    customer.allow(f"arn:aws:kms:{REGION}:{CUSTOMER_ACCOUNT}:key/{key}")


def test_somebody_finds_out_what_hangs_on_which_key(playground: Playground, pages: Pages) -> None:
    # Nobody else's on this cloud, so that nothing there is unhealthy but by this page.
    account = "555555555555"
    here = CustomerAccount(playground.cloud.session(account), account)
    taken_in = playground.take_in("acme-discover", account=here)
    sqs = playground.client("sqs", account)
    sqs.create_queue(QueueName="orders", Attributes={"KmsMasterKeyId": taken_in.key.key_arn})
    operator = playground.operator("acme-discover")
    operator.stands_for[r"\b222222222222\b"] = account
    let_somebody_read(operator, playground.client("iam", account))
    owner = playground.operator("acme-discover")
    owner.tell({"AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": "local-only"})

    with pages.open("docs/discover.md") as page:
        found = page.follow(owner, "What hangs on which key")
        assert taken_in.key.key_arn.rpartition("/")[2] in found
        assert "orders" in found
        assert "would register" in page.follow(operator, "Under watch")


def let_somebody_read(operator: Reader, iam: Any) -> None:
    trust = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111111111111:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="keyvigil-reader", AssumeRolePolicyDocument=document)
    let_read(iam, json.loads(operator.paste("keyvigil discover --permissions")), role="keyvigil-reader")


def test_the_doctor_tries_a_key_as_the_page_says(playground: Playground, pages: Pages) -> None:
    # Somebody whom the customer's role trusts, as it trusts KeyVigil's monitor.
    caller = Caller(playground.cloud, "111111111111", "guide-monitor")
    taken_in = playground.take_in("acme-doctor", data_keys=True, monitor_role_arn=caller.arn)
    operator = playground.operator("acme-doctor")
    playground.tell(operator, taken_in)
    operator.tell(caller.environ)

    with pages.open("docs/doctor.md") as page:
        told = page.follow(operator)
    assert told.count("WORKS") >= 4, told
    assert "MISSING" not in told


def test_a_customer_makes_the_role_and_a_key_s_policy_from_what_is_printed(
    playground: Playground, pages: Pages
) -> None:
    taken_in = playground.take_in("acme-policies")
    customer = playground.customer("acme-policies")
    playground.tell(customer, taken_in)
    # The role of that name is there already: the one that is made here has another.
    customer.stands_for[r"\bkeyvigil-customer\b"] = "keyvigil-by-hand"
    with pages.open("docs/policies.md") as page:
        page.follow(customer, "A customer's role")
        printed = json.loads(page.follow(customer, "A key's policy"))
    assert {each["Sid"] for each in printed["Statement"]} >= {"ProbeTheKey"}
    iam = playground.client("iam", CUSTOMER_ACCOUNT)
    role = iam.get_role(RoleName="keyvigil-by-hand")["Role"]["AssumeRolePolicyDocument"]
    assert taken_in.project.external_id in json.dumps(role)
    policy = json.dumps(
        iam.get_role_policy(RoleName="keyvigil-by-hand", PolicyName="keyvigil-probes")["PolicyDocument"]
    )
    assert taken_in.key.key_arn in policy
    assert re.search(r"eu-west-1:222222222222:key/mrk-0{32}", policy)
