"""How many requests probes make of KMS. Through a customer's role they are in no metric of this account's."""

from threading import Lock
from typing import TYPE_CHECKING, Any

from keyvigil.adapters.kms_errors import THROTTLE_CODES

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient


class KmsCalls:
    """Counts every request that is sent, retries among them, and those that KMS throttled. Safe to use from threads."""

    def __init__(self) -> None:
        """Begin at nought."""
        self._lock = Lock()
        self._sent = self._throttled = 0

    def watch(self, client: "KMSClient") -> None:
        """Count what a client sends from now on."""
        client.meta.events.register("before-send.kms", self._count_sent)
        client.meta.events.register("response-received.kms", self._count_throttled)

    def take(self) -> tuple[int, int]:
        """How many requests were sent, and how many of them throttled, since this was last asked."""
        with self._lock:
            taken = self._sent, self._throttled
            self._sent = self._throttled = 0
        return taken

    def _count_sent(self, **_request: Any) -> None:
        with self._lock:
            self._sent += 1

    def _count_throttled(self, parsed_response: dict[str, Any] | None, **_response: Any) -> None:
        if (parsed_response or {}).get("Error", {}).get("Code") in THROTTLE_CODES:
            with self._lock:
                self._throttled += 1
