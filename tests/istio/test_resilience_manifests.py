"""What `istio/resilience` says is taken by Istio's own checks and the API server, and a real Envoy
does it: retries of what may be sent again, and of nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import yaml

from meshwarden.adapters.istio.resilience import for_service
from meshwarden.adapters.istio.resilience_options import ResilienceOptions
from tests.support.envoy import RunningEnvoy
from tests.support.istio_mesh import IstioMesh, config_dump, namespace
from tests.support.istio_mesh import wait_for_status as answered
from tests.support.kubernetes_api import tool
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT, wait_until
from tests.support.replica_process import Replica, running_replica
from tests.support.shop_mesh import service

pytestmark = pytest.mark.timeout(180)

FOLDER = CHECKOUT / "istio/resilience"
PLACE, LABELS, HOST = "resilience", {"istio": "resilience"}, "stock.resilience.svc.cluster.local"
OPTIONS = ResilienceOptions(
    name="stock", namespace=PLACE, host=HOST, gateways=("mesh", "resilience/edge")
)


def test_istios_own_checks_take_every_file():
    for file in sorted(FOLDER.rglob("*.yaml")):
        if file.name == "kustomization.yaml":
            continue
        words = [str(tool("bin/istioctl")), "validate", "-f", str(file)]
        said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert said.returncode == 0, said.stderr
        assert "arning" not in said.stdout + said.stderr


def test_our_own_check_finds_nothing_in_what_this_repository_applies():
    said = subprocess.run(
        [sys.executable, "-m", "meshwarden.cli", "check", "--istio", CHECKOUT / "istio"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stdout.partition(":")[0]) == (0, "ok"), said.stdout


def test_the_api_server_takes_them_with_strict_validation(mesh: IstioMesh):
    """Both kustomized and one by one; the shop's own are put back."""
    text = mesh.api.kubectl("kustomize", FOLDER)
    documents = [*yaml.safe_load_all(text)]
    faults = [*yaml.safe_load_all((FOLDER / "faults/service.yaml").read_text())]
    assert len(documents) == 5
    for document in [*documents, *faults]:
        document["metadata"]["namespace"] = PLACE
    mesh.apply(namespace(PLACE), *documents, *faults)
    mesh.api.kubectl("delete", "virtualservice,destinationrule,serviceentry", "--all", "-n", PLACE)


@contextmanager
def edge(mesh: IstioMesh, **chosen: Any) -> Iterator[tuple[RunningEnvoy, httpx2.Client]]:
    """A gateway in region `here` that uses the routes of the sidecars, in front of the replicas of
    `stock`, for which some options may be `chosen`.
    """
    port = free_port()
    listener = {"number": port, "name": "http", "protocol": "HTTP"}
    gateway = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": PLACE},
        "spec": {
            "selector": LABELS,
            "servers": [{"port": listener, "bind": "127.0.0.1", "hosts": ["*"]}],
        },
    }
    mesh.apply(
        namespace(PLACE),
        service("stock", PLACE, {"app": "stock"}, http=8000),
        gateway,
        *for_service(OPTIONS.model_copy(update=chosen), faults=True),
    )
    with (
        mesh.proxy("router", "edge", PLACE, LABELS, locality="here/a") as envoy,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"host": HOST}, timeout=10
        ) as client,
    ):
        yield envoy, client


@contextmanager
def replica(mesh: IstioMesh, name: str, *, locality: str = "") -> Iterator[Replica]:
    with running_replica(name) as running:
        ports = {"http": running.port}
        mesh.workload(f"stock-{name}", PLACE, {"app": "stock"}, ports, locality=locality)
        try:
            yield running
        finally:
            mesh.api.kubectl("delete", "workloadentry", f"stock-{name}", "-n", PLACE)


def test_a_read_is_tried_elsewhere_and_a_write_is_executed_once(mesh: IstioMesh):
    with replica(mesh, "sick") as sick, edge(mesh) as (envoy, client):
        answered(client, "/", 200)
        sick.mode("unavailable")
        assert client.get("/read").status_code == 503
        assert sick.executed()["GET /read"] == 3, "there is no other replica"
        assert client.post("/write").status_code == 503
        assert sick.executed()["POST /write"] == 1
        sick.mode("slow")
        assert client.get("/slow").status_code == 504
        assert sick.executed()["GET /slow"] == 3, "a try's time limit counts as a reset"
        assert client.post("/slow").status_code == 200
        assert sick.executed()["POST /slow"] == 1
        sick.mode("unavailable")
        with replica(mesh, "well"):
            wait_until(lambda: client.get("/").status_code == 200, "the other replica is known")
            assert {client.get("/read").status_code for _ in range(20)} == {200}
        mesh.require_no_rejects(envoy)


def test_a_region_that_fails_is_taken_over_by_the_one_that_is_named(mesh: IstioMesh):
    with (
        replica(mesh, "near", locality="here/a") as near,
        replica(mesh, "far", locality="there/a"),
        replica(mesh, "other", locality="elsewhere/a"),
        edge(mesh, failover=("here>there",)) as (_, client),
    ):
        answered(client, "/", 200)

        def answering() -> set[str]:
            return {client.get("/").headers.get("x-replica", "") for _ in range(10)}

        wait_until(lambda: answering() == {"near"}, "its own region is asked")
        near.mode("unavailable")
        wait_until(lambda: answering() == {"far"}, "the named one takes over")
        near.mode("well")
        wait_until(lambda: answering() == {"near"}, "its own region is asked again")


def test_what_a_pool_has_no_room_for_is_refused_at_once(mesh: IstioMesh):
    """One request under way, one waiting; the third is told, and has cost the workload nothing."""
    chosen = {"connections_at_most": 1, "requests_at_most": 1, "timeout_seconds": 8}
    with replica(mesh, "slow") as slow, edge(mesh, **chosen) as (envoy, client):
        answered(client, "/", 200)
        slow.mode("slow")
        with ThreadPoolExecutor(5) as callers:
            answers = list(callers.map(lambda _: client.post("/"), range(5)))
        assert [one.status_code for one in answers].count(200) == 2
        assert [one.status_code for one in answers].count(503) == 3
        assert slow.executed()["POST /"] == 2
        overflow = f"cluster.outbound|8000||{HOST};.upstream_rq_pending_overflow"
        assert envoy.stat(overflow) == 3


def test_what_istiod_makes_of_it_is_what_was_meant(mesh: IstioMesh):
    """The retry budget and ejection; faults come by the header alone."""
    with replica(mesh, "well"), edge(mesh) as (envoy, client):
        answered(client, "/", 200)
        stock = cluster(envoy, f"outbound|8000||{HOST}")
        (threshold,) = stock["circuit_breakers"]["thresholds"]
        assert threshold["retry_budget"] == {
            "budget_percent": {"value": 20},
            "min_retry_concurrency": 3,
        }
        assert threshold["max_requests"] == 1024
        assert stock["outlier_detection"]["base_ejection_time"] == "1s"
        assert stock["outlier_detection"]["enforcing_consecutive_gateway_failure"] == 100
        assert client.get("/", headers={"x-meshwarden-fault": "abort"}).status_code == 503
        began = time.monotonic()
        assert client.get("/", headers={"x-meshwarden-fault": "delay"}).status_code == 200
        assert time.monotonic() - began >= 3
        mesh.require_no_rejects(envoy)


def cluster(envoy: RunningEnvoy, name: str) -> Any:
    for part in config_dump(envoy)["configs"]:
        for one in part.get("dynamic_active_clusters", []):
            if one["cluster"]["name"] == name:
                return one["cluster"]
    raise AssertionError(f"no cluster {name}")
