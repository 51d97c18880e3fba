"""What a policy's answers carry, compiled from what stands in its file."""

from __future__ import annotations

from collections.abc import Iterable

from ext_authz.core import answer_kind as kinds
from ext_authz.core.answer_parts import (
    AnswerParts,
    DenialPart,
    HeaderPart,
    IdentityTokenPart,
    Value,
)
from ext_authz.core.conditions import Expression, TextExpression
from ext_authz.core.model import Append
from ext_authz.core.place import Place
from ext_authz.core.policy_kind import AccessPolicySpec
from ext_authz.core.templates import Template

_ACTIONS = {
    "overwrite": Append.OVERWRITE_IF_EXISTS_OR_ADD,
    "append": Append.APPEND_IF_EXISTS_OR_ADD,
    "addIfAbsent": Append.ADD_IF_ABSENT,
    "overwriteIfExists": Append.OVERWRITE_IF_EXISTS,
}


def compile_answers(spec: AccessPolicySpec, place: Place, *, can_sign: bool) -> AnswerParts:
    """The parts of `spec`, which stands at `place`; `can_sign`: there are keys for identity
    tokens.
    """
    upstream, removed = spec.upstream, set(spec.upstream.removeHeaders)
    _require_apart(spec, place)
    for part in ("upstream", "downstream"):
        names = [header.name for header in getattr(spec, part).headers]
        for index, name in enumerate(names):
            if name in names[:index]:
                place.at(part, "headers", index).refuse(f"the header '{name}' stands twice")
    for index, header in enumerate(upstream.headers):
        if header.name in removed:
            place.at("upstream", "headers", index).refuse(f"'{header.name}' is removed, too")
    return AnswerParts(
        headers=_headers(upstream.headers, place.at("upstream", "headers")),
        headers_to_remove=tuple(upstream.removeHeaders),
        query=_named(upstream.query, place.at("upstream", "query")),
        query_to_remove=tuple(upstream.removeQuery),
        response_headers=_headers(spec.downstream.headers, place.at("downstream", "headers")),
        metadata=_named(spec.metadata, place.at("metadata")),
        unauthenticated=_denial(spec.denied.unauthenticated),
        forbidden=_denial(spec.denied.forbidden),
        identity_token=_identity_token(spec, place.at("identityToken"), can_sign=can_sign),
    )


def _require_apart(spec: AccessPolicySpec, place: Place) -> None:
    """A header that tells who is calling is nobody else's."""
    token = spec.identityToken.header if spec.identityToken else None
    ours = {*spec.identityHeaders, *([token] if token else [])}
    if token in spec.identityHeaders:
        place.at("identityToken", "header").refuse(f"'{token}' is an identity header already")
    for part in ("headers", "removeHeaders"):
        for index, item in enumerate(getattr(spec.upstream, part)):
            name = item if isinstance(item, str) else item.name
            if name in ours:
                place.at("upstream", part, index).refuse(f"'{name}' tells who is calling")


def _headers(headers: Iterable[kinds.HeaderValue], place: Place) -> tuple[HeaderPart, ...]:
    return tuple(
        HeaderPart(header.name, _value(header, place.at(index)), _ACTIONS[header.action])
        for index, header in enumerate(headers)
    )


def _named(
    values: Iterable[kinds.QueryValue | kinds.MetadataValue], place: Place
) -> tuple[tuple[str, Value], ...]:
    return tuple((v.name, _value(v, place.at(index))) for index, v in enumerate(values))


def _value(value: kinds.Value, place: Place) -> Value:
    if value.expression is None:
        return Value(value.value or "")
    try:
        return Value(expression=TextExpression(value.expression))
    except ValueError as error:
        place.at("expression").refuse(f"expression: {error}")
        return Value()


def _denial(denial: kinds.Denial | None) -> DenialPart | None:
    if denial is None:
        return None
    body, redirect = denial.body, denial.redirect
    return DenialPart(
        status=denial.status,
        headers=tuple((name, Template(text)) for name, text in denial.headers.items()),
        body=Template(body.text) if body else None,
        content_type=body.contentType if body else "",
        redirect=Template(redirect.location) if redirect else None,
        redirect_status=redirect.status if redirect else 302,
    )


def _identity_token(
    spec: AccessPolicySpec, place: Place, *, can_sign: bool
) -> IdentityTokenPart | None:
    token = spec.identityToken
    if token is None:
        return None
    if not can_sign:
        hint = "set identity_tokens.keys_file and identity_tokens.issuer"
        place.refuse("there are no keys to sign identity tokens with", hint)
    claims = {}
    for name, text in token.claims.items():
        try:
            claims[name] = Expression(text)
        except ValueError as error:
            place.at("claims", name).refuse(f"claims.{name}: {error}")
    return IdentityTokenPart(token.header, token.audience, token.lifetimeSeconds, claims)
