"""What a policy test expected, held against the verdict that came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from ext_authz.core import jose
from ext_authz.core.answers import is_grpc, shown
from ext_authz.core.model import Append, Request, Verdict
from ext_authz.core.paths import split_target
from ext_authz.core.policies import Policy
from meshwarden.cli.policy_tests import Expected, ExpectedAnswer, Values

Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unmet:
    """One thing that was expected, where it stands below `expect`, and what came in its place.

    `came` is None where nothing of the kind came.
    """

    place: Place
    expected: Any
    came: Any


def unmet(
    expected: Expected, request: Request, verdict: Verdict, policy: Policy | None
) -> list[Unmet]:
    """Everything that was expected and did not come; `policy`: that of the request's host."""
    return list(_unmet(expected, request, verdict, policy))


def _unmet(
    expected: Expected, request: Request, verdict: Verdict, policy: Policy | None
) -> Iterator[Unmet]:
    came = {
        "allowed": verdict.is_allowed,
        "status": verdict.status,
        "reason": str(verdict.reason),
        "policy": verdict.policy or None,
        "rule": verdict.rule or None,
        "principal": verdict.principal.name,
    }
    for name, value in came.items():
        wanted = getattr(expected, name)
        if name in expected.model_fields_set and wanted != value:
            yield Unmet((name,), wanted, value)
    if verdict.is_allowed:
        headers = headers_upstream(request, verdict)
        yield from _different(("headers",), expected.headers, headers)
        yield from _different(("query",), expected.query, query_upstream(request, verdict))
    else:
        # A denied request reaches no upstream: even what must be absent there is not tested.
        for part in ("headers", "query"):
            if getattr(expected, part):
                yield Unmet((part,), "a request that reaches the upstream", "a denial")
    added = {header.name: header.value for header in verdict.response_headers}
    yield from _different(("response_headers",), expected.response_headers, added)
    yield from _different(("metadata",), expected.metadata, dict(verdict.metadata))
    if expected.identity_token:
        yield from _unlike_token(expected.identity_token, verdict, policy)
    if expected.shown is not None:
        yield from _unlike_shown(expected.shown, request, verdict)


def _different(place: Place, expected: Values, came: Mapping[str, str]) -> Iterator[Unmet]:
    """Header names have no case; other names that differ in it alone don't occur."""
    found = {name.lower(): value for name, value in came.items()}
    for name, wanted in expected.items():
        value = found.get(name.lower())
        if value != wanted:
            yield Unmet((*place, name), wanted, value)


def headers_upstream(request: Request, verdict: Verdict) -> dict[str, str]:
    """The headers that the upstream gets of an allowed request: Envoy sets, appends, and removes
    last.
    """
    headers = dict(request.headers)
    for mutation in verdict.headers:
        name = mutation.name
        if mutation.append is Append.APPEND_IF_EXISTS_OR_ADD and name in headers:
            headers[name] = f"{headers[name]},{mutation.value}"
        else:
            headers[name] = mutation.value
    return {n: value for n, value in headers.items() if n not in verdict.headers_to_remove}


def query_upstream(request: Request, verdict: Verdict) -> dict[str, str]:
    """The query parameters that the upstream gets; of repeated ones the last."""
    sent = dict(parse_qsl(split_target(request.target)[1], keep_blank_values=True))
    removed = set(verdict.query_parameters_to_remove)
    kept = {name: value for name, value in sent.items() if name not in removed}
    return kept | dict(verdict.query_parameters_to_set)


def _unlike_token(
    expected: Mapping[str, Any], verdict: Verdict, policy: Policy | None
) -> Iterator[Unmet]:
    """Claims of the identity token that are not as expected; null: the claim is not there."""
    part = policy.answer.identity_token if policy else None
    name = part.header if part else ""
    token = next((header.value for header in verdict.headers if header.name == name), None)
    if token is None:
        yield Unmet(("identity_token",), "a token", None)
        return
    claims = jose.parse_token(token).payload
    for claim, wanted in expected.items():
        if claims.get(claim) != wanted:
            yield Unmet(("identity_token", claim), wanted, claims.get(claim))


def _unlike_shown(expected: ExpectedAnswer, request: Request, verdict: Verdict) -> Iterator[Unmet]:
    if verdict.is_allowed:
        yield Unmet(("shown",), "a denial", "the upstream's answer")
        return
    came = shown(verdict, to_grpc=is_grpc(request))
    if expected.status is not None and expected.status != came.status:
        yield Unmet(("shown", "status"), expected.status, came.status)
    yield from _different(("shown", "headers"), expected.headers, came.headers)
    text = expected.body_contains
    if text is not None and text not in came.body:
        yield Unmet(("shown", "body_contains"), text, came.body)
