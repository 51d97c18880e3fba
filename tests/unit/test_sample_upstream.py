"""The sample upstream, asked in this process: what it shows, what it refuses, what it forgets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from meshwarden.cli.sample_upstream import BODY_BYTES_AT_MOST, ORDERS_AT_MOST, create_app


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app())
    async with httpx2.AsyncClient(transport=transport, base_url="http://upstream") as client:
        yield client


@pytest.mark.parametrize("path", ["/public/ping", "/whoami", "/limited"])
async def test_it_shows_what_it_received(client: httpx2.AsyncClient, path: str) -> None:
    sent = [("X-One", "1"), ("x-two", "a"), ("X-Two", "b")]
    answer = await client.get(f"{path}?secret=1", headers=sent)
    shown = answer.json()
    assert answer.status_code == 200
    assert (shown["method"], shown["path"]) == ("GET", path)
    assert shown["headers"]["x-one"] == "1"
    assert shown["headers"]["x-two"] == ["a", "b"]


@pytest.mark.parametrize("path", ["/healthz", "/orders", "/admin/reports"])
async def test_every_other_page_answers(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_an_order_that_was_made_can_be_read(client: httpx2.AsyncClient) -> None:
    made = await client.post("/orders", json={"item": "chair", "quantity": 4})
    assert made.status_code == 201
    read = await client.get(made.headers["location"])
    assert read.json() == made.json() == {"id": 3, "item": "chair", "quantity": 4}
    assert made.json() in (await client.get("/orders")).json()


async def test_an_empty_body_orders_a_sample(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/orders")).json() == {"id": 3, "item": "sample", "quantity": 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 400),
        (b"[" * 60_000, 400),
        (b'{"item": 1}', 400),
        (b'{"item": ""}', 400),
        (b'{"quantity": true}', 400),
        (b'{"quantity": 0}', 400),
        (b'{"price": 1}', 400),
        (b" " * (BODY_BYTES_AT_MOST + 1), 413),
    ],
)
async def test_a_body_that_is_no_order_is_refused_with_a_problem(
    client: httpx2.AsyncClient, body: bytes, status: int
) -> None:
    answer = await client.post("/orders", content=body)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert len((await client.get("/orders")).json()) == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/orders/77", 404),
        ("GET", "/orders/x", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/orders", 405),
    ],
)
async def test_what_is_not_there_is_a_problem(
    client: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_oldest_order_goes_when_there_are_too_many(client: httpx2.AsyncClient) -> None:
    for _ in range(ORDERS_AT_MOST - 1):
        await client.post("/orders")
    orders = (await client.get("/orders")).json()
    assert len(orders) == ORDERS_AT_MOST
    assert orders[0]["id"] == 2
    assert (await client.get("/orders/1")).status_code == 404
