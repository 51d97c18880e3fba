"""Questions to a running installation over HTTP, each answered within a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

TIMEOUT_SECONDS = 1.0
RATELIMIT_TYPE = "envoy.extensions.filters.http.ratelimit.v3.RateLimit"


def fetch(url: str, **options: Any) -> httpx2.Response | None:
    """The answer to a GET, or None where there is none in time."""
    try:
        return httpx2.get(url, timeout=TIMEOUT_SECONDS, trust_env=False, **options)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None


def json_object(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object in an answer; empty where it is none, because somebody else answered."""
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def answers(url: str, status: int = 200) -> Callable[[], bool]:
    """Whether `url` answers with `status`."""

    def probe() -> bool:
        response = fetch(url)
        return response is not None and response.status_code == status

    return probe


def clusters(admin: str) -> dict[str, list[str]]:
    """Of each of Envoy's clusters, what is wrong with it; nothing where every host is healthy."""
    response = fetch(f"{admin}/clusters", params={"format": "json"})
    if response is None or response.status_code != 200:
        return {}
    found: dict[str, list[str]] = {}
    for cluster in json_object(response).get("cluster_statuses", []):
        problems = []
        hosts = cluster.get("host_statuses", [])
        for host in hosts:
            status = host.get("health_status", {})
            problems += [name for name, value in status.items() if value is True]
        found[cluster["name"]] = problems if hosts else ["no hosts"]
    return found


def ratelimit_domain(admin: str) -> str:
    """The domain that Envoy's rate-limit filter asks for; empty where there is none to be seen."""
    response = fetch(f"{admin}/config_dump")
    if response is None or response.status_code != 200:
        return ""
    waiting: list[Any] = [json_object(response)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if str(value.get("@type", "")).endswith(RATELIMIT_TYPE):
                return str(value.get("domain", ""))
            waiting.extend(value.values())
    return ""
