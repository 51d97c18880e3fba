"""Where Envoy sends what: the upstream, the authorizer, the rate-limit service.

Holds what keeps a sick host from hurting: connect timeouts, circuit breakers, the retry budget,
outlier detection, active health checks, keepalive. Which requests are retried is a route's matter.
"""

from __future__ import annotations

from typing import Literal

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams
from envoy_data_plane.envoy.type import v3 as kinds

from meshwarden.adapters.envoy.options import MEBIBYTE, EnvoyOptions
from meshwarden.adapters.envoy.services_tls import transport_socket
from meshwarden.adapters.envoy.typed import address, is_ip_address, packed, seconds

UPSTREAM_CLUSTER = "upstream"
EXT_AUTHZ_CLUSTER = "ext_authz"
RATELIMIT_CLUSTER = "ratelimit"

Protocol = Literal["http1", "http2"]
CONNECTIONS_AT_MOST = 1024
REQUESTS_AT_MOST = 1024
"""Of one proxy to all hosts of one workload."""
UPSTREAM_IDLE_SECONDS = 30
"""Shorter than the keep-alive of usual servers, so that no request meets a closing socket."""
FAILURES_IN_A_ROW = 5
EJECTED_PERCENT_AT_MOST = 50
RETRIES_ALWAYS_ALLOWED = 3
"""However few requests are in flight."""
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def clusters(options: EnvoyOptions) -> list[cluster.Cluster]:
    """The upstream, and a cluster for each service whose filter is switched on."""
    result = [_upstream(options)]
    if options.ext_authz_enabled:
        host, port = options.ext_authz_host, options.ext_authz_port
        result.append(_grpc(EXT_AUTHZ_CLUSTER, host, port=port, options=options))
    if options.ratelimit_enabled:
        host, port = options.ratelimit_host, options.ratelimit_port
        result.append(_grpc(RATELIMIT_CLUSTER, host, port=port, options=options))
    return result


def _upstream(options: EnvoyOptions) -> cluster.Cluster:
    check = _health_check()
    check.http_health_check = core.HealthCheckHttpHealthCheck(
        host="upstream", path=options.upstream_health_path
    )
    result = _cluster(UPSTREAM_CLUSTER, options.upstream_host, options.upstream_port)
    result.connect_timeout = seconds(options.upstream_connect_timeout_seconds)
    result.per_connection_buffer_limit_bytes = options.buffer_bytes_at_most
    result.health_checks = [check]
    result.outlier_detection = _outlier_detection()
    result.circuit_breakers = _circuit_breakers(options, requests=REQUESTS_AT_MOST)
    result.typed_extension_protocol_options = {
        HTTP_OPTIONS: packed(
            _protocol(options.upstream_protocol, idle_seconds=UPSTREAM_IDLE_SECONDS)
        )
    }
    return result


def _grpc(name: str, host: str, *, port: int, options: EnvoyOptions) -> cluster.Cluster:
    """A gRPC service of ours: a connection that died silently is noticed within three seconds."""
    check = _health_check()
    check.grpc_health_check = core.HealthCheckGrpcHealthCheck()
    result = _cluster(name, host, port)
    result.connect_timeout = seconds(0.25)
    result.per_connection_buffer_limit_bytes = options.buffer_bytes_at_most
    result.health_checks = [check]
    result.transport_socket = transport_socket(options)
    result.circuit_breakers = _circuit_breakers(options, requests=4096)
    result.typed_extension_protocol_options = {
        HTTP_OPTIONS: packed(_protocol("http2", idle_seconds=3600, keepalive=True))
    }
    return result


def _cluster(name: str, host: str, port: int) -> cluster.Cluster:
    place = endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address(host, port)))
    discovery = cluster.ClusterDiscoveryType
    return cluster.Cluster(
        name=name,
        type=discovery.STATIC if is_ip_address(host) else discovery.STRICT_DNS,
        # Half of the hosts sick: ask them all the same. One host alone is so never given up.
        common_lb_config=cluster.ClusterCommonLbConfig(
            healthy_panic_threshold=kinds.Percent(value=50),
            # A host that rests is not asked from now on, and not from the next second on.
            update_merge_window=seconds(0),
        ),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=name, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[place])]
        ),
    )


def _health_check() -> core.HealthCheck:
    """Every second, busy or idle: Envoy's own minute without traffic would outlast a restart."""
    return core.HealthCheck(
        timeout=seconds(0.5),
        interval=seconds(1),
        no_traffic_interval=seconds(1),
        unhealthy_interval=seconds(1),
        interval_jitter_percent=10,
        unhealthy_threshold=2,
        healthy_threshold=1,
    )


def _outlier_detection() -> cluster.OutlierDetection:
    """A host that fails five times in a row rests; never more than half of the hosts at once.

    Failures are not split by origin: with each connection that opens and is then reset a success
    would stand between two failures, and such a host would never rest.
    """
    return cluster.OutlierDetection(
        consecutive_gateway_failure=FAILURES_IN_A_ROW,
        enforcing_consecutive_gateway_failure=100,
        interval=seconds(5),
        base_ejection_time=seconds(10),
        max_ejection_time=seconds(120),
        max_ejection_percent=EJECTED_PERCENT_AT_MOST,
        always_eject_one_host=False,
    )


def _circuit_breakers(options: EnvoyOptions, *, requests: int) -> cluster.CircuitBreakers:
    budget = cluster.CircuitBreakersThresholdsRetryBudget(
        budget_percent=kinds.Percent(value=options.retry_budget_percent),
        min_retry_concurrency=RETRIES_ALWAYS_ALLOWED,
    )
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                max_connections=CONNECTIONS_AT_MOST,
                max_pending_requests=requests,
                max_requests=requests,
                retry_budget=budget,
                track_remaining=True,
            )
        ]
    )


def _protocol(
    protocol: Protocol, *, idle_seconds: float, keepalive: bool = False
) -> upstreams.HttpProtocolOptions:
    explicit = upstreams.HttpProtocolOptionsExplicitHttpConfig()
    if protocol == "http1":
        explicit.http_protocol_options = core.Http1ProtocolOptions()
    else:
        explicit.http2_protocol_options = core.Http2ProtocolOptions(
            initial_stream_window_size=65_536,
            initial_connection_window_size=MEBIBYTE,
            connection_keepalive=_keepalive() if keepalive else None,
        )
    return upstreams.HttpProtocolOptions(
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=seconds(idle_seconds)),
        explicit_http_config=explicit,
    )


def _keepalive() -> core.KeepaliveSettings:
    return core.KeepaliveSettings(interval=seconds(2), timeout=seconds(1))
