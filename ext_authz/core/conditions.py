"""CEL conditions: checked when a policy is loaded, bounded when they run.

The variables below are all there is (`variables.py` makes them); a misspelt name, an unknown
function or a wrong type is refused with its position. Evaluation is Google's CEL in C++: a budget
of iterations ends nested loops, regular expressions are RE2, so no request can hold the
interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel

_STRING, _STRINGS = cel.Type.STRING, cel.Type.List(cel.Type.STRING)
_TEXTS = cel.Type.Map(_STRING, _STRING)
_LISTS = cel.Type.Map(_STRING, _STRINGS)
VARIABLES: Mapping[str, tuple[Any, str]] = {
    "request.method": (_STRING, "GET, POST, ..."),
    "request.scheme": (_STRING, "http or https, as the proxy gives it"),
    "request.host": (_STRING, "lower case, without port"),
    "request.path": (_STRING, "normalised, without query"),
    "request.path_variables": (_TEXTS, "the `{name}` segments of the rule's path that matches"),
    "request.query": (_LISTS, "query parameters; each value is a list, decoded"),
    "request.headers": (_TEXTS, "names in lower case; of repeated ones the values, comma-joined"),
    "request.cookies": (_TEXTS, "by name; of repeated ones the last"),
    "request.time": (cel.Type.TIMESTAMP, "when the decision is made"),
    "request.grpc_service": (_STRING, "orders.v1.Orders; empty where the request is not gRPC"),
    "request.grpc_method": (_STRING, "Get; empty where the request is not gRPC"),
    "request.body": (_STRING, "the body, where the proxy sends all of it"),
    "request.json": (cel.Type.DYN, "the value of a JSON body"),
    "request.form": (_LISTS, "the fields of a form, url-encoded or in parts"),
    "request.files": (_LISTS, "the file names in a form in parts, by field"),
    "request.context": (_TEXTS, "what the route's configuration adds (`context_extensions`)"),
    "source.address": (_STRING, "the direct peer's IP address as the proxy gives it"),
    "source.principal": (
        _STRING,
        "what the direct peer's certificate names, verified by the proxy",
    ),
    "client.address": (_STRING, "the client's, behind the policy's `trustedProxies`"),
    "principal.name": (_STRING, "jwt:rita, key:service, spiffe://..., anonymous"),
    "principal.kind": (_STRING, "jwt, opaque, key, spiffe, cert, kubernetes or anonymous"),
    "principal.subject": (_STRING, "rita"),
    "principal.issuer": (_STRING, "the token's iss; empty for keys and certificates"),
    "principal.roles": (_STRINGS, "all roles, inherited and bound ones included"),
    "principal.permissions": (_STRINGS, "what its roles grant"),
    "principal.scopes": (_STRINGS, ""),
    "principal.groups": (_STRINGS, ""),
    "principal.claims": (cel.Type.Map(_STRING, cel.Type.DYN), "the token's claims"),
}

_ENVIRONMENT = cel.NewEnv(variables={name: kind for name, (kind, _) in VARIABLES.items()})
_POSITION = re.compile(r"<input>:(\d+):(\d+): (.*)")


_PATTERN = re.compile(
    r"""matches\(\s*(?:[^()'",]*,\s*)?(r?(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))\s*\)"""
)


def _require_pattern(literal: str) -> None:
    """Raise `ValueError` where a literal regular expression is none: it would fail each time."""
    try:
        value = _ENVIRONMENT.compile(f"''.matches({literal})").eval(_ENVIRONMENT.Activation({}))
        is_one = value.type() == cel.Type.BOOL
    except RuntimeError:
        is_one = False
    if not is_one:
        raise ValueError(f"{literal} is no regular expression (RE2)")


class Failed(Exception):
    """The evaluation of an expression failed."""


class Expression:
    """One compiled expression; `reads` are the variables that it needs."""

    __slots__ = ("_expression", "reads", "text")

    def __init__(self, text: str) -> None:
        """Raises `ValueError` with the position when `text` is none."""
        self.text = text
        self._expression = compiled(text)
        for literal in _PATTERN.findall(text):
            _require_pattern(literal)
        # More than it reads costs time alone; what is not named in the text it can't read.
        self.reads = tuple(name for name in VARIABLES if name.split(".")[1] in text)

    def value(self, values: Mapping[str, Any]) -> Any:
        """Its value as a plain one. Raises `Failed` (a missing key, a wrong type, too many
        iterations, a variable that `values` does not have).
        """
        try:
            value = self._expression.eval(_ENVIRONMENT.Activation(dict(values)))
            if value.type() == cel.Type.ERROR:
                raise Failed
            return value.plain_value()
        except Exception:
            # The wrapper raises bare RuntimeErrors, and others while converting values.
            raise Failed from None

    def _require_type(self, what: str, *types: Any) -> None:
        kind = self._expression.return_type()
        if kind not in (*types, cel.Type.DYN):
            raise ValueError(f"{what}, this is a {kind.name()}")


class TextExpression(Expression):
    """An expression that gives a text."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._require_type("it must give a text", cel.Type.STRING)


class Condition(Expression):
    """An expression that holds or does not."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._require_type("a condition must be true or false", cel.Type.BOOL)

    def holds(self, values: Mapping[str, Any]) -> bool | None:
        """True, false, or None when the evaluation failed."""
        try:
            value = self.value(values)
        except Failed:
            return None
        return value if isinstance(value, bool) else None


def compiled(text: str) -> Any:
    """An expression over the variables. Raises `ValueError` with the position when it is none."""
    try:
        return _ENVIRONMENT.compile(text)
    except TypeError:
        raise ValueError("not a condition: it has a character that is none") from None
    except RuntimeError as error:
        found = _POSITION.search(str(error))
        if found is None:
            raise ValueError(f"not a condition: {str(error).splitlines()[0]}") from None
        line, column, what = found.groups()
        what = what.removesuffix(" (in container '')")
        raise ValueError(f"line {line}, column {column}: {what}") from None
