"""A flood of distinct tokens leaves nothing behind; a million of them: `tests/soak`."""

from __future__ import annotations

import tracemalloc

from ext_authz.core.token_memory import TokenMemory
from tests.support import token_flood
from tests.support.check_requests import Authorizer, access_policy, token_issuer
from tests.support.tokens import claims, ed_signer, jwks

ED = ed_signer()


def test_wrong_tokens_leave_nothing_in_memory():
    """Only the right ones are remembered: one of twenty."""
    tracemalloc.start()
    try:
        seen = token_flood.flood(2_000, token_flood.traced)
    finally:
        tracemalloc.stop()
    assert seen.allowed == len(seen.keys.remembered) == 100
    assert len(seen.keys.active) == len(seen.keys.inactive) == 0
    # Fifty more right ones are remembered, at a few kilobytes each.
    assert seen.bytes_at_end - seen.bytes_at_half < 500_000


def test_right_tokens_are_remembered_up_to_the_bound():
    asked = Authorizer(token_issuer(jwks(ED)), access_policy({"name": "any"}))
    asked.keys.remembered = TokenMemory(entries_at_most=50)
    for number in range(200):
        assert asked.ask(token=ED.token(claims(sub=f"caller-{number}"))).is_allowed
    assert len(asked.keys.remembered) == 50
