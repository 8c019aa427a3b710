"""What Lambda's environment says and every function relies on."""

import pytest

NAMESPACE = "KeyVigil/keyvigil"


@pytest.fixture(autouse=True)
def metrics_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", NAMESPACE)
