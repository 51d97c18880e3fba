"""One call on a connection of libnghttp2: what its headers say, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from meshwarden.adapters import nghttp2_library as h2
from meshwarden.adapters.grpc_calls import Calls, Method
from meshwarden.adapters.grpc_framing import CallMetadata, Message, seconds_of
from meshwarden.adapters.grpc_refusals import NO_GRPC, NO_SUCH_METHOD, Refusal
from meshwarden.adapters.nghttp2_session import Headers


class Call:
    """`refusal`: what it ends with, whatever its message says. `is_taken`: it has what it needs
    to be answered; `is_counted`: it is in flight; `is_half_closed`: nothing more comes.
    `counted_as` stands in the figures in place of its status.
    """

    __slots__ = (
        "answer", "began", "counted_as", "deadline", "encoding", "is_counted", "is_half_closed",
        "is_taken", "message", "metadata", "method", "opened", "refusal", "seen", "sent",
        "stream_id", "task", "timeout",
    )  # fmt: skip

    def __init__(self, stream_id: int, headers: Headers, opened: float) -> None:
        self.stream_id = stream_id
        self.metadata = CallMetadata(headers)
        self.opened = opened
        self.began = 0.0
        self.method: Method | None = None
        self.message: Message | None = None
        self.encoding = b""
        self.counted_as = ""
        self.timeout: float | None = None
        self.refusal: Refusal | None = None
        self.is_counted = self.is_half_closed = self.is_taken = False
        self.answer: bytes | None = None
        self.seen = self.sent = 0
        self.task: asyncio.Future[bytes] | None = None
        self.deadline: asyncio.TimerHandle | None = None

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
        """Count it as no longer in flight, and wait for nothing; whether it was."""
        self.task = None
        if self.deadline is not None:
            self.deadline.cancel()
        if not self.is_counted or self.method is None:
            return False
        self.is_counted = False
        calls.end(self.method.path, self.counted_as or code, self.began)
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
