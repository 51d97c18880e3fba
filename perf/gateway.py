"""What the quickstart's filters add to a request, measured by k6 through two Envoys in one run.

The bare route has an Envoy and a bootstrap of its own, without our filters, before the same
upstream. CPU per request is each process's user and system time from /proc, before and after,
divided by the requests it saw.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from meshwarden.adapters.envoy import EnvoyOptions, bootstrap, to_yaml
from meshwarden.cli.probes import answers
from meshwarden.cli.up import envoy_binary
from perf import k6
from tests.support.ports import free_ports
from tests.support.processes import running
from tests.support.quickstart import Quickstart, running_quickstart

RATE = 100
SECONDS = 20
WARM_UP_SECONDS = 3


def measure() -> dict[str, Any]:
    """Latencies in milliseconds, CPU in microseconds a request, and whether k6's thresholds
    hold.
    """
    with TemporaryDirectory(prefix="meshwarden-perf-") as name:
        folder = Path(name)
        with running_quickstart(folder) as system, _bare_envoy(folder, system) as bare:
            _k6(folder, system, bare, seconds=WARM_UP_SECONDS)
            processes = _processes(system.process.pid)
            before = {name: cpu_seconds(pid) for name, pid in processes.items()}
            metrics, held = _k6(folder, system, bare, seconds=SECONDS)
            spent = {name: cpu_seconds(pid) - before[name] for name, pid in processes.items()}
    requests = (
        metrics["guarded_latency"]["values"].get("count")
        or metrics["iterations"]["values"]["count"]
    )
    return {
        "rate_a_second": RATE,
        "seconds": SECONDS,
        "requests": requests,
        "thresholds_hold": held,
        "milliseconds": {
            name: metrics[name]["values"]
            for name in ("bare_latency", "guarded_latency", "added_latency")
        },
        "cpu_us_a_request": {
            # The upstream answers the bare requests, too.
            name: round(seconds / requests / (2 if name == "sample_upstream" else 1) * 1e6, 1)
            for name, seconds in spent.items()
        },
    }


@contextmanager
def _bare_envoy(folder: Path, system: Quickstart) -> Iterator[str]:
    listen, admin = free_ports(2)
    options = EnvoyOptions(
        listen_port=listen,
        admin_port=admin,
        upstream_port=_upstream_port(system),
        ext_authz_enabled=False,
        ratelimit_enabled=False,
        local_rate_limit_enabled=False,
    )
    file = folder / "bare.yaml"
    file.write_text(to_yaml(bootstrap(options)))
    command = [envoy_binary(), "--config-path", file, "--use-dynamic-base-id"]
    with running([*map(str, command), "--concurrency", "2", "--log-level", "warning"]) as envoy:
        gateway = f"http://127.0.0.1:{listen}"
        envoy.wait_until(answers(f"{gateway}/whoami"), "the bare Envoy answers")
        yield gateway


def _upstream_port(system: Quickstart) -> int:
    document = yaml.safe_load((system.state / "envoy.yaml").read_text())
    upstream = next(c for c in document["static_resources"]["clusters"] if c["name"] == "upstream")
    endpoint = upstream["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    return int(endpoint["address"]["socket_address"]["port_value"])


def _k6(
    folder: Path, system: Quickstart, bare: str, *, seconds: int
) -> tuple[dict[str, Any], bool]:
    """k6's metrics, and whether its thresholds hold."""
    headers = {"authorization": f"Bearer {system.demo['credentials']['reader']}"}
    environment = {
        "GUARDED": f"{system.gateway}/whoami",
        "BARE": f"{bare}/whoami",
        "HEADERS": json.dumps({"bare": headers, "guarded": headers}),
        "RATE": str(RATE),
    }
    return k6.run("perf/pairs.js", folder, environment, seconds=seconds)


def _processes(parent: int) -> dict[str, int]:
    """The processes of the system by what they are."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        command = Path(f"/proc/{pid}/cmdline").read_text()
        for name in ("ext_authz", "ratelimit_service", "sample_upstream", "envoy"):
            if name in command.split("--")[0]:
                found[name] = pid
                break
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
