"""Tokens that are refused before they expire.

Three ways to say which, from narrow to wide: one token (`jti`), the tokens of a subject, all tokens
of an issuer; the latter two for tokens issued before a time, so that new ones are good again. A
token without `iat` can't show that it came later, so it is refused. A record is kept until every
token that it covers has expired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from meshwarden.core.documents import parse_json, validate_json

Claim = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Revocation(BaseModel):
    """One record: `jti`, or `subject` and `issued_before`, or `issued_before` alone. Times are
    seconds since the epoch; `issuer` is the `iss` of the tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,64}$")]
    issuer: Claim
    jti: Claim | None = None
    subject: Claim | None = None
    issued_before: float | None = Field(None, ge=0)
    made_at: float = 0
    expires_at: float

    @model_validator(mode="after")
    def _one_way(self) -> Revocation:
        if (self.jti is None) == (self.issued_before is None):
            raise ValueError("exactly one of jti, issued_before is needed")
        if self.jti is not None and self.subject is not None:
            raise ValueError("a jti needs no subject")
        return self


class RevocationFile(BaseModel):
    """The content of a file of revocations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    revocations: tuple[Revocation, ...] = ()


class Revocations:
    """All records, found by what a token claims; each question is two or three look-ups."""

    def __init__(self, records: Iterable[Revocation] = ()) -> None:
        self._tokens: set[tuple[str, str]] = set()
        self._before: dict[tuple[str, str | None], float] = {}
        self._count = 0
        for record in records:
            self._count += 1
            if record.jti is not None:
                self._tokens.add((record.issuer, record.jti))
            elif record.issued_before is not None:
                covered = (record.issuer, record.subject)
                self._before[covered] = max(record.issued_before, self._before.get(covered, 0))

    def __len__(self) -> int:
        return self._count

    def revoke(self, issuer: str, claims: Mapping[str, Any]) -> bool:
        """Whether a verified token of `issuer` with these claims is revoked."""
        if not self._count:
            return False
        jti = claims.get("jti")
        if isinstance(jti, str) and (issuer, jti) in self._tokens:
            return True
        subject = claims.get("sub")
        covered = subject if isinstance(subject, str) else None
        before = max(
            self._before.get((issuer, covered), -1.0), self._before.get((issuer, None), -1.0)
        )
        return before >= 0 and not claims.get("iat", -1.0) >= before


def parse_revocations(file: str, value: Any) -> tuple[Revocation, ...]:
    """The records of a parsed file. Raises `InvalidInput` with everything that is wrong."""
    return validate_json(file, value, RevocationFile).revocations


def parse_revocation_file(file: str, content: bytes) -> Revocations:
    """The revocations in `content` (JSON). Raises `InvalidInput`."""
    return Revocations(parse_revocations(file, parse_json(file, content)))
