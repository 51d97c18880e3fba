"""Finding the credential in a request, and what must be taken out of it before the upstream sees
it.

More than one credential is refused and none is picked: which one would the upstream believe?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

from ext_authz.core.cookies import cookies
from ext_authz.core.model import HeaderMutation, Reason, Request, Unidentified
from ext_authz.core.paths import split_target
from ext_authz.core.policies import Policy, Source

QUERY_PARAMETERS_AT_MOST = 1000
NO_CREDENTIAL = Unidentified(Reason.MISSING_CREDENTIAL, "no credential was sent")


@dataclass(frozen=True, slots=True)
class Credential:
    """One credential, and where it stood."""

    text: str = field(repr=False)
    source: Source


def find_credential(request: Request, policy: Policy, query: str) -> Credential | Unidentified:
    """The only credential of the request, or why there is not exactly one."""
    found: list[Credential] = []
    unread: set[str] = set()
    for source in policy.sources:
        for text in _texts(request, source, query):
            if text is None:
                unread.add(source.name)
            else:
                found.append(Credential(text, source))
    unread -= {credential.source.name for credential in found}
    if len(found) > 1 or (found and unread):
        return Unidentified(Reason.MULTIPLE_CREDENTIALS, "more than one credential was sent")
    if unread:
        return Unidentified(
            Reason.UNSUPPORTED_SCHEME, "a credential was sent in a form that is not accepted here"
        )
    if not found:
        return NO_CREDENTIAL
    if "," in found[0].text:
        return Unidentified(Reason.MULTIPLE_CREDENTIALS, "more than one credential was sent")
    return found[0]


def _texts(request: Request, source: Source, query: str) -> Iterator[str | None]:
    """Each credential that stands in `source`; None for what can't be read: a header with another
    scheme, a query of too many parameters.
    """
    if source.place == "header":
        value = request.headers.get(source.name)
        if value is None:
            return
        if not source.scheme:
            yield value.strip()
            return
        scheme, _, rest = value.strip().partition(" ")
        yield rest.strip() if scheme.lower() == source.scheme else None
    elif source.place == "cookie":
        for name, value in cookies(request.headers.get("cookie", "")):
            if name == source.name:
                yield value
    elif query:
        try:
            pairs = parse_qsl(
                query, keep_blank_values=True, max_num_fields=QUERY_PARAMETERS_AT_MOST
            )
        except ValueError:
            yield None
            return
        for name, value in pairs:
            if name == source.name:
                yield value


@dataclass(frozen=True, slots=True)
class Removal:
    """What the upstream must not see of the request."""

    headers: tuple[str, ...] = ()
    mutations: tuple[HeaderMutation, ...] = ()
    query_parameters: tuple[str, ...] = ()


def credential_removal(request: Request, policy: Policy) -> Removal:
    """How to take every place that `policy` reads credentials from out of the request."""
    if policy.forwards_credential:
        return Removal()
    headers: list[str] = []
    cookie_names: set[str] = set()
    query_parameters: list[str] = []
    for source in policy.sources:
        if source.place == "header":
            if source.name not in headers:
                headers.append(source.name)
        elif source.place == "cookie":
            cookie_names.add(source.name)
        else:
            query_parameters += _spellings(source.name, request)
    mutations: tuple[HeaderMutation, ...] = ()
    header = request.headers.get("cookie")
    if cookie_names and header is not None:
        parts = [part.strip() for part in header.split(";") if part.strip()]
        kept = [part for part in parts if part.partition("=")[0].strip() not in cookie_names]
        if not kept:
            headers.append("cookie")
        elif len(kept) != len(parts):
            mutations = (HeaderMutation("cookie", "; ".join(kept)),)
    return Removal(tuple(headers), mutations, tuple(query_parameters))


def _spellings(name: str, request: Request) -> list[str]:
    """How the query parameter `name` is written in the request, also as `access%5Ftoken`: Envoy
    removes parameters by their undecoded name. None where it is not there: Envoy rewrites the whole
    query, `?k` to `?k=`, even when it finds nothing to remove.
    """
    pairs = split_target(request.target)[1].split("&")
    written = {pair.partition("=")[0] for pair in pairs}
    return sorted(text for text in written if unquote_plus(text) == name)
