"""When the service calls itself healthy: what the settings ask of configuration and store."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from meshwarden.adapters.configuration import Configuration
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import Unavailable
from meshwarden.core.snapshot import Bundle, SnapshotHolder
from ratelimit_service.adapters.configuration_health import ConfigurationHealth, Wanted
from ratelimit_service.adapters.redis_watch import RedisWatch
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.model import Rules

GOOD, BAD, EMPTY = b"domain: a", b"domain: ''", b""


class Case:
    """A configuration that is offered bundles, and what health says of it."""

    def __init__(self, wanted: Wanted, *, starts_without: bool = False) -> None:
        self.rules: Rules | None = None
        self.configuration = Configuration(
            SnapshotHolder(compile_limits),
            FolderSource(None),
            apply=self.apply,
            counts=lambda _rules: {},
            metrics=Metrics(),
            resync_seconds=1,
        )
        self.health = ConfigurationHealth(
            self.configuration,
            lambda: self.rules,
            wanted=wanted,
            starts_without=starts_without,
        )

    def apply(self, rules: Rules) -> None:
        self.rules = rules

    def after(self, *offered: bytes) -> list[bool]:
        """Whether it is healthy at first and after each file (an empty one: no file at all)."""
        found = [not self.health.unready_reason()]
        for text in offered:
            self.configuration.offer(Bundle({"a.yaml": text} if text else {}))
            found.append(not self.health.unready_reason())
        return found


@pytest.mark.parametrize(
    ("wanted", "offered", "healthy"),
    [
        ("loaded", [BAD, GOOD, BAD, EMPTY], [False, False, True, True, True]),
        ("with_domains", [BAD, EMPTY, GOOD, BAD, EMPTY], [False, False, False, True, True, False]),
        ("not_needed", [BAD, GOOD], [False, True, True]),
    ],
)
def test_health_asks_of_the_configuration_what_the_setting_says(
    wanted: Wanted, offered: list[bytes], healthy: list[bool]
):
    assert Case(wanted).after(*offered) == healthy


def test_starting_without_a_configuration_is_healthy_only_where_none_is_needed():
    assert Case("not_needed", starts_without=True).after() == [True]
    assert Case("loaded", starts_without=True).after() == [False]
    assert Case("with_domains", starts_without=True).after() == [False]


@pytest.mark.parametrize(
    ("stays_ready", "healthy"),
    [(True, [False, True, True, True]), (False, [False, True, False, True])],
)
async def test_health_follows_redis_where_a_setting_says_so(stays_ready: bool, healthy: list[bool]):
    async def answers() -> AsyncGenerator[bool]:
        for is_up in (False, True, False, True):
            yield is_up

    order = answers()

    async def ping() -> None:
        if not await anext(order):
            raise Unavailable("redis: away")

    async def pause(_seconds: float) -> None:
        pass

    watch = RedisWatch(ping, metrics=Metrics(), pause=pause, stays_ready=stays_ready)
    found = []
    for _ in healthy:
        await watch.check()
        found.append(not watch.unready_reason())
    assert found == healthy
