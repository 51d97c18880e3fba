"""The listener at the edge: what of a request is accepted at all, and in which form.

The reason for each value, line by line of Envoy's page on edge proxies, is in
`docs/explanation/edge_proxy.md`.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (
    v3 as early_header_mutation,
)
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from meshwarden.adapters.envoy.access_log import access_logs
from meshwarden.adapters.envoy.filters import http_filters
from meshwarden.adapters.envoy.local_replies import local_replies
from meshwarden.adapters.envoy.options import MEBIBYTE, EnvoyOptions
from meshwarden.adapters.envoy.routes import routes
from meshwarden.adapters.envoy.typed import address, packed, seconds

LISTENER = "edge"
CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
EARLY_HEADER_MUTATION = "envoy.http.early_header_mutation.header_mutation"


def listener(options: EnvoyOptions) -> listener_v3.Listener:
    """The only way in."""
    manager = listener_v3.Filter(
        name=CONNECTION_MANAGER, typed_config=packed(_connection_manager(options))
    )
    return listener_v3.Listener(
        name=LISTENER,
        address=address(options.listen_address, options.listen_port),
        per_connection_buffer_limit_bytes=options.buffer_bytes_at_most,
        filter_chains=[listener_v3.FilterChain(filters=[manager])],
    )


def _connection_manager(options: EnvoyOptions) -> hcm.HttpConnectionManager:
    result = accepted_requests(options)
    result.stat_prefix = LISTENER
    result.route_config = routes(options)
    result.http_filters = http_filters(options)
    result.access_log = access_logs()
    result.use_remote_address = True
    result.normalize_path = True
    result.merge_slashes = True
    result.server_name = options.server_name
    result.max_request_headers_kb = options.headers_kibibytes_at_most
    result.stream_idle_timeout = seconds(options.stream_idle_timeout_seconds)
    return result


def accepted_requests(options: EnvoyOptions) -> hcm.HttpConnectionManager:
    """What of a request is accepted at all, and what Envoy says where it isn't: of a connection
    manager the part that an ingress gateway of Istio is given as well.
    """
    escaped_slashes = hcm.HttpConnectionManagerPathWithEscapedSlashesAction
    return hcm.HttpConnectionManager(
        local_reply_config=local_replies(),
        internal_address_config=_nobody(),
        early_header_mutation_extensions=[_envoy_headers_removed()],
        path_with_escaped_slashes_action=escaped_slashes.REJECT_REQUEST,
        strip_trailing_host_dot=True,
        request_timeout=seconds(options.request_timeout_seconds),
        request_headers_timeout=seconds(options.request_headers_timeout_seconds),
        common_http_protocol_options=_limits(options),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=options.streams_at_most,
            initial_stream_window_size=65_536,
            initial_connection_window_size=MEBIBYTE,
        ),
    )


def _limits(options: EnvoyOptions) -> core.HttpProtocolOptions:
    underscores = core.HttpProtocolOptionsHeadersWithUnderscoresAction
    return core.HttpProtocolOptions(
        idle_timeout=seconds(options.connection_idle_timeout_seconds),
        max_headers_count=options.headers_at_most,
        headers_with_underscores_action=underscores.REJECT_REQUEST,
    )


def _nobody() -> hcm.HttpConnectionManagerInternalAddressConfig:
    """The addresses that are "internal": none.

    They may name the client in `x-forwarded-for`, and their requests are marked `x-envoy-internal`.
    Envoy reads an empty list as "loopback and private networks" (1.40, tried), so an address stands
    here that nobody can have.
    """
    unreachable = core.CidrRange(address_prefix="255.255.255.255", prefix_len=32)
    return hcm.HttpConnectionManagerInternalAddressConfig(cidr_ranges=[unreachable])


def _envoy_headers_removed() -> core.TypedExtensionConfig:
    """Every client-sent `x-envoy-*`, before Envoy looks at the headers or adds any of its own.

    By itself Envoy removes from strangers the ones that ask for retries and timeouts, and passes
    on those that it only ever answers with, which a workload may believe.
    """
    from_clients = mutation_rules.HeaderMutationRemoveOnMatch(
        key_matcher=matcher.StringMatcher(prefix="x-envoy-", ignore_case=True)
    )
    removal = early_header_mutation.HeaderMutation(
        mutations=[mutation_rules.HeaderMutation(remove_on_match=from_clients)]
    )
    return core.TypedExtensionConfig(name=EARLY_HEADER_MUTATION, typed_config=packed(removal))
