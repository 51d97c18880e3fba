"""What `up` prints once everything runs: where things listen, and what to try."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.table import Table
from rich.text import Text

from meshwarden.cli.demo import Demo
from meshwarden.cli.system_ports import HOST, Ports


def address_file(ports: Ports, *, config: Path) -> str:
    """What `doctor` looks at where it is not told: its options by name, as JSON."""
    of_options = {
        "gateway": ports.gateway,
        "envoy_admin": ports.envoy_admin,
        "ext_authz": ports.ext_authz_http,
        "ratelimit": ports.ratelimit_http,
    }
    urls = {name: f"http://{HOST}:{port}" for name, port in of_options.items()}
    return json.dumps({**urls, "config": str(config.absolute())}, indent=2) + "\n"


def addresses_told(ports: Ports, *, with_envoy: bool) -> Table:
    """The table of addresses."""
    title = "Meshwarden is up" + ("" if with_envoy else ", without Envoy")
    addresses = Table("what", "where", title=title, title_justify="left")
    if with_envoy:
        addresses.add_row("gateway (Envoy)", f"http://{HOST}:{ports.gateway}")
        addresses.add_row("Envoy admin", f"http://{HOST}:{ports.envoy_admin}")
    for what, port in (
        ("ext_authz health, metrics", ports.ext_authz_http),
        ("ratelimit health, metrics, /json", ports.ratelimit_http),
        ("ratelimit /rlconfig, /stats", ports.ratelimit_debug),
        ("sample upstream", ports.upstream),
    ):
        addresses.add_row(what, f"http://{HOST}:{port}")
    addresses.add_row("ext_authz gRPC", f"{HOST}:{ports.ext_authz}")
    addresses.add_row("ratelimit gRPC", f"{HOST}:{ports.ratelimit}")
    return addresses


def requests_told(demo: Demo, *, environment: Path, config: Path) -> list[Text]:
    """The requests to try, where the configuration answers any as stated."""
    lines = []
    if demo.requests:
        sourced = f". {os.path.relpath(environment)}"
        lines.append(Text.assemble("In another terminal, ", (sourced, "bold"), ", then try:"))
    lines += [
        Text(f"  {expected}  {name:20} {command}") for name, expected, command in demo.table()
    ]
    lines.append(Text(f"Edit a file in {config} and see it take effect. Ctrl-C stops everything."))
    return lines
