"""ext_authz and ratelimit_service killed, paused and slow, with Redis behind the limits: what
clients of a real gateway see, and for how long.

The stated modes: without an authorizer nobody is let through (503); without a limiter, or its
Redis, everybody is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import httpx2
import pytest

from tests.support.authz_service import record
from tests.support.istio_mesh import IstioMesh
from tests.support.measured import measured
from tests.support.processes import wait_until
from tests.support.redis_sentinel import running_trio
from tests.support.redis_server import running_redis
from tests.support.replica_process import Replica
from tests.support.service_replicas import (
    ServiceReplica,
    authorizer_replica,
    limiter_replica,
)
from tests.support.shop_mesh import (
    AUTHZ_LABELS,
    HOST,
    KEY,
    LIMITS,
    OURS,
    Shop,
    policies,
    shop_behind_a_gateway,
)
from tests.support.steady_load import SteadyLoad, steady_load
from tests.support.tcp_proxy import TcpProxy

LIMIT_SECONDS = 5.0
RATE = 60.0
UNDER_WAY_AT_MOST = 4
"""Calls that a killed replica had been sent and not answered: refused, as all that fails is."""
MINE = {"host": HOST, "x-api-key": KEY}
NOBODY = {"host": HOST}
pytestmark = pytest.mark.timeout(240)


def kill(replica: ServiceReplica) -> Callable[[], None]:
    replica.kill()
    return replica.start


def pause(replica: ServiceReplica) -> Callable[[], None]:
    replica.pause()
    return replica.resume


@pytest.fixture(scope="module")
def authorizers(
    mesh: IstioMesh, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceReplica, ServiceReplica]]:
    """Two replicas; the first is in the mesh."""
    with ExitStack() as stack:
        found = []
        for name in ("ext-authz-first", "ext-authz-second"):
            folder = tmp_path_factory.mktemp(name)
            replica = authorizer_replica(name, folder, *policies(), keys=[record(KEY)])
            found.append(stack.enter_context(replica))
        found[0].join(mesh)
        yield found[0], found[1]
        for one in found:
            one.leave(mesh)


@pytest.fixture
def shop(
    mesh: IstioMesh, good: Replica, authorizers: tuple[ServiceReplica, ServiceReplica]
) -> Iterator[Shop]:
    """A gateway of the test's own; what limits, it adds."""
    del good, authorizers
    with shop_behind_a_gateway(mesh) as running:
        yield running


def first_seen(load: SteadyLoad, since: float, status: int) -> float:
    """Seconds from `since` to the first answer with `status`."""
    return min(a.at + a.seconds for a in load.since(since) if a.status == status) - since


def recovered(load: SteadyLoad, since: float, status: int) -> float:
    """Seconds from `since` to the sending of the first request from which on all had `status`; the
    load must have gone on for a while.
    """
    wait_until(
        lambda: [a.status for a in load.since(since)][-20:] == [status] * 20,
        f"{status} is answered again",
        limit_seconds=20,
    )
    wrong = [answer.at for answer in load.since(since) if answer.status != status]
    return max(wrong, default=since) - since


@pytest.mark.parametrize("cut", [kill, pause])
def test_without_an_authorizer_nobody_is_let_through(
    cut: Callable[[ServiceReplica], Callable[[], None]],
    shop: Shop,
    authorizers: tuple[ServiceReplica, ServiceReplica],
):
    with (
        steady_load(f"{shop.url}/orders", MINE, per_second=RATE) as load,
        steady_load(f"{shop.url}/orders", NOBODY, per_second=RATE / 2) as strangers,
    ):
        wait_until(lambda: len(load.answers) > 20, "requests are answered")
        began = time.time()
        mend = cut(authorizers[0])
        wait_until(
            lambda: [a.status for a in load.since(began)][-20:] == [503] * 20, "all are refused"
        )
        slowest = max(answer.seconds for answer in load.since(began))
        detected = first_seen(load, began, 503)
        mend()
        mended_at = time.time()
        seconds = recovered(load, mended_at, 200)
    measured(
        f"the only authorizer, {cut.__name__}: clients saw {load.statuses(began)}; refused after "
        f"{detected:.2f} s, the slowest refusal took {slowest:.2f} s; recovered {seconds:.2f} s "
        f"after it was mended"
    )
    assert set(load.statuses()) == {200, 503}
    assert set(strangers.statuses()) == {401, 503}
    assert seconds < LIMIT_SECONDS


@pytest.mark.parametrize("cut", [kill, pause])
def test_one_of_two_authorizers_is_lost_under_load(
    cut: Callable[[ServiceReplica], Callable[[], None]],
    mesh: IstioMesh,
    shop: Shop,
    authorizers: tuple[ServiceReplica, ServiceReplica],
):
    lost, other = authorizers
    other.join(mesh)
    try:
        with (
            steady_load(f"{shop.url}/orders", MINE, per_second=RATE) as load,
            steady_load(f"{shop.url}/orders", NOBODY, per_second=RATE / 2) as strangers,
        ):
            wait_until(
                lambda: shop.endpoint(other.grpc_port, "rq_success") not in ("", "0"), "both"
            )
            began = time.time()
            mend = cut(lost)
            detected = recovered(load, began, 200)
            mend()
            mended_at = time.time()
            before = int(shop.endpoint(lost.grpc_port, "rq_success"))
            wait_until(
                lambda: int(shop.endpoint(lost.grpc_port, "rq_success")) > before,
                "it is asked again",
                limit_seconds=20,
            )
            back = time.time() - mended_at
    finally:
        other.leave(mesh)
    refused = load.statuses(began).get(503, 0)
    measured(
        f"one of two authorizers, {cut.__name__}: clients saw {load.statuses(began)}; none was "
        f"refused any more after {detected:.2f} s; asked again {back:.2f} s after it was mended"
    )
    assert set(load.statuses()) <= {200, 503}
    assert set(strangers.statuses()) <= {401, 503}, "nobody was let through"
    assert detected < LIMIT_SECONDS
    assert back < LIMIT_SECONDS
    if cut is kill:
        assert refused <= UNDER_WAY_AT_MOST, "what can't be sent is sent to the other"


@contextmanager
def delayed(port: int) -> Iterator[TcpProxy]:
    """A way to a server on which every answer can be late, in an event loop of its own."""
    proxy = TcpProxy(port)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(proxy.listen())
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_slow_authorizer_is_one_that_does_not_answer(
    mesh: IstioMesh, shop: Shop, authorizers: tuple[ServiceReplica, ServiceReplica]
):
    """Its time limit is 200 ms: what comes later is refused, and nobody waits for it."""
    direct = authorizers[0]
    with delayed(direct.grpc_port) as way:
        mesh.workload(direct.name, OURS, AUTHZ_LABELS, {"grpc": way.port})
        wait_until(lambda: shop.endpoint(way.port, "rq_total") == "0", "the way is known")
        try:
            with steady_load(f"{shop.url}/orders", MINE, per_second=RATE) as load:
                wait_until(lambda: [a.status for a in load.answers][-20:] == [200] * 20, "well")
                began = time.time()
                way.answer_delay_seconds = 1.0
                wait_until(
                    lambda: [a.status for a in load.since(began)][-20:] == [503] * 20, "all late"
                )
                slowest = max(answer.seconds for answer in load.since(began))
                detected = first_seen(load, began, 503)
                way.answer_delay_seconds = 0.0
                mended_at = time.time()
                seconds = recovered(load, mended_at, 200)
        finally:
            direct.join(mesh)
    measured(
        f"a slow authorizer: clients saw {load.statuses(began)}; refused after {detected:.2f} s, "
        f"the slowest refusal took {slowest:.2f} s; recovered {seconds:.2f} s after it was fast "
        "again"
    )
    assert set(load.statuses()) == {200, 503}
    assert slowest < 1.0
    assert seconds < LIMIT_SECONDS


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    folder = tmp_path / "limits"
    folder.mkdir()
    (folder / "limits.yaml").write_text(LIMITS)
    return folder


@pytest.mark.parametrize("cut", [kill, pause])
def test_without_a_limiter_everybody_is_let_through_until_it_is_back(
    cut: Callable[[ServiceReplica], Callable[[], None]], mesh: IstioMesh, shop: Shop, limits: Path
):
    with limiter_replica("ratelimit-only", limits) as limiter:
        limiter.join(mesh)
        try:
            with steady_load(f"{shop.url}/limited", MINE, per_second=RATE) as load:
                is_limited(shop)
                began = time.time()
                mend = cut(limiter)
                passing = recovered(load, began, 200)
                slowest = max(answer.seconds for answer in load.since(began))
                mend()
                mended_at = time.time()
                is_limited(shop)
                back = time.time() - mended_at
        finally:
            limiter.leave(mesh)
    measured(
        f"the only limiter, {cut.__name__}: clients saw {load.statuses(began)}; let through from "
        f"{passing:.2f} s on, the slowest answer {slowest:.2f} s; limited again after {back:.2f} s"
    )
    assert set(load.statuses()) == {200, 429}
    assert slowest < 1.0
    assert back < LIMIT_SECONDS


def is_limited(shop: Shop) -> None:
    wait_until(
        lambda: httpx2.get(f"{shop.url}/limited", headers=MINE).status_code == 429,
        "the limit holds",
        limit_seconds=20,
    )


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_without_redis_everybody_is_let_through_until_it_is_back(
    how: str, mesh: IstioMesh, shop: Shop, limits: Path
):
    with running_redis() as redis:
        options = ("--store.kind", "redis", "--redis.url", redis.url)
        with limiter_replica("ratelimit-redis", limits, *options) as limiter:
            limiter.join(mesh)
            try:
                with steady_load(f"{shop.url}/limited", MINE, per_second=RATE) as load:
                    is_limited(shop)
                    began = time.time()
                    redis.kill() if how == "killed" else redis.pause()
                    passing = recovered(load, began, 200)
                    slowest = max(answer.seconds for answer in load.since(began))
                    redis.start() if how == "killed" else redis.resume()
                    mended_at = time.time()
                    is_limited(shop)
                    back = time.time() - mended_at
            finally:
                limiter.leave(mesh)
    measured(
        f"Redis behind the limits, {how}: clients saw {load.statuses(began)}; let through from "
        f"{passing:.2f} s on, the slowest answer {slowest:.2f} s; limited again after {back:.2f} s"
    )
    assert set(load.statuses()) == {200, 429}
    assert slowest < 1.0
    assert back < LIMIT_SECONDS


def test_redis_is_failed_over_and_limits_hold_again(mesh: IstioMesh, shop: Shop, limits: Path):
    with running_trio() as trio:
        options = ("--store.kind", "redis", "--redis.type", "sentinel", "--redis.url", trio.url)
        with limiter_replica("ratelimit-sentinel", limits, *options) as limiter:
            limiter.join(mesh)
            try:
                with steady_load(f"{shop.url}/limited", MINE, per_second=RATE) as load:
                    is_limited(shop)
                    began = time.time()
                    trio.master.kill()
                    wait_until(
                        lambda: 200 in load.statuses(began), "it is noticed", limit_seconds=20
                    )
                    noticed = first_seen(load, began, 200)
                    is_limited(shop)
                    back = recovered(load, began, 429)
            finally:
                limiter.leave(mesh)
    measured(
        f"Redis' master killed, sentinels choose another: clients saw {load.statuses(began)}; "
        f"let through after {noticed:.2f} s, "
        f"limited again after {back:.2f} s"
    )
    assert set(load.statuses()) == {200, 429}
    assert back < LIMIT_SECONDS
