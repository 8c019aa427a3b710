"""`keyvigil policy` applied and `keyvigil doctor` asked, on a cloud that enforces IAM and key policies."""

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT, LocalCloud

EXTERNAL_ID = "keyvigil-0123456789abcdef"
USES = {"zilliz-cmek": "cmek", "zilliz-byoc": "cse"}


class Customer:
    """A customer who uses nothing but the command line's policies."""

    def __init__(self, cloud: LocalCloud, name: str) -> None:
        self.cloud = cloud
        self.session = cloud.session(CUSTOMER_ACCOUNT)
        self.iam = self.session.client("iam")
        self.kms = self.session.client("kms")
        self.name = name
        self.role_arn = f"arn:aws:iam::{CUSTOMER_ACCOUNT}:role/{name}"
        self.key_arn = self.kms.create_key()["KeyMetadata"]["Arn"]

    def keyvigil(self, *words: str, **environ: str) -> tuple[int, str]:
        """Run the command line as the account's administrator, or with the credentials of an environment."""
        credentials = self.session.get_credentials()
        assert credentials is not None
        given = {
            **os.environ,
            "AWS_ENDPOINT_URL": self.cloud.endpoint_url,
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            **environ,
        }
        program = Path(sys.executable).with_name("keyvigil")
        ended = subprocess.run([program, *words], capture_output=True, text=True, check=False, env=given, timeout=120)
        assert ended.returncode in {0, 3, 4}, ended.stderr
        return ended.returncode, ended.stdout

    def policy(self, *words: str) -> Any:
        return json.loads(self.keyvigil("policy", *words)[1])

    def make_role(self, caller: "Caller", account: str, policy: Any | None) -> None:
        trust = self.policy(
            "trust", "--account", account, "--external-id", EXTERNAL_ID, "--monitor-role-name", caller.name
        )
        self.iam.create_role(RoleName=self.name, AssumeRolePolicyDocument=json.dumps(trust))
        if policy is not None:
            self.allow(policy)

    def diagnosis(self, system: str, caller: "Caller", external_id: str = EXTERNAL_ID) -> tuple[int, Any]:
        status, told = self.keyvigil(
            "doctor", self.key_arn, "--for", system, "--role", self.role_arn, "--external-id", external_id,
            "--output", "json", **caller.environ,
        )  # fmt: skip
        return status, json.loads(told)

    def doctor(self, system: str, caller: "Caller") -> tuple[int, list[tuple[str, Any]]]:
        """The exit status, and each statement that is asked for, with the policy that it belongs to."""
        status, told = self.diagnosis(system, caller)
        return status, asked_for(told)

    def role_policy(self, use: str) -> Any:
        # The local cloud compares no encryption context.
        return self.policy(
            "role", "--project", "acme-prod", "--key", self.key_arn, "--use", use, "--no-restrict-to-probes"
        )

    def allow(self, policy: Any) -> None:
        self.iam.put_role_policy(RoleName=self.name, PolicyName="keyvigil", PolicyDocument=json.dumps(policy))

    def put_key_policy(self, policy: Any) -> None:
        self.kms.put_key_policy(KeyId=self.key_arn, Policy=json.dumps(policy))


class Caller:
    """A role that may assume customers' roles: what KeyVigil's monitor role is in a stack."""

    def __init__(self, cloud: LocalCloud, account: str, name: str) -> None:
        iam = cloud.session(account).client("iam")
        self.name = name
        self.arn = f"arn:aws:iam::{account}:role/{name}"
        trusted = {"AWS": f"arn:aws:iam::{account}:root"}
        iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=document({"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"}),
        )
        allowed = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": f"arn:aws:iam::{CUSTOMER_ACCOUNT}:role/*"}
        iam.put_role_policy(RoleName=name, PolicyName="assume", PolicyDocument=document(allowed))
        sts = cloud.session(account).client("sts")
        given = sts.assume_role(RoleArn=self.arn, RoleSessionName="doctor")["Credentials"]
        self.environ = {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }


def document(*statements: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def new_name(what: str) -> str:
    return f"{what}-{secrets.token_hex(4)}"


def without(policy: Any, sid: str) -> tuple[Any, Any]:
    """A policy with one statement less, and that statement."""
    (gone,) = [each for each in policy["Statement"] if each["Sid"] == sid]
    return {**policy, "Statement": [each for each in policy["Statement"] if each != gone]}, gone


def asked_for(told: Any) -> list[tuple[str, Any]]:
    found = [(each["place"], each["statement"]) for check in told["checks"] for each in check["additions"]]
    return [each for place, each in enumerate(found) if each not in found[:place]]


@pytest.mark.parametrize("system", USES)
def test_a_role_s_statement_that_is_taken_away_is_asked_for_and_healthy_again_once_it_is_back(
    cloud: LocalCloud, system: str
) -> None:
    caller = Caller(cloud, OPERATOR_ACCOUNT, new_name("monitor"))
    customer = Customer(cloud, new_name("keyvigil"))
    policy = customer.role_policy(USES[system])
    customer.make_role(caller, OPERATOR_ACCOUNT, policy)
    assert customer.doctor(system, caller) == (0, [])

    for sid in ("SeeTheKeys", "ProbeTheKeys"):
        less, gone = without(policy, sid)
        customer.allow(less)
        status, added = customer.doctor(system, caller)
        assert status == 3
        assert ("role policy", gone) in added

        customer.allow({**less, "Statement": [*less["Statement"], gone]})
        assert customer.doctor(system, caller) == (0, [])


def test_a_key_s_policy_alone_lets_the_role_in_and_its_statement_is_asked_for(cloud: LocalCloud) -> None:
    """Who may read the key's policy is told that it is this one, and nothing else."""
    caller = Caller(cloud, CUSTOMER_ACCOUNT, new_name("admin"))
    customer = Customer(cloud, new_name("keyvigil"))
    customer.make_role(caller, CUSTOMER_ACCOUNT, None)
    policy = customer.policy(
        "key", customer.key_arn, "--probe-role", customer.role_arn, "--use", "cse", "--administrator", caller.arn
    )
    customer.put_key_policy(policy)
    assert customer.doctor("zilliz-byoc", caller) == (0, [])

    less, gone = without(policy, "ProbeTheKey")
    customer.put_key_policy(less)
    assert customer.doctor("zilliz-byoc", caller) == (3, [("key policy", gone)])

    customer.put_key_policy(policy)
    assert customer.doctor("zilliz-byoc", caller) == (0, [])


def test_another_external_id_and_a_disabled_key_are_told_in_the_product_s_words(cloud: LocalCloud) -> None:
    caller = Caller(cloud, OPERATOR_ACCOUNT, new_name("monitor"))
    customer = Customer(cloud, new_name("keyvigil"))
    customer.make_role(caller, OPERATOR_ACCOUNT, customer.role_policy("cmek"))

    status, told = customer.diagnosis("zilliz-cmek", caller, external_id="another-one")
    assert (status, told["checks"][0]["cause"]) == (3, "ROLE_NOT_ASSUMABLE")

    customer.kms.disable_key(KeyId=customer.key_arn)
    status, told = customer.diagnosis("zilliz-cmek", caller)
    assert status == 3
    assert {each["check"]: each["cause"] for each in told["checks"]}["Encrypt"] == "KEY_DISABLED"
    assert told["checks"][2]["commands"] == [f"aws kms enable-key --region us-west-2 --key-id {customer.key_arn}"]


def test_kes_s_secrets_are_proved_with_one_that_is_gone_afterwards(cloud: LocalCloud) -> None:
    customer = Customer(cloud, new_name("keyvigil"))
    status, told = customer.keyvigil(
        "doctor", customer.key_arn, "--for", "minio-kes", "--make-secret", "--output", "json"
    )
    assert status == 0, told
    assert json.loads(told)["checks"][-1]["check"] == "CreateSecret, GetSecretValue, DeleteSecret"
    left = customer.session.client("secretsmanager").list_secrets()["SecretList"]
    assert [each["Name"] for each in left if each["Name"].startswith("keyvigil/doctor-")] == []


def test_the_stack_s_key_is_healthy_under_the_policy_that_is_printed(cloud: LocalCloud) -> None:
    customer = Customer(cloud, new_name("stack"))
    asked = ("doctor", customer.key_arn, "--for", "keyvigil", "--cluster-region", "us-west-2", "--output", "json")
    policy = customer.policy(
        "stack-key", customer.key_arn, "--account", CUSTOMER_ACCOUNT, "--stack-region", "us-west-2"
    )
    customer.put_key_policy(policy)
    assert customer.keyvigil(*asked)[0] == 0

    less, gone = without(policy, "LetLogsUseTheKey")
    customer.put_key_policy(less)
    status, told = customer.keyvigil(*asked)
    assert (status, asked_for(json.loads(told))) == (3, [("key policy", gone)])


def test_the_alarms_of_the_guide_to_one_s_own_key_are_taken(cloud: LocalCloud) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-key.md").read_text(encoding="utf-8")
    alarms = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    cloudwatch = cloud.session(CUSTOMER_ACCOUNT).client("cloudwatch")
    for alarm in alarms:
        cloudwatch.put_metric_alarm(**alarm)
    named = [each["AlarmName"] for each in alarms]
    found = cloudwatch.describe_alarms(AlarmNames=named)["MetricAlarms"]
    assert sorted(each["AlarmName"] for each in found) == sorted(named)
