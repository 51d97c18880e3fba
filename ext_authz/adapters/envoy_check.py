"""`envoy.service.auth.v3.Authorization/Check`: CheckRequest bytes -> decide -> CheckResponse bytes.

A denial is in-band: a response with `denied_response` and a status that is not OK, built in one
place, so that OK never stands beside a denial. A gRPC error ends a call whose bytes are no
CheckRequest, and one whose verdict is a fault of ours, unless a setting answers that with
`error_response`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from ext_authz.core.answers import is_grpc, qualified_principal, shown
from ext_authz.core.engine import decide
from ext_authz.core.keys import Keys
from ext_authz.core.known import NO_ANSWERS
from ext_authz.core.lookups import FAILED, Answers, Lookup
from ext_authz.core.model import Append, Reason, Request, Verdict
from ext_authz.core.policies import PolicySet
from meshwarden.adapters.grpc_calls import Metadata
from meshwarden.adapters.protobuf import message_class
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import InvalidInput, Unavailable

CHECK = "/envoy.service.auth.v3.Authorization/Check"

_GRPC_OK, _GRPC_RESOURCE_EXHAUSTED, _GRPC_PERMISSION_DENIED, _GRPC_UNAUTHENTICATED = 0, 8, 7, 16
_STATUS_CODES = {
    401: _GRPC_UNAUTHENTICATED,
    429: _GRPC_RESOURCE_EXHAUSTED,
    431: _GRPC_RESOURCE_EXHAUSTED,
    503: _GRPC_RESOURCE_EXHAUSTED,
}

CheckRequest = message_class("envoy.service.auth.v3.CheckRequest")
CheckResponse = message_class("envoy.service.auth.v3.CheckResponse")

Ask = Callable[[Lookup], Awaitable[object]]
"""Asks what a verdict lacks. Raises `Unavailable` where nobody answers."""

NOTHING: Mapping[str, str] = {}
LOOKUPS_AT_MOST = 8
"""For one request."""


class Check:
    """The handler of the method, over the current policies and keys.

    `policies` is None until the first configuration: every request is then denied, in-band. A
    request that lacks something waits for it, `lookup_wait_seconds` at most in sum: were Envoy's
    patience shorter, the call would be an error, which its failure mode may allow.
    """

    def __init__(
        self,
        keys: Keys,
        ask: Ask,
        *,
        metrics: Metrics,
        lookup_wait_seconds: float = 0.1,
        answers_faults: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policies: PolicySet | None = None
        self._keys = keys
        self._ask = ask
        self._lookup_wait_seconds = lookup_wait_seconds
        self._answers_faults = answers_faults
        self._clock = clock
        self._verdicts = metrics.tally(
            "ext_authz_verdicts", "Decisions by verdict and reason.", ["verdict", "reason"]
        )
        self._failed = metrics.tally(
            "ext_authz_failed_conditions",
            "Conditions that failed while they ran, by policy and rule.",
            ["policy", "rule"],
        )
        self._seconds = metrics.durations(
            "ext_authz_decision_seconds", "Seconds from bytes to bytes."
        )

    def handle(self, message: bytes, _metadata: Metadata) -> bytes | Awaitable[bytes]:
        """The answer: at once when everything needed is in memory, else after bounded look-ups.

        Raises `Unavailable` for a verdict that is a fault of ours, unless those are answered.
        """
        began = time.perf_counter()
        request = decode(message)
        verdict = self._decide(request, NO_ANSWERS)
        if verdict.lookup is not None and request is not None:
            return self._after_lookups(request, verdict, began)
        return self._answer(verdict, began, request)

    def overloaded(self) -> bytes:
        """The answer when too many calls are in flight: a denial, so that no flood switches us
        off.
        """
        return self._answer(OVERLOADED, time.perf_counter())

    def _decide(self, request: Request | None, answers: Answers) -> Verdict:
        if request is None:
            return NOT_HTTP
        if self.policies is None:
            return NOT_READY
        return decide(request, self.policies, self._keys, self._clock(), answers)

    async def _after_lookups(self, request: Request, verdict: Verdict, began: float) -> bytes:
        answers: dict[Lookup, object] = {}
        deadline = asyncio.get_running_loop().time() + self._lookup_wait_seconds
        while verdict.lookup is not None and len(answers) < LOOKUPS_AT_MOST:
            try:
                async with asyncio.timeout_at(deadline):
                    answers[verdict.lookup] = await self._ask(verdict.lookup)
            except (TimeoutError, Unavailable):
                answers[verdict.lookup] = FAILED
            verdict = self._decide(request, answers)
        return self._answer(verdict, began, request)

    def _answer(self, verdict: Verdict, began: float, request: Request | None = None) -> bytes:
        told = "fault" if verdict.is_fault else "allowed" if verdict.is_allowed else "denied"
        self._verdicts.add(told, verdict.reason)
        for rule in verdict.failed_conditions:
            self._failed.add(verdict.policy, rule)
        if verdict.is_fault and not self._answers_faults:
            raise Unavailable(f"{verdict.reason}: {verdict.detail}")
        encoded = encode(verdict, to_grpc=request is not None and is_grpc(request))
        self._seconds.add(time.perf_counter() - began)
        return encoded


def _denial(status: int, reason: Reason, detail: str) -> Verdict:
    return Verdict(is_allowed=False, reason=reason, status=status, detail=detail)


OVERLOADED = _denial(503, Reason.OVERLOADED, "too many requests are being decided; try again")
NOT_READY = _denial(503, Reason.NOT_READY, "no configuration is loaded yet")
NOT_HTTP = _denial(403, Reason.NOT_HTTP, "only HTTP requests can be decided")


def decode(message: bytes) -> Request | None:
    """The request in a CheckRequest; None when it describes no HTTP request (Istio's network
    filter).

    Raises `InvalidInput` for bytes that are no CheckRequest.
    """
    try:
        attributes = CheckRequest.FromString(message).attributes
    except DecodeError:
        raise InvalidInput("the message is not an envoy.service.auth.v3.CheckRequest") from None
    if not attributes.request.HasField("http"):
        return None
    http = attributes.request.http
    headers, count = _headers(http)
    return Request(
        method=http.method,
        host=http.host,
        target=http.path,
        headers=headers,
        header_count=count,
        source_address=attributes.source.address.socket_address.address,
        source_principal=attributes.source.principal,
        source_certificate=attributes.source.certificate,
        scheme=http.scheme,
        body=http.raw_body or http.body.encode(),
        context=dict(attributes.context_extensions) if attributes.context_extensions else NOTHING,
    )


def _headers(http: Any) -> tuple[dict[str, str], int]:
    """Headers by name, repeated ones merged with a comma, and how many lines there were where Envoy
    tells (`encode_raw_headers`)."""
    raw = http.header_map.headers
    if not raw:
        return _merged(http.headers.items()), 0
    pairs = (
        (line.key, line.raw_value.decode("utf-8", "replace") if line.raw_value else line.value)
        for line in raw
    )
    return _merged(pairs), len(raw)


def _merged(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Header lines by their name in lower case, those of one name joined, pseudo-headers left
    out.
    """
    headers: dict[str, str] = {}
    for written, value in lines:
        name = written.lower()
        if name[:1] == ":":
            continue
        if name in headers:
            separator = "; " if name == "cookie" else ","
            value = f"{headers[name]}{separator}{value}"  # noqa: PLW2901 - one value so far
        headers[name] = value
    return headers


def trace_headers(message: bytes) -> Mapping[str, str]:
    """The headers of the request in a CheckRequest, for the caller's `traceparent`."""
    request = decode(message)
    return {} if request is None else request.headers


def encode(verdict: Verdict, *, to_grpc: bool = False) -> bytes:
    """The CheckResponse of a verdict; the one place where status and response are paired."""
    response = CheckResponse()
    fields = response.dynamic_metadata.fields
    fields["reason"].string_value = verdict.reason
    fields["principal"].string_value = qualified_principal(verdict)
    if verdict.principal.subject:
        fields["subject"].string_value = verdict.principal.subject
    if verdict.policy:
        fields["policy"].string_value = verdict.policy
    if verdict.rule:
        fields["rule"].string_value = verdict.rule
    for name, value in verdict.metadata:
        fields[name].string_value = value
    if verdict.is_allowed:
        _encode_allowed(response, verdict)
    else:
        response.status.code = _STATUS_CODES.get(verdict.status, _GRPC_PERMISSION_DENIED)
        denied = response.error_response if verdict.is_fault else response.denied_response
        _encode_denied(denied, verdict, to_grpc=to_grpc)
    return bytes(response.SerializeToString())


def _encode_allowed(response: Any, verdict: Verdict) -> None:
    response.status.code = _GRPC_OK
    allowed = response.ok_response
    for mutation in verdict.headers:
        option = _set_header(allowed.headers, mutation.name, mutation.value, mutation.append)
        # The deprecated field, too: on the way up Envoy obeys it alone (1.40, tried).
        option.append.value = mutation.append is Append.APPEND_IF_EXISTS_OR_ADD
    for mutation in verdict.response_headers:
        added = allowed.response_headers_to_add
        _set_header(added, mutation.name, mutation.value, mutation.append)
    allowed.headers_to_remove.extend(verdict.headers_to_remove)
    for name, value in verdict.query_parameters_to_set:
        allowed.query_parameters_to_set.add(key=name, value=value)
    allowed.query_parameters_to_remove.extend(verdict.query_parameters_to_remove)


def _encode_denied(denied: Any, verdict: Verdict, *, to_grpc: bool) -> None:
    """Fill `denied`, a DeniedHttpResponse."""
    told = shown(verdict, to_grpc=to_grpc)
    denied.status.code, denied.body = told.status, told.body
    for name, value in told.headers.items():
        overwrite = Append.OVERWRITE_IF_EXISTS_OR_ADD
        _set_header(denied.headers, name, value, overwrite).append.value = False


def _set_header(options: Any, name: str, value: str, append: Append) -> Any:
    """One HeaderValueOption."""
    option = options.add()
    option.header.key, option.header.value = name, value
    option.append_action = append.value
    return option
