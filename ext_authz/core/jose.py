"""Reading a JSON Web Token strictly, before any key is looked at.

Libraries accept what they should refuse (duplicate members, padding, numbers in quotes), so the
form is checked here and only the signature is left to PyJWT. Holds no keys, no issuers, no clock.
Source: RFC 7515 (JWS compact form), RFC 7519, RFC 8725 (best current practice).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOKEN_CHARACTERS_AT_MOST = 8192
DEPTH_AT_MOST = 16
LATEST_SECONDS = 253_402_300_799
"""The end of the year 9999: a later time is a fault of its writer."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")


class Malformed(ValueError):
    """The text is no token that we accept; the message says why and holds nothing of the token."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token whose form is right and whose signature nobody has checked."""

    header: Mapping[str, Any]
    payload: Mapping[str, Any]
    signing_input: bytes
    signature: bytes

    @property
    def algorithm(self) -> str:
        return str(self.header["alg"])


def parse_token(text: str) -> UnverifiedToken:
    """The parts of a compact JWS. Raises `Malformed`."""
    parts = text.split(".")
    if len(parts) != 3:
        raise Malformed("a token has three parts")
    header = _json_object(_decode(parts[0]), "header")
    payload = _json_object(_decode(parts[1]), "payload")
    if not isinstance(header.get("alg"), str):
        raise Malformed("the header names no algorithm")
    if "crit" in header:
        raise Malformed("the header has critical parameters, none of which is understood")
    if "b64" in header or "zip" in header or "cty" in header:
        raise Malformed("the header asks for an encoding that is not accepted, or a nested token")
    if not isinstance(header.get("kid", ""), str) or not isinstance(header.get("typ", ""), str):
        raise Malformed("kid and typ must be strings")
    signature = _decode(parts[2])
    if not signature:
        raise Malformed("the token has no signature")
    return UnverifiedToken(header, payload, f"{parts[0]}.{parts[1]}".encode(), signature)


def _decode(text: str) -> bytes:
    """Base64url without padding and without bits left over (RFC 7515 section 2)."""
    if _BASE64URL.match(text) is None or len(text) % 4 == 1:
        raise Malformed("a part is not base64url")
    decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != text.encode():
        raise Malformed("a part has bits left over")
    return decoded


def _json_object(content: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
        )
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed(f"the {what} is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed(f"the {what} is not an object")
    if not is_shallow(value, DEPTH_AT_MOST):
        raise Malformed(f"the {what} is nested too deeply")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("a member stands twice")
    return result


def _no_constant(_text: str) -> Any:
    raise Malformed("NaN and Infinity are not JSON")


def is_shallow(value: Any, levels: int) -> bool:
    """Whether collections in `value` are nested at most `levels` deep."""
    if isinstance(value, dict):
        return levels > 0 and all(is_shallow(inner, levels - 1) for inner in value.values())
    if isinstance(value, list):
        return levels > 0 and all(is_shallow(inner, levels - 1) for inner in value)
    return True


def numeric_date(payload: Mapping[str, Any], name: str) -> float | None:
    """Seconds since the epoch of the claim `name`, None where it is absent (RFC 7519 section 2:
    fractions may be). Raises `Malformed` for anything else: a string, a boolean, a negative or
    infinite number."""
    if name not in payload:
        return None
    value = payload[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Malformed(f"{name} is not a number")
    try:
        seconds = float(value)
    except OverflowError:
        raise Malformed(f"{name} is not a sensible time") from None
    if not 0 <= seconds <= LATEST_SECONDS:
        raise Malformed(f"{name} is not a sensible time")
    return seconds
