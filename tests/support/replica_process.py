"""One replica of a workload, as a process that can be made to fail in the ways that replicas do.

    python -m tests.support.replica_process PORT NAME

Every answer names the replica (`x-replica`) and repeats what arrived. `PUT /-/mode/MODE`, asked
directly, changes what later requests meet: `well`, `unavailable` (503), `reset`, `slow` (it
answers after a second), or `struggling` (503 after a third of one). To hang it, pause the process;
to end it, kill it. SIGTERM lets requests under way end, as a workload should.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread

import httpx2

from tests.support.ports import free_port, is_listening
from tests.support.processes import Running, running, wait_until

MODES = ("well", "unavailable", "reset", "slow", "struggling")
SECONDS = {"slow": 1.0, "struggling": 0.3}
PATH_OF_MODE = "/-/mode/"
_LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing resets the connection."""


@dataclass
class Replica:
    """A running replica and how to make it fail."""

    name: str
    port: int
    process: Running

    def mode(self, mode: str) -> None:
        """What later requests meet."""
        httpx2.put(f"http://127.0.0.1:{self.port}{PATH_OF_MODE}{mode}").raise_for_status()

    def executed(self) -> dict[str, int]:
        """How often each `METHOD /path` was executed here."""
        answer = httpx2.get(f"http://127.0.0.1:{self.port}/-/executed")
        found: dict[str, int] = answer.json()
        return found

    def forget(self) -> None:
        """Begin to count anew."""
        httpx2.delete(f"http://127.0.0.1:{self.port}/-/executed").raise_for_status()

    def pause(self) -> None:
        """Hang: its connections stay open and nothing is answered."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.child.kill()
        self.process.child.wait()


@contextmanager
def running_replica(name: str, port: int = 0) -> Iterator[Replica]:
    """A replica for the length of the block; `port` where it is to be an earlier one's."""
    chosen = port or free_port()
    command = (sys.executable, "-m", "tests.support.replica_process", str(chosen), name)
    with running(command, is_measured=False) as process:
        process.wait_until(lambda: is_listening(chosen), f"replica {name} listens")
        replica = Replica(name, chosen, process)
        try:
            yield replica
        finally:
            if process.is_alive:
                replica.resume()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = False
    request_queue_size = 256

    def __init__(self, port: int, name: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.name = name
        self.mode = "well"
        self.executed: Counter[str] = Counter()
        self.ends = Event()
        self.active = 0
        self.lock = Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # An answer is one write: two would wait for a delayed ACK, 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def answer(self) -> None:
        with self.server.lock:
            self.server.active += 1
        try:
            self._answer()
        finally:
            with self.server.lock:
                self.server.active -= 1

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        if path.startswith(PATH_OF_MODE):
            self.server.mode = path.removeprefix(PATH_OF_MODE)
            assert self.server.mode in MODES
            self._reply(200, {"mode": self.server.mode})
            return
        if path == "/-/executed" and self.command == "DELETE":
            self.server.executed.clear()
        if path == "/-/executed":
            self._reply(200, dict(self.server.executed))
            return
        self.server.executed[f"{self.command} {path}"] += 1
        if self.server.mode == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self.close_connection = True
            self.connection.close()
            return
        Event().wait(SECONDS.get(self.server.mode, 0))
        told = {"replica": self.server.name, "method": self.command, "headers": dict(self.headers)}
        self._reply(503 if self.server.mode in ("unavailable", "struggling") else 200, told)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815 (http.server's names)

    def _reply(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        if self.server.ends.is_set():
            self.close_connection = True
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-replica", self.server.name)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""


def main() -> None:
    """Serve until SIGTERM."""
    server = _Server(int(sys.argv[1]), sys.argv[2])

    def end(*_arguments: object) -> None:
        server.ends.set()
        Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    server.serve_forever(poll_interval=0.02)
    server.server_close()
    with suppress(AssertionError):
        wait_until(lambda: server.active == 0, "requests under way have ended", limit_seconds=5)
    os._exit(0)  # Threads that wait on idle connections would keep it.


if __name__ == "__main__":
    main()
