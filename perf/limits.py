"""What a decision about limits costs, ours beside the real envoyproxy/ratelimit, with no Envoy
between.

All systems run at once, ours in memory, ours on Redis with one worker and two, and the reference on
the same Redis; the cases are interleaved in rounds. ghz calls each over gRPC with a set number of
callers and connections, from a thousand different keys; an answer of each case is checked before it
is timed. CPU a request is user and system time of the service's processes from /proc; that of
redis-server stands beside it.

    make test-drop-in test-transport && python -m perf.limits

Writes a dated result into perf/results/.

Needs Go once, for the reference and ghz, which these build.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from perf import ghz
from perf.gateway import cpu_seconds
from perf.result import write
from tests.support.limit_service import METHOD, Request, Response
from tests.support.redis_server import RedisServer, running_redis
from tests.support.reference_ratelimit import reference_program
from tests.support.side_by_side import started

ROUNDS = 3
SECONDS = 3
CALLERS = 32
CONNECTIONS = 4
KEYS = 1000
DESCRIPTORS = (1, 2, 10)

LIMITS = """
domain: perf
descriptors:
""" + "".join(
    f"""
- {{key: within{number}, rate_limit: {{unit: day, requests_per_unit: 4000000000}}}}
- {{key: over{number}, rate_limit: {{unit: day, requests_per_unit: 1}}}}
"""
    for number in range(max(DESCRIPTORS))
)


@dataclass(frozen=True)
class System:
    """One service under test."""

    name: str
    port: int
    pid: int


@dataclass(frozen=True)
class Case:
    """What is asked: `overall_code` is the answer that all requests must have."""

    name: str
    body: Path
    first: Mapping[str, Any]
    overall_code: int


def measure() -> dict[str, Any]:
    """By case and system: requests a second, latencies in milliseconds, CPU in microseconds."""
    with TemporaryDirectory(prefix="meshwarden-perf-") as name, ExitStack() as stack:
        folder = Path(name)
        descriptors = files("meshwarden.adapters").joinpath("descriptors.binpb").read_bytes()
        (folder / "envoy.binpb").write_bytes(descriptors)
        redis = stack.enter_context(running_redis())
        systems = list(_systems(folder, redis, stack))
        cases = list(_cases(folder))
        rows: dict[str, dict[str, list[dict[str, float]]]] = {}
        for case in cases:
            rows[case.name] = {system.name: [] for system in systems}
            for system in systems:
                _check(system, case)
            for _ in range(ROUNDS):
                for system in systems:
                    found = _round(folder, system, case, redis)
                    rows[case.name][system.name].append(found)
    return {
        "callers": CALLERS,
        "connections": CONNECTIONS,
        "seconds_a_round": SECONDS,
        "rounds": rows,
        "medians": {
            case: {system: _median(found) for system, found in by_system.items()}
            for case, by_system in rows.items()
        },
    }


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}


def _systems(folder: Path, redis: RedisServer, stack: ExitStack) -> Iterator[System]:
    limits = folder / "runtime" / "config"
    limits.mkdir(parents=True)
    (limits / "perf.yaml").write_text(LIMITS)
    reference = {
        "RUNTIME_ROOT": str(limits.parent),
        "RUNTIME_SUBDIRECTORY": "",
        "RUNTIME_WATCH_ROOT": "false",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{redis.port}",
        "CACHE_KEY_PREFIX": "reference:",
        "USE_STATSD": "false",
        "LOG_LEVEL": "error",
    }
    yield stack.enter_context(
        _running("envoyproxy/ratelimit", [reference_program("service_cmd")], reference)
    )
    ours: list[str | Path] = [
        sys.executable,
        "-m",
        "ratelimit_service",
        "--configuration.folder",
        str(limits),
    ]
    ours += ["--log.level", "warning"]
    on_redis = ["--store.kind", "redis", "--redis.url", redis.url, "--redis.time-limit-seconds"]
    for name, options in (
        ("ours, memory", []),
        ("ours, Redis", [*on_redis, "5", "--store.key-prefix", "one:"]),
        ("ours, Redis, 2 workers", [*on_redis, "5", "--store.key-prefix", "two:", "--workers=2"]),
    ):
        yield stack.enter_context(_running(name, [*ours, *options], {}))


@contextmanager
def _running(
    name: str, command: list[str | Path], environment: Mapping[str, str]
) -> Iterator[System]:
    on_loopback = dict.fromkeys(("HOST", "GRPC_HOST", "DEBUG_HOST"), "127.0.0.1")
    with started(command, {**environment, **on_loopback}) as side:
        yield System(name, side.grpc_port, side.process.pid)


def _cases(folder: Path) -> Iterator[Case]:
    for count in DESCRIPTORS:
        for kind, code in (("within", 1), ("over", 2)):
            bodies = [
                {
                    "domain": "perf",
                    "descriptors": [
                        {"entries": [{"key": f"{kind}{number}", "value": f"user-{key}"}]}
                        for number in range(count)
                    ],
                }
                for key in range(KEYS)
            ]
            body = folder / f"{kind}{count}.json"
            body.write_text(json.dumps(bodies))
            yield Case(f"{kind} the limit, {count} descriptors", body, bodies[0], code)


def _check(system: System, case: Case) -> None:
    """Warm every key, and see that the answer is the case's."""
    bodies = json.loads(case.body.read_text())
    with grpc.insecure_channel(f"127.0.0.1:{system.port}") as channel:
        call = channel.unary_unary(METHOD)
        for body in bodies:
            message = Request(domain=body["domain"], descriptors=body["descriptors"])
            for _ in range(2):
                answer = Response.FromString(call(message.SerializeToString(), timeout=10))
        if answer.overall_code != case.overall_code:
            sys.exit(f"{system.name}: {case.name}: answered {answer.overall_code}")


def _round(folder: Path, system: System, case: Case, redis: RedisServer) -> dict[str, float]:
    options = ["--protoset", folder / "envoy.binpb", "--call", METHOD.lstrip("/")]
    before = _tree_cpu_seconds(system.pid), cpu_seconds(redis.pid)
    answered = ghz.call(
        system.port,
        [*options, "--data-file", case.body],
        callers=CALLERS,
        connections=CONNECTIONS,
        seconds=SECONDS,
    )
    after = _tree_cpu_seconds(system.pid), cpu_seconds(redis.pid)
    count = answered.count
    return {
        "requests_a_second": round(answered.calls_a_second, 1),
        "p50_ms": round(answered.p50_ms, 2),
        "p99_ms": round(answered.p99_ms, 2),
        "cpu_us": round((after[0] - before[0]) / count * 1e6, 1),
        "redis_cpu_us": round((after[1] - before[1]) / count * 1e6, 1),
    }


def _tree_cpu_seconds(pid: int) -> float:
    """Of a process and of those that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_seconds(pid) + sum(_tree_cpu_seconds(int(child)) for child in children)


if __name__ == "__main__":
    sys.exit(write("limits", measure()))
