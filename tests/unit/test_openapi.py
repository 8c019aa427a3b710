"""The OpenAPI document says what the API does, and schemathesis finds nothing that the API cannot take."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from schemathesis.core import NotSet

from keyvigil.api import openapi
from tests.examples import KEY_ID
from tests.unit.test_api import OTHER_CANARY, ROUTES, Api

EXISTING = {
    "project_id": "acme-prod",
    "key_id": KEY_ID,
    "cluster_id": "vectors-prod",
    "backup_id": "old",
    "incident_id": "01JINCIDENT",
    "subscription_id": "01JSUBSCRIPTION",
    "row_id": "01JASIDE",
    "silence_id": "01JSILENCE",
    "canary_id": OTHER_CANARY,
}
COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
schema = schemathesis.openapi.from_dict(json.loads(COMMITTED.read_text()))


def test_the_committed_document_is_the_one_that_the_code_makes() -> None:
    assert json.loads(COMMITTED.read_text()) == json.loads(json.dumps(openapi.document())), "run `make openapi`"


def test_the_document_has_every_route_with_the_status_of_its_answer() -> None:
    paths = openapi.document()["paths"]
    documented = {(method.upper(), path) for path, operations in paths.items() for method in operations}

    assert documented == {(route.method, _path(route.template)) for route in ROUTES}
    for route in ROUTES:
        responses = paths[_path(route.template)][route.method.lower()]["responses"]
        assert set(responses) - {"default", "200"} <= {str(route.status)}
        assert str(route.status) in responses


def _path(template: str) -> str:
    return template.replace("<", "{").replace(">", "}")


def test_every_reference_in_the_document_leads_somewhere() -> None:
    text = json.dumps(openapi.document())
    document = json.loads(text)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]


@pytest.fixture(scope="module")
def filled() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield Api(patch)


@schema.parametrize()
@hypothesis_settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_generated_request_is_a_fault_of_ours(case: Any, filled: Api) -> None:
    """Each body and query once for what is generated, and once for what exists."""
    raw = isinstance(case.body, bytes)
    body = (
        None
        if isinstance(case.body, NotSet)
        else base64.b64encode(case.body).decode()
        if raw
        else json.dumps(case.body)
    )
    query = {name: str(value) for name, value in (case.query or {}).items()}
    documented = schema.raw_schema["paths"][case.path].get(case.method.lower(), {}).get("responses", {})
    for path in (case.formatted_path, case.path.format(**EXISTING)):
        filled.fill()
        reply = filled.send(case.method, path, body, query=query, base64_encoded=raw)

        assert reply.status < 500 or reply.json["title"] == "No answer about the KMS key"
        assert str(reply.status) in documented or reply.status >= 400
