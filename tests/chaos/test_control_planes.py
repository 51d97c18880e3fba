"""istiod and the API server away: traffic goes on, and what changes meanwhile comes into force when
they are back.
"""

from __future__ import annotations

import time

import pytest

from tests.support.measured import measured
from tests.support.processes import wait_until
from tests.support.shop_mesh import HOST, KEY, Shop, workload_of_the_shop
from tests.support.steady_load import steady_load

MINE = {"host": HOST, "x-api-key": KEY}
REQUESTS = 200
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
