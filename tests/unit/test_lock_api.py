"""How a cluster is locked, over the API: what is taken, what is refused in which words, and when it may be changed."""

from typing import Any

import pytest

from keyvigil import wiring
from keyvigil.domain.clusters import ClusterStatus, LockSettings, LockVia, Preset
from keyvigil.domain.lock_settings import LockBounds
from keyvigil.use_cases.registry import Clusters
from tests.examples import KEY_ID, cluster
from tests.unit.test_api import NEW_CLUSTER, Api, P

FUNCTION = "arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-vectors"
SECRET = "arn:aws:secretsmanager:us-west-2:111111111111:secret:keyvigil/acme-prod/webhook-AbCd12"
LOCKS: dict[str, dict[str, Any]] = {
    "lambda": {"via": "lambda", "timeout_seconds": 60, "function_arn": FUNCTION},
    "webhook": {
        "via": "webhook",
        "timeout_seconds": 300,
        "url": "https://hooks.example.com/lock",
        "secret_arn": SECRET,
        "preset": "none",
    },
    "zilliz-cloud": {"via": "webhook", "timeout_seconds": 900, "preset": "zilliz-cloud", "secret_arn": SECRET},
    "ssm-automation": {
        "via": "ssm-automation",
        "timeout_seconds": 1800,
        "document_name": "KeyVigilLock-rds",
        "parameters": {"DbInstance": ["vectors", "replica"]},
    },
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api(monkeypatch)
    bounds = LockBounds(account_id="111111111111", region="us-west-2", stack_name="keyvigil", runbooks=True)
    registry = Clusters(made.store, made.clock, bounds)
    monkeypatch.setattr(wiring, "clusters", lambda: registry)
    made.fill()
    return made


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_cluster_shows_how_it_is_locked_as_it_was_registered_and_nothing_else(api: Api, lock: dict[str, Any]) -> None:
    answer = api.ask("POST", f"{P}/clusters", {**NEW_CLUSTER, "lock": lock})
    assert answer.status == 201
    assert answer.json["lock"] == lock
    assert api.ask("GET", f"{P}/clusters/{NEW_CLUSTER['cluster_id']}").json["lock"] == lock


def test_what_is_registered_is_what_will_be_called(api: Api) -> None:
    api.ask("POST", f"{P}/clusters", {**NEW_CLUSTER, "lock": LOCKS["ssm-automation"]})
    found = api.store.cluster("acme-prod", str(NEW_CLUSTER["cluster_id"]))
    assert found is not None
    assert found.lock == LockSettings(
        via=LockVia.SSM_AUTOMATION,
        timeout_seconds=1800,
        document_name="KeyVigilLock-rds",
        parameters={"DbInstance": ("vectors", "replica")},
    )
    api.ask("PATCH", f"{P}/clusters/{NEW_CLUSTER['cluster_id']}", {"lock": LOCKS["zilliz-cloud"]})
    found = api.store.cluster("acme-prod", str(NEW_CLUSTER["cluster_id"]))
    assert found is not None
    assert found.lock.preset is Preset.ZILLIZ_CLOUD


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a function outside the prefix": (
        {"via": "lambda", "function_arn": FUNCTION.replace("keyvigil-lock-", "")},
        "`function_arn` must look like arn:aws:lambda:REGION:ACCOUNT_ID:function:keyvigil-lock-NAME.",
    ),
    "no function": ({"via": "lambda"}, "`via: lambda` needs `function_arn`."),
    "another project's secret": (
        {**LOCKS["webhook"], "secret_arn": SECRET.replace("acme-prod", "globex")},
        "keyvigil/acme-prod/NAME-SUFFIX",
    ),
    "a webhook inside": ({**LOCKS["webhook"], "url": "https://10.0.0.1/"}, "is not a public address"),
    "a webhook without TLS": ({**LOCKS["webhook"], "url": "http://hooks.example.com/"}, "https://HOST/PATH"),
    "another host for an API key": (
        {**LOCKS["zilliz-cloud"], "url": "https://hooks.example.com/"},
        "https://api.cloud.zilliz.com or",
    ),
    "a runbook outside the prefix": (
        {**LOCKS["ssm-automation"], "document_name": "AWS-StopRdsInstance"},
        "begins with KeyVigilLock-",
    ),
    "what belongs elsewhere": ({**LOCKS["lambda"], "url": "https://hooks.example.com/"}, "`url` does not belong"),
}


@pytest.mark.parametrize(("lock", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_a_tenant_may_not_name_is_refused_in_words_that_help(
    api: Api, method: str, lock: dict[str, Any], words: str
) -> None:
    api.store.put(cluster())
    if method == "POST":
        answer = api.ask("POST", f"{P}/clusters", {**NEW_CLUSTER, "lock": lock})
    else:
        answer = api.ask("PATCH", f"{P}/clusters/vectors-prod", {"lock": lock})
    assert (answer.status, answer.json["title"]) == (422, "Invalid lock")
    assert words in answer.json["detail"]
    assert [each.lock.via for each in api.store.clusters_of_key("acme-prod", KEY_ID)] == [LockVia.EVENT]


def test_runbooks_are_refused_where_the_operator_did_not_allow_them(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    without = Clusters(api.store, api.clock, LockBounds(account_id="111111111111", region="us-west-2"))
    monkeypatch.setattr(wiring, "clusters", lambda: without)
    answer = api.ask("POST", f"{P}/clusters", {**NEW_CLUSTER, "lock": LOCKS["ssm-automation"]})
    assert (answer.status, answer.json["title"]) == (422, "Invalid lock")
    assert "AllowRunbooks=true" in answer.json["detail"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"parameters": {"bad name": ["x"]}}, "lock.parameters"),
        ({"parameters": {"Name": "not a list"}}, "lock.parameters.Name"),
        ({"parameters": {"Name": ["x" * 513]}}, "lock.parameters.Name.0"),
        ({"parameters": {"Name": ["line\nbreak"]}}, "lock.parameters.Name.0"),
        ({"parameters": {"Name": ["x"] * 11}}, "lock.parameters.Name"),
        ({"parameters": {f"N{number}": [] for number in range(21)}}, "lock.parameters"),
        ({"document_name": "KeyVigilLock-" + "x" * 200}, "lock.document_name"),
        ({"url": "https://hooks.example.com/" + "x" * 2048}, "lock.url"),
        ({"preset": "other"}, "lock.preset"),
        ({"function_arn": ""}, "lock.function_arn"),
    ],
)
def test_a_field_of_the_wrong_form_is_named(api: Api, change: dict[str, Any], field: str) -> None:
    answer = api.ask("POST", f"{P}/clusters", {**NEW_CLUSTER, "lock": {**LOCKS["ssm-automation"], **change}})
    assert answer.status == 422
    assert any(error["field"].startswith(field) for error in answer.json["errors"])


@pytest.mark.parametrize("status", ClusterStatus)
def test_a_lock_may_be_changed_when_nobody_holds_it_or_when_it_failed(api: Api, status: ClusterStatus) -> None:
    """Whoever locked a cluster must unlock it; where locking or unlocking failed, mending `lock` may be what helps."""
    api.store.put(cluster(status=status, fence=7, locked_by_incident_id="01JINCIDENT"))
    answer = api.ask("PATCH", f"{P}/clusters/vectors-prod", {"lock": LOCKS["lambda"]})
    fixed = {ClusterStatus.LOCKING, ClusterStatus.LOCKED, ClusterStatus.UNLOCKING}
    assert answer.status == (409 if status in fixed else 200)
    if status in fixed:
        assert answer.json["title"] == "Cluster is locked"
    else:
        assert (answer.json["lock"], answer.json["status"]) == (LOCKS["lambda"], status)
        # The receiver before has no say any more.
        assert answer.json["fence"] > 7


def test_what_a_receiver_gave_to_ask_after_a_request_with_is_not_shown(api: Api) -> None:
    api.store.put(cluster(status=ClusterStatus.LOCKING, receipt="execution-1"))
    assert "receipt" not in api.ask("GET", f"{P}/clusters/vectors-prod").json
