"""What makes calls survive says the same at a sidecar as at the edge, and passes our own check."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from meshwarden.adapters.envoy.clusters import clusters
from meshwarden.adapters.envoy.options import EnvoyOptions
from meshwarden.adapters.envoy.routes import routes
from meshwarden.adapters.istio.resilience import example_files, for_service, to_text
from meshwarden.adapters.istio.resilience_options import ResilienceOptions
from meshwarden.core.documents import parse
from meshwarden.core.istio_lint.check import findings
from tests.support.processes import CHECKOUT


def of(kind: str, options: ResilienceOptions) -> Any:
    (found,) = [one for one in for_service(options) if one["kind"] == kind]
    return found["spec"]


def test_what_is_committed_is_what_is_rendered():
    folder = CHECKOUT / "istio/resilience"
    committed = {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.yaml")
    }
    assert committed == example_files()


def test_the_examples_have_no_finding():
    documents = [
        document
        for name, text in example_files().items()
        for document in parse(name, text.encode())
    ]
    assert findings(documents) == []


def test_a_sidecar_retries_what_the_edge_retries():
    """Conditions, methods, number, and pauses; a status is a condition itself in Istio."""
    edge = routes(EnvoyOptions()).virtual_hosts[0].routes
    here = of("VirtualService", ResilienceOptions())["http"]
    methods = edge[0].match.headers[0].string_match.safe_regex.regex
    assert here[0]["match"] == [{"method": {"regex": methods}}]
    for there, route in zip(edge, here, strict=True):
        policy, retries = there.route.retry_policy, route["retries"]
        statuses = [str(status) for status in policy.retriable_status_codes]
        said = [one for one in policy.retry_on.split(",") if one != "retriable-status-codes"]
        assert retries["retryOn"].split(",") == said + statuses
        assert retries["attempts"] == policy.num_retries
        pause = policy.retry_back_off
        assert float(retries["backoff"][:-1]) == pause.base_interval.total_seconds()
        assert pause.max_interval == 10 * pause.base_interval  # What istiod makes of it.
        assert ("perTryTimeout" in retries) == (policy.per_try_timeout is not None)


def test_a_sidecar_holds_what_the_edge_holds():
    """The pool, the budget, and how many endpoints may rest at once."""
    edge = clusters(EnvoyOptions())[0]
    (threshold,) = edge.circuit_breakers.thresholds
    here = of("DestinationRule", ResilienceOptions())["trafficPolicy"]
    pool, outliers = here["connectionPool"], here["outlierDetection"]
    assert pool["tcp"]["maxConnections"] == threshold.max_connections
    assert pool["http"]["http1MaxPendingRequests"] == threshold.max_pending_requests
    assert pool["http"]["http2MaxRequests"] == threshold.max_requests
    assert here["retryBudget"] == {
        "percent": threshold.retry_budget.budget_percent.value,
        "minRetryConcurrency": threshold.retry_budget.min_retry_concurrency,
    }
    there = edge.outlier_detection
    assert outliers["consecutiveGatewayErrors"] == there.consecutive_gateway_failure
    assert not there.split_external_local_origin_errors
    assert "splitExternalLocalOriginErrors" not in outliers
    assert outliers["maxEjectionPercent"] == there.max_ejection_percent
    assert outliers["minHealthPercent"] == edge.common_lb_config.healthy_panic_threshold.value


def test_faults_are_for_requests_that_ask_for_them_and_come_first():
    spec = for_service(ResilienceOptions(), faults=True)[1]["spec"]
    names = [route["name"] for route in spec["http"]]
    assert names == ["fault-delay", "fault-abort", "idempotent", "not-idempotent"]
    assert all("headers" in route["match"][0] for route in spec["http"][:2])


def test_no_retries_are_said_and_not_left_to_istios_default():
    spec = of("VirtualService", ResilienceOptions(retries_at_most=0))
    assert [route["retries"] for route in spec["http"]] == [{"attempts": 0}] * 2


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"timeout_seconds": 1, "per_try_timeout_seconds": 0.8}, "at least twice"),
        ({"failover": "europe-west"}, "REGION>REGION"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(wrong: dict[str, Any], hint: str):
    with pytest.raises(ValueError, match=hint):
        ResilienceOptions.model_validate(wrong)


def test_the_text_has_no_anchors():
    text = to_text(for_service(ResilienceOptions(), faults=True))
    assert "&id" not in text
    assert len(list(yaml.safe_load_all(text))) == 2
