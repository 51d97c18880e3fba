"""A deployment of envoyproxy/ratelimit, with its environment and files alone, run by ours."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2

from tests.support.limit_service import METHOD, Response, request
from tests.support.ports import free_ports
from tests.support.processes import Running, running, wait_until
from tests.support.redis_server import RedisServer, running_redis

LIMIT = "{unit: year, requests_per_unit: %s}"


@dataclass(frozen=True)
class Deployment:
    """What was there before the image was changed, and the process that runs now."""

    process: Running
    folder: Path
    socket: Path
    http: str
    debug: str
    redis: RedisServer

    def publish(self, version: str, limits: str) -> None:
        """Write a version of the runtime folder, and swap the root to it."""
        _write(self.folder / version, limits)
        (self.folder / "new").symlink_to(version)
        (self.folder / "new").rename(self.folder / "current")

    def call(self, method: str, message: bytes) -> bytes:
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            return bytes(channel.unary_unary(method)(message, timeout=5))

    def ask(self, key: str) -> Any:
        return Response.FromString(self.call(METHOD, request(key, "x")))

    def health(self) -> tuple[str, int, str]:
        """gRPC's word under the reference's name, and the status and body of `/healthcheck`."""
        message = health_pb2.HealthCheckRequest(service="ratelimit").SerializeToString()
        answer = health_pb2.HealthCheckResponse.FromString(
            self.call("/grpc.health.v1.Health/Check", message)
        )
        page = httpx2.get(f"{self.http}/healthcheck")
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return str(name), page.status_code, page.text


HEALTHY, UNHEALTHY = ("SERVING", 200, "OK"), ("NOT_SERVING", 500, "")


def _write(version: Path, limits: str) -> None:
    """As the reference wants it; the file's name has no ending."""
    (version / "ratelimit" / "config").mkdir(parents=True)
    (version / "ratelimit" / "config" / "limits").write_text(limits)


def described(number: int) -> str:
    return f"domain: domain\ndescriptors: [{{key: one, rate_limit: {LIMIT % number}}}]"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("runtime")
    _write(folder / "v1", "domain: ''")
    (folder / "current").symlink_to("v1")
    http, debug = free_ports(2)
    with running_redis() as redis:
        environment = {
            **dict.fromkeys(("HOST", "GRPC_HOST", "DEBUG_HOST"), "127.0.0.1"),
            "PORT": str(http),
            "DEBUG_PORT": str(debug),
            "GRPC_UDS": str(folder / "limits.sock"),
            "RATELIMIT_GRPC__STREAMING_PORT": "0",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": redis.url.removeprefix("redis://"),
            "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": "true",
            "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "true",
            "RUNTIME_ROOT": str(folder / "current"),
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "USE_STATSD": "false",
            "MEMCACHE_HOST_PORT": "memcached:11211",
        }
        # The reference's image names no program, so that every deployment calls it by this one.
        program = Path(sys.executable).with_name("ratelimit")
        with running([program], environment=environment) as child:
            addresses = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{debug}"
            found = Deployment(child, folder, folder / "limits.sock", *addresses, redis)
            child.wait_until(found.socket.exists, "the socket is there")
            yield found


def test_a_deployment_that_changes_its_image_keeps_the_rest(deployment: Deployment):
    """From a bad first configuration to the end: health, files, logs, the socket, SIGTERM."""
    wait_until(lambda: deployment.health() == UNHEALTHY, "a bad configuration is unhealthy")
    with pytest.raises(grpc.RpcError) as failed:
        deployment.ask("one")
    assert failed.value.details() == "no rate limit configuration loaded"
    told = "config.limits: config file cannot have empty domain"
    assert told.replace(": ", ":1: ", 1) in deployment.process.output

    deployment.publish("v2", described(1))
    wait_until(lambda: deployment.health() == HEALTHY, "the swapped root is taken")
    assert [deployment.ask("one").overall_code for _ in range(2)] == [1, 2]

    deployment.publish("v3", described(5))
    lines = f"{deployment.debug}/rlconfig"
    wait_until(lambda: "requests_per_unit=5," in httpx2.get(lines).text, "the next one, too")
    assert deployment.ask("one").statuses[0].limit_remaining == 2

    deployment.redis.pause()
    wait_until(lambda: deployment.health() == UNHEALTHY, "health follows Redis")
    deployment.redis.resume()
    wait_until(lambda: deployment.health() == HEALTHY, "and comes back with it")

    assert '"event"' not in deployment.process.output, "the log is text, as LOG_FORMAT's default"
    assert "configuration_accepted" not in deployment.process.output, "LOG_LEVEL's is WARN"
    deployment.process.child.send_signal(signal.SIGTERM)
    wait_until(lambda: not deployment.process.is_alive, "it ends")
    assert deployment.process.child.returncode == 0
    assert not deployment.socket.exists()
