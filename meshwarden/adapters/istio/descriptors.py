"""From the keys of a limit's descriptor to the actions with which Envoy fills them in.

A limit whose descriptor nobody sends never applies, and nothing says so. So a key that no action is
known for is a fault here, with what to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from betterproto2 import Casing
from envoy_data_plane.envoy.config.route import v3 as route

from meshwarden.adapters.envoy.routes import decision_member
from meshwarden.adapters.istio.facts import DECISION_MEMBERS, LimitEntry, PolicyFacts
from meshwarden.core.faults import Misconfigured, Problem

_BY_CONNECTION: Mapping[str, route.RateLimitAction] = {
    "remote_address": route.RateLimitAction(remote_address=route.RateLimitActionRemoteAddress()),
    "source_cluster": route.RateLimitAction(source_cluster=route.RateLimitActionSourceCluster()),
    "destination_cluster": route.RateLimitAction(
        destination_cluster=route.RateLimitActionDestinationCluster()
    ),
}
_BY_REQUEST = {"method": ":method", "host": ":authority", "path": ":path"}


def rate_limits(facts: PolicyFacts, descriptor_headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """`rate_limits` of a virtual host: one for each way that descriptors are made up, in the
    folder's order. Raises `Misconfigured` with every key that can't be filled in.
    """
    problems = dict.fromkeys(_problems(facts, descriptor_headers))
    if problems:
        raise Misconfigured(problems)
    made = [
        route.RateLimit(
            actions=[_action(entry, facts, descriptor_headers) for entry in descriptor]
        ).to_dict(casing=Casing.SNAKE)
        for descriptor in facts.descriptors
    ]
    return [limit for index, limit in enumerate(made) if limit not in made[:index]]


def _action(
    entry: LimitEntry, facts: PolicyFacts, headers: Mapping[str, str]
) -> route.RateLimitAction:
    if entry.key in headers or entry.key in _BY_REQUEST:
        return route.RateLimitAction(
            request_headers=route.RateLimitActionRequestHeaders(
                header_name=headers.get(entry.key) or _BY_REQUEST[entry.key],
                descriptor_key=entry.key,
            )
        )
    if entry.key in _told(facts):
        return decision_member(entry.key)
    if entry.key in _BY_CONNECTION:
        return _BY_CONNECTION[entry.key]
    return route.RateLimitAction(
        generic_key=route.RateLimitActionGenericKey(
            descriptor_key=entry.key, descriptor_value=entry.value
        )
    )


def _told(facts: PolicyFacts) -> frozenset[str]:
    """What the authorizer may tell of a decision."""
    return facts.metadata_names.union(DECISION_MEMBERS)


def _problems(facts: PolicyFacts, headers: Mapping[str, str]) -> Iterator[Problem]:
    known = {*_told(facts), *headers, *_BY_REQUEST, *_BY_CONNECTION}
    for descriptor in facts.descriptors:
        for entry in descriptor:
            if entry.key in known or (entry.key == "generic_key" and entry.value):
                continue
            way = " > ".join(one.key for one in descriptor)
            yield Problem(
                "",
                0,
                f"domain '{facts.domain}', descriptor {way}: nothing tells the proxy what "
                f"'{entry.key}' is",
                f"if it is a request header: --set descriptor_headers={entry.key}=HEADER; if the "
                f"authorizer knows it: name it in an AccessPolicy's spec.metadata; else use one of "
                f"{', '.join(sorted({*DECISION_MEMBERS, *_BY_REQUEST, *_BY_CONNECTION}))}",
            )
