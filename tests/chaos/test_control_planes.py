"""istiod and the API server away: traffic goes on, also where our services take their
configuration from there, and what changes meanwhile comes into force when they are back.
"""

from __future__ import annotations

import time

import pytest

from tests.support.installed_mesh import installed_mesh, shop_of, shop_policy
from tests.support.measured import measured
from tests.support.processes import wait_until
from tests.support.shop_mesh import HOST, KEY, OPEN, Shop, workload_of_the_shop
from tests.support.steady_load import steady_load

MINE = {"host": HOST, "x-api-key": KEY}
REQUESTS = 200
LIMIT_SECONDS = 5.0
pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("who", "how"),
    [("istiod", "kill"), ("istiod", "pause"), ("the API server", "kill"), ("both", "kill")],
)
def test_traffic_goes_on_without_a_control_plane(who: str, how: str, shop: Shop):
    mesh = shop.mesh
    away = {"istiod": [mesh.istiod], "the API server": [mesh.api]}.get(who)
    away = away or [mesh.istiod, mesh.api]
    with steady_load(f"{shop.url}/orders", MINE, per_second=60) as load:
        for one in away:
            getattr(one, how)()
        began = time.time()
        try:
            wait_until(lambda: len(load.since(began)) > REQUESTS, "requests", limit_seconds=60)
        finally:
            for one in reversed(away):
                one.start() if how == "kill" else one.resume()
        back_at = time.time()
        version = f"{who}, {how}"
        mesh.apply(*workload_of_the_shop(version=version))
        wait_until(
            lambda: shop.client.get("/open").headers.get("x-version") == version,
            "what was changed is in force",
            limit_seconds=30,
        )
        seconds = time.time() - back_at
        statuses = load.statuses(began)
    measured(
        f"{who}, {how}: clients saw {statuses}; a change was in force {seconds:.2f} s after the "
        f"return"
    )
    assert set(statuses) == {200}


def test_services_that_watch_the_api_server_decide_on_while_it_is_away():
    orders = {"name": "orders", "paths": ["/orders"]}
    with installed_mesh(shop_policy(OPEN, orders)) as installed, shop_of(installed) as shop:
        api, services = shop.mesh.api, (installed.authorizer, installed.limiter)
        with steady_load(f"{shop.url}/orders", MINE, per_second=60) as load:
            wait_until(lambda: 200 in load.statuses(), "requests are allowed")
            assert all(one.metric("kubernetes_watch_connected") == 1 for one in services)
            api.kill()
            began = time.time()
            try:
                wait_until(
                    lambda: not any(one.metric("kubernetes_watch_connected") for one in services),
                    "both tell that it is away",
                )
                detected = time.time() - began
                wait_until(lambda: len(load.since(began)) > REQUESTS, "requests", limit_seconds=60)
                assert all(one.is_ready() for one in services)
            finally:
                api.start()
            api.apply(shop_policy(OPEN))
            back_at = time.time()
            wait_until(lambda: 403 in load.statuses(back_at), "what was changed is in force")
            recovered = time.time() - back_at
            statuses = load.statuses(began)
            seen_while_away = {one.status for one in load.since(began) if one.at < back_at}
    measured(
        f"the API server that our services watch, kill: clients saw {statuses}; detected after "
        f"{detected:.2f} s, a change was in force {recovered:.2f} s after the return"
    )
    assert seen_while_away == {200}
    assert set(statuses) == {200, 403}
    assert detected < LIMIT_SECONDS
    assert recovered < LIMIT_SECONDS
