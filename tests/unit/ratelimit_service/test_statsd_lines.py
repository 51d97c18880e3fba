"""Lines as the real envoyproxy/ratelimit was seen to send them."""

from __future__ import annotations

import json

import pytest

from meshwarden.core.faults import Misconfigured
from ratelimit_service.adapters.mogrifiers import mogrifiers
from ratelimit_service.core.log_lines import log_line
from ratelimit_service.core.statsd_lines import (
    Kind,
    Mogrifier,
    dogstatsd_line,
    parse_tags,
    statsd_line,
)

TAGS = {"zeta": "1", "alpha": "b.c", "empty": ""}
LIMIT = "ratelimit.service.rate_limit.dom.two_v.sub.total_hits"


@pytest.mark.parametrize(
    ("kind", "name", "value", "line"),
    [
        ("c", LIMIT, 3, f"{LIMIT}.__alpha=b_c.__zeta=1:3|c\n"),
        (
            "g",
            "ratelimit.redis_pool.cx_active",
            10,
            "ratelimit.redis_pool.cx_active.__alpha=b_c.__zeta=1:10|g\n",
        ),
        (
            "ms",
            "ratelimit_server.Check.response_time",
            0,
            "ratelimit_server.Check.response_time.__alpha=b_c.__zeta=1:0|ms\n",
        ),
    ],
)
def test_lines_are_those_of_gostats(kind: Kind, name: str, value: int, line: str):
    assert statsd_line(TAGS)(kind, name, value) == line


MOGRIFIERS = [
    Mogrifier(
        r"^ratelimit\.service\.rate_limit\.(.*)\.(.*)\.(.*)$",
        "ratelimit.service.rate_limit.$3",
        {"domain": "$1", "descriptor": "$2"},
    ),
    Mogrifier(r"server\.(.*)\.response_time", "rt$9", {"m": "$1"}),
    Mogrifier("total", "never, the first that matches is used"),
]


@pytest.mark.parametrize(
    ("kind", "name", "value", "line"),
    [
        (
            "c",
            LIMIT,
            3,
            "ratelimit.service.rate_limit.total_hits:3|c"
            "|#alpha:b_c,zeta:1,domain:dom.two_v,descriptor:sub\n",
        ),
        (
            "ms",
            "ratelimit_server.Check.response_time",
            2,
            "rt$9:2.000000|ms|#alpha:b_c,zeta:1,m:Check\n",
        ),
        ("g", "other", 10, "other:10|g|#alpha:b_c,zeta:1\n"),
    ],
)
def test_lines_are_those_of_dogstatsd_with_tags_of_mogrifiers(
    kind: Kind, name: str, value: int, line: str
):
    assert dogstatsd_line(TAGS, MOGRIFIERS)(kind, name, value) == line


def test_without_tags_there_is_no_mark_of_them():
    assert dogstatsd_line({}, [])("c", "a", 1) == statsd_line({})("c", "a", 1) == "a:1|c\n"


def test_the_log_has_gostats_documents():
    line = log_line(".__a=b", lambda: 1.25)("ms", "call", 3)
    assert json.loads(line) == {
        "level": "debug",
        "ts": 1.25,
        "logger": "gostats.loggingsink",
        "msg": "flushing timer",
        "json": {"name": "call.__a=b", "type": "timer", "value": "3.000000"},
    }


def test_mogrifiers_come_from_the_environment_in_the_order_of_their_names():
    environment = {
        "DOG_STATSD_MOGRIFIER_B_PATTERN": "b",
        "DOG_STATSD_MOGRIFIER_B_NAME": "$0",
        "DOG_STATSD_MOGRIFIER_A_PATTERN": "a",
        "DOG_STATSD_MOGRIFIER_A_NAME": "x",
        "DOG_STATSD_MOGRIFIER_A_TAGS": "k:v,l:$1",
    }
    assert mogrifiers(["B", "a"], environment) == [
        Mogrifier("b", "$0"),
        Mogrifier("a", "x", {"k": "v", "l": "$1"}),
    ]


def test_everything_that_a_mogrifier_lacks_is_told_at_once():
    environment = {"DOG_STATSD_MOGRIFIER_A_NAME": "x", "DOG_STATSD_MOGRIFIER_A_TAGS": "k:"}
    with pytest.raises(Misconfigured) as refused:
        mogrifiers(["A", "B"], environment)
    told = str(refused.value)
    for what in ("A_PATTERN: not set", "A_TAGS: a tag needs", "B_PATTERN", "B_NAME"):
        assert what in told


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(Misconfigured, match="is none"):
        dogstatsd_line({}, [Mogrifier("(", "x")])


@pytest.mark.parametrize("text", ["a", "a:b:c", "a:b,", ","])
def test_tags_that_are_none_are_refused(text: str):
    with pytest.raises(ValueError, match="name:value"):
        parse_tags(text)
