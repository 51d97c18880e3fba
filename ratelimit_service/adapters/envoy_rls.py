"""Envoy's rate limit API in and out: bytes -> descriptors -> decision -> bytes.

Decides nothing. Source: `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`. Faults map
as in the reference: a request that can't be answered, no configuration yet, or counters that can't
be reached end the call with UNKNOWN and their words; bytes or units that mean nothing end it with
INVALID_ARGUMENT.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import lru_cache
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from meshwarden.adapters.grpc_calls import GrpcFailure, Metadata, Method
from meshwarden.adapters.protobuf import message_class, pool
from meshwarden.core.faults import InvalidInput, Unavailable
from ratelimit_service.adapters.limiter import Limiter
from ratelimit_service.core.model import (
    Decision,
    Descriptor,
    DescriptorSet,
    Entry,
    Override,
    Status,
    UnanswerableRequest,
)

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
GRPC_UNKNOWN = 2
STATUSES_KEPT = 16_384

_Shown = tuple[int, int, int, str, int, int]


class ShouldRateLimit:
    """The gRPC method."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._request = message_class("envoy.service.ratelimit.v3.RateLimitRequest")

    def method(self) -> Method:
        """As the gRPC server takes it; overloaded, Envoy's failure mode decides."""
        return Method(METHOD, self.answer)

    def answer(self, message: bytes, metadata: Metadata) -> bytes | Awaitable[bytes]:
        """The response to one request. Raises `GrpcFailure` or `InvalidInput`."""
        del metadata
        try:
            request = self._request.FromString(message)
        except DecodeError:
            raise InvalidInput("the message is not a RateLimitRequest") from None
        try:
            decision = self._limiter.decide(decoded(request))
        except (UnanswerableRequest, Unavailable) as fault:
            raise GrpcFailure(GRPC_UNKNOWN, str(fault)) from None
        if isinstance(decision, Decision):
            return encoded(decision)
        return self._awaited(decision)

    async def _awaited(self, decision: Awaitable[Decision]) -> bytes:
        try:
            return encoded(await decision)
        except Unavailable as fault:
            raise GrpcFailure(GRPC_UNKNOWN, str(fault)) from None


def decoded(request: Any) -> DescriptorSet:
    """A `RateLimitRequest` as the core takes it."""
    return DescriptorSet(
        request.domain,
        tuple([_descriptor(descriptor) for descriptor in request.descriptors]),
        request.hits_addend,
    )


def decoded_json(content: bytes) -> DescriptorSet:
    """A `RateLimitRequest` as protobuf JSON. Raises `InvalidInput` with the parser's words."""
    message = message_class("envoy.service.ratelimit.v3.RateLimitRequest")()
    try:
        json_format.Parse(content, message, descriptor_pool=pool())
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(str(error)) from None
    return decoded(message)


def _descriptor(descriptor: Any) -> Descriptor:
    override = None
    if descriptor.HasField("limit"):
        override = Override(descriptor.limit.requests_per_unit, descriptor.limit.unit)
    return Descriptor(
        tuple([Entry(entry.key, entry.value) for entry in descriptor.entries]),
        override,
        descriptor.hits_addend.value if descriptor.HasField("hits_addend") else None,
        descriptor.is_negative_hits,
    )


def encoded(decision: Decision) -> bytes:
    """The decision as bytes of a `RateLimitResponse`: those of its fields, one after the other
    (https://protobuf.dev/programming-guides/encoding/#order); frequent statuses are kept.
    """
    fields = [_encoded_code(decision.code)]
    fields += [_encoded_status(_shown(status)) for status in decision.statuses]
    if decision.headers or decision.metadata is not None:
        fields.append(_response(0, (), decision).SerializeToString())
    return b"".join(fields)


def response(decision: Decision) -> Any:
    """The decision as a `RateLimitResponse`."""
    return _response(decision.code, tuple(map(_shown, decision.statuses)), decision)


def _shown(status: Status) -> _Shown:
    """What of a status is shown: code, limit (number, unit, name), remaining, reset."""
    code, limit, remaining, reset_seconds = status[:4]
    if limit is None:
        return (code, 0, 0, "", remaining, 0)
    return (code, limit.requests_per_unit, limit.unit, limit.name, remaining, reset_seconds)


@lru_cache
def _encoded_code(code: int) -> bytes:
    return bytes(_response(code, (), None).SerializeToString())


@lru_cache(maxsize=STATUSES_KEPT)
def _encoded_status(shown: _Shown) -> bytes:
    return bytes(_response(0, (shown,), None).SerializeToString())


def _response(code: int, shown: tuple[_Shown, ...], decision: Decision | None) -> Any:
    message = message_class("envoy.service.ratelimit.v3.RateLimitResponse")(overall_code=code)
    for status_code, requests_per_unit, unit, name, remaining, reset_seconds in shown:
        status = message.statuses.add(code=status_code, limit_remaining=remaining)
        if unit:
            status.current_limit.requests_per_unit = requests_per_unit
            status.current_limit.unit = unit
            status.current_limit.name = name
            status.duration_until_reset.seconds = reset_seconds
    if decision is not None:
        for header, value in decision.headers:
            message.response_headers_to_add.add(key=header, value=value)
        if decision.metadata is not None:
            message.dynamic_metadata.update(dict(decision.metadata))
    return message
