"""`meshwarden doctor`: looks at a running installation and names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from meshwarden.cli import configuration_folder, probes
from meshwarden.cli.configuration_folder import QUICKSTART
from meshwarden.cli.output import AsJson, print_json, print_line
from meshwarden.cli.state_folder import DEFAULT_STATE, State, StateFolder
from meshwarden.cli.up import envoy_binary
from meshwarden.core.faults import Fault


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `problem` is empty where it is well."""

    what: str
    problem: str = ""


_DEFAULTS = {
    "gateway": "http://127.0.0.1:10000",
    "envoy_admin": "http://127.0.0.1:9901",
    "ext_authz": "http://127.0.0.1:9002",
    "ratelimit": "http://127.0.0.1:8080",
    "config": str(QUICKSTART),
}


def doctor(
    gateway: Annotated[str | None, typer.Option(help="Envoy's listener.")] = None,
    envoy_admin: Annotated[str | None, typer.Option(help="Envoy's admin.")] = None,
    ext_authz: Annotated[str | None, typer.Option(help="ext_authz's HTTP port.")] = None,
    ratelimit: Annotated[str | None, typer.Option(help="ratelimit_service's HTTP port.")] = None,
    no_envoy: Annotated[
        bool, typer.Option("--no-envoy", help="Only what `up --no-envoy` starts.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="Folder of policies and limits.", file_okay=False)
    ] = None,
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Look at everything that runs here and say what is wrong with it.

    Where things are is taken from the running `up`, else the fixed ports are looked at.

    [bold]Example:[/bold] meshwarden doctor

    Exit status: 0 all is well; 1 something is not.
    """
    given = {
        "gateway": gateway,
        "envoy_admin": envoy_admin,
        "ext_authz": ext_authz,
        "ratelimit": ratelimit,
        "config": None if config is None else str(config),
    }
    known = _DEFAULTS | _running(state) | {n: v for n, v in given.items() if v is not None}
    findings = [finding for look in _looks(known, with_envoy=not no_envoy) for finding in look()]
    wrong = [finding for finding in findings if finding.problem]
    if as_json:
        print_json(
            {
                "ok": not wrong,
                "findings": [
                    {"what": f.what, "ok": not f.problem, "problem": f.problem} for f in findings
                ],
            }
        )
    else:
        for finding in findings:
            print_line(
                f"{'WRONG' if finding.problem else 'ok':5}  {finding.what}"
                + (f": {finding.problem}" if finding.problem else "")
            )
    raise typer.Exit(1 if wrong else 0)


def _running(state: Path) -> dict[str, str]:
    """Where the `up` on this state folder listens; empty where none runs."""
    file = StateFolder(state).addresses
    try:
        return {str(name): str(value) for name, value in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _looks(where: dict[str, str], *, with_envoy: bool) -> list[Callable[[], Iterator[Finding]]]:
    """What to look at, in this order."""
    folder, admin = Path(where["config"]), where["envoy_admin"]
    services: list[Callable[[], Iterator[Finding]]] = [
        lambda: _configuration(folder),
        lambda: _service("ext_authz", where["ext_authz"]),
        lambda: _service("ratelimit_service", where["ratelimit"]),
    ]
    if not with_envoy:
        return services
    return [
        _installed,
        *services,
        lambda: _envoy(admin),
        lambda: _domain(admin, folder),
        lambda: _through(where["gateway"], folder),
    ]


def _installed() -> Iterator[Finding]:
    try:
        yield Finding(f"Envoy is installed ({envoy_binary()})")
    except Fault as fault:
        yield Finding("Envoy is installed", str(fault))


def _configuration(folder: Path) -> Iterator[Finding]:
    try:
        problems = configuration_folder.problems(folder)
    except Fault as fault:
        yield Finding(f"the configuration in {folder}", str(fault))
        return
    told = "; ".join(str(problem) for problem in problems[:3])
    yield Finding(
        f"the configuration in {folder}", f"{len(problems)} faults: {told}" if problems else ""
    )


def _service(name: str, url: str) -> Iterator[Finding]:
    response = probes.fetch(f"{url}/readyz?verbose")
    if response is None:
        yield Finding(f"{name} answers at {url}", "no answer within a second; is it running?")
        return
    status = probes.json_object(response)
    if "ready" not in status:
        yield Finding(f"{name} answers at {url}", "something else answers there")
        return
    yield Finding(f"{name} answers at {url}")
    if "transport" in status:
        yield Finding(f"{name} serves gRPC by {status['transport']}")
    reasons = "; ".join(f"{what}: {why}" for what, why in status.get("reasons", {}).items())
    yield Finding(f"{name} is ready", reasons)
    refused = status.get("configuration", {}).get("refused")
    told = "; ".join(refused["problems"][:3]) if refused else ""
    yield Finding(
        f"{name} runs the newest configuration", f"it was refused: {told}" if refused else ""
    )


def _envoy(admin: str) -> Iterator[Finding]:
    found = probes.clusters(admin)
    if not found:
        yield Finding(
            f"Envoy's admin answers at {admin}", "no answer within a second; is it running?"
        )
    for name, problems in found.items():
        yield Finding(f"Envoy finds the cluster {name} healthy", ", ".join(sorted(set(problems))))


def _domain(admin: str, folder: Path) -> Iterator[Finding]:
    """Whether the limits that Envoy asks for are those of the configuration."""
    asked = probes.ratelimit_domain(admin)
    try:
        wanted = configuration_folder.domain_of(configuration_folder.limits(folder))
    except Fault:
        return  # `_configuration` tells it.
    if asked:
        problem = "" if asked == wanted else f"it asks for '{asked}'"
        yield Finding(f"Envoy asks for the limits of '{wanted}'", problem)


def _through(gateway: str, folder: Path) -> Iterator[Finding]:
    """Whether a request without a credential is answered as the configuration says."""
    try:
        expected = configuration_folder.anonymous_status(folder, gateway.partition("//")[2])
    except Fault:
        expected = 0
    response = probes.fetch(f"{gateway}/")
    word = "passes on" if expected == 200 else "denies"
    what = f"the gateway at {gateway} {word} an unknown caller"
    if response is None:
        yield Finding(what, "no answer within a second")
        return
    denied = response.status_code in (401, 403)
    is_right = response.status_code != 503 and not denied if expected == 200 else denied
    yield Finding(what, "" if is_right else f"it answers {response.status_code}")
