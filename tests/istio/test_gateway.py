"""What `istio/base` makes of an ingress gateway: real istiod, Envoy and Kubernetes API server."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from tests.support.istio_mesh import GATEWAY_LABELS, http_filters
from tests.support.istiod import SYSTEM
from tests.support.processes import wait_until
from tests.support.shop_mesh import HOST, KEY, OTHER_KEY, Shop

pytestmark = pytest.mark.timeout(180)
MINE = {"x-api-key": KEY}


def seen(answer: httpx2.Response) -> dict[str, str]:
    """The headers that the workload received."""
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["headers"]
    return {name.lower(): value for name, value in found.items()}


def test_who_shows_nothing_or_a_wrong_key_is_told_why(shop: Shop):
    nobody = shop.client.get("/orders")
    assert (nobody.status_code, nobody.json()["reason"]) == (401, "missing_credential")
    assert nobody.headers["www-authenticate"].startswith("ApiKey")
    stranger = shop.client.get("/orders", headers={"x-api-key": OTHER_KEY})
    assert stranger.status_code == 401
    forbidden = shop.client.get("/admin", headers=MINE)
    assert (forbidden.status_code, forbidden.json()["reason"]) == (403, "no_rule_allows")


def test_the_workload_learns_who_calls_from_us_alone(shop: Shop):
    forged = {
        "x-auth-principal": "key:admin",
        "x-auth-roles": "admin",
        "X-Auth-Subject": "admin",
        "x.auth.scopes": "all",
    }
    received = seen(shop.client.get("/orders", headers={**MINE, **forged}))
    assert received["x-auth-principal"] == "key:service"
    assert "x-api-key" not in received
    assert not {name for name, value in received.items() if "admin" in value or value == "all"}
    received = seen(shop.client.get("/open", headers=forged))
    assert not {name for name in received if "auth" in name}


def test_a_name_with_an_underscore_never_reaches_the_workload(shop: Shop):
    answer = shop.client.get("/open", headers={"x_auth_principal": "key:admin"})
    assert answer.status_code == 400


def test_the_sixth_request_of_a_minute_is_one_too_many(shop: Shop):
    wait_until(lambda: time.time() % 60 < 45, "no minute ends between them", limit_seconds=20)
    answers = [shop.client.get("/limited", headers=MINE) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    left = [answer.headers["x-ratelimit-remaining"] for answer in answers]
    assert left == ["4", "3", "2", "1", "0", "0"]
    assert all(answer.headers["x-ratelimit-limit"].startswith("5, 5;w=60") for answer in answers)
    over = answers[-1]
    assert over.json()["reason"] == "over_limit"
    assert 0 < int(over.headers["retry-after"]) <= 60
    assert "retry-after" not in answers[0].headers
    assert 0 < int(over.headers["x-ratelimit-reset"]) <= 60
    assert shop.client.get("/orders", headers=MINE).status_code == 200


def test_a_proxy_of_a_version_that_nobody_named_has_no_filter_of_ours_but_asks(shop: Shop):
    with shop.mesh.proxy("router", "older", SYSTEM, GATEWAY_LABELS, version="1.30.4") as older:
        names = http_filters(older, shop.port)
        assert "envoy.filters.http.ext_authz" in names
        assert {"envoy.filters.http.ratelimit", "envoy.filters.http.header_mutation"}.isdisjoint(
            names
        )


def test_a_path_that_leads_up_is_judged_where_it_leads(shop: Shop):
    for path in ("/open/../admin", "/open/%2e%2e/admin", "//admin", "/open/..%2fadmin"):
        raw = httpx2.URL(shop.url).copy_with(raw_path=path.encode())
        answer = shop.client.get(raw, headers={**MINE, "host": HOST})
        assert answer.status_code in (400, 403), path


def test_every_filter_stands_where_it_must_and_no_proxy_rejected_anything(shop: Shop):
    names = http_filters(shop.envoy, shop.port)
    wanted = ["header_mutation", "rbac", "ext_authz", "ratelimit", "router"]
    places = [names.index(f"envoy.filters.http.{name}") for name in wanted]
    assert places == sorted(places)
    assert places[0] == 0
    shop.mesh.require_no_rejects(shop.envoy)
