"""The one table that maps a fault to gRPC and HTTP status."""

from __future__ import annotations

import grpc

from meshwarden.core.faults import Fault, InvalidInput, Misconfigured, Unavailable

_STATUS: dict[type[Fault], tuple[grpc.StatusCode, int]] = {
    InvalidInput: (grpc.StatusCode.INVALID_ARGUMENT, 400),
    Unavailable: (grpc.StatusCode.UNAVAILABLE, 503),
    Misconfigured: (grpc.StatusCode.FAILED_PRECONDITION, 500),
}


def grpc_status(fault: Fault) -> grpc.StatusCode:
    """The gRPC status code of `fault`."""
    return next(
        (code for kind, (code, _) in _STATUS.items() if isinstance(fault, kind)),
        grpc.StatusCode.INTERNAL,
    )


def http_status(fault: Fault) -> int:
    """The HTTP status code of `fault`."""
    return next((code for kind, (_, code) in _STATUS.items() if isinstance(fault, kind)), 500)
