"""Who is calling: from the request's credential to a principal, or the reason why not.

The ways to identify that a policy names are tried in their order. The first that identifies ends
it, and so does a credential that is not valid, unless its way says to skip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ext_authz.core.api_keys import KeyRecord
from ext_authz.core.credentials import NO_CREDENTIAL, Credential, find_credential
from ext_authz.core.introspection import by_introspection
from ext_authz.core.known import Known
from ext_authz.core.lookups import FAILED, ApiKeyLookup
from ext_authz.core.model import (
    Identified,
    Identity,
    Kind,
    Principal,
    Reason,
    Request,
    Unidentified,
)
from ext_authz.core.peers import by_peer
from ext_authz.core.policies import Method, MethodKind, OnUnavailable
from ext_authz.core.token_review import by_token_review
from ext_authz.core.tokens import by_token


def identify(request: Request, query: str, known: Known) -> Identity:
    """The principal that the request's only credential proves, or its connection."""
    credential = find_credential(request, known.policy, query)
    result = NO_CREDENTIAL
    if isinstance(credential, Unidentified) and credential is not NO_CREDENTIAL:
        return credential
    for method in known.policy.methods:
        if method.peer is not None:
            identity = by_peer(request, method.peer, known.now)
        elif isinstance(credential, Credential) and credential.source in method.sources:
            identity = _WAYS[method.kind](credential.text, method, known)
        else:
            identity = None
        if identity is None:
            continue
        if isinstance(identity, Identified):
            return identity
        result = _as_stated(identity, method)
        if result.lookup is not None or not _is_skipped(identity, method):
            return result
    return result


def _is_skipped(identity: Unidentified, method: Method) -> bool:
    if identity.reason is Reason.TOO_MANY_FAILURES:
        return False
    if identity.is_fault:
        return method.on_unavailable is OnUnavailable.SKIP
    return method.skips_invalid


def _as_stated(identity: Unidentified, method: Method) -> Unidentified:
    """Where what was asked does not answer: a fault of ours, or a denial, as the policy says."""
    if not identity.is_fault:
        return identity
    return replace(identity, status=503, is_fault=method.on_unavailable is OnUnavailable.FAULT)


def _by_api_key(text: str, _method: Method, known: Known) -> Identity:
    found = known.keys.api_keys.find(text, known.now)
    if isinstance(found, ApiKeyLookup):
        return known.looked_up(found, lambda answer: _of_record(answer, known))
    if isinstance(found, KeyRecord) and found.is_valid(known.now, known.policy.namespace):
        return _of_record(found, known)
    return known.verified(lambda: _of_record(found, known))


def _of_record(record: object, known: Known) -> Identity:
    """The principal of a key by its record, as far as that was found."""
    if record is FAILED:
        told = "the key store does not answer"
        return Unidentified(Reason.KEY_STORE_UNAVAILABLE, told, is_fault=True)
    if not isinstance(record, KeyRecord) or not record.is_valid(known.now, known.policy.namespace):
        return Unidentified(Reason.INVALID_API_KEY, "the API key is unknown, expired or revoked")
    return Identified(
        Principal(
            Kind.KEY,
            record.name,
            roles=frozenset(record.roles),
            scopes=frozenset(record.scopes),
            groups=frozenset(record.groups),
        )
    )


_WAYS: Mapping[MethodKind, Callable[[str, Method, Known], Identity]] = {
    MethodKind.JWT: by_token,
    MethodKind.INTROSPECTION: by_introspection,
    MethodKind.API_KEY: _by_api_key,
    MethodKind.KUBERNETES: by_token_review,
}
