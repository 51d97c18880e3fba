"""From what Kubernetes says of a token (TokenReview) to a principal, or the reason why not.

Kubernetes alone knows whether a ServiceAccount, its Secret or its Pod still exists, so it is asked
and not just its public keys. A token that says itself that it has ended, or is for somebody else,
is refused without asking: nothing that it says makes us accept it.
Source: authentication.k8s.io/v1 TokenReview. `status.audiences` must name one of ours: without it
the token is one for the API server, whatever was asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ext_authz.core import jose
from ext_authz.core.known import Known
from ext_authz.core.lookups import FAILED, TokenReviewLookup
from ext_authz.core.model import Identified, Identity, Kind, Principal, Reason, Unidentified
from ext_authz.core.policies import Method
from ext_authz.core.tokens import unless_revoked
from ext_authz.core.words import is_header_safe

GROUPS_AT_MOST = 200
EXTRA_AT_MOST, EXTRA_VALUES_AT_MOST = 32, 16

_FORM = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
_UNAVAILABLE = Unidentified(
    Reason.KUBERNETES_UNAVAILABLE,
    "Kubernetes does not say whose token it is",
    is_fault=True,
)


def by_token_review(token: str, method: Method, known: Known) -> Identity:
    """The principal that Kubernetes names for a token, remembered or in the answers."""
    if len(token) > jose.TOKEN_CHARACTERS_AT_MOST:
        what = f"the token is longer than {jose.TOKEN_CHARACTERS_AT_MOST} characters"
        return Unidentified(Reason.TOKEN_TOO_LARGE, what)
    if _FORM.match(token) is None:
        return Unidentified(Reason.MALFORMED_TOKEN, "the token has characters that none has")
    identity = known.keys.reviews.identity(token, method.audiences, known.now)
    if identity is None:
        claimed = _claimed(token)
        identity = _refused_by_itself(claimed, method.audiences, known.now)
        if identity is not None:
            return identity
        lookup = TokenReviewLookup(token, method.audiences)
        identity = known.looked_up(lookup, lambda said: _judged(lookup, claimed, said, known))
    if isinstance(identity, Unidentified):
        return identity
    return unless_revoked(identity.principal, known)


def _claimed(token: str) -> Mapping[str, Any]:
    """What the token says of itself, unverified; nothing where it is no JWT."""
    try:
        return jose.parse_token(token).payload
    except jose.Malformed:
        return {}


def _refused_by_itself(
    claimed: Mapping[str, Any], audiences: tuple[str, ...], now: float
) -> Unidentified | None:
    if _expires(claimed) <= now:
        return Unidentified(Reason.EXPIRED, "the token has expired")
    given = claimed.get("aud")
    named = [given] if isinstance(given, str) else given
    if isinstance(named, list) and not any(name in audiences for name in named):
        return Unidentified(Reason.WRONG_AUDIENCE, "the token is meant for another audience")
    return None


def _expires(claimed: Mapping[str, Any]) -> float:
    """When the token says that it ends; it is only ever believed to make that sooner."""
    try:
        expires = jose.numeric_date(claimed, "exp")
    except jose.Malformed:
        return 0.0
    return float("inf") if expires is None else expires


def _judged(
    asked: TokenReviewLookup, claimed: Mapping[str, Any], said: object, known: Known
) -> Identity:
    """What the `status` of a TokenReview comes to; remembered unless there is none."""
    if said is FAILED or not isinstance(said, Mapping):
        return _UNAVAILABLE
    identity = _identity(said, claimed, asked.audiences)
    known.keys.reviews.remember_identity(
        asked.token, asked.audiences, identity, now=known.now, expires=_expires(claimed)
    )
    return identity


def _identity(
    status: Mapping[str, Any], claimed: Mapping[str, Any], audiences: tuple[str, ...]
) -> Identity:
    if status.get("authenticated") is not True:
        return Unidentified(Reason.REFUSED_TOKEN, "Kubernetes does not authenticate the token")
    if not any(name in audiences for name in _texts(status.get("audiences"))):
        return Unidentified(Reason.WRONG_AUDIENCE, "the token is meant for another audience")
    user = status.get("user")
    user = user if isinstance(user, Mapping) else {}
    name, groups = user.get("username"), _texts(user.get("groups"))
    if not isinstance(name, str) or not name or not is_header_safe(name):
        told = "Kubernetes names no user that a header can carry"
        return Unidentified(Reason.INVALID_SUBJECT, told)
    if len(groups) > GROUPS_AT_MOST or not all(map(_is_word, groups)):
        told = f"the user has more than {GROUPS_AT_MOST} groups, or one that no header can carry"
        return Unidentified(Reason.INVALID_CLAIMS, told)
    # Kubernetes has verified what its own token says; another kind of token says nothing here.
    own = dict(claimed) if claimed.get("sub") == name else {}
    claims = {**own, "uid": user.get("uid") or "", "extra": _extra(user.get("extra"))}
    issuer = str(own.get("iss", ""))
    return Identified(Principal(Kind.KUBERNETES, name, issuer, groups=groups, claims=claims))


def _texts(value: object) -> frozenset[str]:
    texts = value if isinstance(value, (list, tuple)) else ()
    return frozenset(text for text in texts if isinstance(text, str))


def _is_word(text: str) -> bool:
    return bool(text) and is_header_safe(text) and "," not in text


def _extra(value: object) -> dict[str, list[str]]:
    """What an authenticator adds, such as `authentication.kubernetes.io/pod-name`; what goes beyond
    the bounds is left out.
    """
    given = value if isinstance(value, Mapping) else {}
    kept = list(given.items())[:EXTRA_AT_MOST]
    return {str(name): sorted(_texts(texts))[:EXTRA_VALUES_AT_MOST] for name, texts in kept}
