"""What the connections of one port on libnghttp2 share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from meshwarden.adapters.grpc_calls import Calls, Method
from meshwarden.adapters.nghttp2_session import Http2
from meshwarden.adapters.settings import GrpcSettings
from meshwarden.adapters.telemetry import Tally


class Client(Enum):
    """What a client may do."""

    MAY_CALL = auto()
    IS_NOT_NAMED = auto()
    """Its certificate does not hold the name that the settings want: each call is refused."""
    SPEAKS_NO_HTTP2 = auto()


@dataclass(frozen=True)
class Shared:
    """What the connections of one port share.

    `judge` says what a new client may do; `remember` and `forget` are told of a connection that
    stands, and that is gone; `cut` counts those that were ended, by reason.
    """

    http2: Http2
    settings: GrpcSettings
    methods: Mapping[bytes, Method]
    calls: Calls
    clock: Callable[[], float]
    judge: Callable[[asyncio.BaseTransport], Client]
    cut: Tally
    remember: Callable[[Any], None]
    forget: Callable[[Any], None]
