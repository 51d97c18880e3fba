"""The Dockerfile: its steps run in an empty folder, and what they make serves as nobody, reading
alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import httpx2
import pytest

from tests.support.dockerfile import Build
from tests.support.ports import free_ports
from tests.support.processes import CHECKOUT, wait_until

USER = 65532
PYTHONS = ("/usr/local/bin/python3.11", "/usr/bin/python3.11", getattr(sys, "_base_executable", ""))
WITHOUT_ACCOUNT = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}


def _python() -> Path:
    """A Python 3.11 that anybody may run, in the place of the base image's."""
    for python in filter(os.path.exists, PYTHONS):
        try:
            subprocess.run([python, "-c", "import venv, ssl"], check=True, **WITHOUT_ACCOUNT)
        except (PermissionError, subprocess.CalledProcessError):
            continue
        return Path(python)
    raise AssertionError(f"no Python 3.11 that user {USER} may run in {PYTHONS}")


@pytest.fixture(scope="module")
def build() -> Iterator[Build]:
    # Not pytest's own folder, which nobody else may enter.
    root = Path(mkdtemp(prefix="meshwarden-test-image-"))
    root.chmod(0o755)
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to(_python())
    try:
        made = Build(CHECKOUT / "Dockerfile", root, root / "bin" / "python")
        shutil.rmtree(root / "src")
        subprocess.run(["chmod", "-R", "a-w", str(root)], check=True)
        yield made
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(root)], check=True)
        shutil.rmtree(root)


def _command(build: Build, *words: str) -> list[str]:
    return [*build.image.entrypoint, *words]


def _done(build: Build, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        env=build.image.environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **WITHOUT_ACCOUNT,
    )


@pytest.mark.timeout(900)
def test_the_image_is_what_a_cluster_wants(build: Build):
    """Nobody's, by number; told to stop itself; the base named by its tag."""
    image = build.image
    assert image.user == f"{USER}:{USER}"
    assert (image.entrypoint, image.command) == (["python", "-m"], ["ext_authz"])
    assert image.ports == [9001, 9002, 9003, 8080, 8081, 8083]
    assert {stage.base for stage in build.stages} == {"python:3.11-slim-bookworm"}
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_nothing_of_the_build_is_in_it(build: Build):
    """No tests, no installer, no compiler's packages; what is installed needs no source folder."""
    script = (
        "import importlib.util as u, ext_authz, sys;"
        "assert 'site-packages' in ext_authz.__file__, ext_authz.__file__;"
        "names = ('pytest', 'uv', 'pip', 'tests', 'hatchling');"
        "print([name for name in names if u.find_spec(name)])"
    )
    done = _done(build, "python", "-c", script)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_it_knows_time_zones_that_a_slim_base_lacks(build: Build):
    """Of the package tzdata: without it a rule with `timeZone` would be refused."""
    script = "import zoneinfo; zoneinfo.reset_tzpath(()); print(zoneinfo.ZoneInfo('Europe/Berlin'))"
    assert _done(build, "python", "-c", script).stdout == "Europe/Berlin\n"


def test_everything_is_compiled(build: Build):
    """What is not would be compiled again by each start, since nothing can be written."""
    package = next(Path(build.here("/opt/meshwarden")).glob("lib/python3.*/site-packages"))
    for module in ("meshwarden/adapters/grpc_server.py", "ext_authz/app.py", "grpc/__init__.py"):
        path = package / module
        assert list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")), module


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("python", "-m", "ext_authz", "--help"), "--grpc.port"),
        (("meshwarden", "--version"), "meshwarden 0."),
        (("meshwarden", "check", str(CHECKOUT / "examples" / "quickstart")), ""),
    ],
)
def test_its_commands_run(build: Build, words: tuple[str, ...], told: str):
    if CHECKOUT.is_relative_to("/root") and str(CHECKOUT) in " ".join(words):
        pytest.fail("the checkout stands where nobody may read")
    done = _done(build, *words)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


@pytest.mark.parametrize("service", ["ext_authz", "ratelimit_service"])
def test_a_service_gets_ready_and_stops_when_told(build: Build, service: str):
    """As nobody, from a tree that nobody may write, without a home."""
    grpc, streaming, http, debug = free_ports(4)
    options = {
        "configuration.folder": CHECKOUT / "examples" / "partner_api",
        "grpc.port": grpc,
        "grpc.streaming-port": streaming,
        "http.port": http,
        "grpc.host": "127.0.0.1",
        "http.host": "127.0.0.1",
    }
    if service == "ratelimit_service":
        options |= {
            "configuration.folder": CHECKOUT / "examples" / "saas",
            "debug.port": debug,
            "debug.host": "127.0.0.1",
        }
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    child = subprocess.Popen(
        _command(build, service, *words),
        env={**build.image.environment, "HOME": "/nonexistent"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **WITHOUT_ACCOUNT,
    )

    def is_ready() -> bool:
        assert child.poll() is None, child.stdout and child.stdout.read()
        try:
            return httpx2.get(f"http://127.0.0.1:{http}/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(is_ready, "the service is ready", limit_seconds=30)
        status = httpx2.get(f"http://127.0.0.1:{http}/readyz?verbose").json()
        assert status["transport"].startswith("nghttp2 1.70"), "the wheel's, whatever is here"
        child.terminate()
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
