"""What Lambda's environment says and every function relies on."""

import pytest
from hypothesis import settings

NAMESPACE = "KeyVigil/keyvigil"

# How long one example takes says something about the machine, and what else it is doing, not about the code.
settings.register_profile("without-deadlines", deadline=None)
settings.load_profile("without-deadlines")


@pytest.fixture(autouse=True)
def metrics_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", NAMESPACE)
