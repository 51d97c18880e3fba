"""What stands behind the gateway is replaced under load, and the gateway, and no request fails;
retries of a workload that is all broken stay within their budget.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.authz_service import record
from tests.support.envoy import RunningEnvoy, hot_restarted
from tests.support.istio_mesh import IstioMesh
from tests.support.measured import measured
from tests.support.processes import CHECKOUT, Running, running, wait_until
from tests.support.replica_process import Replica, running_replica
from tests.support.service_replicas import ServiceReplica, authorizer_replica, limiter_replica
from tests.support.shop_mesh import (
    HOST,
    KEY,
    LIMITS,
    ORDERS,
    ORDERS_LABELS,
    SHOP,
    Shop,
    policies,
    shop_behind_a_gateway,
)
from tests.support.steady_load import steady_load

pytestmark = pytest.mark.timeout(300)
MINE = {"host": HOST, "x-api-key": KEY}
K6_SECONDS_AT_MOST = 120


class K6:
    """k6 at a steady rate through a gateway, until it is ended."""

    def __init__(self, process: Running, summary: Path) -> None:
        self._process = process
        self._summary = summary

    def end(self) -> tuple[int, int]:
        """How many requests were sent, and how many were not answered with 200."""
        self._process.child.send_signal(signal.SIGINT)
        self._process.child.wait(30)
        metrics: dict[str, Any] = json.loads(self._summary.read_text())["metrics"]
        checks = metrics["checks"]["values"]
        return int(checks["passes"] + checks["fails"]), int(checks["fails"])

    @property
    def complaints(self) -> str:
        """What went wrong, in k6's words."""
        return self._process.errors[-2000:]


@contextmanager
def k6_load(url: str, folder: Path, *, per_second: int) -> Iterator[K6]:
    """k6 for the length of the block."""
    summary = folder / "k6.json"
    environment = {
        "URL": f"{url}/orders",
        "HOST": HOST,
        "KEY": KEY,
        "RATE": str(per_second),
        "SECONDS": str(K6_SECONDS_AT_MOST),
        "SUMMARY": str(summary),
    }
    script = CHECKOUT / "tests/chaos/steady.js"
    command = [CHECKOUT / ".tools/k6/bin/k6", "run", "--quiet", "--no-usage-report", script]
    with running(command, environment=environment, is_measured=False) as process:
        yield K6(process, summary)


def test_everything_behind_the_gateway_is_replaced_under_load(
    mesh: IstioMesh, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
):
    """As a rolling update does it: the new one joins, the old one leaves, then ends."""
    with ExitStack() as stack:
        old = _generation(mesh, stack, tmp_path_factory, "old")
        shop = stack.enter_context(shop_behind_a_gateway(mesh))
        with k6_load(shop.url, tmp_path, per_second=40) as k6:
            wait_until(lambda: _asked(shop, old) > 20, "k6 asks", limit_seconds=30)
            new = _generation(mesh, stack, tmp_path_factory, "new")
            wait_until(lambda: _asked(shop, new) > 20, "the new ones are asked", limit_seconds=30)
            for replica in old[0]:
                mesh.leave(replica.name, SHOP)
            for service in old[1]:
                service.leave(mesh)
            everybody = [*(r.port for r in old[0]), *(s.grpc_port for s in old[1])]
            wait_until(
                lambda: not any(shop.endpoint(port, "rq_total") for port in everybody),
                "the old ones are no endpoints any more",
            )
            for one in (*(replica.process for replica in old[0]), *old[1]):
                one.stop()
            before = _asked(shop, new)
            wait_until(lambda: _asked(shop, new) > before + 100, "it goes on", limit_seconds=30)
            sent, failed = k6.end()
            counted, uncounted = (_limits_asked(shop, one) for one in ("ok", "error"))
        for service in new[1]:
            service.leave(mesh)
        for replica in new[0]:
            mesh.leave(replica.name, SHOP)
    measured(
        f"rolling restart of workload, ext_authz and ratelimit: {failed} of {sent} failed, "
        f"{uncounted} were not counted"
    )
    assert failed == 0, k6.complaints
    assert sent > 200
    # A limiter that is away lets through: that no request failed would not show it. It is away
    # after three in a row; one or two are late where all these processes start at once.
    assert counted + uncounted >= sent
    assert uncounted < 3


Generation = tuple[list[Replica], list[ServiceReplica]]


def _generation(
    mesh: IstioMesh, stack: ExitStack, folders: pytest.TempPathFactory, name: str
) -> Generation:
    """Two replicas of the workload, and one of each service, in the mesh."""
    replicas = [stack.enter_context(running_replica(f"orders-{name}-{n}")) for n in range(2)]
    limits = folders.mktemp(f"limits-{name}")
    (limits / "limits.yaml").write_text(LIMITS)
    folder = folders.mktemp(f"ext-authz-{name}")
    services = [
        stack.enter_context(
            authorizer_replica(f"ext-authz-{name}", folder, *policies(), keys=[record(KEY)])
        ),
        stack.enter_context(limiter_replica(f"ratelimit-{name}", limits)),
    ]
    for replica in replicas:
        mesh.workload(replica.name, SHOP, ORDERS_LABELS, {"http": replica.port})
    for service in services:
        service.join(mesh)
    return replicas, services


def _asked(shop: Shop, generation: Generation) -> int:
    """How many requests the gateway sent to the workload's replicas of a generation."""
    return sum(int(shop.endpoint(one.port, "rq_total") or 0) for one in generation[0])


def _limits_asked(shop: Shop, outcome: str) -> int:
    """How often the gateway asked for limits, with this outcome: `ok`, `error`."""
    return shop.cluster_stat(ORDERS, 8000, f"ratelimit.{outcome}")


def test_retries_of_a_broken_workload_stay_within_their_budget(shop: Shop, good: Replica):
    """Without it each request would be sent three times, when the workload is on its knees. Some
    thirty are under way at once, so that a fifth of them is more than the three retries that the
    budget always has.
    """
    good.forget()
    good.mode("struggling")
    held = shop.cluster_stat(ORDERS, 8000, "upstream_rq_retry_overflow")
    try:
        with steady_load(f"{shop.url}/orders", MINE, per_second=100, callers=60) as load:
            wait_until(lambda: len(load.answers) > 800, "800 requests", limit_seconds=60)
        executed, requests = good.executed()["GET /orders"], len(load.answers)
    finally:
        good.mode("well")
    held = shop.cluster_stat(ORDERS, 8000, "upstream_rq_retry_overflow") - held
    factor = executed / requests
    measured(
        f"a workload that always answers 503: sent {factor:.2f} times as often as asked for, "
        f"{held} retries of {requests} requests held back"
    )
    assert set(load.statuses()) == {503}
    assert held > requests / 4
    assert factor < 1.5


def test_the_gateway_itself_is_restarted_hot_under_load(shop: Shop, tmp_path: Path):
    """A new Envoy takes over the listening sockets; the old one ends its connections."""
    with k6_load(shop.url, tmp_path, per_second=40) as k6:
        wait_until(lambda: _answered(shop.envoy) > 40, "k6 asks", limit_seconds=30)
        with hot_restarted(shop.envoy) as successor:
            wait_until(
                lambda: not shop.envoy.process.is_alive, "the old one ends", limit_seconds=30
            )
            before = _answered(successor)
            wait_until(lambda: _answered(successor) > before + 100, "it goes on", limit_seconds=30)
            sent, failed = k6.end()
    measured(f"hot restart of the gateway: {failed} of {sent} failed")
    assert failed == 0, k6.complaints
    assert sent > 100


def _answered(envoy: RunningEnvoy) -> int:
    """How many requests from outside a gateway answered so far."""
    wanted = {"format": "json", "filter": r"^http\..*\.downstream_rq_completed$"}
    answer = httpx2.get(f"{envoy.admin}/stats", params=wanted)
    return sum(
        int(one["value"])
        for one in answer.json()["stats"]
        if "value" in one and not one["name"].startswith("http.admin.")
    )
