"""`meshwarden up`: the whole system on this machine: services, Envoy, a sample upstream, demo
credentials.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from meshwarden.adapters import ports as binding
from meshwarden.cli import configuration_folder, probes
from meshwarden.cli.configuration_folder import QUICKSTART, Folder
from meshwarden.cli.demo import Demo
from meshwarden.cli.output import print_problems
from meshwarden.cli.processes import Children
from meshwarden.cli.state_folder import DEFAULT_STATE, State, StateFolder
from meshwarden.core.faults import Fault, Misconfigured, Problem

HOST = "127.0.0.1"


class PortChoice(StrEnum):
    DEFAULT = "default"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of the system; all on 127.0.0.1. `upstream` is any free one."""

    gateway: int = 10000
    envoy_admin: int = 9901
    ext_authz: int = 9001
    ext_authz_http: int = 9002
    ext_authz_streaming: int = 9003
    ratelimit: int = 8081
    ratelimit_http: int = 8080
    ratelimit_debug: int = 6070
    ratelimit_streaming: int = 8083
    upstream: int = 0


def up(
    config: Folder = QUICKSTART,
    redis: Annotated[
        str, typer.Option(help="Count in this Redis (redis://host:port) and not in memory.")
    ] = "",
    no_envoy: Annotated[bool, typer.Option("--no-envoy", help="The services alone.")] = False,
    ports: Annotated[
        PortChoice, typer.Option(help="auto takes free ports in place of the fixed ones.")
    ] = PortChoice.DEFAULT,
    state: State = DEFAULT_STATE,
) -> None:
    """Start everything, print what to try, stop all of it on Ctrl-C.

    [bold]Example:[/bold] meshwarden up --config examples/quickstart

    Exit status: 0 it was stopped; 1 a part of it failed; 2 it could not be started as asked.
    """
    problems = configuration_folder.problems(config)
    if problems:
        print_problems(problems)
        raise Misconfigured(f"{config} has faults; nothing was started")
    chosen = _chosen(ports, with_envoy=not no_envoy)
    system = System(config, StateFolder(state), ports=chosen, redis=redis, with_envoy=not no_envoy)
    sys.exit(asyncio.run(system.run()))


def _chosen(choice: PortChoice, *, with_envoy: bool) -> Ports:
    """Ports that are free now. Raises `Misconfigured`, naming each that is taken.

    Without Envoy its two ports may be taken: by the caller's own Envoy.
    """
    if choice is PortChoice.AUTO:
        return Ports(*_free_ports(len(astuple(Ports()))))
    problems: list[Problem] = []
    for port in astuple(Ports())[0 if with_envoy else 2 :]:
        try:
            binding.require_free(HOST, port)
        except Misconfigured as fault:
            problems += fault.problems
    if problems:
        hint = Problem("", 0, "stop what listens there, or start with --ports auto")
        raise Misconfigured([*problems, hint])
    return Ports(upstream=_free_ports(1)[0])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for reserved in sockets:
            reserved.bind((HOST, 0))
        return [int(reserved.getsockname()[1]) for reserved in sockets]


def envoy_binary() -> Path:
    """Envoy: `$MESHWARDEN_ENVOY`, the one that `make install` put into the checkout, or one on the
    path.

    Raises `Misconfigured` when there is none.
    """
    if named := os.environ.get("MESHWARDEN_ENVOY"):
        return Path(named)
    for found in Path(".tools/envoy").glob("lib/python3.*/site-packages/envoy/_bin/envoy"):
        return found
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise Misconfigured("no Envoy: run `make install`, or set MESHWARDEN_ENVOY to one")


class System:
    """One run of everything."""

    def __init__(
        self, config: Path, folder: StateFolder, *, ports: Ports, redis: str, with_envoy: bool
    ) -> None:
        self._config = config
        self._folder = folder
        self._ports = ports
        self._redis = redis
        self._envoy = envoy_binary() if with_envoy else None
        self._children = Children()
        self._stopping = asyncio.Event()
        self._demo = Demo(
            folder,
            gateway=f"http://{HOST}:{ports.gateway}",
            envoy_admin=f"http://{HOST}:{ports.envoy_admin}",
        )

    async def run(self) -> int:
        """Start, wait for a signal or for a part to fail, stop; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        self._demo.remove()
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
                return 0
            starting.result()
            return await self._watch(stopping)
        except Fault as fault:
            print_problems(fault.problems)
            return 1
        finally:
            self._demo.remove()
            self._children.say("stopping")
            await self._children.stop()
            self._children.say("stopped")

    async def _watch(self, stopping: asyncio.Task[bool]) -> int:
        while not stopping.done():
            if ended := self._children.ended():
                self._children.say(f"{ended}; stopping the rest", style="bold red")
                return 1
            await asyncio.wait({stopping}, timeout=0.2)
        return 0

    async def _start(self) -> None:
        self._folder.prepare()
        self._demo.prepare()
        for name, command in self._commands():
            await self._children.start(name, command)
        ports = self._ports
        ready = {
            "ext_authz is ready": probes.answers(f"http://{HOST}:{ports.ext_authz_http}/readyz"),
            "ratelimit_service is ready": probes.answers(
                f"http://{HOST}:{ports.ratelimit_http}/readyz"
            ),
            "the upstream answers": probes.answers(f"http://{HOST}:{ports.upstream}/healthz"),
        }
        for what, condition in ready.items():
            await self._children.wait_until(condition, what)
        if self._envoy is None:
            self._tell_addresses()
            return
        await self._start_envoy(self._envoy)
        policies = configuration_folder.load(self._config, self._folder).policies
        self._tell_addresses()
        self._tell_requests()
        self._demo.write(sorted(policies.identity_headers))

    def _commands(self) -> list[tuple[str, list[str]]]:
        ports, config, folder = self._ports, str(self._config), self._folder
        python = [sys.executable, "-m"]
        common = ["--configuration.folder", config, "--log.format", "console"]
        common += ["--grpc.host", HOST, "--http.host", HOST, "--stop-seconds", "3"]
        store = ["--store.kind", "redis", "--redis.url", self._redis] if self._redis else []
        return [
            (
                "ext_authz",
                [
                    *python, "ext_authz", *common,
                    "--grpc.port", str(ports.ext_authz),
                    "--grpc.streaming-port", str(ports.ext_authz_streaming),
                    "--http.port", str(ports.ext_authz_http),
                    "--keys.file", str(folder.api_keys),
                    "--keys.pepper-file", str(folder.pepper),
                    "--keys.development-jwks", str(folder.jwks),
                ],
            ),
            (
                "ratelimit",
                [
                    *python, "ratelimit_service", *common, *store,
                    "--grpc.port", str(ports.ratelimit),
                    "--grpc.streaming-port", str(ports.ratelimit_streaming),
                    "--http.port", str(ports.ratelimit_http),
                    "--debug.host", HOST, "--debug.port", str(ports.ratelimit_debug),
                ],
            ),
            (
                "upstream",
                [
                    *python, "meshwarden.cli.sample_upstream",
                    "--host", HOST, "--port", str(ports.upstream),
                ],
            ),
        ]  # fmt: skip

    async def _start_envoy(self, binary: Path) -> None:
        # Envoy's typed messages take half a second to import; the services start meanwhile.
        from meshwarden.adapters.envoy import EnvoyOptions, bootstrap, to_yaml

        ports = self._ports
        options = EnvoyOptions(
            listen_port=ports.gateway,
            admin_port=ports.envoy_admin,
            ext_authz_port=ports.ext_authz,
            ratelimit_port=ports.ratelimit,
            upstream_port=ports.upstream,
        )
        file = self._folder.path / "envoy.yaml"
        file.write_text(to_yaml(bootstrap(options)))
        command = [str(binary), "--config-path", str(file), "--log-level", "warning"]
        command += ["--use-dynamic-base-id", "--concurrency", "2", "--drain-time-s", "1"]
        command += ["--file-flush-interval-msec", "200"]
        await self._children.start("envoy", command)
        admin = f"http://{HOST}:{ports.envoy_admin}"
        await self._children.wait_until(probes.answers(f"{admin}/ready"), "Envoy is ready")
        await self._children.wait_until(
            probes.clusters_are_healthy(admin), "Envoy finds its clusters healthy"
        )
        gateway = f"http://{HOST}:{ports.gateway}"
        await self._children.wait_until(
            probes.passes(gateway), "a request passes through all of it"
        )

    def _tell_addresses(self) -> None:
        from rich.console import Console
        from rich.table import Table

        ports = self._ports
        title = "Meshwarden is up" + (", without Envoy" if self._envoy is None else "")
        addresses = Table("what", "where", title=title, title_justify="left")
        if self._envoy is not None:
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
        Console(soft_wrap=True).print(addresses)

    def _tell_requests(self) -> None:
        from rich.console import Console

        console = Console(soft_wrap=True)
        shell_file = os.path.relpath(self._folder.demo_environment)
        console.print(
            f"In another terminal, [bold]. {shell_file}[/bold], then try:", highlight=False
        )
        for name, expected, command in self._demo.table():
            console.print(f"  {expected}  {name:20} {command}", markup=False, highlight=False)
        console.print(
            f"Edit a file in {self._config} and see it take effect. Ctrl-C stops everything.",
            highlight=False,
        )
