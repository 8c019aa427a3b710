"""CloudTrail's history against stubbed clients: what is asked, as whom, where, and what is made of the answers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError
from botocore.stub import Stubber

from keyvigil.adapters import aws, cloudtrail_history
from keyvigil.adapters.cloudtrail_history import BUDGET_SECONDS, NEWEST, SECONDS_BETWEEN_CALLS, CloudTrailHistory
from keyvigil.adapters.kms_prober import RoleCredentials
from keyvigil.domain.actors import Actor
from keyvigil.domain.attribution import EXPLANATIONS
from keyvigil.domain.keys import Key
from keyvigil.domain.verdicts import Cause
from tests import recorded_events as recordings
from tests.examples import EXTERNAL_ID, KEY_ARN, KMS_KEY, NOW, ROLE_ARN, key
from tests.recorded_events import recorded

SINCE, UNTIL = NOW - timedelta(minutes=11), NOW
CUSTOMER = "222222222222"


@dataclass
class Cloud:
    """The customer's CloudTrail in the key's Region and in IAM's; answers are laid ready in order."""

    here: Stubber
    global_: Stubber
    sts: Stubber
    history: CloudTrailHistory
    seconds: float = 1000.0
    seconds_a_call: float = 0.0
    slept: list[float] = field(default_factory=list)
    signed_by: list[str | None] = field(default_factory=list)

    def note(self, **_: Any) -> None:
        tenant = aws._tenant.get()
        self.signed_by.append(tenant.access_key if tenant else None)
        self.seconds += self.seconds_a_call

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def role_gives_a_session(self) -> None:
        given = {"AccessKeyId": "ASIASESSION000000001", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": NOW}
        asked = {
            "RoleArn": ROLE_ARN,
            "RoleSessionName": "KeyVigil-acme-prod",
            "DurationSeconds": 900,
            "ExternalId": EXTERNAL_ID,
        }
        self.sts.add_response("assume_role", {"Credentials": given}, asked)

    def knows(self, name: str, *records: object, where: Stubber | None = None) -> None:
        """Lay an answer ready that must be asked for by this name and time."""
        asked = {
            "LookupAttributes": [{"AttributeKey": "EventName", "AttributeValue": name}],
            "StartTime": SINCE,
            "EndTime": UNTIL,
            "MaxResults": NEWEST,
        }
        texts = [each if isinstance(each, str) else json.dumps(each) for each in records]
        events = [{"EventName": name, "CloudTrailEvent": text} for text in texts]
        (where or self.here).add_response("lookup_events", {"Events": events}, asked)

    def calls(self, *names: str, of: Key | None = None) -> list[Actor] | None:
        return self.history.calls(of or key(), names, SINCE, UNTIL)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    clients = {
        name: boto3.client(service, region_name=region, aws_access_key_id="own", aws_secret_access_key="own")  # type: ignore[call-overload]  # a name of two
        for name, service, region in (
            ("here", "cloudtrail", "us-west-2"),
            ("global_", "cloudtrail", "us-east-1"),
            ("sts", "sts", "us-west-2"),
        )
    }
    history = CloudTrailHistory()
    history._clients = {"us-west-2": clients["here"], "us-east-1": clients["global_"]}
    history.__dict__["_roles"] = RoleCredentials(clients["sts"])
    stubs = {name: Stubber(client) for name, client in clients.items()}
    cloud = Cloud(here=stubs["here"], global_=stubs["global_"], sts=stubs["sts"], history=history)
    for name in ("here", "global_"):
        clients[name].meta.events.register("before-parameter-build", cloud.note)
    monkeypatch.setattr(cloudtrail_history, "time", cloud)
    for stub in stubs.values():
        stub.activate()
    yield cloud
    for stub in stubs.values():
        stub.assert_no_pending_responses()
        stub.deactivate()


def record(name: str, **changes: Any) -> dict[str, Any]:
    """A record of CloudTrail about the example's key or role."""
    detail: dict[str, Any] = recorded(name, account=CUSTOMER, kms_key=KMS_KEY)["detail"]
    return {**detail, **changes}


def test_a_call_on_the_key_is_found_by_its_name_as_the_customer_s_role(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    cloud.knows("DisableKey", record("DisableKey"))
    found = cloud.calls("DisableKey")
    assert found is not None
    assert [(each.arn, each.event_name, each.source_ip) for each in found] == [
        (f"arn:aws:iam::{CUSTOMER}:user/Alice", "DisableKey", "192.0.2.0")
    ]
    assert cloud.signed_by == ["ASIASESSION000000001"]
    assert aws._tenant.get() is None


def test_iam_s_calls_are_looked_for_where_iam_records_them(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    cloud.knows("PutKeyPolicy", record("PutKeyPolicy"))
    cloud.knows("DeleteRole", record("DeleteRole"), where=cloud.global_)
    found = cloud.calls("PutKeyPolicy", "DeleteRole")
    assert found is not None
    assert [each.event_name for each in found] == ["DeleteRole", "PutKeyPolicy"]  # newest first


def test_calls_on_other_keys_and_records_that_are_none_are_left_out(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    other = KEY_ARN.replace("key/1", "key/9")
    cloud.knows(
        "DisableKey",
        record("DisableKey", resources=[{"ARN": other}]),
        record("DisableKey", recipientAccountId="333333333333"),
        record("DisableKey", errorCode="AccessDenied"),
        record("DisableKey", userIdentity={"accountId": CUSTOMER, "invokedBy": "AWS Internal"}),
        "no JSON",
        "[]",
        "[" * 100_000,
        "",
    )
    assert cloud.calls("DisableKey") == []


def test_what_happens_to_a_primary_key_does_not_explain_its_replica(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    primary = f"arn:aws:kms:us-east-1:{CUSTOMER}:key/{recordings.MULTI_REGION_KEY}"
    replica = primary.replace("us-east-1", "us-west-2")
    cloud.knows("DisableKey", record("DisableKey", resources=[{"ARN": primary}]))
    watched = key(key_arn=replica, key_id=f"us-west-2.{recordings.MULTI_REGION_KEY}")
    assert cloud.calls("DisableKey", of=watched) == []


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException", "InternalFailure"])
def test_a_role_that_may_not_look_and_a_cloudtrail_that_does_not_answer_are_no_error(cloud: Cloud, code: str) -> None:
    cloud.role_gives_a_session()
    cloud.here.add_client_error("lookup_events", code, http_status_code=400)
    assert cloud.calls("DisableKey", "CancelKeyDeletion") is None


def test_a_role_that_cannot_be_assumed_is_no_error(cloud: Cloud) -> None:
    cloud.sts.add_client_error("assume_role", "AccessDenied", http_status_code=403)
    assert cloud.calls("UpdateAssumeRolePolicy") is None


def test_a_cloudtrail_out_of_reach_is_no_error(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.role_gives_a_session()

    def unreachable(**_: object) -> None:
        raise ConnectTimeoutError(endpoint_url="https://cloudtrail.us-west-2.amazonaws.com")

    monkeypatch.setattr(cloud.history._clients["us-west-2"], "lookup_events", unreachable)
    assert cloud.calls("DisableKey") is None


def test_what_was_found_before_a_refusal_counts(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    cloud.knows("PutKeyPolicy", record("PutKeyPolicy"))
    cloud.global_.add_client_error("lookup_events", "AccessDeniedException", http_status_code=400)
    found = cloud.calls("PutKeyPolicy", "DeleteRole")
    assert found is not None
    assert [each.event_name for each in found] == ["PutKeyPolicy"]


def test_no_more_than_two_questions_are_asked_in_a_second(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    for name in ("DisableKey", "CancelKeyDeletion", "ScheduleKeyDeletion"):
        cloud.knows(name)
    assert cloud.calls("DisableKey", "CancelKeyDeletion", "ScheduleKeyDeletion") == []
    assert cloud.slept == [SECONDS_BETWEEN_CALLS] * 2
    assert SECONDS_BETWEEN_CALLS > 1 / 2


def test_a_slow_cloudtrail_is_asked_no_longer_than_its_message_may_take(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    cloud.seconds_a_call = 5
    names = EXPLANATIONS[Cause.ACCESS_DENIED]
    for name in names[:3]:
        cloud.knows(name)
    assert cloud.calls(*names) == []
    # One question more and its time-outs (2 s to connect, 3 s to answer) stay within the 25 s of a message.
    assert BUDGET_SECONDS + SECONDS_BETWEEN_CALLS + 5 < 25


def test_a_session_is_used_again_for_the_next_search(cloud: Cloud) -> None:
    cloud.role_gives_a_session()
    for _ in range(2):
        cloud.knows("DisableKey", record("DisableKey"))
    assert cloud.calls("DisableKey") == cloud.calls("DisableKey")
