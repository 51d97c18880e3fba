"""gRPC's own framing over HTTP/2: the five bytes before a message, the deadline, the metadata.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, overload

from meshwarden.adapters.grpc_calls import GrpcFailure

PREFIX = 5
ACCEPTED_ENCODINGS = b"identity,gzip"

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_GZIP = 31
"""zlib's window bits of a gzip stream."""
_OF_THE_TRANSPORT = frozenset({b"content-type", b"te"})


class Message:
    """The first message of a call, as its bytes come."""

    __slots__ = ("_at_most", "_bytes", "size")

    def __init__(self, bytes_at_most: int) -> None:
        self._at_most = bytes_at_most
        self._bytes: bytes | bytearray = b""
        self.size = 0

    def add(self, data: bytes) -> bool:
        """Take the bytes; whether the message is whole now. Raises `GrpcFailure` when it is to be
        larger than it may.
        """
        self.size += len(data)
        if not self._bytes:
            self._bytes = data
        else:
            if isinstance(self._bytes, bytes):
                self._bytes = bytearray(self._bytes)
            self._bytes += data
        held = self._bytes
        if len(held) < PREFIX:
            return False
        length = int.from_bytes(held[1:PREFIX])
        if length > self._at_most:
            raise _too_large(length, self._at_most)
        return len(held) >= PREFIX + length

    def taken(self, encoding: bytes) -> bytes:
        """The whole message, unpacked; it is kept no longer. Raises `GrpcFailure`."""
        held, self._bytes = self._bytes, b""
        end = PREFIX + int.from_bytes(held[1:PREFIX])
        body = bytes(held[PREFIX:end])
        if held[0] == 0:
            return body
        if held[0] != 1:
            raise GrpcFailure(13, f"a message can't be of kind {held[0]}")
        return _unpacked(body, encoding, self._at_most)


def framed(message: bytes) -> bytes:
    """The message as it is sent."""
    return b"\0" + len(message).to_bytes(4) + message


def seconds_of(timeout: bytes) -> float | None:
    """What a `grpc-timeout` header means; None: it means nothing."""
    found = _TIMEOUT.fullmatch(timeout)
    return int(found[1]) * _SECONDS[found[2]] if found else None


class CallMetadata(Sequence[tuple[str, str | bytes]]):
    """The metadata among a call's headers, decoded when somebody looks; the values of names that
    end in `-bin` as bytes, what is no base64 left out.
    """

    __slots__ = ("_found", "headers")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.headers = headers
        self._found: list[tuple[str, str | bytes]] | None = None

    @overload
    def __getitem__(self, place: int) -> tuple[str, str | bytes]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[tuple[str, str | bytes]]: ...
    def __getitem__(self, place: int | slice) -> Any:
        return self._all()[place]

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> list[tuple[str, str | bytes]]:
        if self._found is None:
            self._found = list(_decoded(self.headers))
        return self._found


def _decoded(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[str, str | bytes]]:
    for name, value in headers:
        if name in _OF_THE_TRANSPORT or name.startswith((b":", b"grpc-")):
            continue
        key = name.decode("latin-1")
        if not name.endswith(b"-bin"):
            yield key, value.decode("latin-1")
            continue
        for part in value.split(b","):
            with suppress(binascii.Error):
                yield key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)


def _unpacked(body: bytes, encoding: bytes, at_most: int) -> bytes:
    if encoding != b"gzip":
        told = encoding.decode("latin-1") or "nothing"
        raise GrpcFailure(12, f"a message packed with {told} can't be read; gzip can")
    unpacking = zlib.decompressobj(_GZIP)
    try:
        message = unpacking.decompress(body, at_most + 1)
    except zlib.error:
        raise GrpcFailure(13, "a message is not packed as it says") from None
    if len(message) > at_most:
        raise _too_large(len(message), at_most)
    return message


def _too_large(length: int, at_most: int) -> GrpcFailure:
    return GrpcFailure(8, f"a message of {length} bytes is larger than {at_most}")
