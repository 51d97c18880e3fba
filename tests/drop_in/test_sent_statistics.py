"""The same requests to the real envoyproxy/ratelimit and to ours: the same statistics, whichever
way they leave.

Not compared: what belongs to a Go process (`*.go.*`, `runtime.*`, statsd_exporter's own metrics),
how many connections to Redis there are, how long a call took, when the local cache was used, and
unlimited rules, which have no statistics there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import grpc
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.limit_service import Request
from tests.support.line_listener import LineListener
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.side_by_side import (
    Pair,
    Side,
    drop_in_environment,
    limits_folder,
    running_ours,
    running_reference,
)

LIMITS = r"""
domain: dom
descriptors:
- {key: one, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 5}}
- {key: address, value: 10.0.0.1, rate_limit: {unit: year, requests_per_unit: 20}}
- {key: zero, rate_limit: {unit: year, requests_per_unit: 0}}
- {key: free, rate_limit: {unlimited: true}}
- {key: detailed, detailed_metric: true, rate_limit: {unit: year, requests_per_unit: 7}}
- {key: shown, value_to_metric: true, descriptors: [
    {key: path, value: "a*", share_threshold: true, value_to_metric: true,
     rate_limit: {unit: year, requests_per_unit: 8, name: path}}]}
- {key: two, value: v, rate_limit: {unit: year, requests_per_unit: 9, replaces: [{name: path}]},
   descriptors: [
    {key: sub, rate_limit: {unit: year, requests_per_unit: 10}, descriptors: [
      {key: deep, rate_limit: {unit: year, requests_per_unit: 11}}]}]}
"""
WAYS = [
    ["one"], ["address"], ["zero"], ["free"], ["detailed"], ["shown", "path"], ["two"],
    ["two", "sub"], ["two", "sub", "deep"], ["none"],
]  # fmt: skip
VALUES = {"address": ["10.0.0.1"], "two": ["v"], "path": ["a1", "a2", "b"]}
ANY_VALUE = ["", "x", "1.2.3.4", "v:1|2", "1.2.3.4567", "1234.5.6.7.8", "a.b"]

MOGRIFIERS = {
    "USE_DOG_STATSD_MOGRIFIERS": "LIMIT,CALL",
    "DOG_STATSD_MOGRIFIER_LIMIT_PATTERN": r"^ratelimit\.service\.rate_limit\.(.*)\.(.*)\.(.*)$",
    "DOG_STATSD_MOGRIFIER_LIMIT_NAME": "ratelimit.service.rate_limit.$3",
    "DOG_STATSD_MOGRIFIER_LIMIT_TAGS": "domain:$1,descriptor:$2",
    "DOG_STATSD_MOGRIFIER_CALL_PATTERN": r"server\.(.*)\.response_time",
    "DOG_STATSD_MOGRIFIER_CALL_NAME": "call$7",
    "DOG_STATSD_MOGRIFIER_CALL_TAGS": "method:$1",
}
CACHE = {
    "LOCAL_CACHE_SIZE_IN_BYTES": "1000000",
    "RATELIMIT_STORE__OVER_LIMIT_CACHE_BYTES": "1000000",
}
MAPPER = r"""
defaults: {timer_type: histogram, buckets: [100000]}
mappings:
- {match: "ratelimit.service.rate_limit.*.*.near_limit", action: drop, name: dropped}
- {match: "ratelimit.service.rate_limit.dom.*.*", name: "limit_$2", labels: {"key_1": "${1}"}}
- {match: "ratelimit.service.rate_limit.*.one.*", name: never}
- {match: 'rate_limit\.(?P<domain>[^.]*)\.(.*)\.(within_limit|total_hits)', match_type: regex,
   name: "deep_$3", labels: {domain_: "${domain}", rest: "$2", none: "$8", "no": "010"}}
- {match: "ratelimit_server.*.*", match_metric_type: counter, name: "calls", help: Calls.,
   labels: {method: "$1", what: "$2"}}
"""
GO_ALONE = re.compile(
    r"(ratelimit[._]go[._]|runtime[._]|go_|process_|promhttp_|statsd_exporter_|.*redis_pool|.*averageAccessTime).*"
)


def history(seed: int, *, steps: int = 300, with_overrides: bool = True) -> list[Any]:
    """Random requests: all ways through the limits, overrides, hits, and requests that are none."""
    random = Random(seed)  # noqa: S311 - the same ones again
    found = []
    for _ in range(steps):
        domain = random.choices(["dom", "un.known", "a:b", ""], [60, 1, 1, 1])[0]
        request = Request(domain=domain, hits_addend=random.choice([0, 0, 1, 2, 5]))
        for _ in range(random.choice([0, 1, 1, 1, 2, 3, 3])):
            descriptor = request.descriptors.add()
            for key in random.choice(WAYS):
                descriptor.entries.add(key=key, value=random.choice(VALUES.get(key, ANY_VALUE)))
            if with_overrides and random.random() < 0.1:
                descriptor.limit.requests_per_unit = 4
                descriptor.limit.unit = 6
            if random.random() < 0.2:
                descriptor.hits_addend.value = random.choice([0, 1, 3])
        found.append(request)
    return found


@contextmanager
def both(root: Path, redis: RedisServer, **variables: str) -> Iterator[Pair]:
    """The reference and ours with `LIMITS`, the same environment and counters of their own."""
    (limits_folder(root) / "limits.yaml").write_text(LIMITS)
    environment = drop_in_environment(root, redis, **{"USE_STATSD": "false", **variables})
    theirs, ours = ({"CACHE_KEY_PREFIX": f"{root.name}{number}:"} for number in range(2))
    with (
        running_reference({**environment, **theirs}) as reference,
        running_ours({**environment, **ours}) as service,
    ):
        for side in (reference, service):
            side.wait_until_ready("/healthcheck")
        yield Pair(reference, service, limits_folder(root))


def ask(side: Side, requests: list[Any]) -> int:
    """Send `requests` one after the other; how many were answered with an error."""
    failed = sum("error" in side.ask(request) for request in requests)
    with grpc.insecure_channel(f"127.0.0.1:{side.grpc_port}") as channel:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
    return failed


def pushed(listener: LineListener) -> Counter[str]:
    """Sums of counters, how many timings came, last values of gauges, each with sorted tags."""
    found: Counter[str] = Counter()
    for line in list(listener.lines):
        if not line:
            continue
        head, kind, *rest = line.split("|")
        name, _, value = head.rpartition(":")
        tags = ",".join(sorted(rest[0].removeprefix("#").split(","))) if rest else ""
        if GO_ALONE.match(name) or "free" in f"{name}{tags}":
            continue
        key = f"{name}|{kind}|{tags}"
        found[key] = int(value) if kind == "g" else found[key] + (1 if kind == "ms" else int(value))
    return found


def shown(side: Side) -> Mapping[str, float]:
    """The samples of the Prometheus page, save how long calls took."""
    text = httpx2.get(side.prometheus).text
    found = {}
    # The parser would add `_total` to the names of counters.
    for family in text_string_to_metric_families(re.sub(" counter\n", " gauge\n", text)):
        for sample in family.samples:
            labels = dict(sorted(sample.labels.items()))
            name = f"{family.type} {sample.name}{labels}"
            is_timing = sample.name.endswith(("_bucket", "_sum")) or "quantile" in labels
            if not is_timing and not GO_ALONE.match(sample.name) and "free" not in name:
                found[name] = sample.value
    return found


def require_equal(read: Callable[[Side], Mapping[str, float]], pair: Pair) -> None:
    """Fail, showing what differs, unless both come to say the same."""
    theirs, ours = pair.theirs, pair.ours
    with suppress(AssertionError):
        wait_until(lambda: read(theirs) == read(ours), "both say the same", limit_seconds=5)
    found, wanted = read(ours), read(theirs)
    assert {name: found.get(name) for name in wanted} == wanted
    assert {name: wanted.get(name) for name in found} == found
    assert len(found) > 20


@pytest.mark.parametrize(
    ("switch", "further"),
    [
        ("USE_STATSD", {}),
        ("USE_STATSD", {"EXTRA_TAGS": "zone:eu.1,app:a"}),
        ("USE_DOG_STATSD", {"EXTRA_TAGS": "zone:eu.1,app:a"}),
        ("USE_DOG_STATSD", MOGRIFIERS),
        ("USE_STATSD", {"NEAR_LIMIT_RATIO": "0.35", "SHADOW_MODE": "true"}),
        ("USE_STATSD", CACHE),
    ],
)
def test_every_line_that_is_sent_is_the_same(
    redis: RedisServer, tmp_path: Path, switch: str, further: dict[str, str]
):
    # What the cache knows of a counter by an override, the reference takes for the limit, too.
    requests = history(1, with_overrides=further != CACHE)
    with both(tmp_path, redis, **{switch: "true"}, **further) as pair:
        assert ask(pair.theirs, requests) == ask(pair.ours, requests)
        require_equal(lambda side: pushed(side.statsd), pair)


@pytest.mark.parametrize("further", ["", "mapper", "tags"])
def test_every_sample_of_the_prometheus_page_is_the_same(
    redis: RedisServer, tmp_path: Path, further: str
):
    variables = {"USE_PROMETHEUS": "true"}
    if further == "mapper":
        (tmp_path / "mapper.yaml").write_text(MAPPER)
        variables["PROMETHEUS_MAPPER_YAML"] = str(tmp_path / "mapper.yaml")
    if further == "tags":
        variables["EXTRA_TAGS"] = "zone:eu.1"
    requests = history(2)
    with both(tmp_path, redis, **variables) as pair:
        assert ask(pair.theirs, requests) == ask(pair.ours, requests)
        require_equal(shown, pair)
