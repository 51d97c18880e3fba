"""Distinct tokens in any number, right and wrong, and what memory they leave behind."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ext_authz.core.failure_budget import FailureBudget
from ext_authz.core.keys import Keys
from tests.support.check_requests import Authorizer, access_policy, token_issuer
from tests.support.tokens import claims, ed_signer, jwks

ED = ed_signer()
EVERY = 20
"""One token of so many is right; the others are wrong in four ways."""


@dataclass(frozen=True)
class Flood:
    """What came of it: bytes held at the half and at the end, and what is remembered."""

    allowed: int
    bytes_at_half: int
    bytes_at_end: int
    keys: Keys


def tokens(count: int) -> Iterator[str]:
    """`count` distinct tokens."""
    right = ""
    for number in range(count):
        match number % EVERY:
            case 0:
                right = ED.token(claims(sub=f"caller-{number}"))
                yield right
            case turn if turn % 4 == 1:  # another signature
                yield f"{right[:-12]}{number:010d}{right[-2:]}"
            case turn if turn % 4 == 2:  # another payload
                header, _, signature = right.split(".")
                yield f"{header}.{number:012d}.{signature}"
            case turn if turn % 4 == 3:  # no token
                yield f"opaque-{number}"
            case _:  # too many parts
                yield f"{right}.{number}"


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def traced() -> int:
    """Bytes that Python holds; `tracemalloc` runs, which makes everything slower."""
    return tracemalloc.get_traced_memory()[0]


def flood(count: int, held: Callable[[], int]) -> Flood:
    """Decide over `count` distinct tokens; `held` tells the bytes in use."""
    asked = Authorizer(token_issuer(jwks(ED)), access_policy({"name": "any"}))
    asked.keys.budget = FailureBudget(at_once=count)  # Each is verified: that is the worst case.
    allowed = at_half = 0
    for number, token in enumerate(tokens(count)):
        if number == count // 2:
            at_half = held()
        allowed += asked.ask(token=token).is_allowed
    return Flood(allowed, at_half, held(), asked.keys)
