"""Verified tokens, remembered so that the next request with one costs no signature check.

A token is forgotten when it expires, when its issuer's settings or keys are no longer those that
verified it, after five minutes, or when it is the oldest of too many, whichever is first. It is
remembered by its SHA-256, so no token is kept. Takes no lock: one event loop owns it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ext_authz.core.jwks import KeySet
from ext_authz.core.model import Identity, Principal
from ext_authz.core.policies import Issuer

SECONDS_AT_MOST = 300.0


class Entry(Protocol):
    """What is remembered of a token."""

    @property
    def valid_until(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RememberedToken:
    """A JWT that was verified with the keys of its issuer."""

    principal: Principal
    valid_until: float
    issuer: Issuer
    keys: KeySet


@dataclass(frozen=True, slots=True)
class IntrospectedToken:
    """What an issuer said of a token, active or not."""

    identity: Identity
    valid_until: float
    issuer: Issuer


SomeEntry = TypeVar("SomeEntry", bound=Entry)


class TokenMemory(Generic[SomeEntry]):
    """At most `entries_at_most` tokens."""

    def __init__(self, entries_at_most: int = 20_000) -> None:
        self._entries_at_most = entries_at_most
        self._tokens: OrderedDict[bytes, SomeEntry] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, token: str, now: float) -> SomeEntry | None:
        """What is remembered of `token` and has not run out. Whether its issuer still stands, the
        caller checks.
        """
        found = self._tokens.get(_name(token))
        if found is None or found.valid_until <= now:
            self.misses += 1
            return None
        self.hits += 1
        return found

    def remember(self, token: str, remembered: SomeEntry) -> None:
        self._tokens[_name(token)] = remembered
        if len(self._tokens) > self._entries_at_most:
            self._tokens.popitem(last=False)

    def forget(self, token: str) -> None:
        self._tokens.pop(_name(token), None)


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
