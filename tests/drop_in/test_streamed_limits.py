"""The same configuration stream fed to the reference and to ours: they say the same to the ADS
server, and hold the same limits after.

Ours tells every fault of a response, a line each; the reference stops at the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from google.protobuf import any_pb2

from tests.support.ads_server import TYPE_URL, AdsServer, ads_server, any_of, config, limited
from tests.support.processes import wait_until
from tests.support.random_limits import RandomLimits
from tests.support.redis_server import RedisServer
from tests.support.side_by_side import (
    Side,
    drop_in_environment,
    request_of,
    running_ours,
    running_reference,
)

SEED = 20261125
RANDOM_RESPONSES = 150
UNREAD = ("value_to_metric", "share_threshold", "quota_mode", "metadata")
_COUNTERS = ("config_load_success", "config_load_error")
_GO_PREFIX = re.compile(r"^proto:[\s\u00a0]*")
"""Go's protobuf writes either of two spaces, as its build decides, so that nobody compares."""


@dataclass
class Streamed:
    """One of the two, and the ADS server that it asks."""

    side: Side
    control: AdsServer

    def loads(self) -> dict[str, int]:
        """How often a configuration was taken and refused, as statsd was told."""
        names = (f"ratelimit.service.{name}" for name in _COUNTERS)
        return {name: int(self.side.statsd.counters().get(name, 0)) for name in names}


@dataclass(frozen=True)
class Both:
    theirs: Streamed
    ours: Streamed

    def send(self, version: str, resources: Sequence[any_pb2.Any]) -> tuple[Any, Any]:
        """The answers of the reference and of ours to one response."""
        return (
            self.theirs.control.send(version, *resources),
            self.ours.control.send(version, *resources),
        )

    def is_answered_alike(self, version: str, resources: Sequence[any_pb2.Any]) -> bool:
        """Whether it was accepted. Fails where they differ."""
        theirs, ours = self.send(version, resources)
        assert ours.response_nonce == theirs.response_nonce
        assert ours.version_info == theirs.version_info
        assert ours.node == theirs.node
        assert ours.type_url == theirs.type_url
        assert ours.HasField("error_detail") == theirs.HasField("error_detail"), (theirs, ours)
        told = _GO_PREFIX.sub("", theirs.error_detail.message)
        lines = ours.error_detail.message.splitlines()
        # A resource without a name has no place before its fault with us.
        assert not told or told.removeprefix(": ") in lines, (told, lines)
        return not told

    def hold_the_same_limits(self) -> None:
        # The reference acknowledges just before it puts a configuration to work.
        wait_until(
            lambda: self.theirs.side.lines("/rlconfig") == self.ours.side.lines("/rlconfig"),
            "their limits are the same",
        )


@pytest.fixture(scope="module")
def both(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Both, started on their first configuration: the reference waits for one."""
    with ExitStack() as stack:
        sides = []
        for run in (running_reference, running_ours):
            control = stack.enter_context(ads_server())
            control.on_open = lambda c=control: c.response("v0", config("first", "first"))
            environment = drop_in_environment(
                tmp_path_factory.mktemp("empty"),
                redis,
                CONFIG_TYPE="GRPC_XDS_SOTW",
                CONFIG_GRPC_XDS_SERVER_URL=control.address,
                CONFIG_GRPC_XDS_NODE_ID="edge",
                CONFIG_GRPC_XDS_NODE_METADATA="zone=a,team=b",
                CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS="x-token:abc",
                CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL="100ms",
                XDS_CLIENT_BACKOFF_INITIAL_INTERVAL="100ms",
            )
            side = stack.enter_context(run(environment))
            wait_until(
                lambda c=control: c.streams and len(c.stream.requests) > 1,
                "the first is acknowledged",
            )
            sides.append(Streamed(side, control))
        yield Both(*sides)


def test_both_introduce_themselves_alike(both: Both):
    theirs, ours = (streamed.control.streams[0] for streamed in (both.theirs, both.ours))
    assert ours.requests[0] == theirs.requests[0]
    assert ours.metadata["x-token"] == theirs.metadata["x-token"] == "abc"


NESTED = {"key": "k", "descriptors": [{"key": "k", "descriptors": [limited("deep", 3, "DAY")]}]}
SHADOWED = {**limited("k", 1, "WEEK"), "shadow_mode": True, "detailed_metric": True}
UNLIMITED = {"key": "k", "rate_limit": {"unlimited": True, "name": "free"}}
FAULTS: dict[str, list[Any]] = {
    "no domain": [config("f", "")],
    "no name, no domain": [config("", "")],
    "domain twice": [config("a", "d"), config("b", "d")],
    "no key": [config("f", "d", {"value": "v"})],
    "key twice": [config("f", "d", limited("k"), limited("k"))],
    "composite twice": [config("f", "d", {"key": "a_b"}, {"key": "a", "value": "b"})],
    "deep key twice": [config("f", "d", {"key": "k", "descriptors": [{"key": "x"}, {"key": "x"}]})],
    "no unit": [config("f", "d", {"key": "k", "rate_limit": {"requests_per_unit": 1}})],
    "unit of none": [config("f", "d", {"key": "k", "rate_limit": {"unit": 12}})],
    "unit below none": [config("f", "d", {"key": "k", "rate_limit": {"unit": -1}})],
    "unlimited unit": [
        config("f", "d", {"key": "k", "rate_limit": {"unlimited": True, "unit": 1}})
    ],
    "empty replaces": [
        config("f", "d", {"key": "k", "rate_limit": {"unit": 1, "replaces": [{"name": ""}]}})
    ],
    "replaces itself": [
        config(
            "f",
            "d",
            {"key": "k", "rate_limit": {"unit": 1, "name": "n", "replaces": [{"name": "n"}]}},
        )
    ],
    "second of two": [config("a", "a", limited("k")), config("b", "b", {"key": ""})],
    "another type": [any_of(config("f", "d"), "type.googleapis.com/envoy.api.v2.Cluster")],
    "no type": [any_of(config("f", "d"), "")],
    "rubbish": [any_pb2.Any(type_url=TYPE_URL, value=b"\xff\xff\xff")],
    "a number where a text is": [any_pb2.Any(type_url=TYPE_URL, value=b"\x08\x01")],
    "text that is no UTF-8": [any_pb2.Any(type_url=TYPE_URL, value=b"\x0a\x01\xff")],
}
RIGHT: dict[str, list[Any]] = {
    "nothing": [],
    "no descriptors": [config("f", "d")],
    "a name twice": [config("f", "a", limited("k")), config("f", "b", limited("k"))],
    "levels": [config("f", "d", NESTED)],
    "flags": [config("f", "d", SHADOWED)],
    "unlimited": [config("f", "d", UNLIMITED)],
    "every unit": [
        config("f", "d", *(limited(f"k{unit}", 2**32 - 1, unit) for unit in range(1, 8)))
    ],
    "another host of the type": [any_of(config("f", "d"), f"x/{TYPE_URL.rpartition('/')[2]}")],
    "wildcards": [config("f", "d", {"key": "k", "value": "a*"}, {"key": "k", "value": "*"})],
    "strange letters": [config("Ä", "dömäin", limited("schlüssel ü/ö:|"))],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_in_the_same_words_and_changes_nothing(name: str, both: Both):
    assert both.is_answered_alike(f"before {name}", [any_of(config("kept", "kept", limited("k")))])
    resources = [r if isinstance(r, any_pb2.Any) else any_of(r) for r in FAULTS[name]]
    assert not both.is_answered_alike(name, resources)
    both.hold_the_same_limits()
    assert len(both.ours.side.lines("/rlconfig")) == 1


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_accepted_and_means_the_same(name: str, both: Both):
    resources = [r if isinstance(r, any_pb2.Any) else any_of(r) for r in RIGHT[name]]
    assert both.is_answered_alike(name, resources)
    both.hold_the_same_limits()


def test_random_streams_are_answered_alike_and_counted_alike(both: Both):
    """Right ones and broken ones mixed, some of them sent twice."""
    random = Random(SEED)  # noqa: S311 - not a secret
    accepted = 0
    for number in range(RANDOM_RESPONSES):
        resources = [_random_config(random, place) for place in range(random.randint(0, 4))]
        for again in range(random.choice((1, 1, 1, 2))):
            accepted += both.is_answered_alike(f"r{number}.{again}", resources)
        both.hold_the_same_limits()
    assert RANDOM_RESPONSES / 5 < accepted < RANDOM_RESPONSES
    assert any(both.theirs.loads().values())
    wait_until(lambda: both.theirs.loads() == _from_stats(both.ours), "they counted alike")


def test_requests_are_answered_alike_under_each_configuration(both: Both):
    """A limit that is raised keeps its count; one that is gone limits nothing."""
    for version, limit in (("q1", 2), ("q2", 4), ("q3", 1)):
        resource = any_of(config("f", "asked", limited("k", limit), UNLIMITED | {"value": "u"}))
        assert both.is_answered_alike(version, [resource])
        both.hold_the_same_limits()
        for entries in ([("k", "x")], [("k", "x")], [("k", "u")], [("k", "x"), ("z", "z")]):
            theirs, ours = (
                _without_reset(streamed.side.ask(request_of("asked", entries)))
                for streamed in (both.theirs, both.ours)
            )
            assert ours == theirs


def test_documented_differences_are_still_there(both: Both):
    """A response of another type with resources that are right, and a hundred levels and more."""
    nested: dict[str, Any] = {"key": "k"}
    for _ in range(120):
        nested = {"key": "k", "descriptors": [nested]}
    other = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    for version, resource, type_url in (
        ("e1", config("f", "d", limited("k")), other),
        ("e2", config("f", "d", nested), TYPE_URL),
    ):
        theirs, ours = (
            streamed.control.send(version, any_of(resource), type_url=type_url)
            for streamed in (both.theirs, both.ours)
        )
        assert not theirs.HasField("error_detail")
        assert ours.HasField("error_detail")


def test_both_come_back_to_a_server_that_was_away(both: Both):
    """Ours with the version that serves, and without the nonce of a stream that is gone."""
    assert both.is_answered_alike("a1", [any_of(config("f", "d", limited("k")))])
    assert not both.is_answered_alike("a2", [any_of(config("f", ""))])
    for streamed in (both.theirs, both.ours):
        streamed.control.stop()
    both.hold_the_same_limits()
    for streamed in (both.theirs, both.ours):
        streamed.control = AdsServer(streamed.control.port)
    try:
        assert both.is_answered_alike("a3", [any_of(config("f", "e", limited("k")))])
        both.hold_the_same_limits()
        theirs, ours = (s.control.stream.requests[0] for s in (both.theirs, both.ours))
        assert (theirs.version_info, theirs.response_nonce != "") == ("a2", True)
        assert (ours.version_info, ours.response_nonce) == ("a1", "")
    finally:
        for streamed in (both.theirs, both.ours):
            streamed.control.stop()


def _random_config(random: Random, place: int) -> any_pb2.Any:
    """A resource whose limits are random; one in five is broken."""
    limits = RandomLimits(random.randrange(10**9))
    descriptors = [_as_resource(one) for one in limits.descriptors]
    if random.random() < 0.2:
        broken = random.choice(descriptors)
        random.choice((_without_key, _doubled, _of_no_unit))(broken, descriptors)
    domain = random.choice(("", "same", f"d{place}", f"d{place}", f"d{place}", f"d{place}"))
    return any_of(config(f"c{place}", domain, *descriptors))


def _as_resource(descriptor: dict[str, Any]) -> dict[str, Any]:
    """A descriptor of a file as a resource has it, as far as the reference's build reads one."""
    made = {name: value for name, value in descriptor.items() if name not in UNREAD}
    if "rate_limit" in made and "unit" in made["rate_limit"]:
        made["rate_limit"] = {**made["rate_limit"], "unit": made["rate_limit"]["unit"].upper()}
    if "descriptors" in made:
        made["descriptors"] = [_as_resource(one) for one in made["descriptors"]]
    return made


def _without_key(broken: dict[str, Any], _level: list[dict[str, Any]]) -> None:
    broken["key"] = ""


def _doubled(broken: dict[str, Any], level: list[dict[str, Any]]) -> None:
    level.append(dict(broken))


def _of_no_unit(broken: dict[str, Any], _level: list[dict[str, Any]]) -> None:
    broken["rate_limit"] = {"requests_per_unit": 1}


def _from_stats(streamed: Streamed) -> dict[str, int]:
    """As `Streamed.loads`, from `/stats`."""
    found = dict(line.rsplit(": ", 1) for line in streamed.side.lines("/stats"))
    names = (f"ratelimit.service.{name}" for name in _COUNTERS)
    return {name: int(found.get(name, 0)) for name in names}


def _without_reset(answer: dict[str, Any]) -> dict[str, Any]:
    """Both read a clock of their own."""
    for status in answer.get("answer", {}).get("statuses", []):
        status.pop("durationUntilReset", None)
    return answer
