"""Tenants do not mix: every documented route, asked by nobody, by a stranger, by a tenant, and for somebody else."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from keyvigil_cli.api_client import ApiClient, ApiProblemError, JsonObject
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.customer import RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT
from keyvigil_cli.project import Project
from tests.e2e.stage import Stage
from tests.event_schemas import problems

# Every route that the code serves, also those that are added later: a unit test keeps this document current.
DOCUMENT = Checkout.find(Path(__file__).parent).root / "docs" / "openapi.json"
NOBODYS = {
    "key_id": "us-west-2.1234abcd-12ab-34cd-56ef-1234567890ab",
    "cluster_id": "vectors",
    "canary_id": "us-west-2.1234abcd-12ab-34cd-56ef-1234567890ab",
    "incident_id": "01JINCIDENT",
    "subscription_id": "01JSUBSCRIPTION",
    "backup_id": "backup",
    "silence_id": "01JSILENCE",
    "row_id": "01JROW",
}


def routes(project_id: str) -> Iterator[tuple[str, str]]:
    """Method and path of every documented route; what deletes a project comes last."""
    paths = json.loads(DOCUMENT.read_text())["paths"]
    documented = [(method.upper(), template) for template, operations in paths.items() for method in operations]
    for method, template in sorted(documented, key=lambda route: route == ("DELETE", "/projects/{project_id}")):
        yield method, template.format_map({**NOBODYS, "project_id": project_id})


def status_of(caller: ApiClient, method: str, path: str) -> int:
    """The status with which a route answers a request that has nothing to say."""
    try:
        caller.request(method, path, body=None if method in {"GET", "DELETE"} else {})
    except ApiProblemError as refused:
        return refused.status
    return 200


@pytest.fixture
def theirs(stage: Stage) -> tuple[Project, Project]:
    """Two projects, the name of one of which begins with the other's."""
    mine = stage.project()
    return mine, Project.create(stage.api, f"{mine.project_id}-prod")


def tenant_of(stage: Stage, project: Project) -> ApiClient:
    """A role that is allowed one project, as docs/api.md says, and a session of it."""
    iam = stage.cloud.session().client("iam")
    name = f"tenant-{stage.name()}"
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{OPERATOR_ACCOUNT}:root"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    arn = f"arn:aws:execute-api:us-west-2:{OPERATOR_ACCOUNT}:{stage.outputs['ApiId']}/*/*/projects/{project.project_id}"
    allowed = {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": [arn, f"{arn}/*"]}
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    iam.put_role_policy(RoleName=name, PolicyName="tenant", PolicyDocument=json.dumps(policy))
    given: Any = stage.cloud.session().client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="tenant")
    made = given["Credentials"]
    credentials = Credentials(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])
    return stage.cloud.api(stage.outputs, credentials)


def stranger(stage: Stage) -> ApiClient:
    """A user of the operator's account who is allowed nothing."""
    iam = stage.cloud.session().client("iam")
    name = stage.name()
    iam.create_user(UserName=name)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return stage.cloud.api(stage.outputs, Credentials(made["AccessKeyId"], made["SecretAccessKey"]))


def test_without_credentials_every_route_is_403(stage: Stage, theirs: tuple[Project, Project]) -> None:
    mine, _ = theirs
    with urllib3.PoolManager(timeout=urllib3.Timeout(5.0)) as pool:
        answers = {
            (method, path): pool.request(method, f"{stage.outputs.api_url}{path}", retries=False).status
            for method, path in routes(mine.project_id)
        }
    assert len(answers) >= 27
    assert {route: status for route, status in answers.items() if status != 403} == {}


def test_credentials_that_are_made_up_or_allow_nothing_are_403_on_every_route(
    stage: Stage, theirs: tuple[Project, Project]
) -> None:
    mine, _ = theirs
    made_up = stage.cloud.api(stage.outputs, Credentials("AKIAMADEUPMADEUP0001", "made-up"))
    for caller in (made_up, stranger(stage)):
        answers = {route: status_of(caller, *route) for route in routes(mine.project_id)}
        assert {route: status for route, status in answers.items() if status != 403} == {}


def test_a_tenants_role_reaches_its_project_and_no_other(stage: Stage, theirs: tuple[Project, Project]) -> None:
    mine, other = theirs
    tenant = tenant_of(stage, mine)
    fleet_wide = {("GET", "/projects"), ("POST", "/projects")}
    own = {route: status_of(tenant, *route) for route in routes(mine.project_id)}
    refused = {route for route, status in own.items() if status == 403}
    assert refused == {route for route in own if route[1].startswith("/fleet") or route in fleet_wide}
    assert ("GET", "/fleet") in refused
    assert own["DELETE", f"/projects/{mine.project_id}"] == 200, "its own project is its own to remove"

    of_other = {route: status_of(tenant, *route) for route in routes(other.project_id)}
    assert {route: status for route, status in of_other.items() if status != 403} == {}
    assert stage.api.get("projects", other.project_id)["project_id"] == other.project_id


def test_a_tenants_alerts_reach_its_own_queue_and_nobody_elses(stage: Stage, theirs: tuple[Project, Project]) -> None:
    mine, other = theirs
    queues = {project.project_id: stage.alert_queue(project) for project in theirs}
    keys = {project.project_id: stage.watched_key(project) for project in theirs}
    for project in theirs:
        keys[project.project_id].disable()
        assert keys[project.project_id].check()["status"] == "SUSPECT"
    for queue in queues.values():
        queue.wait_for("key.suspect")

    # Another tenant follows under the same id; its queue is new, as everything else of it.
    keys[other.project_id].enable()
    other.wait_for_key_status(keys[other.project_id].key_id, "HEALTHY")
    stage.api.delete("projects", other.project_id, "keys", keys[other.project_id].key_id)
    stage.api.delete("projects", other.project_id)
    follows = Project.create(stage.api, other.project_id)
    assert follows.alert_topic_arn == other.alert_topic_arn
    late = stage.alert_queue(follows)
    keys[mine.project_id].enable()
    mine.wait_for_key_status(keys[mine.project_id].key_id, "HEALTHY")
    queues[mine.project_id].wait_for("key.recovered")

    asked_for = stage.api.get("projects", follows.project_id, "subscriptions")["items"]
    sent = stage.api.post("projects", follows.project_id, "subscriptions", asked_for[0]["subscription_id"], "test")
    late.wait_for("subscription.test")
    assert [alert["alert_id"] for alert in late.collect()] == [sent["alert_id"]]
    for project in theirs:
        received = queues[project.project_id].collect()
        assert {alert["project_id"] for alert in received} == {project.project_id}
        assert [found for alert in received if (found := problems("alert", alert))] == []
        assert {alert["key"]["arn"] for alert in received} == {keys[project.project_id].key.key_arn}


def test_nobody_but_keyvigil_publishes_to_a_projects_topic(stage: Stage) -> None:
    project = stage.project()
    queue = stage.alert_queue(project)
    topic = project.alert_topic_arn
    # The account's root may do everything that no policy denies.
    with pytest.raises(ClientError, match="AuthorizationError"):
        stage.cloud.session().client("sns").publish(TopicArn=topic, Message="{}")
    with pytest.raises(ClientError, match="AuthorizationError"):
        stage.cloud.session(CUSTOMER_ACCOUNT).client("sns").publish(TopicArn=topic, Message="{}")
    operators = stage.outputs["OperatorTopicArn"]
    with pytest.raises(ClientError, match="AuthorizationError"):
        stage.cloud.session(CUSTOMER_ACCOUNT).client("sns").publish(TopicArn=operators, Message="{}")

    [subscription] = stage.api.get("projects", project.project_id, "subscriptions")["items"]
    stage.api.post("projects", project.project_id, "subscriptions", subscription["subscription_id"], "test")
    queue.wait_for("subscription.test")
    assert [alert["type"] for alert in queue.collect()] == ["subscription.test"]


def test_a_topic_takes_no_message_over_plain_http_from_a_network(stage: Stage) -> None:
    """The local cloud is reached over the loopback address: without that exemption the same policy denies it."""
    project = stage.project()
    sns = stage.cloud.session().client("sns")
    policy = json.loads(sns.get_topic_attributes(TopicArn=project.alert_topic_arn)["Attributes"]["Policy"])
    [only_tls] = [each for each in policy["Statement"] if each["Sid"] == "OnlyOverTls"]
    scratch = sns.create_topic(Name=stage.name())["TopicArn"]

    def set_policy(condition: JsonObject) -> None:
        statement = {**only_tls, "Resource": scratch, "Condition": condition}
        text = json.dumps({**policy, "Statement": [statement]})
        sns.set_topic_attributes(TopicArn=scratch, AttributeName="Policy", AttributeValue=text)

    set_policy(only_tls["Condition"])
    sns.publish(TopicArn=scratch, Message="from this machine")
    set_policy({"Bool": only_tls["Condition"]["Bool"]})
    with pytest.raises(ClientError, match="AuthorizationError"):
        sns.publish(TopicArn=scratch, Message="in the clear")
    sns.delete_topic(TopicArn=scratch)


class _LiteralPath(SigV4Auth):
    """Signs the path as it is written, so that a caller who means mischief gets it as far as it will go."""

    def _normalize_url_path(self, path: str) -> str:
        return quote(path, safe="/~")


def ask_literally(
    stage: Stage, credentials: Credentials, path: str, signer: type[SigV4Auth] = SigV4Auth
) -> tuple[int, str]:
    """GET a path without anybody tidying it up on the way."""
    base = urlsplit(stage.outputs.api_url)
    assert base.hostname is not None
    request = AWSRequest("GET", f"{base.scheme}://{base.netloc}{base.path}{path}")
    signer(credentials, "execute-api", "us-west-2").add_auth(request)
    connection = http.client.HTTPConnection(base.hostname, base.port, timeout=10)
    try:
        connection.request("GET", f"{base.path}{path}", headers=dict(request.headers.items()))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_no_spelling_of_a_path_leads_from_ones_own_project_to_another(
    stage: Stage, theirs: tuple[Project, Project]
) -> None:
    mine, other = theirs
    tenant = tenant_of(stage, mine)
    credentials = tenant._credentials
    own, prod = mine.project_id, other.project_id
    status, body = ask_literally(stage, credentials, f"/projects/{own}")
    assert (status, json.loads(body)["project_id"]) == (200, own), "the way of asking works"
    for path in (
        f"/projects/{own}/../{prod}",
        f"/projects/{own}/../{prod}/keys",
        f"/projects/{own}/./../{prod}",
        f"/projects/{own}//../{prod}",
        f"/projects/{own}/%2e%2e/{prod}",
        f"/projects/{own}/..%2F{prod}",
        f"/projects/{own}%2F..%2F{prod}",
        f"/projects/{own}/../../fleet",
        f"/projects/{own}-prod",
        f"/projects/{own}%2Dprod",
    ):
        # What a signature covers, the path as it is or without its dots, is the receiver's choice: both are tried.
        answers = [ask_literally(stage, credentials, path, signer) for signer in (SigV4Auth, _LiteralPath)]
        for status, body in answers:
            assert status in {400, 403, 404}, (path, status, body)
            assert other.external_id not in body, path
        assert any("InvalidSignature" not in body for _, body in answers), "one of them was signed as it should be"


def refused(project: Project, key: RegistrableKey, **fields: Any) -> tuple[int, str]:
    with pytest.raises(ApiProblemError) as problem:
        project.register_key(key, **fields)
    assert project.api.get("projects", project.project_id)["keys"] == 0
    return problem.value.status, problem.value.title


def test_a_tenant_cannot_have_keyvigils_own_roles_used(stage: Stage) -> None:
    """The confused deputy: roles that trust KeyVigil's account for other reasons are not a customer's to name."""
    project = stage.project()
    own = stage.cloud.session().client("kms").create_key()["KeyMetadata"]["Arn"]
    roles = stage.cloud.session().client("iam").get_paginator("list_roles").paginate().search("Roles[].Arn")
    ours = [arn for arn in roles if "keyvigil-customer-" not in arn]
    assert stage.outputs["MonitorRoleArn"] in ours
    for role_arn in ours[:5]:
        assert refused(project, RegistrableKey(own, role_arn)) == (
            422,
            "Role in KeyVigil's own account is not for customers",
        )


def test_a_role_of_one_account_is_not_used_for_a_key_of_another(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    elsewhere = RegistrableKey(key.key_arn.replace(CUSTOMER_ACCOUNT, "333333333333"), key.role_arn)
    assert refused(project, elsewhere) == (422, "KMS key and role are in different accounts")


def test_a_tenant_cannot_name_a_secret_that_is_not_made_for_its_probe(stage: Stage) -> None:
    ours, other = stage.project(), stage.project()
    key = stage.customer.create_key(stage.role(ours))
    for name in (f"keyvigil/{other.project_id}/probe", f"keyvigil/{ours.project_id}-prod/probe", "database"):
        secret_arn = stage.customer.create_probe_secret(key, f"{name}-{stage.name()}")
        assert refused(ours, key, use="kes", probe_secret_arn=secret_arn) == (
            422,
            "Secret is not made for this project's probe",
        )


def test_a_kes_key_lives_as_long_as_the_secret_made_for_its_probe_can_be_read(stage: Stage) -> None:
    project = stage.project(check_interval_minutes=60)
    key = stage.customer.create_key(stage.role(project))
    name = f"keyvigil/{project.project_id}/probe"
    body: JsonObject = {"key_arn": key.key_arn, "role_arn": key.role_arn, "use": "kes"}

    secret_arn = stage.customer.create_probe_secret(key, name)
    stage.customer.forbid_secret(key)
    assert refused(project, key, use="kes", probe_secret_arn=secret_arn) == (422, "Secret cannot be read")
    path = ("projects", project.project_id)
    found = stage.api.post(*path, "key-validations", body={**body, "probe_secret_arn": secret_arn})
    assert {each["operation"]: each["allowed"] for each in found["operations"]} == {
        "DescribeKey": True,
        "Encrypt": True,
        "Decrypt": True,
        "GetSecretValue": False,
    }

    stage.customer.allow_secret(key, secret_arn)
    registered = project.register_key(key, use="kes", probe_secret_arn=secret_arn)
    assert (registered["status"], registered["probe_secret_arn"]) == ("HEALTHY", secret_arn)
    assert registered["operations"] == ["DescribeKey", "Encrypt", "Decrypt", "GetSecretValue"]

    stage.customer.forbid_secret(key)
    checked = stage.api.post(*path, "keys", registered["key_id"], "check")
    verdict = checked["verdict"]
    assert (verdict["outcome"], verdict["cause"], verdict["operation"]) == (
        "UNHEALTHY",
        "SECRET_UNREADABLE",
        "GetSecretValue",
    )
    assert json.loads(verdict["remediation"]["statement"])["Resource"] == secret_arn
    assert checked["status"] == "SUSPECT"
    stage.customer.allow_secret(key, secret_arn)
    assert stage.api.post(*path, "keys", registered["key_id"], "check")["verdict"]["outcome"] == "HEALTHY"

    changed = stage.api.patch(*path, "keys", registered["key_id"], body={"use": "cmek"})
    assert (changed["use"], changed["probe_secret_arn"]) == ("cmek", None)
