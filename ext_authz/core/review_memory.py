"""What Kubernetes said of tokens and of access, remembered for as long as it may be believed.

How long is the bound on how late a deleted ServiceAccount or a removed RoleBinding takes effect.
Takes no lock: one event loop owns it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ext_authz.core.lookups import AccessReviewLookup
from ext_authz.core.model import Identity, Unidentified
from ext_authz.core.token_memory import TokenMemory


@dataclass(frozen=True, slots=True)
class ReviewBounds:
    """How long each answer is believed, and how many of each kind are kept."""

    token_seconds: float = 60.0
    refused_token_seconds: float = 5.0
    allowed_seconds: float = 60.0
    denied_seconds: float = 10.0
    entries_at_most: int = 20_000


@dataclass(frozen=True, slots=True)
class ReviewedToken:
    """What Kubernetes said of a token for some audiences."""

    identity: Identity
    valid_until: float


class ReviewMemory:
    """Good and bad answers apart, so that a flood of bad ones forgets no good one."""

    def __init__(self, bounds: ReviewBounds = ReviewBounds()) -> None:
        self._bounds = bounds
        self._good: TokenMemory[ReviewedToken] = TokenMemory(bounds.entries_at_most)
        self._bad: TokenMemory[ReviewedToken] = TokenMemory(bounds.entries_at_most)
        self._allowed: OrderedDict[AccessReviewLookup, float] = OrderedDict()
        self._denied: OrderedDict[AccessReviewLookup, float] = OrderedDict()

    def __len__(self) -> int:
        tokens = len(self._good) + len(self._bad)
        return tokens + len(self._allowed) + len(self._denied)

    def identity(self, token: str, audiences: tuple[str, ...], now: float) -> Identity | None:
        """What is remembered of a token, reviewed for just these audiences."""
        name = _name(token, audiences)
        found = self._good.find(name, now) or self._bad.find(name, now)
        return None if found is None else found.identity

    def remember_identity(
        self,
        token: str,
        audiences: tuple[str, ...],
        identity: Identity,
        *,
        now: float,
        expires: float,
    ) -> None:
        """`expires`: when the token itself ends, in seconds since the epoch."""
        bad = isinstance(identity, Unidentified)
        seconds = self._bounds.refused_token_seconds if bad else self._bounds.token_seconds
        memory = self._bad if bad else self._good
        until = min(now + seconds, expires)
        memory.remember(_name(token, audiences), ReviewedToken(identity, until))

    def access(self, question: AccessReviewLookup, now: float) -> bool | None:
        """Whether it is allowed, None where that is not remembered."""
        for memory, is_allowed in ((self._allowed, True), (self._denied, False)):
            if memory.get(question, 0.0) > now:
                return is_allowed
        return None

    def remember_access(
        self, question: AccessReviewLookup, *, is_allowed: bool, now: float
    ) -> None:
        bounds = self._bounds
        memory, other = self._allowed, self._denied
        if not is_allowed:
            memory, other = other, memory
        other.pop(question, None)
        memory[question] = now + (bounds.allowed_seconds if is_allowed else bounds.denied_seconds)
        memory.move_to_end(question)
        if len(memory) > bounds.entries_at_most:
            memory.popitem(last=False)


def _name(token: str, audiences: tuple[str, ...]) -> str:
    return " ".join((token, *audiences))
