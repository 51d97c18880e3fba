"""What our filters add to a request in an Istio mesh, measured by k6 with real istiod and Envoys:

    through the gateway:      k6 -> gateway -> workload
    through two sidecars:     k6 -> caller's sidecar =mTLS=> workload's sidecar -> workload
    what guards one asks:     gateway or sidecar =mTLS=> our service's sidecar -> our service

Each once bare and once with authorization and a limit, in alternating order, on Envoys that differ
in nothing else. `make perf-mesh`; needs what `make test-istio` installs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from perf import k6
from perf.result import RESULTS, write
from tests.support.cluster_objects import of_kind
from tests.support.installed_mesh import Installed, installed_mesh
from tests.support.istiod import SYSTEM
from tests.support.ports import free_port
from tests.support.secret_discovery import serving_secrets, workload_certificate
from tests.support.shop_mesh import (
    GATEWAY_ACCOUNT,
    HOST,
    KEY,
    OURS,
    SHOP,
    STOCK,
    ingress,
    policies,
    service,
    workload_of_the_shop,
)
from tests.support.sidecars import running_sidecar

RATE = 50
SECONDS = 20
WARM_UP_SECONDS = 3
BARE_LABELS = {"istio": "bare-gateway"}
BARE_STOCK = f"bare-stock.{SHOP}.svc.cluster.local"
LIMITS = """
domain: quickstart
descriptors:
- key: rule
  descriptors:
  - {key: principal, rate_limit: {unit: hour, requests_per_unit: 10000000}}
"""


def main() -> int:
    """Measure both, write the result and k6's reports; 1 when a threshold does not hold."""
    with TemporaryDirectory(prefix="meshwarden-perf-") as name, ExitStack() as stack:
        folder = Path(name)
        installed = stack.enter_context(installed_mesh(*_resources()))
        with _gateways(installed) as (bare, guarded):
            own = {"Host": HOST, "x-api-key": KEY}
            gateway = _measured(
                "gateway", folder, (f"{bare}/orders", own), (f"{guarded}/orders", own)
            )
        with _sidecars(installed) as (bare, guarded):
            sidecars = _measured(
                "sidecars", folder, (bare, {"Host": BARE_STOCK}), (guarded, {"Host": STOCK})
            )
    write("mesh", {"rate_a_second": RATE, "seconds": SECONDS} | gateway | sidecars)
    return 0 if all(part["thresholds_hold"] for part in (gateway | sidecars).values()) else 1


Route = tuple[str, dict[str, str]]
"""A URL, and the headers that are sent to it."""


def _measured(name: str, folder: Path, bare: Route, guarded: Route) -> dict[str, Any]:
    environment = {
        "BARE": bare[0],
        "GUARDED": guarded[0],
        "HEADERS": json.dumps({"bare": bare[1], "guarded": guarded[1]}),
        "RATE": str(RATE),
        "LIMITED": "true",
    }
    k6.run("perf/pairs.js", folder, environment, seconds=WARM_UP_SECONDS)
    RESULTS.mkdir(exist_ok=True)
    report = RESULTS / f"mesh-{name}.html"
    dashboard = {"K6_WEB_DASHBOARD": "true", "K6_WEB_DASHBOARD_PORT": "-1"}
    dashboard["K6_WEB_DASHBOARD_EXPORT"] = str(report)
    metrics, held = k6.run("perf/pairs.js", folder, environment | dashboard, seconds=SECONDS)
    print(f"k6's report: {report}")
    latencies = ("bare_latency", "guarded_latency", "added_latency")
    return {
        name: {
            "thresholds_hold": held,
            "milliseconds": {one: metrics[one]["values"] for one in latencies},
        }
    }


def _resources() -> list[dict[str, Any]]:
    """Whom the shop lets in, and a limit that nobody reaches: the platform's own objects."""
    limits = of_kind("RateLimit", OURS, "limits", yaml.safe_load(LIMITS))
    return [
        *(of_kind(p["kind"], OURS, p["metadata"]["name"], p["spec"]) for p in policies()),
        limits,
    ]


@contextmanager
def _gateways(installed: Installed) -> Iterator[tuple[str, str]]:
    """The URLs of a bare gateway and of one with our filters."""
    mesh, ports = installed.mesh, (free_port(), free_port())
    bare = ingress(ports[0])
    bare["metadata"]["name"], bare["spec"]["selector"] = "bare", BARE_LABELS
    orders = next(one for one in workload_of_the_shop() if one["kind"] == "VirtualService")
    orders["spec"]["gateways"].append(f"{SYSTEM}/bare")
    mesh.apply(bare, ingress(ports[1]), orders)
    own = workload_certificate(installed.authority, SYSTEM, GATEWAY_ACCOUNT)
    with (
        serving_secrets(own) as secrets,
        mesh.proxy("router", "bare-gateway", SYSTEM, BARE_LABELS, sds_port=secrets),
        mesh.gateway(sds_port=secrets),
    ):
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"


@contextmanager
def _sidecars(installed: Installed) -> Iterator[tuple[str, str]]:
    """The URLs at a caller's sidecar of a workload whose sidecar is bare, and of a guarded one."""
    mesh, authority, workload = installed.mesh, installed.authority, installed.workload
    guards = {"meshwarden.io/authorize": "sidecar", "meshwarden.io/limit": "sidecar"}
    mutual = {"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}
    with ExitStack() as stack:
        for number, (name, labels) in enumerate((("bare-stock", {}), ("stock", guards)), 20):
            host = f"{name}.{SHOP}.svc.cluster.local"
            rule = {
                "apiVersion": "networking.istio.io/v1",
                "kind": "DestinationRule",
                "metadata": {"name": name, "namespace": SHOP},
                "spec": {"host": host, **mutual},
            }
            mesh.apply(service(name, SHOP, {"app": name}, http=8000 + number), rule)
            sidecar = stack.enter_context(
                running_sidecar(
                    mesh,
                    authority,
                    name,
                    SHOP,
                    labels={"app": name, **labels},
                    workload_port=workload.port,
                    number=number,
                )
            )
            mesh.workload(name, SHOP, {"app": name}, {"http": sidecar.port}, account=name)
        caller = stack.enter_context(
            running_sidecar(
                mesh,
                authority,
                "web",
                SHOP,
                labels={"app": "web"},
                workload_port=workload.port,
                asks=[(f"./{BARE_STOCK}", 8020, "HTTP"), (f"./{STOCK}", 8021, "HTTP")],
                number=22,
            )
        )
        yield f"http://{caller.outbound}:8020/stock", f"http://{caller.outbound}:8021/stock"


if __name__ == "__main__":
    sys.exit(main())
