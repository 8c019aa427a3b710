"""What a tenant may name as its cluster's receiver, and what it is told if it may not."""

from dataclasses import replace
from typing import Any

import pytest

from keyvigil.domain.clusters import LockSettings, LockVia, Preset
from keyvigil.domain.lock_settings import LockBounds, function_region, lock_problem

OWN = "111111111111"
BOUNDS = LockBounds(account_id=OWN, region="us-west-2", stack_name="keyvigil", runbooks=True)
FUNCTION = "arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-vectors"
SECRET = f"arn:aws:secretsmanager:us-west-2:{OWN}:secret:keyvigil/acme/webhook-AbCd12"
URL = "https://hooks.example.com/lock?team=a"

LAMBDA = LockSettings(via=LockVia.LAMBDA, function_arn=FUNCTION)
WEBHOOK = LockSettings(via=LockVia.WEBHOOK, url=URL, secret_arn=SECRET)
ZILLIZ = LockSettings(via=LockVia.WEBHOOK, preset=Preset.ZILLIZ_CLOUD, secret_arn=SECRET)
RUNBOOK = LockSettings(via=LockVia.SSM_AUTOMATION, document_name="KeyVigilLock-rds")


def problem(lock: LockSettings, **changes: Any) -> str | None:
    return lock_problem(replace(lock, **changes), "acme", BOUNDS)


@pytest.mark.parametrize(
    "lock",
    [
        LockSettings(via=LockVia.NONE),
        LockSettings(via=LockVia.EVENT),
        LAMBDA,
        replace(LAMBDA, function_arn=f"{FUNCTION}:live"),
        replace(LAMBDA, function_arn=f"{FUNCTION}:$LATEST"),
        replace(LAMBDA, function_arn=FUNCTION.replace("222222222222", OWN).replace("us-west-2", "eu-central-1")),
        WEBHOOK,
        replace(WEBHOOK, preset=Preset.NONE),
        replace(WEBHOOK, url="https://hooks.example.com:443"),
        ZILLIZ,
        replace(ZILLIZ, url="https://api.cloud.zilliz.com.cn"),
        RUNBOOK,
        replace(RUNBOOK, parameters={"Size": ("small",)}),
    ],
)
def test_what_lies_within_the_operators_prefixes_is_taken(lock: LockSettings) -> None:
    assert problem(lock) is None


@pytest.mark.parametrize(
    ("lock", "missing"),
    [
        (replace(LAMBDA, function_arn=None), "function_arn"),
        (replace(WEBHOOK, url=None), "url"),
        (replace(WEBHOOK, secret_arn=None), "secret_arn"),
        (replace(ZILLIZ, secret_arn=None), "secret_arn"),
        (replace(RUNBOOK, document_name=None), "document_name"),
    ],
)
def test_what_a_way_of_locking_needs_is_asked_for_by_name(lock: LockSettings, missing: str) -> None:
    assert problem(lock) == f"`via: {lock.via}` needs `{missing}`."


FIELDS: dict[str, Any] = {
    "function_arn": FUNCTION,
    "url": URL,
    "secret_arn": SECRET,
    "preset": Preset.NONE,
    "document_name": "KeyVigilLock-rds",
    "parameters": {},
}
BELONG = {
    LockVia.LAMBDA: {"function_arn"},
    LockVia.WEBHOOK: {"url", "secret_arn", "preset"},
    LockVia.SSM_AUTOMATION: {"document_name", "parameters"},
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "lock", [LockSettings(via=LockVia.NONE), LockSettings(), LAMBDA, WEBHOOK, RUNBOOK], ids=lambda each: each.via
)
def test_what_belongs_to_another_way_of_locking_is_refused_by_name(lock: LockSettings, name: str) -> None:
    found = problem(lock, **{name: FIELDS[name]})
    if name in BELONG.get(lock.via, set()):
        assert found is None
    else:
        assert found == f"`{name}` does not belong to `via: {lock.via}`; leave it out."


@pytest.mark.parametrize(
    "function_arn",
    [
        "arn:aws:lambda:us-west-2:222222222222:function:delete-everything",
        "arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock",
        "arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-",
        "arn:aws:lambda:us-west-2:222222222222:function:xkeyvigil-lock-a",
        "arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-a/../other",
        f"arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-{'a' * 51}",
        "arn:aws:lambda:us-west-2:*:function:keyvigil-lock-a",
        "arn:aws:lambda:*:222222222222:function:keyvigil-lock-a",
        "arn:aws:lambda:us-west-2:222222222222:layer:keyvigil-lock-a",
        "keyvigil-lock-a",
        f"{FUNCTION}\n",
        f" {FUNCTION}",
        f"{FUNCTION}:",
        "",
    ],
)
def test_a_function_outside_the_prefix_is_refused(function_arn: str) -> None:
    assert problem(LAMBDA, function_arn=function_arn) == (
        "`function_arn` must look like arn:aws:lambda:REGION:ACCOUNT_ID:function:keyvigil-lock-NAME."
    )
    with pytest.raises(ValueError, match="not the ARN"):
        function_region(function_arn)


def test_the_region_of_a_function_is_that_of_its_arn() -> None:
    assert function_region(FUNCTION.replace("us-west-2", "eu-central-1")) == "eu-central-1"


@pytest.mark.parametrize(
    ("stack", "name", "own"),
    [
        ("keyvigil", "keyvigil-lock-cluster", True),
        ("keyvigil", "keyvigil-lock-cluster-of-mine", False),
        ("keyvigil", "keyvigil-lock-vectors", False),
        ("other", "keyvigil-lock-cluster", False),
        ("keyvigil-lock-b", "keyvigil-lock-b-check-keys", True),
        ("keyvigil-lock-b", "keyvigil-lock-vectors", False),
    ],
)
@pytest.mark.parametrize("qualifier", ["", ":$LATEST"])
def test_the_stacks_own_functions_are_nobodys_receivers(stack: str, name: str, qualifier: str, *, own: bool) -> None:
    bounds = replace(BOUNDS, stack_name=stack)
    here = f"arn:aws:lambda:us-west-2:{OWN}:function:{name}{qualifier}"
    elsewhere = here.replace(OWN, "222222222222")

    assert (lock_problem(replace(LAMBDA, function_arn=here), "acme", bounds) is not None) is own
    assert lock_problem(replace(LAMBDA, function_arn=elsewhere), "acme", bounds) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com/#part",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]/",
        "https://hooks.example.com:8443/",
        "https://hooks.example.com:22/",
        "https://hooks.example.com/\r\nHost: other",
        "https://hooks.example.com\\@127.0.0.1/",
        "file:///etc/passwd",
    ],
)
def test_a_webhook_must_be_a_named_host_on_https(url: str) -> None:
    found = problem(WEBHOOK, url=url)
    assert found is not None
    assert found.startswith("`url` must ")


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/", "https://api.cloud.zilliz.com/v2", "http://api.cloud.zilliz.com"]
)
def test_the_api_key_of_zilliz_cloud_is_sent_to_nobody_else(url: str) -> None:
    found = problem(ZILLIZ, url=url)
    assert found is not None
    assert "https://api.cloud.zilliz.com or https://api.cloud.zilliz.com.cn" in found


@pytest.mark.parametrize(
    "secret_arn",
    [
        SECRET.replace("keyvigil/acme/", "keyvigil/acme-prod/"),
        SECRET.replace("keyvigil/acme/", "keyvigil/acm/"),
        SECRET.replace("keyvigil/acme/", "keyvigil/"),
        SECRET.replace("keyvigil/acme/", "other/acme/"),
        SECRET.replace(OWN, "222222222222"),
        SECRET.replace("us-west-2", "eu-west-1"),
        SECRET.removesuffix("-AbCd12"),
        SECRET.replace("webhook", "*"),
        SECRET.replace("webhook", ""),
        f"{SECRET}\n",
        "keyvigil/acme/webhook",
        "",
    ],
)
@pytest.mark.parametrize("lock", [WEBHOOK, ZILLIZ], ids=["signed", "zilliz"])
def test_a_secret_of_another_project_account_or_region_is_refused(lock: LockSettings, secret_arn: str) -> None:
    found = problem(lock, secret_arn=secret_arn)
    assert found is not None
    assert f"arn:aws:secretsmanager:us-west-2:{OWN}:secret:keyvigil/acme/NAME-SUFFIX" in found


def test_a_stack_that_was_not_told_its_account_lets_nobody_name_a_secret() -> None:
    nowhere = SECRET.replace(OWN, "").replace("us-west-2", "")
    for secret_arn in (SECRET, nowhere):
        assert lock_problem(replace(WEBHOOK, secret_arn=secret_arn), "acme", LockBounds()) is not None


def test_runbooks_are_refused_where_the_operator_does_not_allow_them_with_what_would() -> None:
    found = lock_problem(RUNBOOK, "acme", replace(BOUNDS, runbooks=False))
    assert found is not None
    assert "AllowRunbooks=true" in found


@pytest.mark.parametrize(
    "name",
    [
        "AWS-StopEC2Instance",
        "KeyVigilLock",
        "KeyVigilLock-",
        "keyvigillock-rds",
        "arn:aws:ssm:us-west-2:222222222222:document/KeyVigilLock-rds",
        "KeyVigilLock-rds/../AWS-RunShellScript",
        "KeyVigilLock-rds\n",
        f"KeyVigilLock-{'a' * 116}",
    ],
)
def test_a_runbook_outside_the_prefix_is_refused(name: str) -> None:
    found = problem(RUNBOOK, document_name=name)
    assert found is not None
    assert "KeyVigilLock-" in found


@pytest.mark.parametrize("value", ["{{ssm:/operator/password}}", "a {{ ssm-secure:x }}", "{{global:DATE}}"])
def test_a_tenant_does_not_have_the_operators_own_parameters_looked_up(value: str) -> None:
    found = problem(RUNBOOK, parameters={"Size": ("small", value)})
    assert found is not None
    assert "{{" in found


@pytest.mark.parametrize("name", ["Action", "Fence", "ProjectId", "ClusterId", "IncidentId", "AutomationAssumeRole"])
def test_a_tenant_sets_neither_the_request_nor_the_role_of_a_runbook(name: str) -> None:
    found = problem(RUNBOOK, parameters={name: ("x",)})
    assert found is not None
    assert name in found
