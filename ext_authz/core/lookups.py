"""What a decision may need that is not in memory, and what became of asking for it.

`decide` awaits nothing: where it lacks something it says so in its verdict. Who called it asks,
within a time limit, and decides again with the answer. One answer a question: it is never asked
twice for one request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class IssuerKeysLookup:
    """The keys of the issuer named `issuer`, anew: a token names one that is not known."""

    issuer: str


@dataclass(frozen=True, slots=True)
class ApiKeyLookup:
    """The record of the API key with this digest (hexadecimal)."""

    digest: str


@dataclass(frozen=True, slots=True)
class IntrospectionLookup:
    """What the issuer named `issuer` says of an opaque token (RFC 7662)."""

    issuer: str
    token: str = field(repr=False)


Lookup = IssuerKeysLookup | ApiKeyLookup | IntrospectionLookup


class Failure(Enum):
    """The answer where there was none in time, or one that can't be used."""

    FAILED = "failed"


FAILED = Failure.FAILED
Answers = Mapping[Lookup, object]
"""By what was asked: for issuer keys nothing (they are in `Keys` now), for an API key its record or
None, for a token what its issuer says, or `FAILED`."""
