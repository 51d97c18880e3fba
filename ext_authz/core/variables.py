"""What the variables of conditions are worth for one request; only those that are read are made."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from ext_authz.core.conditions import VARIABLES, Expression
from ext_authz.core.cookies import cookies
from ext_authz.core.facts import Facts

_READERS: dict[str, Callable[[Facts], Any]] = {
    "request.method": lambda facts: facts.method,
    "request.scheme": lambda facts: facts.request.scheme,
    "request.host": lambda facts: facts.host,
    "request.path": lambda facts: facts.path,
    "request.query": lambda facts: facts.query_parameters,
    "request.headers": lambda facts: dict(facts.request.headers),
    "request.cookies": lambda facts: dict(cookies(facts.request.headers.get("cookie", ""))),
    "request.time": lambda facts: datetime.datetime.fromtimestamp(facts.now, datetime.UTC),
    "request.grpc_service": lambda facts: facts.grpc[0],
    "request.grpc_method": lambda facts: facts.grpc[1],
    "request.body": lambda facts: facts.body.text(),
    "request.json": lambda facts: facts.body.json(),
    "request.form": lambda facts: facts.form[0],
    "request.files": lambda facts: facts.form[1],
    "request.context": lambda facts: dict(facts.request.context),
    "source.address": lambda facts: facts.request.source_address,
    "source.principal": lambda facts: facts.request.source_principal,
    "client.address": lambda facts: facts.client_address,
    "principal.name": lambda facts: facts.principal.name,
    "principal.kind": lambda facts: str(facts.principal.kind),
    "principal.subject": lambda facts: facts.principal.subject,
    "principal.issuer": lambda facts: facts.principal.issuer,
    "principal.roles": lambda facts: sorted(facts.roles),
    "principal.permissions": lambda facts: sorted(facts.permissions),
    "principal.scopes": lambda facts: sorted(facts.principal.scopes),
    "principal.groups": lambda facts: sorted(facts.principal.groups),
    "principal.claims": lambda facts: dict(facts.principal.claims),
}
PATH_VARIABLES = "request.path_variables"
_MISSING = object()

if {*_READERS, PATH_VARIABLES} != VARIABLES.keys():
    raise AssertionError("the variables that are declared and those that are read differ")


def values_for(
    condition: Expression, facts: Facts, path_variables: Mapping[str, str]
) -> dict[str, Any]:
    """The variables that `condition` may read; what the request does not have is left out, so that
    reading it fails.
    """
    values: dict[str, Any] = {}
    for name in condition.reads:
        if name == PATH_VARIABLES:
            values[name] = dict(path_variables)
            continue
        if name not in facts.values:
            try:
                facts.values[name] = _READERS[name](facts)
            except (ValueError, RecursionError):
                # Kept, too: many conditions may read it, and the request may be large.
                facts.values[name] = _MISSING
        if facts.values[name] is not _MISSING:
            values[name] = facts.values[name]
    return values
