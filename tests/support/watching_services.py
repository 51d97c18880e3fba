"""Both services over a Kubernetes API server, run as processes, and how to ask them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import httpx2

from ext_authz.adapters.envoy_check import CHECK
from meshwarden.adapters.protobuf import message_class
from tests.support.authz_service import reason_of
from tests.support.check_requests import check_request, response_of
from tests.support.limit_service import METHOD, request
from tests.support.ports import free_ports
from tests.support.processes import Running, running

Response = message_class("envoy.service.ratelimit.v3.RateLimitResponse")


class Watching:
    """A running service."""

    def __init__(self, process: Running, grpc_port: int, http_port: int) -> None:
        self.process = process
        self.grpc_port = grpc_port
        self.http_port = http_port
        self._channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")

    def close(self) -> None:
        self._channel.close()

    def reason(self, host: str, *, key: str = "", path: str = "/", token: str = "") -> str:
        """ext_authz's reason for a request."""
        return reason_of(self._checked(host, key=key, path=path, token=token))

    def headers_sent(self, host: str, *, key: str) -> dict[str, str]:
        """The headers that ext_authz gives the workload with a request that it allows."""
        allowed = response_of(self._checked(host, key=key)).ok_response
        return {one.header.key: one.header.value for one in allowed.headers}

    def _checked(self, host: str, *, key: str = "", path: str = "/", token: str = "") -> bytes:
        headers = {"x-api-key": key} if key else {}
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        message = check_request(path, host=host, headers=headers)
        answer: bytes = self._channel.unary_unary(CHECK)(message, timeout=10)
        return answer

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{self.http_port}{path}", trust_env=False)

    def over_limit(self, domain: str, key: str, value: str = "x") -> bool:
        """Whether ratelimit says so about one descriptor."""
        call = self._channel.unary_unary(METHOD)
        answer = Response.FromString(call(request(key, value, domain=domain), timeout=10))
        return int(answer.overall_code) == 2

    def has_limit(self, domain: str, key: str) -> bool:
        call = self._channel.unary_unary(METHOD)
        answer = Response.FromString(call(request(key, "x", domain=domain), timeout=10))
        return bool(answer.statuses and answer.statuses[0].HasField("current_limit"))

    def readyz(self) -> Any:
        """The verbose answer, `{}` where there is none."""
        try:
            return self.get("/readyz?verbose").json()
        except httpx2.HTTPError:
            return {}

    def is_ready(self) -> bool:
        return bool(self.readyz().get("ready"))

    def metric(self, name: str) -> float:
        """The value of a metric without labels, or the sum over them."""
        lines = [
            line
            for line in self.get("/metrics").text.splitlines()
            if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def wait_until_ready(self, *, limit_seconds: float = 30) -> None:
        self.process.wait_until(self.is_ready, "it is ready", limit_seconds=limit_seconds)


@contextmanager
def watching_service(
    program: str,
    *options: str,
    environment: Mapping[str, str] | None = None,
    waits_for_ready: bool = True,
) -> Iterator[Watching]:
    """`program` on free ports with `options`."""
    main, streaming, http, debug = free_ports(4)
    ports = {"grpc.port": main, "grpc.streaming-port": streaming, "http.port": http}
    sections = ["grpc", "http"]
    if program == "ratelimit_service":
        ports["debug.port"] = debug
        sections.append("debug")
    words = [sys.executable, "-m", program]
    for name, port in ports.items():
        words += [f"--{name}", str(port)]
    for section in sections:
        words += [f"--{section}.host", "127.0.0.1"]
    with running([*words, *options], environment=environment) as process:
        service = Watching(process, main, http)
        try:
            if waits_for_ready:
                service.wait_until_ready()
            yield service
        finally:
            service.close()
