"""Random envoyproxy/ratelimit files and random histories of requests to them, from a seed.

Every field of the grammar comes up, nested to a depth of three. What makes the two services differ
on purpose is marked by name, so that a test can tell: a quota's `name` starts with `quota`, and
unlimited limits stand under the key `free` and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import yaml

from tests.support.limit_service import Request

SEED_VARIABLE = "DROP_IN_SEED"
"""Set to anything, other limits and histories are tried."""
KEYS = ("path", "user", "plan", "remote_address")
VALUES = ("a", "ab", "abc", "b", "x.y", "10.0.0.1", "v:1|2", "Grüße", "a/b c")
PATTERNS = ("a*", "ab*", "*", "x*")
FREE = "free"
QUOTA = "quota"
UNITS = ("second", "minute", "hour", "day", "week", "month", "year")
DEPTH_AT_MOST = 3
FLAGS = {
    "shadow_mode": 0.15,
    "detailed_metric": 0.25,
    "value_to_metric": 0.25,
}
"""Flag of a descriptor to how often it is set."""

Level = list[dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """A request, and whether it goes to `/json`."""

    request: Any
    as_json: bool


def random_seeds(name: str, count: int) -> list[int]:
    """Seeds for the test `name`: always the same ones, unless the variable asks for others."""
    random = Random(name + os.environ.get(SEED_VARIABLE, ""))  # noqa: S311 - no secret is drawn
    return random.sample(range(10**9), count)


class RandomLimits:
    """One domain's descriptors, and requests that meet them."""

    def __init__(self, seed: int, *, without: Collection[str] = ()) -> None:
        """`without`: `quotas`, or `raises` (a counter with another limit in another request)."""
        self._random = Random(seed)  # noqa: S311 - no secret is drawn
        self._without = frozenset(without)
        self._names = 0
        self.descriptors = self._level(1)

    def file(self, domain: str) -> str:
        """The file that gives these limits to `domain`."""
        document = {"domain": domain, "descriptors": self.descriptors}
        return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))

    def files(self, domain: str) -> list[str]:
        """Likewise, each descriptor of the first level in a file of its own, to be merged."""
        documents = [{"domain": domain, "descriptors": [one]} for one in self.descriptors]
        return [yaml.safe_dump(one, sort_keys=False, allow_unicode=True) for one in documents]

    def history(self, *, steps: int) -> list[Step]:
        """Requests without a domain yet; few descriptors, so that they come up again and again."""
        random = self._random
        pool = [self._entries() for _ in range(6)]
        return [Step(self._request(pool), as_json=random.random() < 0.25) for _ in range(steps)]

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _level(self, depth: int) -> Level:
        level: Level = []
        taken: set[tuple[str, str]] = set()
        for _ in range(self._random.randint(1, 4)):
            key = FREE if self._chance(0.08) else self._random.choice(KEYS)
            value = self._random.choice(("", self._random.choice(VALUES + PATTERNS)))
            if self._chance(0.04):
                key, value = "pa*", ""
            if (key, value) not in taken:
                taken.add((key, value))
                level.append(self._descriptor(key, value, depth))
        return level

    def _descriptor(self, key: str, value: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {"key": key}
        if value:
            result["value"] = value
        for flag, share in FLAGS.items():
            if self._chance(share):
                result[flag] = True
        if (value or key).endswith("*") and self._chance(0.5):
            result["share_threshold"] = True
        is_quota = self._chance(0.0 if "quotas" in self._without else 0.2)
        if is_quota:
            result["quota_mode"] = True
        if key == FREE or self._chance(0.85):
            result["rate_limit"] = self._rate_limit(is_free=key == FREE, is_quota=is_quota)
        if depth < DEPTH_AT_MOST and self._chance(0.4):
            result["descriptors"] = self._level(depth + 1)
        return result

    def _rate_limit(self, *, is_free: bool, is_quota: bool) -> dict[str, Any]:
        random = self._random
        self._names += 1
        result: dict[str, Any] = {}
        if is_free:
            result["unlimited"] = True
        else:
            unit = random.choice(UNITS)
            result["unit"] = random.choice((unit, unit, unit.upper(), unit.title()))
            if self._chance(0.95):
                result["requests_per_unit"] = random.choice((0, 1, 2, 3, 4, 5, 8, 10, 20))
        if is_quota or self._chance(0.7):
            result["name"] = f"{QUOTA if is_quota else 'limit'}-{self._names}"
        if self._chance(0.15):
            numbers = range(1, self._names)
            names = [f"{kind}-{number}" for number in numbers for kind in (QUOTA, "limit")]
            result["replaces"] = [{"name": random.choice([*names, "nothing"])}]
        return result

    def _entries(self) -> list[tuple[str, str]]:
        """The entries of a descriptor: mostly a way through the levels, sometimes astray."""
        entries, level = [], self.descriptors
        while level and not (entries and self._chance(0.1)):
            found = self._random.choice(level)
            key = found["key"].replace("*", self._random.choice(("th", "ge")))
            entries.append((key, self._value(found.get("value", ""))))
            level = found.get("descriptors", [])
            if level and "rate_limit" in found and self._chance(0.5):
                break
        if self._chance(0.1):
            entries.append((self._random.choice(KEYS), self._random.choice(VALUES)))
        return entries

    def _value(self, configured: str) -> str:
        random = self._random
        if self._chance(0.1):
            return random.choice((*VALUES, ""))
        if configured.endswith("*"):
            return configured[:-1] + random.choice(("", "1", "2", "b", ".9"))
        return configured or random.choice((*VALUES[:4], ""))

    def _request(self, pool: list[list[tuple[str, str]]]) -> Any:
        random = self._random
        request = Request(hits_addend=random.choice((0, 0, 0, 1, 2, 5)))
        count = 0 if self._chance(0.01) else random.choice((1, 1, 2, 3, 5))
        for entries in random.choices(pool, k=count):
            descriptor = request.descriptors.add()
            for key, value in entries:
                descriptor.entries.add(key=key, value=value)
            if self._chance(0.08):
                self._bring_a_limit(descriptor)
            if self._chance(0.2):
                descriptor.hits_addend.value = random.choice((0, 1, 2, 6))
        return request

    def _bring_a_limit(self, descriptor: Any) -> None:
        """An override. Its unit is told by an entry, too: the reference's counters of two units
        are one where their windows start together, and ours are not.
        """
        unit, number = self._random.randint(1, 6), self._random.choice((0, 1, 3, 7))
        told = f"{unit}-{number}" if "raises" in self._without else str(unit)
        descriptor.entries.add(key="unit", value=told)
        descriptor.limit.requests_per_unit = number
        descriptor.limit.unit = unit


def in_domain(steps: list[Step], domain: str) -> Iterator[Step]:
    """`steps` asked in `domain`; a few in none, and in one that nobody configured."""
    for number, step in enumerate(steps):
        request = Request()
        request.CopyFrom(step.request)
        request.domain = {7: "", 11: f"{domain}-unknown"}.get(number % 40, domain)
        yield Step(request, step.as_json)
