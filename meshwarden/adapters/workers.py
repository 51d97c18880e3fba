"""Several processes of one service: start, restart, stop them together.

The workers share the ports (SO_REUSEPORT); the kernel spreads connections, so several workers help
only where the client opens several connections. Stated in the service's settings: `workers`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from prometheus_client import multiprocess

from meshwarden.adapters.logs import logger

_WORKER_VARIABLE = "MESHWARDEN_WORKER"
_PR_SET_PDEATHSIG = 1
RESTART_PAUSE_SECONDS = 1.0


def is_worker() -> bool:
    """Whether this process was started by `supervise`."""
    return _WORKER_VARIABLE in os.environ


class SharedPlace(NamedTuple):
    """A folder that the workers of one service share, and which of them this one is."""

    folder: Path
    worker: int


def shared_place() -> SharedPlace | None:
    """Where this worker leaves what the others are to know; None: it has no others."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    index = os.environ.get(_WORKER_VARIABLE)
    return SharedPlace(Path(folder), int(index)) if folder and index else None


@contextmanager
def shared_metrics() -> Iterator[None]:
    """A folder in which the workers of one service leave their metrics for each other, for the
    length of the block.
    """
    with tempfile.TemporaryDirectory(prefix="meshwarden-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies without a word (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_signals() -> list[signal.Signals]:
    """The signals that mean: stop in order. A closed terminal's SIGHUP, too, unless `nohup` had it
    ignored.
    """
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def supervise(command: Sequence[str], count: int) -> int:
    """Keep `count` processes of `command` running until SIGTERM or SIGINT; then stop them all.

    A worker that dies is started again, at most one a second each. One that ends with status 2 (its
    settings are wrong) ends everything with that status. Returns when none is left.
    """
    running: dict[int, subprocess.Popen[bytes]] = {}
    is_stopping = False
    result = 0

    def stop(_number: int, _frame: object) -> None:
        nonlocal is_stopping
        is_stopping = True
        for process in list(running.values()):
            process.terminate()

    def start(index: int) -> None:
        if is_stopping:
            return
        running[index] = _start(command, index)
        if is_stopping:  # The signal came while it started, and stopped only the others.
            running[index].terminate()

    for number in stop_signals():
        signal.signal(number, stop)
    for index in range(count):
        start(index)
    while running:
        pid, status = os.wait()
        index = next((i for i, process in running.items() if process.pid == pid), -1)
        if index < 0:
            continue
        process = running.pop(index)
        process.returncode = os.waitstatus_to_exitcode(status)
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        if is_stopping:
            continue
        if process.returncode == 2:
            result = 2
            stop(0, None)
            continue
        logger().error("worker_died", worker=index, status=process.returncode)
        time.sleep(RESTART_PAUSE_SECONDS)
        start(index)
    return result


def _start(command: Sequence[str], index: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env={**os.environ, _WORKER_VARIABLE: str(index)})
