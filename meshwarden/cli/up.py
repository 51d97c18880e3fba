"""`meshwarden up`: the whole system on this machine: services, Envoy, a sample upstream, demo
credentials.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from meshwarden.adapters.workers import stop_signals
from meshwarden.cli import configuration_folder, readiness, system_ports
from meshwarden.cli.announcement import address_file, addresses_told, requests_told
from meshwarden.cli.configuration_folder import QUICKSTART, Folder
from meshwarden.cli.demo import Demo
from meshwarden.cli.output import print_problems
from meshwarden.cli.processes import Children
from meshwarden.cli.state_folder import DEFAULT_STATE, State, StateFolder, write_private
from meshwarden.cli.system_ports import HOST, PortChoice, Ports
from meshwarden.core.faults import Fault, Misconfigured
from ratelimit_service.core.model import Rules

GATEWAY_PAUSE_SECONDS = 0.3
"""Between two requests through the gateway: each is a line in the log and may count for a limit."""


def up(
    config: Folder = QUICKSTART,
    redis: Annotated[
        str,
        typer.Option(
            envvar="MESHWARDEN_REDIS",
            help="Count in this Redis (redis://host:port) and not in memory; a URL with a "
            "password belongs into the variable, because everybody here sees the command.",
        ),
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
    folder = StateFolder(state)
    if state.exists():
        # Before anything can refuse to start: who waits for the demo must not find an old one.
        with folder.held_by_up():
            folder.forget_run()
    problems = configuration_folder.problems(config)
    if problems:
        print_problems(problems)
        raise Misconfigured(f"{config} has faults; nothing was started")
    rules = configuration_folder.limits(config)
    chosen = system_ports.choose(ports, with_envoy=not no_envoy)
    system = System(config, folder, rules=rules, ports=chosen, redis=redis, with_envoy=not no_envoy)
    with folder.held_by_up():
        sys.exit(asyncio.run(system.run()))


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
        self,
        config: Path,
        folder: StateFolder,
        *,
        rules: Rules,
        ports: Ports,
        redis: str,
        with_envoy: bool,
    ) -> None:
        self._config = config
        self._rules = rules
        self._domain = configuration_folder.domain_of(rules)
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
        for number in stop_signals():
            loop.add_signal_handler(number, self._stopping.set)
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
            self._folder.forget_run()
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
            await self._children.start(name, command, self._store() if name == "ratelimit" else {})
        ports = self._ports
        for what, port, path in (
            ("ext_authz is ready", ports.ext_authz_http, "readyz"),
            ("ratelimit_service is ready", ports.ratelimit_http, "readyz"),
            ("the upstream answers", ports.upstream, "healthz"),
        ):
            missing = readiness.answers_200(f"http://{HOST}:{port}/{path}")
            await self._children.wait_until(missing, what)
        write_private(self._folder.addresses, address_file(ports, config=self._config))
        if self._envoy is None:
            self._children.show(addresses_told(ports, with_envoy=False))
            return
        await self._start_envoy(self._envoy)
        configured = configuration_folder.load(self._config, self._folder)
        self._demo.choose(configured, self._rules, self._domain)
        environment = self._folder.demo_environment
        told = requests_told(self._demo, environment=environment, config=self._config)
        self._children.show(addresses_told(ports, with_envoy=True), *told)
        self._demo.write(sorted(configured.policies.identity_headers))

    def _store(self) -> dict[str, str]:
        """Where hits are counted, by environment: the URL may hold a password."""
        if not self._redis:
            return {}
        return {"RATELIMIT_STORE__KIND": "redis", "RATELIMIT_REDIS__URL": self._redis}

    def _commands(self) -> list[tuple[str, list[str]]]:
        ports, config, folder = self._ports, str(self._config), self._folder
        python = [sys.executable, "-m"]
        common = ["--configuration.folder", config, "--log.format", "console"]
        common += ["--grpc.host", HOST, "--http.host", HOST, "--stop-seconds", "3"]
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
                    "--identity-tokens.keys-file", str(folder.signing_keys),
                    "--identity-tokens.issuer", f"http://{HOST}:{ports.ext_authz_http}",
                    "--keys.revocations-file", str(folder.revocations),
                    "--keys.development-jwks", str(folder.jwks),
                ],
            ),
            (
                "ratelimit",
                [
                    *python, "ratelimit_service", *common,
                    "--grpc.port", str(ports.ratelimit),
                    "--grpc.streaming-port", str(ports.ratelimit_streaming),
                    "--http.port", str(ports.ratelimit_http),
                    "--debug.host", HOST, "--debug.port", str(ports.ratelimit_debug),
                    "--answer.dynamic-metadata", "--answer.rule-metadata",
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
            ratelimit_domain=self._domain,
        )
        file = self._folder.path / "envoy.yaml"
        file.write_text(to_yaml(bootstrap(options)))
        command = [str(binary), "--config-path", str(file), "--log-level", "warning"]
        command += ["--use-dynamic-base-id", "--concurrency", "2", "--drain-time-s", "1"]
        command += ["--file-flush-interval-msec", "200"]
        await self._children.start("envoy", command)
        admin = f"http://{HOST}:{ports.envoy_admin}"
        await self._children.wait_until(readiness.answers_200(f"{admin}/ready"), "Envoy is ready")
        await self._children.wait_until(
            readiness.clusters_are_healthy(admin), "Envoy finds its clusters healthy"
        )
        await self._children.wait_until(
            readiness.gives_a_verdict(f"http://{HOST}:{ports.gateway}"),
            "a request through the gateway gets a verdict",
            pause_seconds=GATEWAY_PAUSE_SECONDS,
        )
