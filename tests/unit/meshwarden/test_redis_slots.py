"""Slots are read from `CLUSTER SLOTS`, and work that many ask for is done once."""

from __future__ import annotations

import asyncio

import pytest

from meshwarden.adapters.redis_settings import Address
from meshwarden.adapters.redis_slots import slot_of, topology
from meshwarden.adapters.shared_task import SharedTask

ASKED = Address("seed", 1)


def test_the_first_server_of_a_range_owns_it():
    found = topology(
        [
            [0, 9, [b"a", 1, b"id"], [b"b", 2, b"id"]],
            [16383, 16383, [b"b", 2, b"id"]],
        ],
        asked=ASKED,
    )
    assert found.owners[0] == found.owners[9] == Address("a", 1)
    assert found.owners[10] is None
    assert found.owners[16383] == Address("b", 2)
    assert found.servers == [Address("a", 1), Address("b", 2)]


@pytest.mark.parametrize("unknown", [b"", None, b"?"])
def test_a_server_that_does_not_know_its_own_name_is_the_one_that_was_asked(unknown: object):
    """Redis 7 says `?` or nothing, 6.2 an empty name, before it was met by another."""
    assert topology([[0, 16383, [unknown, 7]]], asked=ASKED).owners[5] == Address("seed", 7)


def test_slots_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="out of range"):
        topology([[0, 20_000, [b"a", 1]]], asked=ASKED)


def test_known_slots():
    """From the Cluster specification: 12739 is the checksum of 123456789; a tag stands alone."""
    assert slot_of("123456789") == 12739
    assert slot_of("user{123456789}") == 12739


async def test_work_that_is_under_way_is_shared_and_outlives_who_gave_up():
    began, may_end = 0, asyncio.Event()

    async def work() -> int:
        nonlocal began
        began += 1
        await may_end.wait()
        return began

    shared = SharedTask(work)
    impatient = asyncio.create_task(shared.outcome())
    patient = asyncio.create_task(shared.outcome())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    may_end.set()
    assert await patient == 1
    assert impatient.cancelled()
    assert await shared.outcome() == 2
    await shared.close()


async def test_a_fault_is_everyones_who_asked():
    async def work() -> None:
        raise LookupError

    shared = SharedTask(work)
    shared.start()
    with pytest.raises(LookupError):
        await shared.outcome()
