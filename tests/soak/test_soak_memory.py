"""A million distinct tokens, 50,000 of them right: what is held at the end is held at the half."""

from __future__ import annotations

import pytest

from tests.support import token_flood

MILLION = 1_000_000
BYTES_AT_MOST = 32 << 20
"""How much more may be resident at the end than at the half, when 25,000 right tokens had come:
more than are remembered (20,000).
"""


@pytest.mark.timeout(1800)
def test_memory_is_flat_over_a_million_distinct_tokens(capsys: pytest.CaptureFixture):
    seen = token_flood.flood(MILLION, token_flood.resident)
    grown = seen.bytes_at_end - seen.bytes_at_half
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{MILLION:,} tokens, {seen.allowed:,} right: {seen.bytes_at_half:,} bytes at the"
            f" half, {grown:+,} at the end; {len(seen.keys.remembered):,} remembered"
        )
    assert seen.allowed == MILLION // token_flood.EVERY
    assert len(seen.keys.remembered) == 20_000
    assert len(seen.keys.active) == len(seen.keys.inactive) == 0
    assert grown < BYTES_AT_MOST
