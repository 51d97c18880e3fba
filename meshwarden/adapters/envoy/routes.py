"""Which requests go where, what is retried, and what the rate-limit service is asked.

A method that is not idempotent is sent again only where the upstream can't have seen it.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.envoy.type.metadata import v3 as metadata

from meshwarden.adapters.envoy.access_log import EXT_AUTHZ
from meshwarden.adapters.envoy.clusters import UPSTREAM_CLUSTER
from meshwarden.adapters.envoy.options import EnvoyOptions
from meshwarden.adapters.envoy.typed import seconds

IDEMPOTENT_METHODS = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"
"""RFC 9110 section 9.2.2."""
RETRY_IDEMPOTENT_ON = "connect-failure,refused-stream,reset,retriable-status-codes"
RETRIED_STATUSES = (503,)
BACK_OFF_SECONDS = 0.025
"""The first pause before a retry; it grows exponentially to ten times that, with jitter."""
RETRY_ALWAYS_ON = "connect-failure,refused-stream"
"""The upstream has not begun with such a request."""
REMOVED_BEFORE_THE_UPSTREAM = ("proxy-authorization",)
"""It is meant for a proxy (RFC 9110 section 11.7.2): the authorizer may read it, no workload."""
LIMITED_BY = ("rule", "principal")
"""The members of the decision that make a request's descriptor, in order."""


def routes(options: EnvoyOptions) -> route.RouteConfiguration:
    """Everything to the upstream, by two routes that differ in what is retried."""
    idempotent = route.HeaderMatcher(
        name=":method",
        string_match=matcher.StringMatcher(
            safe_regex=matcher.RegexMatcher(regex=IDEMPOTENT_METHODS)
        ),
    )
    host = route.VirtualHost(
        name="everything",
        domains=["*"],
        routes=[
            route.Route(
                name="idempotent",
                match=route.RouteMatch(prefix="/", headers=[idempotent]),
                route=_action(options, _retry_idempotent(options)),
            ),
            route.Route(
                name="not_idempotent",
                match=route.RouteMatch(prefix="/"),
                route=_action(options, _retry(options, RETRY_ALWAYS_ON)),
            ),
        ],
        request_headers_to_remove=list(REMOVED_BEFORE_THE_UPSTREAM),
        rate_limits=[_descriptor()] if options.ratelimit_enabled else [],
    )
    return route.RouteConfiguration(name="edge", virtual_hosts=[host])


def _action(options: EnvoyOptions, retry_policy: route.RetryPolicy) -> route.RouteAction:
    return route.RouteAction(
        cluster=UPSTREAM_CLUSTER,
        timeout=seconds(options.upstream_timeout_seconds),
        idle_timeout=seconds(options.upstream_timeout_seconds),
        retry_policy=retry_policy,
    )


def _retry_idempotent(options: EnvoyOptions) -> route.RetryPolicy:
    policy = _retry(options, RETRY_IDEMPOTENT_ON)
    policy.retriable_status_codes = list(RETRIED_STATUSES)
    policy.per_try_timeout = seconds(options.upstream_timeout_seconds / 2)
    return policy


def _retry(options: EnvoyOptions, retry_on: str) -> route.RetryPolicy:
    """Exponential, jittered back-off; how many retries at once is the cluster's retry budget."""
    return route.RetryPolicy(
        retry_on=retry_on,
        num_retries=options.retries_at_most,
        retry_back_off=route.RetryPolicyRetryBackOff(
            base_interval=seconds(BACK_OFF_SECONDS), max_interval=seconds(10 * BACK_OFF_SECONDS)
        ),
    )


def _descriptor() -> route.RateLimit:
    """Rule and principal as the authorizer told them, so that a limit follows the subject.

    Whatever the token, path or address: the same subject under the same rule is one counter. Where
    the authorizer told no rule or no principal there is no descriptor, and so no limit.
    """
    return route.RateLimit(actions=[decision_member(member) for member in LIMITED_BY])


def decision_member(member: str) -> route.RateLimitAction:
    """An entry whose value the authorizer told; without it there is no descriptor."""
    return route.RateLimitAction(
        metadata=route.RateLimitActionMetaData(
            descriptor_key=member,
            source=route.RateLimitActionMetaDataSource.DYNAMIC,
            metadata_key=metadata.MetadataKey(
                key=EXT_AUTHZ, path=[metadata.MetadataKeyPathSegment(key=member)]
            ),
        )
    )
