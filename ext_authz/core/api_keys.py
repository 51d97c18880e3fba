"""API keys: their form, their digests, and finding the record of one.

A key is `mwk_`, 43 characters of randomness (256 bits) and 6 of checksum; it is shown once and
never stored. What is stored is its digest under a secret pepper (HMAC-SHA256), which is also the
index: a key is found by one look-up, whatever the number of records, and a stolen file without the
pepper verifies nothing.
"""

from __future__ import annotations

import base64
import hmac
import re
import zlib
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from meshwarden.core.documents import parse_json, validate_json
from meshwarden.core.faults import InvalidInput, Problem

PREFIX = "mwk_"
PEPPER_BYTES_AT_LEAST = 32

_FORM = re.compile(r"mwk_([A-Za-z0-9_-]{43})([0-9a-z]{6})\Z")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


KeyWord = Annotated[str, StringConstraints(pattern=r"^[^\s,\p{C}]+$", max_length=256)]
"""A role, scope or group. It goes into a header as one of a list, so it holds no comma, no space
and nothing that can't be printed.
"""
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
KeyNamespace = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$")]


class KeyRecord(BaseModel):
    """What is known of one key: who it is, what it brings, until when. Times are seconds since the
    epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    name: KeyName = Field(description="The principal is key:<name>.")
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    namespace: KeyNamespace = Field(
        "", description="Whose policies take it; empty: those of every namespace."
    )
    roles: tuple[KeyWord, ...] = ()
    scopes: tuple[KeyWord, ...] = ()
    groups: tuple[KeyWord, ...] = ()
    created_at: float = 0
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_valid(self, now: float, namespace: str = "") -> bool:
        """Whether the key is good at `now`, for policies of `namespace`."""
        is_theirs = self.namespace in ("", namespace)
        has_expired = self.expires_at is not None and now >= self.expires_at
        return is_theirs and self.revoked_at is None and not has_expired


class KeyFile(BaseModel):
    """The content of a file of key records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    keys: tuple[KeyRecord, ...] = ()


class ApiKeys:
    """The records by digest. Without a pepper there are none, and every key is unknown."""

    def __init__(self, records: Iterable[KeyRecord] = (), pepper: bytes = b"") -> None:
        self._pepper = pepper
        self._records = {record.digest: record for record in records}

    def __len__(self) -> int:
        return len(self._records)

    def find(self, key: str, now: float) -> KeyRecord | None:
        """The record of `key`, or None; one look-up, compared in constant time. Whether it is valid
        at `now`, the caller asks.
        """
        del now
        if not has_form(key):
            return None
        wanted = digest(key, self._pepper)
        record = self._records.get(wanted)
        if record is None or not hmac.compare_digest(record.digest, wanted):
            return None
        return record


def has_form(key: str) -> bool:
    """Whether `key` looks like one and its checksum is right, so that a typing error needs no
    look-up.
    """
    match = _FORM.match(key)
    return match is not None and _checksum(match.group(1)) == match.group(2)


def make_key(randomness: bytes) -> str:
    """The key that 32 random bytes write."""
    if len(randomness) != 32:
        raise ValueError("a key needs 32 random bytes")
    text = base64.urlsafe_b64encode(randomness).rstrip(b"=").decode()
    return f"{PREFIX}{text}{_checksum(text)}"


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, rest = divmod(number, 36)
        digits += _DIGITS[rest]
    return digits


def digest(key: str, pepper: bytes) -> str:
    """The keyed digest under which `key` is stored, in hexadecimal."""
    return hmac.digest(pepper, key.encode(), "sha256").hex()


def parse_key_file(file: str, content: bytes, pepper: bytes) -> ApiKeys:
    """The records in `content` (JSON). Raises `InvalidInput` with everything that is wrong."""
    return ApiKeys(parse_records(file, parse_json(file, content)).keys, pepper)


def parse_pepper(file: str, content: bytes) -> bytes:
    """The pepper in a file, without the white space round it. Raises `InvalidInput`."""
    pepper = content.strip()
    if len(pepper) < PEPPER_BYTES_AT_LEAST:
        what = f"the pepper must have at least {PEPPER_BYTES_AT_LEAST} bytes"
        raise InvalidInput([Problem(file, 0, what)])
    return pepper


def parse_records(file: str, value: Any) -> KeyFile:
    """The key records of a parsed file. Raises `InvalidInput`."""
    parsed = validate_json(file, value, KeyFile)
    problems = []
    for attribute in ("id", "digest"):
        seen: set[str] = set()
        for record in parsed.keys:
            value = getattr(record, attribute)
            if value in seen:
                problems.append(
                    Problem(file, 0, f"the {attribute} of key '{record.id}' stands twice")
                )
            seen.add(value)
    if problems:
        raise InvalidInput(problems)
    return parsed
