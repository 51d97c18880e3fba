"""The mapping to Prometheus that holds without a mapping file: the reference's names and labels.

A limit's first two levels after the domain are labels, deeper ones are summed in them. Error
counters, calls and configuration loads have metrics of their own; what is not named here keeps its
statsd name.
"""

from __future__ import annotations

from typing import Any

_WORDS = ("near_limit", "over_limit", "total_hits", "within_limit", "shadow_mode")
_LIMIT = "ratelimit_service_rate_limit"
_PART = r"([^\.]*)"


def default_mapping() -> dict[str, Any]:
    """As a mapping file would be parsed."""
    return {
        "mappings": [
            *(_limit(word, f"ratelimit.service.rate_limit.*.*.{word}") for word in _WORDS),
            *(_deep_limit(word) for word in _WORDS),
            _counter(
                "ratelimit.service.call.should_rate_limit.*",
                "ratelimit_service_should_rate_limit_error",
                {"err_type": "$1"},
            ),
            _counter(
                "ratelimit_server.*.total_requests",
                "ratelimit_service_total_requests",
                {"grpc_method": "$1"},
            ),
            {
                "match": "ratelimit_server.*.response_time",
                "name": "ratelimit_service_response_time_seconds",
                "timer_type": "histogram",
                "labels": {"grpc_method": "$1"},
            },
            *(
                _counter(f"ratelimit.service.{word}", f"ratelimit_service_{word}", {})
                for word in ("config_load_success", "config_load_error")
            ),
        ]
    }


def _limit(word: str, match: str) -> dict[str, Any]:
    return {
        "match": match,
        "name": f"{_LIMIT}_{word}",
        "timer_type": "histogram",
        "labels": {"domain": "$1", "key1": "$2"},
    }


def _deep_limit(word: str) -> dict[str, Any]:
    levels = r"\.".join([_PART] * 3)
    found = _limit(word, rf"ratelimit\.service\.rate_limit\.{levels}(\..*)?\.{word}")
    labels = {**found["labels"], "key2": "$3"}
    return {**found, "match_type": "regex", "labels": labels}


def _counter(match: str, name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"match": match, "match_metric_type": "counter", "name": name, "labels": labels}
