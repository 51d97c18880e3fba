"""From a JSON Web Token to a principal, or the reason why not.

`jose.py` reads the token's form, `jwks.py` verifies signatures; here is what its claims mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ext_authz.core import jose
from ext_authz.core.known import Known
from ext_authz.core.lookups import FAILED, IssuerKeysLookup
from ext_authz.core.model import Identified, Identity, Kind, Principal, Reason, Unidentified
from ext_authz.core.policies import Issuer, Method
from ext_authz.core.token_memory import SECONDS_AT_MOST, RememberedToken
from ext_authz.core.words import is_header_safe


class Refused(Exception):
    """Ends the reading of a token with the reason."""

    def __init__(self, unidentified: Unidentified) -> None:
        super().__init__(unidentified.detail)
        self.unidentified = unidentified


def refused(reason: Reason, detail: str) -> Refused:
    return Refused(Unidentified(reason, detail))


def by_token(token: str, method: Method, known: Known) -> Identity:
    """The principal that a JWT of one of the method's issuers proves."""
    if len(token) > jose.TOKEN_CHARACTERS_AT_MOST:
        what = f"the token is longer than {jose.TOKEN_CHARACTERS_AT_MOST} characters"
        return Unidentified(Reason.TOKEN_TOO_LARGE, what)
    memory = known.keys.remembered
    remembered = memory.find(token, known.now)
    if remembered is not None and not _still_stands(remembered, method, known):
        memory.forget(token)
        remembered = None
    if remembered is not None:
        return unless_revoked(remembered.principal, known)
    return known.verified(lambda: _first_seen(token, method, known))


def _first_seen(token: str, method: Method, known: Known) -> Identity:
    """The principal of a token that is not remembered."""
    try:
        verified = _verified(token, method, known)
    except jose.Malformed as error:
        return Unidentified(Reason.MALFORMED_TOKEN, str(error))
    except Refused as error:
        return error.unidentified
    known.keys.remembered.remember(token, verified)
    return unless_revoked(verified.principal, known)


def unless_revoked(principal: Principal, known: Known) -> Identity:
    """The principal of a verified token, unless it is revoked, or that can't be told now."""
    keys = known.keys
    if known.now > keys.revocations_current_until:
        told = "the store of revocations does not answer"
        return Unidentified(Reason.KEY_STORE_UNAVAILABLE, told, is_fault=True)
    if keys.revocations.revoke(principal.issuer, principal.claims):
        return Unidentified(Reason.REVOKED, "the token is revoked")
    return Identified(principal)


def _still_stands(remembered: RememberedToken, method: Method, known: Known) -> bool:
    """Whether the issuer's settings and keys are those that verified the token, and are trusted
    here.
    """
    issuer = method.issuers.get(remembered.issuer.spec.issuer)
    return (
        issuer is not None
        and (issuer is remembered.issuer or issuer == remembered.issuer)
        and known.keys.of_issuer(issuer.name) is remembered.keys
    )


def _verified(text: str, method: Method, known: Known) -> RememberedToken:
    """The token's principal, and until when that is so. Raises `Refused` or `jose.Malformed`."""
    token = jose.parse_token(text)
    claimed = token.payload.get("iss")
    issuer = method.issuers.get(claimed) if isinstance(claimed, str) else None
    if issuer is None:
        raise refused(Reason.UNKNOWN_ISSUER, "the token's issuer is not trusted here")
    spec = issuer.spec
    if token.algorithm not in spec.algorithms:
        raise refused(
            Reason.ALGORITHM_NOT_ALLOWED, "the token's algorithm is not allowed for its issuer"
        )
    wanted_type, given_type = spec.tokenType, str(token.header.get("typ", ""))
    if wanted_type is not None and _media_type(given_type) != _media_type(wanted_type):
        raise refused(Reason.INVALID_CLAIMS, f"the token's typ is not {wanted_type}")
    key_set = known.keys.of_issuer(issuer.name)
    key = key_set.find(token.header.get("kid"))
    if key is None:
        raise Refused(_unknown_key(issuer, known))
    if not key.verifies(token.algorithm, token.signing_input, token.signature):
        raise refused(Reason.INVALID_SIGNATURE, "the token's signature is not its issuer's")
    expires_at = check_times(token.payload, leeway=spec.leewaySeconds, now=known.now)
    if expires_at is None:
        raise refused(Reason.INVALID_CLAIMS, "the token has no exp")
    check_audience(token.payload.get("aud"), spec.audiences)
    principal = principal_of(token.payload, issuer, Kind.JWT)
    return RememberedToken(principal, min(expires_at, known.now + SECONDS_AT_MOST), issuer, key_set)


def _unknown_key(issuer: Issuer, known: Known) -> Unidentified:
    """No key has the token's kid: they may have been rotated since they were fetched, so they are
    asked for once. Where they never came, it is no fault of the caller's.
    """
    lookup = IssuerKeysLookup(issuer.name) if issuer.keys is None else None
    answer = known.answers.get(lookup) if lookup is not None else None
    if answer is FAILED and not known.keys.of_issuer(issuer.name).keys:
        return Unidentified(
            Reason.ISSUER_UNAVAILABLE, "the token's issuer does not give its keys", is_fault=True
        )
    if lookup in known.answers:
        lookup = None
    return Unidentified(Reason.UNKNOWN_KEY, "no key of the issuer has the token's kid", lookup)


def _media_type(typ: str) -> str:
    """RFC 7515 section 4.1.9: `application/` may be left out; case does not count."""
    return typ.lower().removeprefix("application/")


def check_times(payload: Mapping[str, Any], *, leeway: float, now: float) -> float | None:
    """When the token stops being valid; None where it does not say. Raises `Refused` for one that
    is not valid now, `jose.Malformed` for what is no time.
    """
    expires = jose.numeric_date(payload, "exp")
    if expires is not None and now >= expires + leeway:
        raise refused(Reason.EXPIRED, "the token has expired")
    for name in ("nbf", "iat"):
        begins = jose.numeric_date(payload, name)
        if begins is not None and begins > now + leeway:
            raise refused(Reason.NOT_YET_VALID, f"the token's {name} lies in the future")
    return None if expires is None else expires + leeway


def check_audience(given: Any, accepted: list[str]) -> None:
    """Raises `Refused` where `given`, the claim `aud`, names none of `accepted`."""
    audiences = [given] if isinstance(given, str) else given
    if not isinstance(audiences, list) or not all(isinstance(name, str) for name in audiences):
        raise refused(Reason.INVALID_CLAIMS, "the token's aud is missing or no string or list")
    if not set(audiences) & set(accepted):
        raise refused(Reason.WRONG_AUDIENCE, "the token is meant for another audience")


def principal_of(payload: Mapping[str, Any], issuer: Issuer, kind: Kind) -> Principal:
    """Who the claims speak for. Raises `Refused` where that can't be read."""
    names = issuer.spec.claims
    subject = _at(payload, names.subject)
    if not isinstance(subject, str) or not is_header_safe(subject) or not subject:
        raise refused(
            Reason.INVALID_SUBJECT,
            f"the token's {names.subject} is missing or has characters no header can carry",
        )
    return Principal(
        kind,
        issuer.spec.subjectPrefix + subject,
        issuer.spec.issuer,
        roles=_words(payload, names.roles),
        scopes=_words(payload, names.scopes),
        groups=_words(payload, names.groups),
        claims=payload,
    )


def _at(payload: Mapping[str, Any], path: str) -> Any:
    """The claim at `path`; dots lead into objects. None where there is none."""
    value: Any = payload.get(path)
    if value is None and "." in path:
        value = payload
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    return value


def _words(payload: Mapping[str, Any], path: str) -> frozenset[str]:
    """The words of the claim at `path` (dots lead into objects): a list of strings, or one string
    split at spaces.
    """
    value = _at(payload, path)
    if value is None:
        return frozenset()
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(
        isinstance(word, str) and word and is_header_safe(word) and "," not in word
        for word in words
    ):
        raise refused(Reason.INVALID_CLAIMS, f"the claim {path} is no list of words")
    return frozenset(words)
