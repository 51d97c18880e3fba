"""EnvoyFilters: what Istio has no words for, patched into what istiod makes.

Each is for the proxy versions that it was written for, and each says its `priority`, because the
order of creation decides otherwise. What a filter says is that of the edge proxy
(`meshwarden.adapters.envoy`), so both say the same. istio-proxy must have every extension that
stands here; which it has: `docs/explanation/istio_enforcement.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, cast

from betterproto2 import Casing, Message
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from meshwarden.adapters.envoy.access_log import EXT_AUTHZ as EXT_AUTHZ_FILTER
from meshwarden.adapters.envoy.access_log import RATELIMIT as RATELIMIT_FILTER
from meshwarden.adapters.envoy.bootstrap import whole_numbers
from meshwarden.adapters.envoy.filters import ROUTER, ext_authz_filter, ratelimit_filter
from meshwarden.adapters.envoy.listener import CONNECTION_MANAGER, accepted_requests
from meshwarden.adapters.envoy.local_replies import local_replies
from meshwarden.adapters.envoy.options import EnvoyOptions
from meshwarden.adapters.envoy.routes import REMOVED_BEFORE_THE_UPSTREAM
from meshwarden.adapters.envoy.typed import packed
from meshwarden.adapters.istio.facts import PolicyFacts
from meshwarden.adapters.istio.names import GATEWAY, PORTS, RATELIMIT, SIDECAR_OUTBOUND, document
from meshwarden.adapters.istio.options import IstioOptions

HEADER_MUTATION = "envoy.filters.http.header_mutation"

FIRST, MERGED, LAST = 100, 20, 10
"""Priorities. Patches are made in ascending order, so the INSERT_FIRST with the highest stands
first of all."""

Patch = dict[str, Any]


def envoy_filter(
    name: str,
    patches: Iterable[Patch],
    *,
    namespace: str,
    priority: int,
    selected: Mapping[str, str] | None = None,
    target: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The object. `selected`: labels of the Pods, where it is not all of the namespace; `target`:
    a Gateway of the Gateway API in place of labels.
    """
    spec: dict[str, Any] = {"priority": priority, "configPatches": list(patches)}
    if selected:
        spec["workloadSelector"] = {"labels": dict(selected)}
    if target:
        spec["targetRefs"] = [dict(target)]
    return document(
        "networking.istio.io/v1alpha3", "EnvoyFilter", name, namespace=namespace, spec=spec
    )


def removal_patch(options: IstioOptions, facts: PolicyFacts, context: str) -> Patch:
    """Takes out, before any other filter, what only the authorizer may say.

    Every spelling of an identity header goes: `x_auth_principal` is `x-auth-principal` to a
    workload behind WSGI or CGI. The header's own name is removed literally, and what stands for its
    dashes in other spellings by a pattern.
    """
    removal = header_mutation.HeaderMutation(
        mutations=header_mutation.Mutations(
            request_mutations=[
                mutation_rules.HeaderMutation(
                    remove_on_match=mutation_rules.HeaderMutationRemoveOnMatch(
                        key_matcher=matcher.StringMatcher(
                            safe_regex=matcher.RegexMatcher(regex=_every_spelling(name))
                        )
                    )
                )
                for name in facts.identity_headers
            ]
        )
    )
    return _filter_patch(options, context, "INSERT_FIRST", HEADER_MUTATION, removal)


def ratelimit_patch(options: IstioOptions, facts: PolicyFacts, context: str) -> Patch:
    """The rate-limit filter, last before the router: only what was allowed is counted."""
    message = ratelimit_filter(
        EnvoyOptions(
            ratelimit_timeout_seconds=options.ratelimit_timeout_seconds,
            ratelimit_domain=facts.domain,
        )
    )
    message.failure_mode_deny = options.ratelimit_failure_mode == "deny"
    service = message.rate_limit_service
    if service is None or service.grpc_service is None:
        raise AssertionError("the edge's rate-limit filter names its service")
    host = options.host(RATELIMIT)
    service.grpc_service.envoy_grpc = core.GrpcServiceEnvoyGrpc(
        # By this name the cluster has mTLS and the DestinationRule.
        cluster_name=f"outbound|{PORTS[RATELIMIT].grpc}||{host}",
        authority=host,
    )
    patch = _filter_patch(
        options, context, "INSERT_BEFORE", RATELIMIT_FILTER, message, beside=ROUTER
    )
    # Said, though it is protobuf's default: it is a decision.
    patch["patch"]["value"]["typed_config"].setdefault("failure_mode_deny", False)
    return patch


def limits_patch(options: IstioOptions, limits: list[dict[str, Any]], context: str) -> Patch:
    """What the rate-limit service is asked, at every virtual host."""
    return _virtual_host_patch(options, context, {"rate_limits": limits})


def at_once_patch(options: IstioOptions, context: str) -> Patch:
    """An endpoint that rests is not asked from now on: Envoy else gathers such updates for a
    second, as long as a first rest is. Istio has no word for it.
    """
    asking = GATEWAY if context == GATEWAY else SIDECAR_OUTBOUND
    return {
        "applyTo": "CLUSTER",
        "match": {"context": asking, "proxy": {"proxyVersion": options.proxy_version}},
        "patch": {
            "operation": "MERGE",
            "value": {"common_lb_config": {"update_merge_window": "0s"}},
        },
    }


def withheld_patch(options: IstioOptions, context: str) -> Patch:
    """The headers that the authorizer may read and no workload gets."""
    removed = list(REMOVED_BEFORE_THE_UPSTREAM)
    return _virtual_host_patch(options, context, {"request_headers_to_remove": removed})


def ext_authz_patch(options: IstioOptions, facts: PolicyFacts, context: str) -> Patch:
    """What an extension provider can't say of the filter that istiod makes from it: one retry
    within the time limit, repeated headers one by one, validated mutations, the certificate.
    """
    message = ext_authz_filter(
        EnvoyOptions(
            ext_authz_timeout_seconds=options.ext_authz_timeout_seconds,
            ext_authz_peer_certificate=facts.reads_certificate,
        )
    )
    # The rest is istiod's, from the provider.
    message.transport_api_version = core.ApiVersion.AUTO
    message.status_on_error = None
    if message.grpc_service is None:
        raise AssertionError("the edge's ext_authz filter names its service")
    message.grpc_service.envoy_grpc = None
    message.grpc_service.timeout = None
    message.stat_prefix = "meshwarden"
    return _filter_patch(
        options, context, "MERGE", EXT_AUTHZ_FILTER, message, beside=EXT_AUTHZ_FILTER
    )


def edge_patch(options: IstioOptions) -> Patch:
    """What a gateway accepts of a request, as at the edge proxy: no path that two parsers read
    differently, no header with an underscore, no `x-envoy-*`; and its answers in JSON.
    """
    return {
        "applyTo": "NETWORK_FILTER",
        "match": _in_listeners(options, GATEWAY),
        "patch": {"operation": "MERGE", "value": _edge()},
    }


@cache
def _edge() -> dict[str, Any]:
    message = accepted_requests(EnvoyOptions())
    # istiod 1.31 does not know `enable_retry_after_header` of the rate-limit filter, and drops it.
    message.local_reply_config = local_replies(adds_retry_after=True)
    return _typed(CONNECTION_MANAGER, message)


def _every_spelling(name: str) -> str:
    """A pattern of the header's name with anything in place of its dashes.

    >>> _every_spelling("x-user")
    'x[^a-z0-9]user'
    """
    return re.sub(r"[^a-z0-9]", lambda _: "[^a-z0-9]", name)


def _virtual_host_patch(options: IstioOptions, context: str, value: dict[str, Any]) -> Patch:
    return {
        "applyTo": "VIRTUAL_HOST",
        "match": {"context": context, "proxy": {"proxyVersion": options.proxy_version}},
        "patch": {"operation": "MERGE", "value": value},
    }


def _filter_patch(
    options: IstioOptions,
    context: str,
    operation: str,
    name: str,
    message: Message,
    *,
    beside: str = "",
) -> Patch:
    return {
        "applyTo": "HTTP_FILTER",
        "match": _in_listeners(options, context, beside=beside),
        "patch": {"operation": operation, "value": _typed(name, message)},
    }


def _in_listeners(options: IstioOptions, context: str, *, beside: str = "") -> dict[str, Any]:
    """Every HTTP listener of that context, or in it the filter `beside`."""
    place: dict[str, Any] = {"name": CONNECTION_MANAGER}
    if beside:
        place["subFilter"] = {"name": beside}
    return {
        "context": context,
        "proxy": {"proxyVersion": options.proxy_version},
        "listener": {"filterChain": {"filter": place}},
    }


def _typed(name: str, message: Message) -> dict[str, Any]:
    """A filter's name and its `typed_config`, in plain values."""
    config = packed(message).to_dict(casing=Casing.SNAKE)
    return {"name": name, "typed_config": cast("dict[str, Any]", whole_numbers(config))}
