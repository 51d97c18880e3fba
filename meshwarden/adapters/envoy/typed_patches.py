"""What Envoy's own types say about the value of an EnvoyFilter's patch: `istioctl validate` takes
unknown fields.

Takes and gives plain values. Known weakness: it knows the fields of envoy-data-plane and
`newer_fields.py`, and no types of Istio's own; of several wrong values in one patch it tells the
first.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from betterproto2 import Message
from pydantic import PydanticDeprecatedSince212

from meshwarden.adapters.envoy.newer_fields import NEWER_FIELDS

APPLIED_TO = {
    "HTTP_FILTER": "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    "NETWORK_FILTER": "envoy.config.listener.v3.Filter",
    "LISTENER_FILTER": "envoy.config.listener.v3.ListenerFilter",
    "LISTENER": "envoy.config.listener.v3.Listener",
    "FILTER_CHAIN": "envoy.config.listener.v3.FilterChain",
    "ROUTE_CONFIGURATION": "envoy.config.route.v3.RouteConfiguration",
    "VIRTUAL_HOST": "envoy.config.route.v3.VirtualHost",
    "HTTP_ROUTE": "envoy.config.route.v3.Route",
    "CLUSTER": "envoy.config.cluster.v3.Cluster",
    "EXTENSION_CONFIG": "envoy.config.core.v3.TypedExtensionConfig",
    "BOOTSTRAP": "envoy.config.bootstrap.v3.Bootstrap",
}
FAULTS_AT_MOST = 20
_CHECKED = ("envoy.config.", "envoy.extensions.", "envoy.type.")
_UNKNOWN = re.compile(r"Unknown field '(\w+)' in message (\w+)")

Path = tuple[str | int, ...]
Fault = tuple[str, Path, str]


def typed_faults(applies_to: str, value: Any) -> Iterator[Fault]:
    """Everything in `value` that Envoy would not take: `type` or `field`, the path, what is wrong.

    `applies_to` is the patch's `applyTo`; an unknown one has no faults, nor has a patch without a
    value (REMOVE).
    """
    target = _message(APPLIED_TO.get(applies_to, ""))
    if target is None or not isinstance(value, dict):
        return
    rest = copy.deepcopy(value)
    for path, name in list(_types(rest)):
        if not name.startswith(_CHECKED):
            _remove(rest, path)  # Of Istio, or a TypedStruct, whose fields nobody knows here.
        elif _message(name) is None:
            _remove(rest, path)
            yield "type", (*path, "@type"), f"there is no type {name}"
    for _ in range(FAULTS_AT_MOST):
        refusal = _refusal(target, rest)
        if not refusal:
            return
        matched = _UNKNOWN.search(refusal)
        path = _place(target, rest, refusal, matched[1]) if matched else ()
        if matched is None or not path:
            yield "field", (), f"Envoy does not take it: {refusal}"
            return
        _remove(rest, path)
        if (matched[2], _snake(matched[1])) not in NEWER_FIELDS:
            yield "field", path, f"{matched[2]} has no field '{matched[1]}'"


def _refusal(target: type[Message], value: dict[str, Any]) -> str:
    """Why `value` is no such message; empty where it is."""
    try:
        target.from_dict(value)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        return str(error.args[0] if error.args else error).splitlines()[0]
    return ""


def _place(target: type[Message], value: dict[str, Any], refusal: str, field: str) -> Path:
    """Where the field stands that the refusal speaks of, of all places with that name."""
    paths = list(_named(value, field))
    for path in paths:
        without = copy.deepcopy(value)
        _remove(without, path)
        if _refusal(target, without) != refusal:
            return path
    return paths[0] if paths else ()


def _message(name: str) -> type[Message] | None:
    """The class of a full name; None where Envoy's API has none."""
    package, _, own = name.rpartition(".")
    if not package:
        return None
    with warnings.catch_warnings():
        # As in the package's `__init__`: other modules are loaded here.
        warnings.simplefilter("ignore", PydanticDeprecatedSince212)
        try:
            found = getattr(import_module(f"envoy_data_plane.{package}"), own, None)
        except ImportError:
            return None
    return found if isinstance(found, type) and issubclass(found, Message) else None


def _types(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every mapping with an `@type`, the innermost first, so that removing one keeps the paths of
    the others right.
    """
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _types(child, (*path, key))
        if isinstance(value.get("@type"), str):
            yield path, value["@type"].rpartition("/")[2]
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _types(child, (*path, index))


def _named(value: Any, field: str, path: Path = ()) -> Iterator[Path]:
    """Where a field of that name stands."""
    if isinstance(value, dict):
        for key, child in value.items():
            if key == field:
                yield (*path, key)
            else:
                yield from _named(child, field, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _named(child, field, (*path, index))


def _remove(value: Any, path: Path) -> None:
    if not path:
        value.clear()
        return
    for part in path[:-1]:
        value = value[part]
    if isinstance(value, dict):
        value.pop(path[-1], None)
    elif isinstance(path[-1], int):
        value[path[-1]] = {}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
