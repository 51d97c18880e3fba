"""A real Envoy in front of either: its client sees the same statuses and headers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2

from meshwarden.adapters.envoy import EnvoyOptions, bootstrap
from tests.support import envoy_services
from tests.support.envoy import running_envoy
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.side_by_side import limits_folder, side_by_side

LIMITS = """
domain: quickstart
descriptors:
- key: rule
  value: read
  descriptors:
  - key: principal
    rate_limit: {unit: hour, requests_per_unit: 3, name: per-caller}
"""
VARYING = {"date", "x-envoy-upstream-service-time", "x-request-id"}
"""Headers that differ between any two answers of Envoy's."""

Seen = tuple[int, dict[str, str]]


def test_a_client_behind_envoy_sees_no_difference(redis: RedisServer, tmp_path: Path):
    """Within the limit and over it, with what Envoy makes of the statuses: X-RateLimit-*, too."""
    (limits_folder(tmp_path) / "limits.yaml").write_text(LIMITS)
    with (
        side_by_side(tmp_path, redis, LIMIT_RESPONSE_HEADERS_ENABLED="true") as pair,
        _behind_envoy(pair.theirs.grpc_port) as theirs,
        _behind_envoy(pair.ours.grpc_port) as ours,
    ):
        seen = _seen_within_a_second(theirs, ours)
    for of_theirs, of_ours in seen:
        assert of_ours == of_theirs
    assert [status for (status, _), _ in seen] == [200, 200, 200, 429, 429]
    _, over = seen[-1][1]
    assert over["ratelimit-remaining"] == "0"
    assert over["x-ratelimit-limit"] == '3, 3;w=3600;name="per-caller"'


def _seen_within_a_second(theirs: httpx2.Client, ours: httpx2.Client) -> list[tuple[Seen, Seen]]:
    """Five answers of each; begun again with another caller where they took too long."""
    for attempt in range(5):
        wait_until(lambda: 0.06 < time.time() % 1 < 0.5, "a second is young")
        second, path = int(time.time()), f"/books/{attempt}"
        seen = [(_seen(theirs, path), _seen(ours, path)) for _ in range(5)]
        if int(time.time() + 0.06) == second:
            return seen
    raise AssertionError("ten requests took more than half a second, five times")


@contextmanager
def _behind_envoy(grpc_port: int) -> Iterator[httpx2.Client]:
    """A client of an Envoy that asks the rate-limit service at `grpc_port`."""
    with ExitStack() as stack:
        upstream = stack.enter_context(envoy_services.upstream())
        authorizer = stack.enter_context(envoy_services.authorizer())
        authorizer.answer = _called_by_its_path
        options = EnvoyOptions(
            listen_port=0,
            admin_port=0,
            upstream_port=upstream.port,
            ext_authz_port=authorizer.port,
            ratelimit_port=grpc_port,
            # A slow machine must not look like a limit that is not there.
            ratelimit_timeout_seconds=5,
        )
        envoy = stack.enter_context(running_envoy(bootstrap(options)))
        yield stack.enter_context(httpx2.Client(base_url=envoy.gateway))


def _called_by_its_path(request: Any) -> Any:
    """A verdict whose principal, which is what is limited, is the path."""
    verdict = envoy_services.allowed()
    verdict.dynamic_metadata["principal"] = request.attributes.request.http.path
    return verdict


def _seen(client: httpx2.Client, path: str) -> Seen:
    answer = client.get(path)
    headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
    return answer.status_code, headers
