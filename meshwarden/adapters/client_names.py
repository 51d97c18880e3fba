"""Which clients may call: those whose verified certificate holds a name that the settings give.

grpc.aio has no say in a handshake, so the connection stands and each call on it is refused with
UNAUTHENTICATED before its message is read, on whatever method. Which CA signs clients, and whether
they need a certificate at all, is TLS' business. A name's `*` stands for one whole first label
(RFC 6125, 6.4.3); a certificate's common name counts for nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

import grpc
from grpc import aio

REFUSAL = "the client's certificate does not hold the name that is wanted"
_BY_KIND = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def names_of(certificate: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """The names in a peer's certificate, as Python's ssl shows it, under gRPC's names for them."""
    kinds = {"DNS": "peer_dns", "URI": "peer_uri", "IP Address": "peer_ip"}
    found: dict[str, list[bytes]] = {}
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in kinds:
            found.setdefault(kinds[kind], []).append(str(name).encode())
    return found


def holds_name(certificate: Mapping[str, Iterable[bytes]], wanted: str) -> bool:
    """Whether a peer's certificate, as gRPC's `auth_context` shows it, holds `wanted`: a DNS name,
    an address or a URI.
    """

    def held(kind: str) -> list[str]:
        return [name.decode("utf-8", "replace") for name in certificate.get(f"peer_{kind}", ())]

    if "://" in wanted:
        return wanted in held("uri")
    try:
        address = ip_address(wanted.removeprefix("[").removesuffix("]"))
    except ValueError:
        return any(_is_named(wanted, name) for name in held("dns"))
    return any(address == ip_address(name) for name in held("ip"))


def _is_named(wanted: str, name: str) -> bool:
    wanted, name = wanted.lower().removesuffix("."), name.lower().removesuffix(".")
    first, _, rest = wanted.partition(".")
    star, _, domain = name.partition(".")
    return wanted == name or (star == "*" and bool(first and domain) and rest == domain)


class OnlyClientsNamed(aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses every call of a client whose certificate does not hold `wanted`."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind, make = _BY_KIND[handler.request_streaming, handler.response_streaming]
        return make(
            self._guarded(getattr(handler, kind)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, behaviour: Any) -> Any:
        """`behaviour` behind the question; of its own kind, by which grpc.aio runs it."""
        if inspect.iscoroutinefunction(behaviour):

            async def answer(request: Any, context: Any) -> Any:
                if not holds_name(context.auth_context(), self._wanted):
                    await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
                return await behaviour(request, context)

            return answer

        # What is left in our servers is reflection, a generator: grpc.aio runs it in a thread.
        def stream(request: Any, context: Any) -> Any:
            if not holds_name(context.auth_context(), self._wanted):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
            yield from behaviour(request, context)

        return stream
