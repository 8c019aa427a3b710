"""KeyVigil itself in trouble, on a cloud of its own: its table, its permissions, its canaries, one Region.

No customer's key becomes UNHEALTHY by it, and the operator hears of it.
"""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keyvigil_cli.alert_queue import AlertQueue
from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.customer import CustomerAccount, trust_policy
from keyvigil_cli.project import Project
from keyvigil_cli.waiting import wait_until
from tests.e2e.fault_story import RESET, SILENCE, error, in_words
from tests.e2e.stage import Stage, WatchedKey
from tests.e2e.story import story_on_its_own_cloud
from tests.fault_table import Observed, tell

SECOND_ACCOUNT = "333333333333"
OTHER_REGION = "eu-west-1"
_APP = "keyvigil-check-keys"
_SWEEP_SECONDS = 150
# Two probes of a canary count as two if they are this far apart.
_SPACING_SECONDS = 5.5


class Operator:
    """The operator's hands, on everything of KeyVigil's that can break."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._session = stage.cloud.session()
        self._iam = self._session.client("iam")
        self._functions: Any = self._session.client("lambda")
        self._role = stage.outputs["MonitorRoleArn"].rpartition("/")[2]
        self._generation = 0
        self.alerts = self._subscribed()

    def _subscribed(self) -> AlertQueue:
        topic = self.stage.outputs["OperatorTopicArn"]
        queue = AlertQueue(self._session, "operator", topic)
        self._session.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.endpoint)
        return queue

    def begin_anew(self) -> None:
        """End `check_keys`' sandboxes, whose sessions of customers' roles would be good for ten minutes."""
        name = self.stage.outputs["CheckKeysFunctionName"]
        told = self._functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        self._generation += 1
        told = {**told, "AWS_SDK_UA_APP_ID": _APP, "GENERATION": str(self._generation)}
        self._functions.update_function_configuration(FunctionName=name, Environment={"Variables": told})

    def permissions(self) -> JsonObject:
        """What the monitor's role may do. (The document comes decoded.)"""
        found: Any = self._iam.get_role_policy(RoleName=self._role, PolicyName="check-keys")["PolicyDocument"]
        document: JsonObject = json.loads(found) if isinstance(found, str) else found
        return document

    def allow(self, document: JsonObject) -> None:
        self._iam.put_role_policy(RoleName=self._role, PolicyName="check-keys", PolicyDocument=json.dumps(document))

    def trust(self, role_arn: str, external_id: str) -> None:
        """Let a canary's role in this account trust whoever says this ExternalId."""
        policy = trust_policy(self.stage.outputs["MonitorRoleArn"], external_id)
        self._iam.update_assume_role_policy(RoleName=role_arn.rpartition("/")[2], PolicyDocument=policy)

    def canaries(self) -> dict[str, JsonObject]:
        return {each["canary_id"]: each for each in self.stage.api.get("fleet", "canaries")["items"]}

    def outcomes(self) -> dict[str, str]:
        """Who speaks for which Region, and how they are."""
        return {each["region"]: each["outcome"] for each in self.stage.api.get("fleet")["canaries"]}

    def probe_canaries(self) -> dict[str, JsonObject]:
        """Have every canary probed now, as a sweep would, and not within five seconds of its last probe."""
        time.sleep(_SPACING_SECONDS)
        now = datetime.now(UTC)
        for canary_id in self.canaries():
            body = {"project_id": "Canary", "key_id": canary_id, "due_at": now.isoformat(), "canary": True}
            self._session.client("sqs").send_message(
                QueueUrl=self.stage.outputs["CheckQueueUrl"], MessageBody=json.dumps(body)
            )
        return wait_until(
            "the canaries to be probed",
            self.canaries,
            lambda seen: all(datetime.fromisoformat(each["probed_at"]) >= now for each in seen.values()),
            within=60,
        )

    def wait_until_well(self) -> None:
        """Let the canaries prove, in two probes, that they are well."""
        seen = self.probe_canaries()
        while not all(each["vouches"] for each in seen.values()):
            seen = self.probe_canaries()

    def told(self, status: str, *canary_ids: str) -> None:
        """Wait until the operator has heard this about these canaries last."""

        def last() -> dict[str, str]:
            alerts = sorted(self.alerts.collect(), key=lambda alert: alert["sequence"])
            return {
                alert["dedup_key"].rpartition("/")[2]: alert["status"]
                for alert in alerts
                if alert["type"] == "fleet.canary_unhealthy"
            }

        wait_until(
            f"fleet.canary_unhealthy to be {status} for {canary_ids}",
            last,
            lambda seen: all(seen.get(each) == status for each in canary_ids),
            within=60,
        )


@dataclass(frozen=True)
class Scene:
    """The troubled cloud, with a second account's canary in another Region, and customers' keys in both."""

    operator: Operator
    project: Project
    near: WatchedKey
    far: WatchedKey
    far_canary: str


def build(stage: Stage) -> Scene:
    operator = Operator(stage)
    external_id = stage.api.get("fleet", "canaries")["external_id"]
    second = CustomerAccount(stage.cloud.session(SECOND_ACCOUNT), SECOND_ACCOUNT)
    role = second.role_for(stage.outputs["MonitorRoleArn"], external_id, "canaries", role_name="keyvigil-canary")
    key = second.create_key(role, region=OTHER_REGION)
    body = {"key_arn": key.key_arn, "role_arn": key.role_arn}
    registered = stage.api.post("fleet", "canaries", body=body)
    assert (registered["outcome"], registered["region"]) == ("HEALTHY", OTHER_REGION)
    project = stage.project(check_interval_minutes=60)
    near, far = stage.watched_key(project), stage.watched_key(project, region=OTHER_REGION)
    return Scene(operator, project, near, far, registered["canary_id"])


# --- the table --------------------------------------------------------------------------------------------------


NOTHING_STORED = "nothing is stored, 503"
TABLE_FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    ("ThrottlingException", "GetItem", error("ThrottlingException")),
    (
        "ProvisionedThroughputExceededException",
        "GetItem",
        error("ProvisionedThroughputExceededException"),
    ),
    ("InternalServerError, 500", "GetItem", error("InternalServerError", 500)),
    ("ServiceUnavailable, 503", "GetItem", error("ServiceUnavailable", 503)),
    ("ExpiredTokenException: our credentials have expired", "GetItem", error("ExpiredTokenException")),
    ("InvalidSignatureException: our clock is off", "GetItem", error("InvalidSignatureException")),
    ("AccessDeniedException: our role may not read", "GetItem", error("AccessDeniedException")),
    ("a reset", "GetItem", RESET),
    ("no answer within the time-out", "GetItem", SILENCE),
    ("ThrottlingException", "PutItem", error("ThrottlingException")),
    ("InternalServerError, 500", "PutItem", error("InternalServerError", 500)),
    ("ServiceUnavailable, 503", "PutItem", error("ServiceUnavailable", 503)),
    ("AccessDeniedException: our role may not write", "PutItem", error("AccessDeniedException")),
    ("a reset", "PutItem", RESET),
]
UNDER_A_BROKEN_KEY: list[tuple[str, str, dict[str, Any]]] = [
    ("ThrottlingException, under a key that is disabled", "TransactWriteItems", error("ThrottlingException")),
    ("InternalServerError, under a key that is disabled", "TransactWriteItems", error("InternalServerError", 500)),
]


def table_fails(stage: Stage, scene: Scene) -> None:
    """What cannot be stored is not, and nobody is told half of it."""
    watched = scene.near
    rows = [checked_without_table(stage, watched, *fault, after="HEALTHY") for fault in TABLE_FAULTS]
    assert scene.project.incidents() == []
    broken = stage.watched_key(scene.project)
    broken.disable()
    for fault in UNDER_A_BROKEN_KEY:
        rows.append(checked_without_table(stage, broken, *fault, after=None))
        assert scene.project.incidents() == []
    # Once the table answers, the truth is stored.
    assert broken.check()["status"] == "SUSPECT"
    tell("DynamoDB, on the local cloud", rows)


def checked_without_table(
    stage: Stage, watched: WatchedKey, fault: str, operation: str, does: dict[str, Any], *, after: str | None
) -> Observed:
    before = watched.project.key(watched.key_id)
    rule = {"service": "dynamodb", "operation": operation, "headers": {"User-Agent": f"app/{_APP}"}, **does}
    with stage.faults.failing(rule):
        try:
            answered = in_words(watched.check())
        except ApiProblemError as problem:
            answered = str(problem.status)
    stored = watched.project.key(watched.key_id)
    seen = f"{'nothing' if stored == before else in_words(stored)} is stored, {answered}"
    if after is not None and in_words(found := watched.check()) != after:
        seen += f", and afterwards {in_words(found)}"
    return Observed(fault, f"DynamoDB {operation}", NOTHING_STORED, seen)


# --- permissions and canaries -----------------------------------------------------------------------------------


OURS = "UNKNOWN OWN_CREDENTIALS"


def checks(scene: Scene, fault: str, at: str, *keys: WatchedKey, expected: str = OURS) -> Observed:
    """Check customers' keys while something is wrong; what is seen of all of them."""
    found = [key.check() for key in keys]
    seen = {in_words(key) for key in found}
    if expected == OURS:
        seen |= {f"the key is {key['status']}" for key in found if key["status"] != "HEALTHY"}
    return Observed(fault, at, expected, ", ".join(sorted(seen)))


def our_role_loses_its_permission(scene: Scene) -> list[Observed]:
    operator, keys = scene.operator, (scene.near, scene.far)
    before = operator.permissions()
    kept = [each for each in before["Statement"] if each["Action"] != "sts:AssumeRole"]
    assert len(kept) == len(before["Statement"]) - 1
    operator.allow({**before, "Statement": kept})
    operator.begin_anew()
    since = datetime.now(UTC)
    taken = "`sts:AssumeRole` is taken from MonitorRole"
    rows = [checks(scene, taken, "by `check`", *keys)]
    for watched in keys:
        swept = scene.project.wait_for_key(
            watched.key_id,
            "a sweep to probe it",
            lambda key: key["last_trigger"] == "schedule" and datetime.fromisoformat(key["last_probed_at"]) > since,
            within=_SWEEP_SECONDS,
        )
        rows.append(Observed(taken, f"by a sweep, {swept['region']}", OURS, in_words(swept)))
    operator.probe_canaries()
    operator.told("firing", "stack", scene.far_canary)
    assert operator.outcomes() == {"us-west-2": "UNHEALTHY", OTHER_REGION: "UNHEALTHY"}
    operator.allow(before)
    rows.append(checks(scene, "it is given back", "by `check`", *keys, expected="HEALTHY"))
    operator.wait_until_well()
    operator.told("resolved", "stack", scene.far_canary)
    return rows


def one_region_is_denied(stage: Stage, scene: Scene) -> list[Observed]:
    operator = scene.operator
    denied = {"service": "kms", "region": OTHER_REGION, **error("AccessDeniedException")}
    mistaken = stage.watched_key(scene.project)
    mistaken.customer.deny(mistaken.key, "kms:Encrypt")
    with stage.faults.failing(denied):
        rows = [
            checks(scene, f"KMS in {OTHER_REGION} is denied to KeyVigil", f"keys in {OTHER_REGION}", scene.far),
            checks(
                scene,
                f"KMS in {OTHER_REGION} is denied to KeyVigil",
                "keys in us-west-2",
                scene.near,
                expected="HEALTHY",
            ),
            checks(
                scene,
                "the same, and a customer denies kms:Encrypt in us-west-2",
                "that customer's key",
                mistaken,
                expected="UNHEALTHY ACCESS_DENIED",
            ),
        ]
        operator.probe_canaries()
        operator.told("firing", scene.far_canary)
        assert operator.outcomes() == {"us-west-2": "HEALTHY", OTHER_REGION: "UNHEALTHY"}
    operator.wait_until_well()
    operator.told("resolved", scene.far_canary)
    rows.append(checks(scene, "it is allowed again", f"keys in {OTHER_REGION}", scene.far, expected="HEALTHY"))
    return rows


def a_canary_is_broken(scene: Scene) -> list[Observed]:
    """And a customer breaks their own role at that time: nothing can be said about it until the canary is well."""
    operator, customer = scene.operator, scene.near.customer
    own = operator.canaries()["stack"]
    operator.trust(own["role_arn"], "another")
    customer.trust(operator.stage.outputs["MonitorRoleArn"], "another", role_name=scene.near.key.role_name)
    operator.begin_anew()
    rows = [
        checks(scene, "the stack's canary trusts another ExternalId", "a customer's role that does so too", scene.near),
        checks(scene, "the same", f"keys in {OTHER_REGION}, which has a canary", scene.far, expected="HEALTHY"),
    ]
    operator.trust(own["role_arn"], own["external_id"])
    operator.wait_until_well()
    rows.append(
        checks(
            scene,
            "the canary is well, the customer's role is not",
            "that customer's key",
            scene.near,
            expected="UNHEALTHY ROLE_NOT_ASSUMABLE",
        )
    )
    return rows


@story_on_its_own_cloud
def keyvigils_own_trouble_makes_no_customers_key_unhealthy_and_the_operator_hears_of_it(stage: Stage) -> None:
    troubled = stage.troubled
    outputs = troubled.cloud.deploy()
    with Stage(troubled.cloud, outputs, troubled.faults) as own:
        scene = build(own)
        scene.operator.begin_anew()
        table_fails(own, scene)
        own_canary = wait_until(
            "the stack's own canary to make itself known",
            lambda: scene.operator.canaries().get("stack"),
            lambda seen: seen is not None and seen["vouches"],
            within=_SWEEP_SECONDS,
        )
        assert own_canary is not None
        assert own_canary["outcome"] == "HEALTHY"
        known_incidents = {each["incident_id"] for each in scene.project.incidents()}
        rows = our_role_loses_its_permission(scene)
        assert {each["incident_id"] for each in scene.project.incidents()} == known_incidents
        rows += one_region_is_denied(own, scene)
        rows += a_canary_is_broken(scene)
        tell("KeyVigil's own permissions, on the local cloud", rows)
