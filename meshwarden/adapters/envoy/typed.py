"""Small conversions into Envoy's API types, shared by the builders beside it."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any as AnyValue

from betterproto2 import Message
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.type import v3 as kinds
from envoy_data_plane.google.protobuf import Any, Struct


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def packed(message: Message) -> Any:
    """The message as a `typed_config`, its `@type` with it."""
    return Any.pack(message)


def struct(fields: dict[str, AnyValue]) -> Struct:
    result: Struct = Struct.from_dict(fields)
    return result


def address(host: str, port: int) -> core.Address:
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=port))


def is_ip_address(host: str) -> bool:
    """Whether `host` needs no DNS."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def always(runtime_key: str) -> core.RuntimeFractionalPercent:
    """A hundred per cent, until an operator says otherwise under `runtime_key`."""
    return core.RuntimeFractionalPercent(
        default_value=kinds.FractionalPercent(numerator=100), runtime_key=runtime_key
    )


def header(name: str, value: str) -> core.HeaderValueOption:
    """A header that replaces whatever stands under its name."""
    return core.HeaderValueOption(
        header=core.HeaderValue(key=name, value=value),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
