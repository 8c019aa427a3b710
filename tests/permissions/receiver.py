"""A function as tenants make them to lock their clusters: it does what a drill says, and answers that it did."""

import contextlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, override

# The local cloud's functions are processes of this machine, so that one can ask here what to do.
_CODE = """
import urllib.request

def handler(event, context):
    urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open("http://127.0.0.1:{port}/", timeout=20).close()
    return {{"result": {{"lock": "locked", "unlock": "unlocked"}}[event["action"]]}}
"""


class Receiver:
    """The function, and what happens while it is at work."""

    def __init__(self, session: Any) -> None:
        """Deploy it."""
        self._meanwhile: Callable[[], object] = lambda: None
        receiver = self

        class Asked(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                receiver._meanwhile()
                self.send_response(204)
                self.end_headers()

            @override
            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        server = HTTPServer(("127.0.0.1", 0), Asked)
        threading.Thread(target=server.serve_forever, name="receiver", daemon=True).start()
        self.arn = _deployed(session, _CODE.format(port=server.server_port))

    @contextlib.contextmanager
    def at_work(self, meanwhile: Callable[[], object]) -> Iterator[None]:
        """Inside the context this is done before the function answers."""
        self._meanwhile = meanwhile
        try:
            yield
        finally:
            self._meanwhile = lambda: None


def _deployed(session: Any, code: str) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", code)
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = session.client("iam").create_role(
        RoleName="locks", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    made = session.client("lambda").create_function(
        FunctionName="keyvigil-lock-drills",
        Runtime="python3.13",
        Handler="app.handler",
        Role=role["Role"]["Arn"],
        Code={"ZipFile": packed.getvalue()},
        Timeout=30,
    )
    return str(made["FunctionArn"])
