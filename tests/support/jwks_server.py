"""An issuer's HTTP server, real and on a free loopback port, that can be made to misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from tests.support.tokens import Signer, jwks


class JwksServer:
    """Answers every request with `status`, `headers` and `body`, as soon as `is_open` is set.

    A path in `documents` has a body of its own, to which `{base}` is our address; `introspect`
    answers what is POSTed.
    """

    def __init__(self, *keys: Signer) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.paths: list[str] = []
        self.documents: dict[str, Any] = {}
        self.introspect: Callable[[dict[str, str], str], Any] = lambda _form, _credentials: {}
        self.is_open = threading.Event()
        self.is_open.set()
        self.serve_keys(*keys)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.base = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.base}/jwks.json"

    def serve_keys(self, *keys: Signer | dict[str, Any]) -> None:
        """Publish these keys, and behave."""
        self.status, self.headers = 200, {}
        self.body = json.dumps(jwks(*keys)).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                document = issuer.documents.get(self.path)
                self.answer(issuer.body if document is None else json.dumps(document).encode())

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                form = dict(parse_qsl(self.rfile.read(length).decode()))
                credentials = self.headers.get("authorization", "")
                self.answer(json.dumps(issuer.introspect(form, credentials)).encode())

            def answer(self, body: bytes) -> None:
                issuer.paths.append(self.path)
                issuer.is_open.wait(30)
                self.send_response(issuer.status)
                for name, value in issuer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                """Nothing to say."""

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True

        return Handler


@contextmanager
def running_jwks_server(*keys: Signer) -> Iterator[JwksServer]:
    """The server for the length of the block, publishing `keys` at first."""
    server = JwksServer(*keys)
    thread = threading.Thread(
        target=server._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.is_open.set()
        server._server.shutdown()
        server._server.server_close()
        thread.join()
