"""The real Envoy with everything switched on, in front of servers that answer what a test wants.

The servers are in `envoy_services.py`; here is how they stand together, and how a test looks at it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import httpx2

from meshwarden.adapters.envoy import EnvoyOptions, bootstrap
from tests.support import envoy_services
from tests.support.envoy import RunningEnvoy, running_envoy
from tests.support.envoy_services import GrpcService, Upstream
from tests.support.processes import wait_until


@dataclass
class Mesh:
    """One Envoy, and the servers behind it."""

    envoy: RunningEnvoy
    authorizer: GrpcService
    limiter: GrpcService
    upstream: Upstream
    client: httpx2.Client

    def reset(self) -> None:
        """Allow everything, and forget what was asked."""
        self.authorizer.answer = lambda _request: envoy_services.allowed()
        self.limiter.answer = lambda _request: envoy_services.within_limit()
        self.authorizer.asked.clear()
        self.limiter.asked.clear()
        self.upstream.executions.clear()

    def logged(self, path: str) -> dict[str, Any]:
        """The newest access log entry of `path`, once it is written."""

        def entries() -> list[dict[str, Any]]:
            return [entry for entry in self.envoy.access_log if entry.get("path") == path]

        wait_until(entries, f"{path} is in the access log")
        return entries()[-1]

    def raw(self, request_line: str, *headers: str) -> httpx2.Response:
        """What is answered to a request that no HTTP library would send."""
        host, port = self.envoy.gateway.removeprefix("http://").split(":")
        lines = [request_line, "host: x", "connection: close", *headers, "", ""]
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall("\r\n".join(lines).encode("latin-1"))
            with HTTPResponse(connection) as answer:
                answer.begin()
                content = answer.read()
        return httpx2.Response(answer.status, headers=answer.getheaders(), content=content)


@contextmanager
def running_mesh() -> Iterator[Mesh]:
    """A mesh of its own, for the length of the block."""
    with (
        envoy_services.upstream() as upstream,
        envoy_services.authorizer() as authorizer,
        envoy_services.rate_limiter() as limiter,
    ):
        options = EnvoyOptions(
            listen_port=0,
            admin_port=0,
            upstream_port=upstream.port,
            ext_authz_port=authorizer.port,
            ratelimit_port=limiter.port,
        )
        with (
            running_envoy(bootstrap(options)) as envoy,
            httpx2.Client(base_url=envoy.gateway) as client,
        ):
            yield Mesh(envoy, authorizer, limiter, upstream, client)


def problem(answer: httpx2.Response) -> dict[str, Any]:
    """The problem document of an answer of Envoy's own, which must be complete."""
    assert answer.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = answer.json()
    assert content["type"] == "about:blank"
    assert content["status"] == answer.status_code
    assert content["title"]
    assert content["detail"]
    return content
