"""The HTTP filters in a request's order: per-address limit, authorization, rate limit, router.

Each failure mode is chosen here: authorization fails closed with 503, rate limiting fails open.
"""

from __future__ import annotations

from betterproto2 import Message
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.ratelimit import v3 as ratelimit_service
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.common.ratelimit import v3 as common_ratelimit
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit import v3 as local_ratelimit
from envoy_data_plane.envoy.extensions.filters.http.ratelimit import v3 as ratelimit
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as kinds

from meshwarden.adapters.envoy.access_log import EXT_AUTHZ, RATELIMIT
from meshwarden.adapters.envoy.clusters import EXT_AUTHZ_CLUSTER, RATELIMIT_CLUSTER
from meshwarden.adapters.envoy.options import EnvoyOptions
from meshwarden.adapters.envoy.typed import always, header, packed, seconds

LOCAL_RATELIMIT = "envoy.filters.http.local_ratelimit"
ROUTER = "envoy.filters.http.router"

RETRY_CHECK_ON = "connect-failure,refused-stream,reset"
"""A check changes nothing: it may be asked twice."""
RETRY_COUNT_ON = "connect-failure,refused-stream"
"""Hits must not be counted twice."""


def http_filters(options: EnvoyOptions) -> list[hcm.HttpFilter]:
    """The filters that `options` switch on, and the router, which is always last."""
    chosen = [
        (options.local_rate_limit_enabled, LOCAL_RATELIMIT, _local_ratelimit),
        (options.ext_authz_enabled, EXT_AUTHZ, ext_authz_filter),
        (options.ratelimit_enabled, RATELIMIT, ratelimit_filter),
    ]
    filters = [_filter(name, build(options)) for enabled, name, build in chosen if enabled]
    return [*filters, _filter(ROUTER, router.Router(suppress_envoy_headers=True))]


def _filter(name: str, config: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=packed(config))


def _local_ratelimit(options: EnvoyOptions) -> local_ratelimit.LocalRateLimit:
    """A bucket for each client address.

    A descriptor without a value makes a bucket for each value that it meets, and the `rate_limits`
    must stand in the filter's own config (Envoy 1.40, tried). Known weakness: an address whose
    bucket was forgotten starts with a full one.
    """
    bucket = kinds.TokenBucket(
        max_tokens=options.local_rate_limit_burst,
        tokens_per_fill=options.local_rate_limit_per_second,
        fill_interval=seconds(1),
    )
    entry = common_ratelimit.RateLimitDescriptorEntry(key="remote_address")
    by_address = route.RateLimitAction(remote_address=route.RateLimitActionRemoteAddress())
    return local_ratelimit.LocalRateLimit(
        stat_prefix="per_address",
        token_bucket=bucket,
        always_consume_default_token_bucket=False,
        filter_enabled=always("local_ratelimit.enabled"),
        filter_enforced=always("local_ratelimit.enforced"),
        response_headers_to_add=[header("retry-after", "1")],
        descriptors=[
            common_ratelimit.LocalRateLimitDescriptor(entries=[entry], token_bucket=bucket)
        ],
        max_dynamic_descriptors=options.local_rate_limit_addresses_at_most,
        rate_limits=[route.RateLimit(actions=[by_address])],
    )


def ext_authz_filter(options: EnvoyOptions) -> ext_authz.ExtAuthz:
    """The authorizer's filter: fails closed with 503."""
    body = None
    if options.ext_authz_body_bytes_at_most:
        body = ext_authz.BufferSettings(
            max_request_bytes=options.ext_authz_body_bytes_at_most,
            # A longer one is cut, which rules about the body take for a failure, and not refused
            # for those that don't ask.
            allow_partial_message=True,
            pack_as_bytes=True,
        )
    return ext_authz.ExtAuthz(
        grpc_service=_grpc_service(
            EXT_AUTHZ_CLUSTER, options.ext_authz_timeout_seconds, retry_on=RETRY_CHECK_ON
        ),
        transport_api_version=core.ApiVersion.V3,
        failure_mode_allow=False,
        status_on_error=kinds.HttpStatus(code=kinds.StatusCode.ServiceUnavailable),
        validate_mutations=True,
        clear_route_cache=False,
        # Repeated headers one by one: their number counts (ext_authz.md, trap 12).
        encode_raw_headers=True,
        include_peer_certificate=options.ext_authz_peer_certificate,
        with_request_body=body,
    )


def ratelimit_filter(options: EnvoyOptions) -> ratelimit.RateLimit:
    """The rate-limit filter; `enable_retry_after_header` is added by `newer_fields.py`."""
    return ratelimit.RateLimit(
        domain=options.ratelimit_domain,
        timeout=seconds(options.ratelimit_timeout_seconds),
        failure_mode_deny=False,
        rate_limited_status=kinds.HttpStatus(code=kinds.StatusCode.TooManyRequests),
        enable_x_ratelimit_headers=ratelimit.RateLimitXRateLimitHeadersRfcVersion.DRAFT_VERSION_03,
        disable_x_envoy_ratelimited_header=True,
        rate_limit_service=ratelimit_service.RateLimitServiceConfig(
            grpc_service=_grpc_service(
                RATELIMIT_CLUSTER, options.ratelimit_timeout_seconds, retry_on=RETRY_COUNT_ON
            ),
            transport_api_version=core.ApiVersion.V3,
        ),
    )


def _grpc_service(cluster: str, timeout_seconds: float, *, retry_on: str) -> core.GrpcService:
    """One retry within the time limit, so that a replica that goes away costs no request.

    Envoy makes `max_interval` the time limit of each try, too, and ignores it only where it is not
    below `timeout` (1.40, tried; `Utility::convertCoreToRouteRetryPolicy`). So it is the whole time
    limit: a slow answer is waited for and not asked for again. The one retry waits 10 ms at most.
    """
    return core.GrpcService(
        envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=cluster),
        timeout=seconds(timeout_seconds),
        retry_policy=core.RetryPolicy(
            retry_on=retry_on,
            num_retries=1,
            retry_back_off=core.BackoffStrategy(
                base_interval=seconds(min(0.01, timeout_seconds)),
                max_interval=seconds(timeout_seconds),
            ),
        ),
    )
