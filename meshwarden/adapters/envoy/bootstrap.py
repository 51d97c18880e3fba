"""The whole bootstrap document, and how it is written.

Here stand the parts that belong to the process: admin, overload manager, runtime.
"""

from __future__ import annotations

from typing import Any, cast

import yaml
from betterproto2 import Casing, Message
from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap_v3
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.overload import v3 as overload
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import (
    v3 as downstream_connections,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap import v3 as fixed_heap

from meshwarden.adapters.envoy.clusters import clusters
from meshwarden.adapters.envoy.listener import LISTENER, listener
from meshwarden.adapters.envoy.newer_fields import add_newer_fields
from meshwarden.adapters.envoy.options import EnvoyOptions
from meshwarden.adapters.envoy.typed import address, packed, seconds, struct

HEAP = "envoy.resource_monitors.fixed_heap"
CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
HEADER = "# Rendered by `meshwarden render envoy`. Edit the options, not this file.\n"


def bootstrap(options: EnvoyOptions) -> dict[str, Any]:
    """The bootstrap document for a stock Envoy 1.40, in plain values, field names as in the API."""
    message = bootstrap_v3.Bootstrap(
        # Envoy's flags --service-node and --service-cluster win; SDS needs some value.
        node=core.Node(id=options.server_name, cluster=options.server_name)
        if options.services_tls_secrets_folder
        else None,
        admin=bootstrap_v3.Admin(
            address=address(options.admin_address, options.admin_port),
            ignore_global_conn_limit=True,
        ),
        overload_manager=_overload_manager(options),
        layered_runtime=_runtime(options),
        static_resources=bootstrap_v3.BootstrapStaticResources(
            listeners=[listener(options)], clusters=clusters(options)
        ),
    )
    document = message.to_dict(casing=Casing.SNAKE)
    add_newer_fields(document)
    return cast("dict[str, Any]", whole_numbers(document))


def to_yaml(document: dict[str, Any]) -> str:
    """The document as YAML text; the same text for the same document."""
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=100)


def whole_numbers(value: Any) -> Any:
    """The same value with 503 where protobuf, which has only floats in a Struct, says 503.0."""
    if isinstance(value, dict):
        return {key: whole_numbers(child) for key, child in value.items()}
    if isinstance(value, list):
        return [whole_numbers(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _overload_manager(options: EnvoyOptions) -> overload.OverloadManager:
    """Envoy's page on edge proxies: shrink at 95 % of the heap, refuse requests at 98 %."""
    heap = fixed_heap.FixedHeapConfig(max_heap_size_bytes=options.heap_bytes_at_most)
    connections = downstream_connections.DownstreamConnectionsConfig(
        max_active_downstream_connections=options.connections_at_most
    )
    return overload.OverloadManager(
        refresh_interval=seconds(0.25),
        resource_monitors=[_monitor(HEAP, heap), _monitor(CONNECTIONS, connections)],
        actions=[
            _action("envoy.overload_actions.shrink_heap", 0.95),
            _action("envoy.overload_actions.stop_accepting_requests", 0.98),
        ],
    )


def _monitor(name: str, config: Message) -> overload.ResourceMonitor:
    return overload.ResourceMonitor(name=name, typed_config=packed(config))


def _action(name: str, share_of_heap: float) -> overload.OverloadAction:
    threshold = overload.ThresholdTrigger(value=share_of_heap)
    return overload.OverloadAction(
        name=name, triggers=[overload.Trigger(name=HEAP, threshold=threshold)]
    )


def _runtime(options: EnvoyOptions) -> bootstrap_v3.LayeredRuntime:
    limit = f"envoy.resource_limits.listener.{LISTENER}.connection_limit"
    return bootstrap_v3.LayeredRuntime(
        layers=[
            bootstrap_v3.RuntimeLayer(
                name="edge",
                static_layer=struct({limit: options.listener_connections_at_most}),
            ),
            bootstrap_v3.RuntimeLayer(
                name="operator", admin_layer=bootstrap_v3.RuntimeLayerAdminLayer()
            ),
        ]
    )
