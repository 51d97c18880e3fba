"""The nouns of rate limiting: what is asked, the rule that answers it, and the answer.

    DescriptorSet (domain, descriptors, hits) --lookup--> Limit (the rule) --counters--> Decision

What is made for each request is a NamedTuple, which costs a third of a frozen dataclass.
Values alone: how a rule is found is `lookup`, how a count becomes an answer is `decide` and
`answer`. Source: `envoy.service.ratelimit.v3` (`RateLimitRequest`, `RateLimitResponse`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from meshwarden.core.faults import InvalidInput
from ratelimit_service.core.window import Unit, Window

UNLIMITED_REMAINING = 2**32 - 1
"""`limit_remaining` of an unlimited descriptor: the field's largest value."""

Metadata = Mapping[str, Any]


class Code(IntEnum):
    """`RateLimitResponse.Code`, with its wire numbers."""

    OK = 1
    OVER_LIMIT = 2


class UnanswerableRequest(InvalidInput):
    """No domain or no descriptor: the gRPC error UNKNOWN, as in the reference."""


class Entry(NamedTuple):
    """One key and value of a descriptor; an empty value is a value."""

    key: str
    value: str = ""


class Override(NamedTuple):
    """The limit that a descriptor brings along; `unit` is a number from the wire."""

    requests_per_unit: int
    unit: int


class Descriptor(NamedTuple):
    """What is counted together; without `hits_addend` the request's holds, with 0 none counts."""

    entries: tuple[Entry, ...]
    override: Override | None = None
    hits_addend: int | None = None
    is_negative_hits: bool = False


class DescriptorSet(NamedTuple):
    """One request: every descriptor is looked up and counted in `domain`."""

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits_addend: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """The rule, never the number: so many requests per unit, and what stands beside it.

    `full_key` names the rule in statistics and in `/rlconfig`: `domain.key[_value]...`.
    """

    full_key: str
    requests_per_unit: int = 0
    unit: Unit = Unit.UNKNOWN
    unlimited: bool = False
    name: str = ""
    replaces: frozenset[str] = frozenset()
    shadow_mode: bool = False
    quota_mode: bool = False
    detailed_metric: bool = False
    atomic: bool = False
    """A request that it applies to counts everywhere or, where it is denied, nowhere."""
    metadata: Metadata | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A limit found for a descriptor.

    `path` is the domain and the configured `key[_value]` of each level. `shared_values` holds
    (index of the entry, pattern) where all values of a wildcard share one counter.
    """

    limit: Limit
    path: tuple[str, ...]
    statistics_key: str
    shared_values: tuple[tuple[int, str], ...] = ()


class Effect(IntEnum):
    """What a counter that is over its limit does to the request."""

    NONE = 0
    """Nothing: shadow mode, or a quota beside one that can't run out."""
    DENIES = 1
    QUOTA = 2
    """Denies it when every other quota is over, too."""


class Mode(IntEnum):
    """When the hits of one request are counted, of which each may have several counters."""

    ALWAYS = 0
    STOPS_WHEN_OVER = 1
    """Where some counter would be over, only those that would be (the reference's
    STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT)."""
    ALL_OR_NONE = 2
    """Nowhere when the request is denied."""


class Increment(NamedTuple):
    """Hits for one counter of one window: negative to give back, 0 to read.

    `at_most` is the limit that `Mode` judges by.
    """

    key: str
    hits: int
    window: Window
    at_most: int
    effect: Effect = Effect.DENIES


class LeftOut(NamedTuple):
    """What a store gives instead of the count after, where it did not count the hits.

    `stands_at` is the counter's present value; `is_over` says whether the hits are over the limit.
    """

    stands_at: int
    is_over: bool
    is_remembered: bool = False
    """Known to be over without asking the store."""


Outcome = int | LeftOut
"""What came of one increment: the counter's value after it, or that it was left out."""


class Count(NamedTuple):
    """What counting did, for statistics; `hits` is negative where hits were given back, `at_most`
    is the limit that held (a replica's part of it, where limits are shared out).

    Of an unlimited rule, which counts nowhere else, it is in a status without a limit.
    """

    statistics_key: str
    hits: int
    outcome: Outcome
    at_most: int = 0


class Status(NamedTuple):
    """The answer for one descriptor; without a limit it is OK and says no more.

    `is_over` is the truth of the counter, which `shadow_mode` hides from `code`.
    """

    code: Code = Code.OK
    limit: Limit | None = None
    limit_remaining: int = 0
    reset_seconds: int = 0
    is_over: bool = False
    counted: Count | None = None


class Decision(NamedTuple):
    """The answer for a request: `statuses` stand in the order of its descriptors."""

    code: Code
    statuses: tuple[Status, ...]
    headers: tuple[tuple[str, str], ...] = ()
    metadata: Metadata | None = None
    is_shadowed: bool = False
    """Over the limit, and let through by the service-wide shadow mode."""


@dataclass(frozen=True, slots=True)
class HeaderNames:
    """The response headers of the service itself (not Envoy's own `x-ratelimit-*`)."""

    limit: str = "RateLimit-Limit"
    remaining: str = "RateLimit-Remaining"
    reset: str = "RateLimit-Reset"


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for every request whatever its limits (environment variables of the reference)."""

    shadow_mode: bool = False
    quota_mode: bool = False
    header_names: HeaderNames | None = None
    has_dynamic_metadata: bool = False
    has_rule_metadata: bool = False
    rule_header: str = ""
    """The response header that names the limit which decided; empty: none."""
    key_format: str = "meshwarden"
    key_prefix: str = ""
    stops_when_over_limit: bool = False


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A configured `key_value`, and the same split at each `*`."""

    parts: tuple[str, ...]
    pattern: str
    shares_threshold: bool
    node: Node


@dataclass(slots=True)
class Node:
    """One entry of a level; without a limit and without children it admits everything."""

    match: Match | None = None
    children: dict[str, Node] = field(default_factory=dict)
    wildcards: list[Wildcard] = field(default_factory=list)
    value_to_metric: bool = False
    has_plain_path: bool = True
    """Whether its match is the same for every request: nothing on the way here asks for values."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole configuration, compiled; not changed once built.

    The counters of a domain in `atomic_domains` stand together in one slot of a Redis Cluster.
    """

    domains: Mapping[str, Node]
    options: Options = Options()
    atomic_domains: frozenset[str] = frozenset()
