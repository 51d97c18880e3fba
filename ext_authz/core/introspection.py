"""From what an issuer says of a token (RFC 7662) to a principal, or the reason why not.

The answer is remembered for a short while; rules are held against it at each request, so that a
remembered token gains no scope. An inactive token is remembered, too, for less.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ext_authz.core import jose
from ext_authz.core.known import Known
from ext_authz.core.lookups import FAILED, IntrospectionLookup
from ext_authz.core.model import Identified, Identity, Kind, Reason, Unidentified
from ext_authz.core.policies import Issuer, Method
from ext_authz.core.token_memory import IntrospectedToken
from ext_authz.core.tokens import (
    Refused,
    check_audience,
    check_times,
    principal_of,
    refused,
    unless_revoked,
)

_FORM = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
"""`b64token` of RFC 6750 section 2.1."""


def by_introspection(token: str, method: Method, known: Known) -> Identity:
    """The principal that the method's issuer names for a token, remembered or in the answers."""
    if len(token) > jose.TOKEN_CHARACTERS_AT_MOST:
        what = f"the token is longer than {jose.TOKEN_CHARACTERS_AT_MOST} characters"
        return Unidentified(Reason.TOKEN_TOO_LARGE, what)
    if _FORM.match(token) is None:
        return Unidentified(Reason.MALFORMED_TOKEN, "the token has characters that none has")
    (issuer,) = method.issuers.values()
    identity = _remembered(token, issuer, known)
    if identity is None:
        lookup = IntrospectionLookup(issuer.name, token)
        identity = known.looked_up(lookup, lambda said: _judged(token, issuer, said, known))
    if isinstance(identity, Unidentified):
        return identity
    return unless_revoked(identity.principal, known)


def _remembered(token: str, issuer: Issuer, known: Known) -> Identity | None:
    for memory in (known.keys.active, known.keys.inactive):
        found = memory.find(token, known.now)
        if found is not None and found.issuer == issuer:
            return found.identity
    return None


def _judged(token: str, issuer: Issuer, answer: object, known: Known) -> Identity:
    """What an answer comes to; remembered unless it failed."""
    asked = issuer.spec.introspection
    if answer is FAILED or not isinstance(answer, Mapping) or asked is None:
        told = "the token's issuer does not say whether it is active"
        return Unidentified(Reason.ISSUER_UNAVAILABLE, told, is_fault=True)
    now, keys = known.now, known.keys
    try:
        expires = _check(answer, issuer, now)
        identity: Identity = Identified(principal_of(answer, issuer, Kind.OPAQUE))
    except jose.Malformed as error:
        identity = Unidentified(Reason.INVALID_CLAIMS, str(error))
    except Refused as error:
        identity = error.unidentified
    if isinstance(identity, Unidentified):
        until = now + asked.inactiveCacheSeconds
        keys.inactive.remember(token, IntrospectedToken(identity, until, issuer))
    else:
        until = now + asked.cacheSeconds
        until = until if expires is None else min(expires, until)
        keys.active.remember(token, IntrospectedToken(identity, until, issuer))
    return identity


def _check(answer: Mapping[str, Any], issuer: Issuer, now: float) -> float | None:
    """When the token stops being valid, where its issuer says so. Raises `Refused` for one that is
    not active, valid now, or meant for us, `jose.Malformed` for what is no time.
    """
    if answer.get("active") is not True:
        raise refused(Reason.INACTIVE_TOKEN, "the token is not active")
    if answer.get("iss", issuer.spec.issuer) != issuer.spec.issuer:
        raise refused(Reason.UNKNOWN_ISSUER, "the token's issuer is not trusted here")
    asked = issuer.spec.introspection
    if "aud" in answer or (asked is not None and asked.requiresAudience):
        check_audience(answer.get("aud"), issuer.spec.audiences)
    return check_times(answer, leeway=issuer.spec.leewaySeconds, now=now)
