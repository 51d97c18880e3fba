"""What an answer carries: up with an allowed request, down with its answer, in place of a denial.

An identity header is set by us or removed; a header whose value can't be made is removed, too,
where it would have been overwritten: a client's own must not stand in for ours.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import quote, unquote_plus

from ext_authz.core.answer_parts import AnswerParts, DenialPart, HeaderPart
from ext_authz.core.credentials import credential_removal
from ext_authz.core.facts import Facts
from ext_authz.core.identity_token import IdentityClaims, signed_identity
from ext_authz.core.keys import Keys
from ext_authz.core.model import Append, Denial, HeaderMutation, Reason, Request, Verdict
from ext_authz.core.policies import CompiledRule, Policy, PolicySet
from ext_authz.core.templates import escape_for, escape_for_header, escape_for_url

_UNUSUAL = re.compile(r"[^a-z0-9-]")
"""In a header's name. CGI makes one of `x-user`, `x_user` and `x.user` (RFC 3875 section 4.1.18);
which characters it takes for a hyphen differs from server to server."""


def allowed(
    facts: Facts,
    policy: Policy,
    rule: CompiledRule,
    *,
    policies: PolicySet,
    keys: Keys,
    failed: tuple[str, ...],
) -> Verdict:
    """The verdict that a rule allows, with everything that it carries."""
    parts, request = policy.answer, facts.request
    headers = list(_identity_headers(facts, policy, keys)) if facts.is_identified else []
    unset = _unset(policies.identity_headers, headers, request)
    removal = credential_removal(request, policy)
    taken = {*unset, *removal.headers, *parts.headers_to_remove}
    for part in parts.headers:
        # What is taken out is not there for it; and what we set is not to be taken out again.
        is_there = part.name in request.headers and part.name not in taken
        mutation = _mutation(part, facts)
        if mutation is None and part.append is not Append.APPEND_IF_EXISTS_OR_ADD:
            taken.add(part.name)
        elif mutation is not None and (done := _as_envoy_does(mutation, is_there=is_there)):
            headers += done
            taken.discard(part.name)
    return Verdict(
        is_allowed=True,
        reason=Reason.ALLOWED,
        principal=facts.principal,
        policy=policy.name,
        rule=rule.name,
        headers=(*headers, *removal.mutations),
        headers_to_remove=tuple(sorted(taken)),
        query_parameters_to_set=_query(parts, facts),
        query_parameters_to_remove=(
            *removal.query_parameters,
            *(name for name in parts.query_to_remove if _is_in_query(name, facts)),
        ),
        response_headers=tuple(
            mutation
            for part in parts.response_headers
            if (mutation := _mutation(part, facts)) is not None
        ),
        metadata=_metadata(parts, facts),
        failed_conditions=failed,
    )


def denied(verdict: Verdict, facts: Facts, policy: Policy) -> Verdict:
    """A denial as the policy says that it looks, and the policy's metadata."""
    parts = policy.answer
    if parts.metadata:
        verdict = replace(verdict, metadata=_metadata(parts, facts))
    if verdict.status not in (401, 403):
        return verdict
    part = parts.unauthenticated if verdict.status == 401 else parts.forbidden
    if part is None or facts.grpc != ("", ""):
        return verdict
    return replace(verdict, denial=_denial(verdict, part, facts, policy))


def _denial(verdict: Verdict, part: DenialPart, facts: Facts, policy: Policy) -> Denial:
    values = {
        "reason": str(verdict.reason),
        "detail": verdict.detail,
        "status": str(part.status or verdict.status),
        "policy": verdict.policy,
        "principal": verdict.principal.name,
        "host": facts.host,
        "path": facts.path,
        "url": _url(facts, policy),
    }
    headers = [(name, text.filled(values, escape_for_header)) for name, text in part.headers]
    if part.redirect is not None and _is_page_of_a_browser(facts.request):
        location = part.redirect.filled(values, escape_for_url)
        return Denial(part.redirect_status, (*headers, ("location", location)), "", "")
    body = None
    if part.body is not None:
        body = part.body.filled(values, escape_for(part.content_type))
    return Denial(part.status or verdict.status, tuple(headers), body, part.content_type)


def _is_page_of_a_browser(request: Request) -> bool:
    """Whether a person's browser wants to show what comes: a program is not to be redirected."""
    headers = request.headers
    return (
        request.method.upper() in ("GET", "HEAD")
        and "text/html" in headers.get("accept", "")
        and headers.get("sec-fetch-mode", "navigate") == "navigate"
        and headers.get("x-requested-with", "") == ""
    )


def _url(facts: Facts, policy: Policy) -> str:
    """Where the client wanted to go, without the places that credentials stand in."""
    secret = {source.name for source in policy.sources if source.place == "query"}
    pairs = [
        pair
        for pair in facts.query.split("&")
        if pair and unquote_plus(pair.partition("=")[0]) not in secret
    ]
    query = f"?{'&'.join(pairs)}" if pairs else ""
    scheme = facts.request.scheme or "https"
    return f"{scheme}://{facts.request.host}{quote(facts.path, safe='/%:@!$&()*+,=~')}{query}"


def _unset(
    identity_headers: frozenset[str], headers: list[HeaderMutation], request: Request
) -> set[str]:
    """The identity headers that we don't set, in every spelling that the request has."""
    ours = {header.name for header in headers}
    unset = {name for name in identity_headers if name not in ours}
    if _UNUSUAL.search("".join(request.headers)):
        canonical = {_UNUSUAL.sub("-", name) for name in identity_headers}
        unset |= {
            name
            for name in request.headers
            if name not in ours and _UNUSUAL.sub("-", name) in canonical
        }
    return unset


def _mutation(part: HeaderPart, facts: Facts) -> HeaderMutation | None:
    value = part.value.of(facts)
    return None if value is None else HeaderMutation(part.name, value, part.append)


def _as_envoy_does(mutation: HeaderMutation, *, is_there: bool) -> list[HeaderMutation]:
    """A change on the way up in the two forms that Envoy obeys there: overwrite, and append to what
    is there. It passes over `append_action` (1.40, tried), so it counts whether the header is.
    """
    match mutation.append:
        case Append.ADD_IF_ABSENT if is_there:
            return []
        case Append.OVERWRITE_IF_EXISTS if not is_there:
            return []
        case Append.APPEND_IF_EXISTS_OR_ADD if is_there:
            return [mutation]
    return [replace(mutation, append=Append.OVERWRITE_IF_EXISTS_OR_ADD)]


def _query(parts: AnswerParts, facts: Facts) -> tuple[tuple[str, str], ...]:
    found = ((name, value.of(facts)) for name, value in parts.query)
    return tuple((name, value) for name, value in found if value is not None)


def _metadata(parts: AnswerParts, facts: Facts) -> tuple[tuple[str, str], ...]:
    found = ((name, value.of(facts)) for name, value in parts.metadata)
    return tuple((name, value) for name, value in found if value is not None)


def _is_in_query(name: str, facts: Facts) -> bool:
    return any(pair.partition("=")[0] == name for pair in facts.query.split("&"))


def _identity_headers(facts: Facts, policy: Policy, keys: Keys) -> tuple[HeaderMutation, ...]:
    principal = facts.principal
    mutations = []
    for header, attribute in policy.identity_headers:
        match attribute:
            case "principal":
                value = principal.name
            case "roles":
                value = ",".join(sorted(facts.roles))
            case "scopes":
                value = ",".join(sorted(principal.scopes))
            case "groups":
                value = ",".join(sorted(principal.groups))
            case _:
                value = str(getattr(principal, attribute))
        if value:
            mutations.append(HeaderMutation(header, value))
    part = policy.answer.identity_token
    if part is not None:
        claims = IdentityClaims.of(facts, part)
        token = signed_identity(claims, part, keys.signing, facts.now)
        if token is not None:
            mutations.append(HeaderMutation(part.header, token))
    return tuple(mutations)
