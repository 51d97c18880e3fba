"""A Kubernetes API server that dies, hangs, forgets, or does not know our kinds yet: what is known
goes on, and what changed meanwhile is seen afterwards.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshwarden.adapters.istio.access import Access
from tests.support.cluster_objects import (
    KINDS,
    PLATFORM,
    grant,
    install_kinds,
    namespace,
    of_kind,
    watching,
)
from tests.support.kubernetes_api import KubernetesApi, running_kubernetes
from tests.support.processes import wait_until
from tests.support.watching_services import Watching, watching_service

pytestmark = pytest.mark.timeout(240)

HURRIED = tuple(
    f"--configuration.kubernetes.{name}"
    for name in ("time-limit-seconds=2", "silence-seconds=2", "retry-at-most-seconds=1")
)


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with running_kubernetes() as server:
        server.apply(namespace(PLATFORM), namespace("shop"))
        yield server


@pytest.fixture
def account(api: KubernetesApi) -> Path:
    return grant(api, Access("ratelimit"))


def limit(name: str, key: str) -> dict[str, Any]:
    """A limit whose domain is its name."""
    rule = {"key": key, "rate_limit": {"unit": "hour", "requests_per_unit": 1}}
    return of_kind("RateLimit", "shop", name, {"domain": name, "descriptors": [rule]})


def watch_of(service: Watching) -> Any:
    return service.readyz()["kubernetes"]["watches"]["ratelimits"]


def test_what_is_known_serves_while_the_api_server_is_away_or_hangs(
    api: KubernetesApi, account: Path
) -> None:
    """Killed: told at once. Paused: its silence is noticed. Changes are seen once it is back."""
    install_kinds(api)
    api.apply(limit("one", "user"))
    with watching_service("ratelimit_service", *watching(account, *HURRIED)) as service:
        assert service.has_limit("one", "user")
        api.kill()
        wait_until(lambda: watch_of(service)["failure"], "that it is away is told")
        assert service.metric("kubernetes_watch_connected") == 0
        assert service.is_ready()
        assert service.has_limit("one", "user")
        api.start()
        api.apply(limit("two", "user"))
        wait_until(lambda: service.has_limit("two", "user"), "the change is seen", limit_seconds=20)
        assert service.metric("kubernetes_watch_connected") == 1

        api.pause()
        wait_until(
            lambda: "no answer within 2 s" in (watch_of(service)["failure"] or ""),
            "that it hangs is told",
        )
        assert service.is_ready()
        assert service.has_limit("two", "user")
        assert service.metric("kubernetes_silent_seconds") > 2
        api.resume()
        api.apply(limit("three", "user"))
        wait_until(
            lambda: service.has_limit("three", "user"), "the change is seen", limit_seconds=20
        )
        assert watch_of(service)["failure"] is None


def test_a_service_that_starts_before_the_api_server_and_the_kinds_waits_for_them(
    api: KubernetesApi, account: Path
) -> None:
    """Not ready, and telling why, until every kind was listed."""
    api.kill()
    options = watching(account, *HURRIED)
    with watching_service("ratelimit_service", *options, waits_for_ready=False) as service:
        wait_until(lambda: "can't be reached" in str(service.readyz().get("reasons")), "told")
        api.start()
        wait_until(
            lambda: "apply istio/crds" in str(service.readyz()["reasons"]),
            "that the kind is unknown is told",
            limit_seconds=20,
        )
        install_kinds(api)
        api.apply(limit("one", "user"))
        service.wait_until_ready()
        wait_until(lambda: service.has_limit("one", "user"), "the limit is there")


def test_a_version_that_is_gone_is_listed_anew(api: KubernetesApi, account: Path) -> None:
    """The service sleeps while the API server forgets what it would go on from: 410 Gone."""
    install_kinds(api)
    api.apply(limit("one", "user"))
    with watching_service("ratelimit_service", *watching(account, *HURRIED)) as service:
        service.process.child.send_signal(signal.SIGSTOP)
        try:
            # Its connection ends with the first; what changes then it can't have read.
            api.kill()
            api.start()
            api.apply(limit("two", "user"))
            api.kubectl("delete", "ratelimit", "one", "-n", "shop")
            api.kill()
            api.start()
        finally:
            service.process.child.send_signal(signal.SIGCONT)
        wait_until(lambda: service.has_limit("two", "user"), "it is followed", limit_seconds=20)
        assert not service.has_limit("one", "user")
        assert 'kubernetes_watch_restarts_total{reason="gone"}' in service.get("/metrics").text


def test_kinds_that_are_deleted_and_made_anew_are_followed(
    api: KubernetesApi, account: Path
) -> None:
    install_kinds(api)
    api.apply(limit("one", "user"))
    with watching_service("ratelimit_service", *watching(account, *HURRIED)) as service:
        assert service.has_limit("one", "user")
        plural = KINDS["RateLimit"]
        api.kubectl("delete", "crd", f"{plural}.meshwarden.io")
        wait_until(lambda: watch_of(service)["failure"], "it is told", limit_seconds=20)
        install_kinds(api)
        api.apply(limit("two", "user"))
        wait_until(lambda: service.has_limit("two", "user"), "it is followed", limit_seconds=20)
