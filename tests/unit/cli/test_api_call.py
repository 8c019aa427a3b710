from typing import override

import pytest

from keyvigil_cli.api_call import BadCallError, NoSuchFieldError, Requests, call
from keyvigil_cli.api_client import JsonObject


class FakeApi(Requests):
    def __init__(self) -> None:
        self.sent: list[tuple[str, str, JsonObject | None]] = []

    @override
    def request(self, method: str, path: str, *, body: JsonObject | None = None) -> JsonObject:
        self.sent.append((method, path, body))
        return {"status": "ACTIVE", "fence": 7}


def test_a_call_is_sent_as_it_was_written() -> None:
    api = FakeApi()
    call(api, "post", "/projects", '{"project_id": "acme"}')
    call(api, "GET", "projects/acme/keys/us-west-2.x")
    assert api.sent == [
        ("POST", "/projects", {"project_id": "acme"}),
        ("GET", "/projects/acme/keys/us-west-2.x", None),
    ]


def test_a_post_without_a_body_sends_an_empty_object() -> None:
    api = FakeApi()
    call(api, "POST", "/projects/acme/keys/k/check")
    assert api.sent[0][2] == {}


def test_one_field_is_printed_plainly() -> None:
    assert call(FakeApi(), "GET", "/x", field="status") == "ACTIVE"
    assert call(FakeApi(), "GET", "/x", field="fence") == "7"


def test_a_field_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(NoSuchFieldError, match="status, fence"):
        call(FakeApi(), "GET", "/x", field="colour")


@pytest.mark.parametrize(("method", "body"), [("LOCK", ""), ("POST", "{"), ("POST", "[1]"), ("PATCH", '"text"')])
def test_what_is_no_call_is_refused_before_anything_is_sent(method: str, body: str) -> None:
    api = FakeApi()
    with pytest.raises(BadCallError):
        call(api, method, "/projects", body)
    assert api.sent == []
