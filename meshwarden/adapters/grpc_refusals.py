"""How a call ends that gets no answer: a status and its words, and how they are sent."""

from __future__ import annotations

from urllib.parse import quote

import grpc

from meshwarden.adapters import client_names
from meshwarden.adapters.grpc_calls import GrpcFailure
from meshwarden.adapters.grpc_framing import ACCEPTED_ENCODINGS

_Code = grpc.StatusCode
_PLAIN = " !\"#$&'()*+,/:;<=>?@[]^`{|}"
"""What a status' words hold as they are, besides letters and digits; the rest as %XX."""

Refusal = tuple[grpc.StatusCode, str]
"""A status and its words."""

NO_GRPC = (_Code.UNKNOWN, "")
"""Who asks does not speak gRPC: HTTP's 415."""
WORDS_FOR_NO_GRPC = b"this port speaks gRPC alone\n"
NO_MESSAGE = (_Code.INVALID_ARGUMENT, "the call has no message")
NO_MESSAGE_IN_TIME = (_Code.DEADLINE_EXCEEDED, "no message came in time")
NO_SUCH_METHOD = (_Code.UNIMPLEMENTED, "there is no such method")
NOT_NAMED = (_Code.UNAUTHENTICATED, client_names.REFUSAL)
TOO_MANY_CALLS = (_Code.RESOURCE_EXHAUSTED, "too many calls in flight")
GIVEN_UP = (_Code.CANCELLED, "the handler gave up")
OUT_OF_TIME = (_Code.DEADLINE_EXCEEDED, "the caller's time is over")
TOO_MUCH_METADATA = (_Code.RESOURCE_EXHAUSTED, "more metadata than is allowed")


def failure(refusal: Refusal) -> GrpcFailure:
    """It, to be raised."""
    return GrpcFailure(refusal[0].value[0], refusal[1])


def headers_of(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """What is sent in place of an answer."""
    code, words = refusal
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", str(code.value[0]).encode()),
        (b"grpc-message", quote(words, safe=_PLAIN).encode()),
        (b"grpc-accept-encoding", ACCEPTED_ENCODINGS),
    ]
