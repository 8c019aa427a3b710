"""The watcher outside the account: one bounded GET over https."""

from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import override

import urllib3

from keyvigil.errors import DeliveryError
from keyvigil.ports import Heartbeat

BEAT_SECONDS = 5
"""How long one heartbeat may take in all, whatever the other side does: the sweep has finished, and must end."""

_ONE_STEP = urllib3.Timeout(connect=2, read=3)


class HttpsHeartbeat(Heartbeat):
    """Asks one address, which is a secret: who knows it can keep the watcher quiet. So it is in no error's words."""

    def __init__(self, url: str) -> None:
        """Keep the address; nothing is called yet."""
        self._url = url
        self._http = urllib3.PoolManager(timeout=_ONE_STEP, retries=False)
        # One thread: while a call hangs, the next waits behind it and fails, and none piles up.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heartbeat")

    @override
    def beat(self) -> None:
        if not self._url.startswith("https://"):
            message = "the heartbeat was not sent: its URL does not begin with https://"
            raise DeliveryError(message)
        asked = self._thread.submit(self._ask)
        status = _in_time(asked)
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            message = f"the heartbeat was not taken: the answer was {status}"
            raise DeliveryError(message)

    def _ask(self) -> int:
        """The status of the answer. What else it says is not read, and it leads nowhere else."""
        answer = self._http.request("GET", self._url, redirect=False, preload_content=False)
        try:
            return answer.status
        finally:
            answer.close()


def _in_time(asked: Future[int]) -> int:
    try:
        return asked.result(timeout=BEAT_SECONDS)
    except Exception as error:  # noqa: BLE001  whatever it is, it fails no sweep
        asked.cancel()
        # urllib3's words name the address, and so would the error that this one came from.
        message = f"the heartbeat was not taken: {type(error).__name__}"
        raise DeliveryError(message, unreachable=True) from None
