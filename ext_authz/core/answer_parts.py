"""What a policy's answers carry, compiled: values that each request fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.core.conditions import Expression, Failed, TextExpression
from ext_authz.core.facts import Facts
from ext_authz.core.model import Append
from ext_authz.core.templates import Template
from ext_authz.core.variables import values_for

VALUE_CHARACTERS_AT_MOST = 4096


@dataclass(frozen=True, slots=True)
class Value:
    """A text, or what gives one."""

    text: str = ""
    expression: TextExpression | None = None

    def of(self, facts: Facts) -> str | None:
        """The text for one request; None where it can't be made, or no header could carry it."""
        if self.expression is None:
            return self.text
        value = evaluated(self.expression, facts)
        if not isinstance(value, str) or len(value) > VALUE_CHARACTERS_AT_MOST:
            return None
        return value if value.isprintable() and value == value.strip() else None


def evaluated(expression: Expression, facts: Facts) -> object:
    """Its value as a plain one; None where it fails. It may not read path variables: those are of a
    rule.
    """
    try:
        return expression.value(values_for(expression, facts, {}))
    except Failed:
        return None


@dataclass(frozen=True, slots=True)
class HeaderPart:
    name: str
    value: Value
    append: Append


@dataclass(frozen=True, slots=True)
class DenialPart:
    """How a denial looks; None or empty: as it would be."""

    status: int | None = None
    headers: tuple[tuple[str, Template], ...] = ()
    body: Template | None = None
    content_type: str = ""
    redirect: Template | None = None
    redirect_status: int = 302


@dataclass(frozen=True, slots=True)
class IdentityTokenPart:
    header: str
    audience: str
    lifetime_seconds: int
    claims: Mapping[str, Expression] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """Everything that a policy's answers carry besides the identity headers."""

    headers: tuple[HeaderPart, ...] = ()
    headers_to_remove: tuple[str, ...] = ()
    query: tuple[tuple[str, Value], ...] = ()
    query_to_remove: tuple[str, ...] = ()
    response_headers: tuple[HeaderPart, ...] = ()
    metadata: tuple[tuple[str, Value], ...] = ()
    unauthenticated: DenialPart | None = None
    forbidden: DenialPart | None = None
    identity_token: IdentityTokenPart | None = None
