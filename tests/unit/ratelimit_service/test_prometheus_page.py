"""The Prometheus page: the default mapping's names as the real one shows them, and mapping files.

Samples are read back with prometheus-client's parser.
"""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshwarden.core.faults import Misconfigured
from ratelimit_service.core.default_mapping import default_mapping
from ratelimit_service.core.name_mapping import Series, compile_mapping, read_mapping
from ratelimit_service.core.prometheus_page import prometheus_page
from ratelimit_service.core.reading import Reading

LIMIT = "ratelimit.service.rate_limit"
DEFAULT = compile_mapping(default_mapping())


def samples(page: str) -> dict[str, float]:
    """Each sample as `name{label="value",...}`; the parser would add `_total` to counters."""
    found = {}
    for family in text_string_to_metric_families(page.replace(" counter\n", " gauge\n")):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_default_mapping_shows_what_the_reference_shows():
    reading = Reading(
        {
            f"{LIMIT}.dom.one.total_hits": 7,
            f"{LIMIT}.dom.one.over_limit_with_local_cache": 1,
            f"{LIMIT}.dom.two_v.sub.total_hits": 3,
            f"{LIMIT}.dom.two_v.sub.deep.total_hits": 12,
            f"{LIMIT}.dom.zero.total_hits": 0,
            f"{LIMIT}.un.known.domain_not_found": 1,
            "ratelimit.service.call.should_rate_limit.service_error": 1,
            "ratelimit.service.config_load_success": 1,
            "ratelimit_server.Check.total_requests": 1,
        },
        {"ratelimit.redis_pool.cx_active": 10},
        {"ratelimit_server.Check.response_time": {0: 1, 5: 2}},
    )
    found = samples(prometheus_page(reading, DEFAULT))
    timing = 'ratelimit_service_response_time_seconds_{}{{grpc_method="Check"}}'
    buckets = {name: value for name, value in found.items() if "_bucket" in name}
    assert len(buckets) == 12
    assert buckets[timing.format("bucket").replace("}", ',le="2.5"}')] == 1
    assert buckets[timing.format("bucket").replace("}", ',le="5"}')] == 3
    assert {name: value for name, value in found.items() if name not in buckets} == {
        'ratelimit_service_rate_limit_total_hits{domain="dom",key1="one"}': 7,
        'ratelimit_service_rate_limit_total_hits{domain="dom",key1="two_v",key2="sub"}': 15,
        "ratelimit_service_rate_limit_dom_one_over_limit_with_local_cache": 1,
        "ratelimit_service_rate_limit_un_known_domain_not_found": 1,
        'ratelimit_service_should_rate_limit_error{err_type="service_error"}': 1,
        "ratelimit_service_config_load_success": 1,
        'ratelimit_service_total_requests{grpc_method="Check"}': 1,
        "ratelimit_redis_pool_cx_active": 10,
        timing.format("sum"): 10,
        timing.format("count"): 3,
    }


def test_values_of_labels_are_escaped():
    page = prometheus_page(Reading({f'{LIMIT}.d.k_"\\.total_hits': 1}, {}, {}), DEFAULT)
    (found,) = text_string_to_metric_families(page.replace(" counter\n", " gauge\n"))
    assert found.samples[0].labels["key1"] == 'k_"\\'


def test_of_globs_the_first_wins_and_then_of_regular_expressions():
    found = read_mapping(r"""
mappings:
- {match: 'a\.(?P<rest>.*)', match_type: regex, name: regex, labels: {rest: "${rest}", no: "$9"}}
- {match: "a.*.c", name: "glob_$1", match_metric_type: counter}
- {match: "a.b.c", name: later}
- {match: "a.*", name: two_parts}
- {match: "drop.*", action: drop}
""")
    assert found.series("a.b.c", "counter") == Series("glob_b")
    assert found.series("a.b.c", "gauge") == Series("later")
    assert found.series("a.x.d", "counter") == Series("regex", (("no", ""), ("rest", "x.d")))
    assert found.series("a.b", "counter") == Series("two_parts")
    assert found.series("drop.it", "counter") is None
    assert found.series("2not.mapped--at.all", "counter") == Series("_2not_mapped_at_all")


def test_timings_are_a_summary_unless_the_mapping_says_histogram():
    reading = Reading({}, {}, {"a.b": {4: 2}, "c.d": {4: 2}, "plain": {1: 1}})
    found = read_mapping("""
defaults: {buckets: [1, 10]}
mappings:
- {match: a.*, name: one, observer_type: histogram}
- {match: c.*, name: two, timer_type: summary}
""")
    assert samples(prometheus_page(reading, found)) == {
        'one_bucket{le="1"}': 0,
        'one_bucket{le="10"}': 2,
        'one_bucket{le="+Inf"}': 2,
        "one_sum": 8,
        "one_count": 2,
        "two_sum": 8,
        "two_count": 2,
        "plain_sum": 1,
        "plain_count": 1,
    }


def test_what_two_kinds_call_the_same_is_shown_for_the_first():
    found = read_mapping("mappings: [{match: '*', name: same}]")
    page = prometheus_page(Reading({"a": 1}, {"b": 2}, {"c": {0: 1}}), found)
    assert samples(page) == {"same": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mappings: [{match: a, name: b, ttl: 1s}]", "mappings[0].ttl: not supported"),
        ("mappings: [{match: a, name: b, quantiles: []}]", "mappings[0].quantiles"),
        ("mappings: [{match: a, name: b, summary_options: {}}]", "summary_options"),
        ("mappings: [{match: a, name: b, scale: 2}]", "scale"),
        ("defaults: {glob_disable_ordering: true}", "defaults.glob_disable_ordering"),
        ("mapping: []", "mapping: not supported"),
        ("mappings: [{match: a}]", "no metric's name"),
        ("mappings: [{match: a..b, name: c}]", "no glob"),
        ("mappings: [{match: '(', match_type: regex, name: c}]", "no regular expression"),
        ("mappings: [{match: a, name: c, labels: {'x-y': z}}]", "a label's name"),
        ("mappings: [{match: a, name: c, match_metric_type: set}]", "match_metric_type 'set'"),
        ("mappings: [{match: a, name: c, match_type: exact}]", "match_type 'exact'"),
        ("mappings: [{match: a, name: c, action: keep}]", "action 'keep'"),
        ("mappings: [{match: a, name: c, timer_type: meter}]", "observer_type 'meter'"),
        (
            "mappings: [{match: a, name: c, timer_type: histogram, buckets: [2, 1]}]",
            "do not grow",
        ),
        ("defaults: {timer_type: meter}", "defaults: observer_type 'meter'"),
        ("[]", "one mapping"),
        ("{", "not YAML"),
    ],
)
def test_what_can_not_be_used_is_refused_by_its_name(text: str, told: str):
    with pytest.raises(Misconfigured) as refused:
        read_mapping(text)
    assert told in str(refused.value)


def test_all_faults_of_a_mapping_file_are_told_at_once():
    document: Any = {"mappings": [{"match": "a", "ttl": "1s"}, 3], "extra": 1}
    with pytest.raises(Misconfigured) as refused:
        compile_mapping(document)
    assert len(refused.value.problems) == 3
