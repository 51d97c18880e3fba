"""The rig of these tests as a demo: an Istio mesh without a cluster, until Ctrl-C.

    make up-istio

Starts the whole installation on 127.0.0.1, prints where things listen and what to try, and waits.
Every answer that it promises is one that `test_demo.py` got by following what it printed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import typer
import yaml

from meshwarden.adapters.workers import stop_signals
from tests.support.cluster_objects import of_kind
from tests.support.installed_mesh import Installed, installed_mesh, shop_of, shop_policy
from tests.support.kubernetes_api import tool
from tests.support.shop_mesh import HOST, KEY, LIMITS, RULES, SHOP, Shop


def main() -> int:
    """Start, tell, wait for a signal, stop; the exit status."""
    for number in stop_signals():
        signal.signal(number, _interrupt)
    typer.echo("starting a Kubernetes API server, istiod, Envoy and the services: half a minute")
    try:
        with TemporaryDirectory(prefix="meshwarden-demo-") as name:
            _run_until_interrupted(Path(name))
    except KeyboardInterrupt:
        typer.echo("stopped")
    return 0


def _interrupt(*_arguments: object) -> None:
    """Leave what is under way, once: a second Ctrl-C must not cut the stopping short."""
    for number in stop_signals():
        # Not SIG_IGN: Python complains of a signal that came before and would be handled after.
        signal.signal(number, lambda *_arguments: None)
    raise KeyboardInterrupt


def _run_until_interrupted(folder: Path) -> None:
    policy = shop_policy(*RULES)
    written = folder / "policy.yaml"
    written.write_text(yaml.safe_dump(policy, sort_keys=False))
    limits = of_kind("RateLimit", SHOP, "limits", yaml.safe_load(LIMITS))
    with installed_mesh(policy, limits) as installed, shop_of(installed) as shop:
        typer.echo(_addresses_told(installed, shop))
        typer.echo(_commands_told(shop, written))
        try:
            while True:
                signal.pause()
        finally:
            typer.echo("stopping")


def _addresses_told(installed: Installed, shop: Shop) -> str:
    def local(port: int) -> str:
        return f"http://127.0.0.1:{port}"

    addresses = {
        "gateway (Envoy)": shop.url,
        "Envoy admin": shop.envoy.admin,
        "Kubernetes API server": shop.mesh.api.url,
        "istiod": f"{shop.mesh.istiod.url}/debug",
        "ext_authz health, metrics": local(installed.authorizer.http_port),
        "ratelimit health, metrics": local(installed.limiter.http_port),
        "sample workload": local(installed.workload.port),
    }
    lines = [f"  {what:25}  {where}" for what, where in addresses.items()]
    return "\n".join(["", "Meshwarden is up in an Istio mesh, without a cluster", *lines, ""])


def _commands_told(shop: Shop, policy: Path) -> str:
    """What to try. A line that begins with a status is a request, and what is answered."""
    kubectl = tool("bin/kubectl")

    def request(path: str, *headers: str) -> str:
        shown = " ".join(f"-H '{header}'" for header in (f"host: {HOST}", *headers))
        return f"curl -sS {shown} '{shop.url}{path}'"

    mine = f"x-api-key: {KEY}"
    return f"""\
In another terminal (kubectl is {kubectl}):
  export KUBECONFIG={shop.mesh.api.kubeconfig} PATH="{kubectl.parent}:$PATH"
then try:
  401  who are you?       {request("/orders")}
  200  a service's key    {request("/orders", mine)}
  403  is no admin's      {request("/admin", mine)}
  429  and five a minute  {request("/limited?[1-12]", mine)}
Let the service in where only admins were, and it is in force within two seconds:
  sed 's/key:admin/key:service/' {policy} | kubectl apply --server-side -f -
  200  now it is          {request("/admin", mine)}
  kubectl get accesspolicies --namespace {SHOP}
Ctrl-C stops everything.
"""


if __name__ == "__main__":
    sys.exit(main())
