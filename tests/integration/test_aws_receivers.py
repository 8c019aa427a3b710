"""Functions, runbooks and secrets, by botocore's Stubber: what is sent to AWS, and what its answers mean."""

import io
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, override

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber

from keyvigil.adapters import runbook_receiver
from keyvigil.adapters.function_receiver import _TIMEOUTS, LARGEST_ANSWER, FunctionReceiver
from keyvigil.adapters.functions import InvokedReceiverCalls
from keyvigil.adapters.runbook_receiver import RunbookReceiver
from keyvigil.adapters.secret_reader import SecretReader, SecretUnreadableError
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import LockSettings, LockVia
from keyvigil.domain.lock_calls import CallAnswer, CallOutcome
from keyvigil.errors import DeliveryError
from tests.examples import NOW

FENCE = 1795369305484
REGION = "us-west-2"
FUNCTION = "arn:aws:lambda:eu-central-1:222222222222:function:keyvigil-lock-vectors:live"
LAMBDA = LockSettings(via=LockVia.LAMBDA, function_arn=FUNCTION)
RUNBOOK = LockSettings(via=LockVia.SSM_AUTOMATION, document_name="KeyVigilLock-rds", parameters={"Size": ("s", "m")})
LOCK = LockRequest(
    detail_type="Cluster Lock Requested",
    project_id="acme-prod",
    cluster_id="vectors",
    incident_id="01JINCIDENT",
    fence=FENCE,
    reason="because",
    respond_by=NOW + timedelta(seconds=300),
    via=LockVia.LAMBDA,
)
DETAIL = {
    "action": "lock",
    "project_id": "acme-prod",
    "cluster_id": "vectors",
    "incident_id": "01JINCIDENT",
    "fence": FENCE,
    "reason": "because",
    "respond_by": "2026-11-22T03:05:00.000Z",
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)


# --- functions --------------------------------------------------------------------------------------------------


class Function:
    """A receiving function behind a stubbed client of its Region."""

    def __init__(self) -> None:
        self.receiver = FunctionReceiver()
        client = self.receiver._client("eu-central-1", _TIMEOUTS[0])
        self.stub = Stubber(client)

    def answers(self, document: bytes, **more: str) -> None:
        body = StreamingBody(io.BytesIO(document), len(document))
        self.stub.add_response(
            "invoke",
            {"StatusCode": 200, "Payload": body, **more},
            {"FunctionName": FUNCTION, "Payload": json.dumps(DETAIL).encode()},
        )

    def call(self, seconds: float = 100) -> CallAnswer:
        return self.receiver.call(LOCK, LAMBDA, receipt=None, seconds=seconds)


@pytest.fixture
def function() -> Iterator[Function]:
    made = Function()
    with made.stub:
        yield made
        made.stub.assert_no_pending_responses()


def test_a_function_gets_the_events_detail_in_its_own_region_and_account(function: Function) -> None:
    function.answers(b'{"result": "locked", "detail": "done"}')
    assert function.call() == CallAnswer(outcome=CallOutcome.DONE, detail="done")


@pytest.mark.parametrize(
    ("document", "outcome", "detail"),
    [
        (b'{"result": "failed", "detail": "quorum lost"}', CallOutcome.FAILED, "quorum lost"),
        (b'{"result": "accepted"}', CallOutcome.ACCEPTED, None),
        (b'{"result": "unlocked"}', CallOutcome.FAILED, None),
        (b"null", CallOutcome.FAILED, "its answer is not a JSON object with `result`"),
        (b"", CallOutcome.FAILED, "its answer is not JSON"),
        (b"x" * (LARGEST_ANSWER + 1), CallOutcome.FAILED, "it answered more than 64 KB"),
    ],
)
def test_what_a_functions_answer_means(
    function: Function, document: bytes, outcome: CallOutcome, detail: str | None
) -> None:
    function.answers(document)
    answer = function.call()
    assert answer.outcome is outcome
    assert detail is None or answer.detail == detail


@pytest.mark.parametrize(
    ("document", "raised"),
    [
        (b'{"errorType": "KeyError", "errorMessage": "a secret"}', "KeyError"),
        (b'{"errorType": "Bad\\u0000Type\\n"}', "Bad Type"),
        (b'{"errorMessage": "Task timed out"}', "an error"),
        (b"not json", "an error"),
        (b"[]", "an error"),
    ],
)
def test_a_function_that_raises_may_be_asked_again_and_its_words_are_not_repeated(
    function: Function, document: bytes, raised: str
) -> None:
    function.answers(document, FunctionError="Unhandled")
    assert function.call() == CallAnswer(outcome=CallOutcome.TRANSIENT, detail=f"it raised {raised}")


@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [
        ("AccessDeniedException", 403, CallOutcome.FAILED),
        ("ResourceNotFoundException", 404, CallOutcome.FAILED),
        ("KMSDisabledException", 502, CallOutcome.TRANSIENT),
        ("TooManyRequestsException", 429, CallOutcome.TRANSIENT),
        ("ServiceException", 500, CallOutcome.TRANSIENT),
        ("ResourceConflictException", 409, CallOutcome.TRANSIENT),
        ("InvalidRequestContentException", 400, CallOutcome.FAILED),
    ],
)
def test_what_lambdas_refusal_means(function: Function, code: str, status: int, outcome: CallOutcome) -> None:
    function.stub.add_client_error("invoke", code, "words that are not repeated", http_status_code=status)
    answer = function.call()
    assert answer.outcome is outcome
    assert (answer.detail or "").startswith(f"it could not be invoked: {code}")
    assert "words" not in (answer.detail or "")


class Raises:
    """A client whose every call fails so."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def invoke(self, **_: Any) -> None:
        raise self._error


def test_a_function_that_takes_longer_is_not_asked_twice_and_may_answer_by_lock_result() -> None:
    receiver = FunctionReceiver()
    slow: Any = Raises(ReadTimeoutError(endpoint_url="https://lambda"))
    receiver._clients["eu-central-1", 60.0] = slow
    answer = receiver.call(LOCK, LAMBDA, receipt=None, seconds=100)
    assert answer == CallAnswer(
        outcome=CallOutcome.ACCEPTED, detail="no answer within 60 s; it can still answer by lock-result"
    )


def test_a_function_that_was_not_reached_may_be_asked_again() -> None:
    receiver = FunctionReceiver()
    away: Any = Raises(ConnectTimeoutError(endpoint_url="https://lambda"))
    receiver._clients["eu-central-1", 60.0] = away
    answer = receiver.call(LOCK, LAMBDA, receipt=None, seconds=100)
    assert answer == CallAnswer(outcome=CallOutcome.TRANSIENT, detail="it could not be invoked: ConnectTimeoutError")


@pytest.mark.parametrize(("seconds", "timeout"), [(100, 60), (62, 60), (61, 30), (10, 8), (5, 2), (1, 1)])
def test_a_function_is_waited_for_no_longer_than_its_answer_is_of_use(seconds: float, timeout: float) -> None:
    receiver = FunctionReceiver()
    silent: Any = Raises(ReadTimeoutError(endpoint_url="https://lambda"))
    for each in _TIMEOUTS:
        receiver._clients["eu-central-1", each] = silent
    answer = receiver.call(LOCK, LAMBDA, receipt=None, seconds=seconds)
    assert (answer.detail or "").startswith(f"no answer within {timeout} s")


# --- call_receiver, as others reach it --------------------------------------------------------------------------


def test_call_receiver_is_asked_and_not_waited_for() -> None:
    calls = InvokedReceiverCalls("keyvigil-call-receiver")
    payload = {"project_id": "acme-prod", "cluster_id": "vectors", "fence": FENCE}
    with Stubber(calls._lambda) as stub:
        stub.add_response(
            "invoke",
            {"StatusCode": 202},
            {
                "FunctionName": "keyvigil-call-receiver",
                "InvocationType": "Event",
                "Payload": json.dumps(payload).encode(),
            },
        )
        calls.ask("acme-prod", "vectors", FENCE)
        stub.assert_no_pending_responses()


def test_call_receiver_that_cannot_be_asked_is_a_delivery_that_failed() -> None:
    calls = InvokedReceiverCalls("keyvigil-call-receiver")
    with Stubber(calls._lambda) as stub:
        stub.add_client_error("invoke", "TooManyRequestsException", http_status_code=429)
        with pytest.raises(DeliveryError, match="TooManyRequestsException") as failed:
            calls.ask("acme-prod", "vectors", FENCE)
    assert not failed.value.unreachable
    away: Any = Raises(ConnectTimeoutError(endpoint_url="https://lambda"))
    calls.__dict__["_lambda"] = away
    with pytest.raises(DeliveryError, match="ConnectTimeoutError") as failed:
        calls.ask("acme-prod", "vectors", FENCE)
    assert failed.value.unreachable


# --- secrets ----------------------------------------------------------------------------------------------------

SECRET_ARN = "arn:aws:secretsmanager:us-west-2:111111111111:secret:keyvigil/acme-prod/webhook-AbCd12"


def test_a_secret_is_read_by_its_arn_each_time() -> None:
    reader = SecretReader()
    with Stubber(reader._client) as stub:
        for secret in ("whsec_old\n", "whsec_new"):
            stub.add_response("get_secret_value", {"SecretString": secret}, {"SecretId": SECRET_ARN})
        assert [reader(SECRET_ARN), reader(SECRET_ARN)] == ["whsec_old", "whsec_new"]


@pytest.mark.parametrize("answer", [{"SecretBinary": b"whsec_"}, {"SecretString": " \n"}, {}])
def test_a_secret_that_is_not_text_is_refused(answer: dict[str, Any]) -> None:
    reader = SecretReader()
    with Stubber(reader._client) as stub:
        stub.add_response("get_secret_value", answer)
        with pytest.raises(SecretUnreadableError, match="empty or not text"):
            reader(SECRET_ARN)


@pytest.mark.parametrize(
    ("code", "status", "may_pass"),
    [
        ("ResourceNotFoundException", 400, False),
        ("AccessDeniedException", 400, False),
        ("ThrottlingException", 400, True),
        ("InternalServiceError", 500, True),
    ],
)
def test_why_a_secret_cannot_be_read_is_told_by_its_code(code: str, status: int, *, may_pass: bool) -> None:
    reader = SecretReader()
    with Stubber(reader._client) as stub:
        for _ in range(2):  # the SDK tries what may pass once more
            stub.add_client_error("get_secret_value", code, "words that are not repeated", http_status_code=status)
        with pytest.raises(SecretUnreadableError) as refused:
            reader(SECRET_ARN)
    assert str(refused.value) == f"its secret could not be read: {code}"
    assert refused.value.may_pass is may_pass


# --- runbooks ---------------------------------------------------------------------------------------------------

EXECUTION = "12345678-1234-1234-1234-123456789012"
PARAMETERS = {
    "Size": ["s", "m"],
    "Action": ["lock"],
    "ProjectId": ["acme-prod"],
    "ClusterId": ["vectors"],
    "IncidentId": ["01JINCIDENT"],
    "Fence": [str(FENCE)],
}


class Ssm(BaseHTTPRequestHandler):
    """Systems Manager as far as a runbook goes. The local cloud of the end-to-end tests has no Automation."""

    statuses: list[str]
    started: dict[str, dict[str, Any]]
    targets: list[str]

    @override
    def log_message(self, *_: Any) -> None:
        """Keep the tests' output quiet."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        operation = self.headers["x-amz-target"].partition(".")[2]
        self.targets.append(operation)
        if operation == "StartAutomationExecution":
            known = self.started.setdefault(asked["ClientToken"], asked)
            if known != asked:
                self._say(400, {"__type": "IdempotentParameterMismatch"})
                return
            self._say(200, {"AutomationExecutionId": EXECUTION})
            return
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        execution = {"AutomationExecutionStatus": status, "FailureMessage": "Step 1\nfailed."}
        self._say(200, {"AutomationExecution": execution})

    def _say(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Runbook:
    """A receiver that talks to a small local server over the real protocol."""

    def __init__(self, *statuses: str) -> None:
        self.handler: Any = type(
            "Handler", (Ssm,), {"statuses": list(statuses) or ["Success"], "started": {}, "targets": []}
        )
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.slept: list[float] = []
        self.receiver = RunbookReceiver(every_seconds=0.01, sleep=self.slept.append)
        settings = Config(proxies={}, retries={"total_max_attempts": 1})
        endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        client = boto3.client("ssm", region_name=REGION, endpoint_url=endpoint, config=settings)
        self.receiver.__dict__["_client"] = client

    def call(self, *, receipt: str | None = None, seconds: float = 5) -> CallAnswer:
        return self.receiver.call(LOCK, RUNBOOK, receipt=receipt, seconds=seconds)


@pytest.fixture
def runbook() -> Iterator[Runbook]:
    made = Runbook()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()
    made.receiver._client.close()


def test_a_runbook_is_started_with_the_request_and_its_success_is_the_answer(runbook: Runbook) -> None:
    runbook.handler.statuses = ["Pending", "InProgress", "Success"]
    assert runbook.call() == CallAnswer(outcome=CallOutcome.DONE, detail=f"runbook execution {EXECUTION}")
    [(token, started)] = runbook.handler.started.items()
    assert (started["DocumentName"], started["Parameters"]) == ("KeyVigilLock-rds", PARAMETERS)
    assert len(token) == 36
    assert runbook.slept == [0.01, 0.01]


def test_the_same_request_again_starts_nothing_again(runbook: Runbook) -> None:
    runbook.call()
    assert runbook.call().outcome is CallOutcome.DONE
    assert len(runbook.handler.started) == 1


def test_another_fence_is_another_start(runbook: Runbook) -> None:
    runbook.call()
    later = LockRequest(**{**{name: getattr(LOCK, name) for name in LOCK.__slots__}, "fence": FENCE + 1})
    runbook.receiver.call(later, RUNBOOK, receipt=None, seconds=5)
    assert len(runbook.handler.started) == 2


@pytest.mark.parametrize("status", ["Failed", "TimedOut", "Cancelled", "Rejected", "CompletedWithFailure", "Exited"])
def test_a_runbook_that_failed_says_why_on_one_line(runbook: Runbook, status: str) -> None:
    runbook.handler.statuses = [status]
    assert runbook.call() == CallAnswer(
        outcome=CallOutcome.FAILED, detail=f"runbook execution {EXECUTION} ended {status}: Step 1 failed."
    )


def test_a_runbook_that_takes_long_is_asked_after_by_its_id_and_not_started_again(runbook: Runbook) -> None:
    runbook.handler.statuses = ["InProgress"]
    answer = runbook.call(seconds=0.5)
    assert (answer.outcome, answer.receipt) == (CallOutcome.ACCEPTED, EXECUTION)
    runbook.handler.statuses = ["CompletedWithSuccess"]
    assert runbook.call(receipt=EXECUTION).outcome is CallOutcome.DONE
    assert runbook.handler.targets == [
        "StartAutomationExecution",
        "GetAutomationExecution",
        "GetAutomationExecution",
    ]


@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [
        ("AutomationDefinitionNotFoundException", 400, CallOutcome.FAILED),
        ("InvalidAutomationExecutionParametersException", 400, CallOutcome.FAILED),
        ("AccessDeniedException", 400, CallOutcome.FAILED),
        ("AutomationExecutionLimitExceededException", 429, CallOutcome.TRANSIENT),
        ("ThrottlingException", 400, CallOutcome.TRANSIENT),
        ("InternalServerError", 500, CallOutcome.TRANSIENT),
    ],
)
def test_what_ssms_refusal_to_start_means(code: str, status: int, outcome: CallOutcome) -> None:
    receiver = RunbookReceiver()
    with Stubber(receiver._client) as stub:
        for _ in range(2):  # the SDK tries what may pass once more
            stub.add_client_error("start_automation_execution", code, "words", http_status_code=status)
        answer = receiver.call(LOCK, RUNBOOK, receipt=None, seconds=5)
    assert answer.outcome is outcome
    assert (answer.detail or "").startswith(f"it could not be started: {code}")


def test_what_was_started_is_never_failed_because_it_cannot_be_looked_at() -> None:
    receiver = RunbookReceiver(every_seconds=0.01, sleep=lambda _seconds: None)
    with Stubber(receiver._client) as stub:
        stub.add_response("start_automation_execution", {"AutomationExecutionId": EXECUTION})
        stub.add_client_error("get_automation_execution", "AutomationExecutionNotFoundException")
        answer = receiver.call(LOCK, RUNBOOK, receipt=None, seconds=0.5)
    assert (answer.outcome, answer.receipt) == (CallOutcome.ACCEPTED, EXECUTION)


def test_two_looks_at_a_runbook_by_two_sweeps_do_not_overlap() -> None:
    assert runbook_receiver.LOOK_SECONDS < 60
