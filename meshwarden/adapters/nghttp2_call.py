"""One call on a connection of libnghttp2: what its headers say, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

import grpc

from meshwarden.adapters import grpc_calls
from meshwarden.adapters import nghttp2_library as h2
from meshwarden.adapters.grpc_calls import Calls, Method
from meshwarden.adapters.grpc_framing import ACCEPTED_ENCODINGS, CallMetadata, Message, seconds_of

_Code = grpc.StatusCode
_PLAIN = " !\"#$&'()*+,/:;<=>?@[]^`{|}"
"""What a status' words hold as they are, besides letters and digits; the rest as %XX."""

Headers = list[tuple[bytes, bytes]]
Refusal = tuple[grpc.StatusCode, str]
"""A status and its words."""

NO_GRPC = (_Code.UNKNOWN, "")
"""Who asks does not speak gRPC: HTTP's 415."""
WORDS_FOR_NO_GRPC = b"this port speaks gRPC alone\n"
NO_SUCH_METHOD = (_Code.UNIMPLEMENTED, "there is no such method")
TOO_MANY_CALLS = (_Code.RESOURCE_EXHAUSTED, grpc_calls.TOO_MANY_CALLS)
TOO_MUCH_METADATA = (_Code.RESOURCE_EXHAUSTED, "more metadata than is allowed")


class Call:
    """`refusal`: what it ends with, whatever its message says. `is_taken`: it has what it needs
    to be answered; `is_counted`: it is in flight; `is_half_closed`: nothing more comes.
    """

    __slots__ = (
        "answer", "began", "encoding", "is_counted", "is_half_closed", "is_overload", "is_taken",
        "message", "metadata", "method", "opened", "refusal", "seen", "sent", "stream_id",
        "task", "timeout",
    )  # fmt: skip

    def __init__(self, stream_id: int, headers: Headers, opened: float) -> None:
        self.stream_id = stream_id
        self.metadata = CallMetadata(headers)
        self.opened = opened
        self.began = 0.0
        self.method: Method | None = None
        self.message: Message | None = None
        self.encoding = b""
        self.timeout: float | None = None
        self.refusal: Refusal | None = None
        self.is_counted = self.is_half_closed = self.is_overload = self.is_taken = False
        self.answer: bytes | None = None
        self.seen = self.sent = 0
        self.task: asyncio.Task[None] | None = None

    def read_headers(self, methods: Mapping[bytes, Method]) -> Refusal | None:
        """Find the method, the deadline and the encoding; what is wrong with them."""
        headers = dict(self.metadata.headers)
        kind = headers.get(b"content-type", b"")
        if headers.get(b":method") != b"POST" or not kind.startswith(b"application/grpc"):
            return NO_GRPC
        self.method = methods.get(headers.get(b":path", b""))
        self.encoding = headers.get(b"grpc-encoding", b"")
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            self.timeout = seconds_of(timeout)
        return None if self.method is not None else NO_SUCH_METHOD

    def end(self, calls: Calls, code: str) -> bool:
        """Count it as no longer in flight; whether it was."""
        if not self.is_counted or self.method is None:
            return False
        self.is_counted = False
        calls.end(self.method.path, code, self.began)
        return True

    def time_left(self, now: float) -> float | None:
        """Seconds until the caller's deadline; None: it has none."""
        return None if self.timeout is None else max(0.0, self.timeout - (now - self.opened))

    def has_brought_bytes(self) -> bool:
        """Whether bytes of the message came since this was asked last."""
        size = self.message.size if self.message is not None else 0
        before, self.seen = self.seen, size
        return size > before

    def next_bytes(self, at_most: int) -> tuple[bytes, int]:
        """The next bytes of the answer, and the library's flags for them."""
        assert self.answer is not None  # noqa: S101 - it was submitted with one.
        chunk = self.answer[self.sent : self.sent + at_most]
        self.sent += len(chunk)
        if self.sent < len(self.answer):
            return chunk, 0
        # Trailers follow a message; the words for what is no gRPC are all.
        return chunk, h2.DATA_FLAG_EOF | (0 if self.refusal else h2.DATA_FLAG_NO_END_STREAM)

    @property
    def is_sent(self) -> bool:
        """Whether nothing of the answer waits to be sent."""
        return self.answer is None or self.sent == len(self.answer)


def headers_of(refusal: Refusal) -> Headers:
    """What is sent in place of an answer."""
    code, words = refusal
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", str(code.value[0]).encode()),
        (b"grpc-message", quote(words, safe=_PLAIN).encode()),
        (b"grpc-accept-encoding", ACCEPTED_ENCODINGS),
    ]
