"""The real envoyproxy/ratelimit and ours read the same files of the same runtime folder, are
healthy when the other is, and end alike; their programs that check files print the same.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from tests.support.ports import free_ports
from tests.support.processes import running
from tests.support.redis_server import RedisServer, running_redis
from tests.support.reference_ratelimit import reference_program

OURS = Path(sys.executable)
LIMITED = "domain: %s\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]"


class Shown(NamedTuple):
    """What one of the two says of itself, once it runs."""

    healthcheck: tuple[int, str]
    limits: list[str]


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`current` leads to files of every kind and place, `refused` to one that has a fault."""
    folder = tmp_path_factory.mktemp("runtime")
    places = ("a.yaml", "noending", "x.txt", "deep/b.yaml", ".dot.yaml", "..2026/q.yaml")
    names = [f"config/{place}" for place in places]
    for name in (*names, "config.c.yaml", "config.d/e", "configx.yaml", "other/x.yaml"):
        _put(folder / "v1" / "sub" / name, LIMITED % name.replace("/", "-").replace(".", "-"))
    _put(folder / "outside" / "file.yaml", LIMITED % "linked")
    (folder / "v1" / "sub" / "config" / "link").symlink_to(folder / "outside")
    (folder / "v1" / "sub" / "config" / "f.yaml").symlink_to(folder / "outside" / "file.yaml")
    (folder / "current").symlink_to("v1")
    _put(folder / "refused" / "sub" / "config" / "a.yaml", "domain: ''")
    return folder


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("root", "variables"),
    [
        ("current", {}),
        ("current", {"RUNTIME_IGNOREDOTFILES": "true"}),
        ("current", {"RUNTIME_WATCH_ROOT": "false"}),
        ("refused", {}),
        ("refused", {"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "true"}),
    ],
    ids=str,
)
def test_both_load_the_same_files_and_are_healthy_alike(
    store: RedisServer, folder: Path, root: str, variables: dict[str, str]
):
    environment = {
        **dict.fromkeys(("HOST", "GRPC_HOST", "DEBUG_HOST"), "127.0.0.1"),
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{store.port}",
        "RUNTIME_ROOT": str(folder / root),
        "RUNTIME_SUBDIRECTORY": "sub",
        "USE_STATSD": "false",
        "RATELIMIT_GRPC__STREAMING_PORT": "0",
        **variables,
    }
    programs = reference_program("service_cmd"), OURS.with_name("ratelimit")
    with ExitStack() as stack:
        shown, started = [], []
        for program in programs:
            http, grpc, debug = free_ports(3)
            own = {"PORT": str(http), "GRPC_PORT": str(grpc), "DEBUG_PORT": str(debug)}
            process = stack.enter_context(running([program], environment={**environment, **own}))
            started.append((process, http, debug))
        for process, http, debug in started:
            pages = f"http://127.0.0.1:{http}/healthcheck", f"http://127.0.0.1:{debug}/rlconfig"
            process.wait_until(lambda pages=pages: _answers(*pages), "its ports are open")
            expected = 500 if "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED" in variables else 200
            process.wait_until(
                lambda pages=pages, expected=expected: httpx2.get(pages[0]).status_code == expected,
                f"it answers {expected}",
            )
            health, limits = (httpx2.get(page) for page in pages)
            shown.append(Shown((health.status_code, health.text), sorted(limits.text.splitlines())))
        assert shown[0] == shown[1]
        assert bool(shown[0].limits) == (root == "current")
        for process, _, _ in started:
            assert process.stop() == 0


def _answers(*pages: str) -> bool:
    try:
        return all(httpx2.get(page) for page in pages)
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize(
    ("files", "flags"),
    [
        ({"b.yml": LIMITED % "a", "a": LIMITED % "b"}, []),
        ({"1": LIMITED % "a", "2": "domain: a"}, []),
        ({"1": LIMITED % "a", "2": "domain: a"}, ["-merge_domain_configs"]),
        ({"1": LIMITED % "a", "2": "domain: a"}, ["--merge_domain_configs=true"]),
        ({"1": LIMITED.replace("day", "fortnight") % "a"}, []),
        ({"1": "domain: ''"}, []),
        ({"1": LIMITED % "a", "folder/2": LIMITED % "b"}, []),
        ({}, []),
        (None, []),
    ],
    ids=str,
)
def test_both_programs_that_check_files_print_the_same(
    tmp_path: Path, files: dict[str, str] | None, flags: list[str]
):
    """And end with the same status; None: there is no such folder."""
    place = tmp_path if files is not None else tmp_path / "nowhere"
    for name, text in (files or {}).items():
        _put(place / name, text)
    programs = reference_program("config_check_cmd"), OURS.with_name("ratelimit_config_check")
    theirs, ours = (
        subprocess.run(
            [program, "-config_dir", str(place), *flags],
            capture_output=True,
            text=True,
            check=False,
        )
        for program in programs
    )
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert ours.stdout.startswith("checking rate limit configs...\n")
