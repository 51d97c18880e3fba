"""Who is calling: from the request's credential to a principal, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ext_authz.core import jose
from ext_authz.core.credentials import Credential, find_credential
from ext_authz.core.keys import Keys
from ext_authz.core.model import (
    Identified,
    Identity,
    Kind,
    Principal,
    Reason,
    Request,
    Unidentified,
)
from ext_authz.core.policies import Issuer, Policy, PolicySet
from ext_authz.core.token_memory import SECONDS_AT_MOST, RememberedToken

SUBJECT_CHARACTERS_AT_MOST = 256


class _Refused(Exception):
    """Ends the reading of a token with the reason."""

    def __init__(self, reason: Reason, detail: str, issuer_to_refresh: str = "") -> None:
        super().__init__(detail)
        self.unidentified = Unidentified(reason, detail, issuer_to_refresh)


def identify(
    request: Request, query: str, *, policy: Policy, policies: PolicySet, keys: Keys, now: float
) -> Identity:
    """The principal that the request's only credential proves."""
    credential = find_credential(request, policy, query)
    if isinstance(credential, Unidentified):
        return credential
    if credential.method.issuers is None:
        return _by_api_key(credential, keys, now)
    return _by_token(credential, policies, keys, now)


def _by_api_key(credential: Credential, keys: Keys, now: float) -> Identity:
    record = keys.api_keys.find(credential.text, now)
    if record is None:
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


def _by_token(credential: Credential, policies: PolicySet, keys: Keys, now: float) -> Identity:
    token = credential.text
    if len(token) > jose.TOKEN_CHARACTERS_AT_MOST:
        what = f"the token is longer than {jose.TOKEN_CHARACTERS_AT_MOST} characters"
        return Unidentified(Reason.TOKEN_TOO_LARGE, what)
    trusted = credential.method.issuers or frozenset()
    remembered = keys.remembered.find(token, now)
    if remembered is not None:
        issuer = policies.issuers.get(remembered.issuer.spec.issuer)
        if (
            issuer is not None
            and issuer.name in trusted
            and (issuer is remembered.issuer or issuer == remembered.issuer)
            and keys.of_issuer(issuer.name) is remembered.keys
        ):
            return Identified(remembered.principal)
        keys.remembered.forget(token)
    try:
        verified = _verified(token, trusted, policies=policies, keys=keys, now=now)
    except jose.Malformed as error:
        return Unidentified(Reason.MALFORMED_TOKEN, str(error))
    except _Refused as refused:
        return refused.unidentified
    keys.remembered.remember(token, verified)
    return Identified(verified.principal)


def _verified(
    text: str, trusted: frozenset[str], *, policies: PolicySet, keys: Keys, now: float
) -> RememberedToken:
    """The token's principal, and until when that is so. Raises `_Refused` or `jose.Malformed`."""
    token = jose.parse_token(text)
    claimed = token.payload.get("iss")
    issuer = policies.issuers.get(claimed) if isinstance(claimed, str) else None
    if issuer is None or issuer.name not in trusted:
        raise _Refused(Reason.UNKNOWN_ISSUER, "the token's issuer is not trusted here")
    spec = issuer.spec
    if token.algorithm not in spec.algorithms:
        raise _Refused(
            Reason.ALGORITHM_NOT_ALLOWED, "the token's algorithm is not allowed for its issuer"
        )
    wanted_type, given_type = spec.tokenType, str(token.header.get("typ", ""))
    if wanted_type is not None and _media_type(given_type) != _media_type(wanted_type):
        raise _Refused(Reason.INVALID_CLAIMS, f"the token's typ is not {wanted_type}")
    key_set = keys.of_issuer(issuer.name)
    key = key_set.find(token.header.get("kid"))
    if key is None:
        refresh = issuer.name if issuer.key_source.url else ""
        raise _Refused(Reason.UNKNOWN_KEY, "no key of the issuer has the token's kid", refresh)
    if not key.verifies(token.algorithm, token.signing_input, token.signature):
        raise _Refused(Reason.INVALID_SIGNATURE, "the token's signature is not its issuer's")
    expires_at = _check_times(token.payload, leeway=spec.leewaySeconds, now=now)
    _check_audience(token.payload.get("aud"), spec.audiences)
    return RememberedToken(
        _principal(token.payload, issuer), min(expires_at, now + SECONDS_AT_MOST), issuer, key_set
    )


def _media_type(typ: str) -> str:
    """RFC 7515 section 4.1.9: `application/` may be left out; case does not count."""
    return typ.lower().removeprefix("application/")


def _check_times(payload: Mapping[str, Any], *, leeway: float, now: float) -> float:
    """When the token stops being valid."""
    expires = jose.numeric_date(payload, "exp")
    if expires is None:
        raise _Refused(Reason.INVALID_CLAIMS, "the token has no exp")
    if now >= expires + leeway:
        raise _Refused(Reason.EXPIRED, "the token has expired")
    for name in ("nbf", "iat"):
        begins = jose.numeric_date(payload, name)
        if begins is not None and begins > now + leeway:
            raise _Refused(Reason.NOT_YET_VALID, f"the token's {name} lies in the future")
    return expires + leeway


def _check_audience(given: Any, accepted: list[str]) -> None:
    audiences = [given] if isinstance(given, str) else given
    if not isinstance(audiences, list) or not all(isinstance(name, str) for name in audiences):
        raise _Refused(Reason.INVALID_CLAIMS, "the token's aud is missing or no string or list")
    if not set(audiences) & set(accepted):
        raise _Refused(Reason.WRONG_AUDIENCE, "the token is meant for another audience")


def _principal(payload: Mapping[str, Any], issuer: Issuer) -> Principal:
    subject = payload.get("sub")
    if not isinstance(subject, str) or not _is_header_safe(subject) or not subject:
        raise _Refused(
            Reason.INVALID_SUBJECT,
            "the token's sub is missing or has characters no header can carry",
        )
    names = issuer.spec.claims
    return Principal(
        Kind.JWT,
        issuer.spec.subjectPrefix + subject,
        issuer.spec.issuer,
        roles=_words(payload, names.roles),
        scopes=_words(payload, names.scopes),
        groups=_words(payload, names.groups),
        claims=payload,
    )


def _is_header_safe(text: str) -> bool:
    """Whether `text` is fit to be a header's value: printable, bounded, no space at its ends,
    encodable.
    """
    return len(text) <= SUBJECT_CHARACTERS_AT_MOST and text.isprintable() and text == text.strip()


def _words(payload: Mapping[str, Any], path: str) -> frozenset[str]:
    """The words of the claim at `path` (dots lead into objects): a list of strings, or one string
    split at spaces.
    """
    value: Any = payload.get(path)
    if value is None and "." in path:
        value = payload
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return frozenset()
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(
        isinstance(word, str) and word and _is_header_safe(word) and "," not in word
        for word in words
    ):
        raise _Refused(Reason.INVALID_CLAIMS, f"the claim {path} is no list of words")
    return frozenset(words)
