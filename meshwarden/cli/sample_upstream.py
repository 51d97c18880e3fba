"""The workload of the quickstart: a small REST service that knows nothing of Meshwarden.

    python -m meshwarden.cli.sample_upstream --port 8088

It shows what reaches a workload behind Envoy: `/whoami` answers with the headers that it received.
Orders live in memory, a bounded number of them. It authenticates nobody: that is the mesh's part.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import OrderedDict
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from meshwarden.adapters import ports
from meshwarden.core.faults import Misconfigured

ORDERS_AT_MOST = 200
"""The oldest goes when one more comes."""
BODY_BYTES_AT_MOST = 65_536
CONNECTIONS_AT_MOST = 1000
KEEP_ALIVE_SECONDS = 75
"""Longer than Envoy's 30: the side that sends requests closes idle connections first."""


class Orders:
    """The newest `ORDERS_AT_MOST` orders, by number."""

    def __init__(self) -> None:
        self._orders: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._next_id = 1
        self.add("lamp", 2)
        self.add("desk", 1)

    def add(self, item: str, quantity: int) -> dict[str, Any]:
        """Keep a new order and return it."""
        order = {"id": self._next_id, "item": item, "quantity": quantity}
        self._orders[self._next_id] = order
        self._next_id += 1
        if len(self._orders) > ORDERS_AT_MOST:
            self._orders.popitem(last=False)
        return order

    def list(self) -> list[dict[str, Any]]:
        return list(self._orders.values())

    def get(self, order_id: int) -> dict[str, Any]:
        """The order. Raises a 404 where there is none, or no longer."""
        if order_id not in self._orders:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no order {order_id}.")
        return self._orders[order_id]


def create_app() -> Starlette:
    """The service, with two orders in it."""
    orders = Orders()

    async def list_or_create(request: Request) -> Response:
        if request.method != "POST":
            return JSONResponse(orders.list())
        item, quantity = _wanted(await _body(request))
        order = orders.add(item, quantity)
        return JSONResponse(order, HTTPStatus.CREATED, {"location": f"/orders/{order['id']}"})

    async def read(request: Request) -> Response:
        return JSONResponse(orders.get(request.path_params["order_id"]))

    async def reports(_request: Request) -> Response:
        return JSONResponse({"orders": len(orders.list())})

    return Starlette(
        routes=[
            Route("/healthz", _healthz),
            Route("/public/ping", _echo),
            Route("/whoami", _echo),
            Route("/limited", _echo),
            Route("/orders", list_or_create, methods=["GET", "POST"]),
            Route("/orders/{order_id:int}", read),
            Route("/admin/reports", reports),
        ],
        exception_handlers={HTTPException: _problem},
    )


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _echo(request: Request) -> Response:
    """What arrived: a header that came twice is the list of its values."""
    values: dict[str, list[str]] = {}
    for name, value in request.headers.raw:
        values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    headers = {name: found if len(found) > 1 else found[0] for name, found in values.items()}
    path = request.scope["raw_path"].decode("latin-1")
    return JSONResponse({"method": request.method, "path": path, "headers": headers})


async def _body(request: Request) -> bytes:
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY_BYTES_AT_MOST:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"An order has at most {BODY_BYTES_AT_MOST} bytes.",
            )
    return content


def _wanted(body: bytes) -> tuple[str, int]:
    """Item and quantity of a new order; an empty body orders one sample."""
    try:
        order = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body is not JSON.") from None
    if not isinstance(order, dict) or not order.keys() <= {"item", "quantity"}:
        raise HTTPException(
            HTTPStatus.BAD_REQUEST, "An order is an object with `item` and `quantity`."
        )
    item, quantity = order.get("item", "sample"), order.get("quantity", 1)
    if not isinstance(item, str) or not 1 <= len(item) <= 200:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "`item` must be a text of 1 to 200 characters.")
    if type(quantity) is not int or not 1 <= quantity <= 1_000_000:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "`quantity` must be from 1 to 1000000.")
    return item, quantity


async def _problem(_request: Request, error: Exception) -> Response:
    """RFC 9457."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else ""
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(problem, status, headers, media_type="application/problem+json")


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; exit 1 with a clear message where the port is taken."""
    parser = argparse.ArgumentParser(prog="sample_upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0: any free port")
    arguments = parser.parse_args()
    try:
        listening = ports.bind(arguments.host, arguments.port)
    except Misconfigured as fault:
        sys.exit(f"sample upstream: {fault}")
    config = uvicorn.Config(
        create_app(),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=CONNECTIONS_AT_MOST,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    # uvicorn stops cleanly, then raises the signal again for whoever handled it before: an exit 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
