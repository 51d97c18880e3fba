"""Requests that no HTTP library would send, byte for byte, over HTTP/1.1 and HTTP/2.

Sends and reads; what an answer should be is the tests' business.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset

CLOSED = 0
"""In place of a status: the connection was closed, or the stream reset, without an answer."""


@dataclass(frozen=True)
class Answer:
    """Status and content of an answer; `str` of it is the status and the reason in a problem."""

    status: int
    content: bytes = b""

    def __str__(self) -> str:
        if self.status == CLOSED:
            return "closed"
        try:
            reason = json.loads(self.content)["reason"]
        except (ValueError, TypeError, KeyError):
            return str(self.status)
        return f"{self.status} {reason}"


def _connected(gateway: str) -> socket.socket:
    host, port = gateway.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def exchange(gateway: str, content: bytes) -> Answer:
    """The first answer to these bytes. Two requests in one are sent together; the connection is
    then closed from our side.
    """
    with _connected(gateway) as connection:
        connection.sendall(content)
        try:
            method = content.partition(b" ")[0].decode("latin-1")
            with HTTPResponse(connection, method=method) as answer:
                answer.begin()
                return Answer(answer.status, answer.read())
        except (HTTPException, OSError):
            return Answer(CLOSED)


def request(line: str, *headers: str, host: str = "", body: bytes = b"") -> bytes:
    """An HTTP/1.1 request of these lines; no `host`: no Host line but those in `headers`."""
    lines = [line, *([f"host: {host}"] if host else []), "connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def exchange_h2(gateway: str, headers: Sequence[tuple[str, str]]) -> Answer:
    """The answer to one HTTP/2 request of these header fields, which nothing checks or changes."""
    settings = H2Configuration(
        header_encoding="latin-1",
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    connection = H2Connection(settings)
    connection.initiate_connection()
    connection.send_headers(1, list(headers), end_stream=True)
    status, content = CLOSED, b""
    with _connected(gateway) as stream, suppress(OSError):
        stream.sendall(connection.data_to_send())
        while received := stream.recv(65536):
            for event in connection.receive_data(received):
                if isinstance(event, ResponseReceived):
                    found = dict(event.headers or [])
                    status = int(found.get(":status") or found[b":status"])
                elif isinstance(event, DataReceived):
                    content += event.data or b""
                elif isinstance(event, (StreamEnded, StreamReset, ConnectionTerminated)):
                    return Answer(status, content)
    return Answer(status, content)
