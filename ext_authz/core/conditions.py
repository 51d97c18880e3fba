"""CEL conditions: checked when a policy is loaded, bounded when they run.

The variables below are all there is; a misspelt name, an unknown function or a wrong type is
refused with its position. Evaluation is Google's CEL in C++: a budget of iterations ends nested
loops, regular expressions are RE2, so no request can hold the interpreter.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from cel_expr_python import cel

from ext_authz.core.hosts import normalized_host
from ext_authz.core.model import Principal, Request

_STRING, _STRINGS = cel.Type.STRING, cel.Type.List(cel.Type.STRING)
VARIABLES: Mapping[str, tuple[Any, str]] = {
    "request.method": (_STRING, "GET, POST, ..."),
    "request.host": (_STRING, "lower case, without port"),
    "request.path": (_STRING, "normalised, without query"),
    "request.query": (
        cel.Type.Map(_STRING, _STRINGS),
        "query parameters; each value is a list, decoded",
    ),
    "request.headers": (cel.Type.Map(_STRING, _STRING), "names in lower case"),
    "request.time": (cel.Type.TIMESTAMP, "when the decision is made"),
    "source.address": (_STRING, "the peer's IP address as the proxy gives it"),
    "principal.name": (_STRING, "jwt:rita, key:service, anonymous"),
    "principal.kind": (_STRING, "jwt, key or anonymous"),
    "principal.subject": (_STRING, "rita"),
    "principal.issuer": (_STRING, "the token's iss; empty for keys"),
    "principal.roles": (_STRINGS, "all roles, inherited and bound ones included"),
    "principal.scopes": (_STRINGS, ""),
    "principal.groups": (_STRINGS, ""),
    "principal.claims": (cel.Type.Map(_STRING, cel.Type.DYN), "the token's claims"),
}

_ENVIRONMENT = cel.NewEnv(variables={name: kind for name, (kind, _) in VARIABLES.items()})
_POSITION = re.compile(r"<input>:(\d+):(\d+): (.*)")


class Condition:
    """One compiled condition."""

    __slots__ = ("_expression", "text")

    def __init__(self, text: str) -> None:
        """Raises `ValueError` with the position when `text` is no condition."""
        self.text = text
        try:
            self._expression = _ENVIRONMENT.compile(text)
        except RuntimeError as error:
            found = _POSITION.search(str(error))
            if found is None:
                raise ValueError(f"not a condition: {str(error).splitlines()[0]}") from None
            line, column, what = found.groups()
            what = what.removesuffix(" (in container '')")
            raise ValueError(f"line {line}, column {column}: {what}") from None
        if self._expression.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
            kind = self._expression.return_type().name()
            raise ValueError(f"a condition must be true or false, this is a {kind}")

    def holds(self, variables: Any) -> bool | None:
        """True, false, or None when the evaluation failed (a missing key, a wrong type, too many
        iterations).
        """
        if variables is None:
            return None
        try:
            value = self._expression.eval(variables)
        except Exception:
            # The wrapper raises bare RuntimeErrors, and others while converting values.
            return None
        return bool(value.value()) if value.type() == cel.Type.BOOL else None


def variables_of(
    request: Request, path: str, query: str, principal: Principal, roles: frozenset[str], now: float
) -> Any:
    """What conditions see of one request; made once, used by all its conditions.

    Raises `ValueError` for a query of more than a thousand parameters: a condition then fails.
    """
    return _ENVIRONMENT.Activation(
        {
            "request.method": request.method.upper(),
            "request.host": normalized_host(request.host),
            "request.path": path,
            "request.query": parse_qs(query, keep_blank_values=True, max_num_fields=1000),
            "request.headers": dict(request.headers),
            "request.time": datetime.datetime.fromtimestamp(now, datetime.UTC),
            "source.address": request.source_address,
            "principal.name": principal.name,
            "principal.kind": str(principal.kind),
            "principal.subject": principal.subject,
            "principal.issuer": principal.issuer,
            "principal.roles": sorted(roles),
            "principal.scopes": sorted(principal.scopes),
            "principal.groups": sorted(principal.groups),
            "principal.claims": dict(principal.claims),
        }
    )
