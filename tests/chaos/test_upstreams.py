"""A replica of a workload that hangs, resets, answers 503, or dies, behind real Envoy and istiod.

Detected: the gateway has ejected it. Recovered: it is well again, and requests reach it. Each first
ejection is measured on a gateway of its own, since Envoy makes later ones longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.support.istio_mesh import IstioMesh
from tests.support.measured import measured
from tests.support.processes import wait_until
from tests.support.replica_process import Replica, running_replica
from tests.support.shop_mesh import (
    HOST,
    ORDERS_LABELS,
    SHOP,
    Shop,
)
from tests.support.steady_load import steady_load

LIMIT_SECONDS = 5.0
RATE = 60.0
pytestmark = pytest.mark.timeout(180)


Mend = Callable[[], object]


def hang(replica: Replica, _stack: ExitStack) -> Mend:
    replica.pause()
    return replica.resume


def reset(replica: Replica, _stack: ExitStack) -> Mend:
    replica.mode("reset")
    return lambda: replica.mode("well")


def unavailable(replica: Replica, _stack: ExitStack) -> Mend:
    replica.mode("unavailable")
    return lambda: replica.mode("well")


def die(replica: Replica, stack: ExitStack) -> Mend:
    """It comes back as another process on the same port."""
    replica.kill()
    return lambda: stack.enter_context(running_replica(replica.name, replica.port))


@pytest.mark.parametrize("cut", [hang, reset, unavailable, die])
def test_a_sick_replica_is_ejected_and_comes_back(
    cut: Callable[[Replica, ExitStack], Mend], mesh: IstioMesh, shop: Shop
):
    with ExitStack() as stack:
        replica = stack.enter_context(running_replica("bad"))
        mesh.workload("orders-bad", SHOP, ORDERS_LABELS, {"http": replica.port})
        try:
            with steady_load(f"{shop.url}/open", {"host": HOST}, per_second=RATE) as load:
                wait_until(
                    lambda: any(answer.replica == "bad" for answer in load.since(0)),
                    "the replica is asked",
                )
                began = time.time()
                mend = cut(replica, stack)
                wait_until(lambda: shop.is_ejected(replica.port), "it is ejected", limit_seconds=20)
                detected = time.time() - began
                mended_at = time.time()
                mend()
                wait_until(
                    lambda: any(a.replica == "bad" for a in load.since(mended_at)),
                    "it is asked again",
                    limit_seconds=20,
                )
                recovered = time.time() - mended_at
                seen = load.statuses(began)
                slowest = max(answer.seconds for answer in load.since(began))
        finally:
            mesh.leave("orders-bad", SHOP)
    measured(
        f"a replica of two, {cut.__name__}: detected after {detected:.2f} s, recovered after "
        f"{recovered:.2f} s; clients saw {seen}, the slowest after {slowest:.2f} s"
    )
    assert detected < LIMIT_SECONDS
    assert recovered < LIMIT_SECONDS
    assert set(seen) == {200}, "every request of an idempotent method is retried elsewhere"
