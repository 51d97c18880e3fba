"""The real envoyproxy/ratelimit and ours read the same files of the same runtime folder, are
healthy when the other is, and end alike; their programs that check files print the same.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.redis_server import RedisServer
from tests.support.reference_ratelimit import reference_program
from tests.support.side_by_side import drop_in_environment, started

OURS = Path(sys.executable)
LIMITED = "domain: %s\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]"


class Shown(NamedTuple):
    """What one of the two says of itself, once it runs."""

    healthcheck: tuple[int, str]
    limits: list[str]


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
    redis: RedisServer, folder: Path, root: str, variables: dict[str, str]
):
    environment = drop_in_environment(
        folder / root,
        redis,
        **{
            "RUNTIME_SUBDIRECTORY": "sub",
            "RUNTIME_WATCH_ROOT": "",
            "USE_STATSD": "false",
            **variables,
        },
    )
    programs = reference_program("service_cmd"), OURS.with_name("ratelimit")
    expected = 500 if "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED" in variables else 200
    shown = []
    for program in programs:
        with started([program], environment) as side:
            side.wait_until_status("/healthcheck", expected)
            health = side.http.get("/healthcheck")
            shown.append(Shown((health.status_code, health.text), side.lines("/rlconfig")))
            assert side.process.stop() == 0
    assert shown[0] == shown[1]
    assert bool(shown[0].limits) == (root == "current")


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
