"""The page on installing, followed word by word against a real API server: what a reader types is
what is run, but for what needs a kubelet or an installed Istio.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.istio_mesh import namespace
from tests.support.kubernetes_api import APPLY, KubernetesApi, running_kubernetes, tool
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(240)
PAGE = (CHECKOUT / "docs/how-to/install_on_istio.md").read_text()
NOT_HERE = ("istioctl install", "istioctl analyze", "istioctl proxy-status", "curl ")
"""Commands that need an Istio that is installed, or Pods."""
KUBELETS = "rollout status"


def commands(heading: str) -> list[str]:
    """The commands of the section with this heading, in order."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    blocks = re.findall(r"^```\n(.*?)^```", section, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    """With what Istio's installation brings: its kinds, its namespace."""
    with running_kubernetes() as server:
        for name in ("istio", "gateway-api"):
            server.kubectl(*APPLY, "-f", tool(f"crds/{name}"))
        server.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
        server.apply(namespace("istio-system"))
        yield server


class Reader:
    """Who types commands in a folder with policies and what this repository brings."""

    def __init__(self, folder: Path, api: KubernetesApi) -> None:
        self._folder = folder
        shutil.copytree(CHECKOUT / "examples/quickstart", folder / "policies")
        shutil.copytree(CHECKOUT / "istio", folder / "istio")
        path = [str(Path(sys.executable).parent), str(tool("bin/kubectl").parent)]
        self._environment = {
            **os.environ,
            "PATH": ":".join([*path, os.environ["PATH"]]),
            "HOME": str(folder),
            "KUBECONFIG": str(api.kubeconfig),
        }

    def types(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


INSTALLED = ("1. Render for your policies", "3. Our kinds, then Secrets, then the rest")


@pytest.mark.parametrize("sections", [INSTALLED, ("To try it",)], ids=["production", "demo"])
def test_every_command_of_the_page_does_what_it_says(
    sections: tuple[str, ...], tmp_path: Path, api: KubernetesApi
):
    """`production` stands on a base that is rendered by the page's own command."""
    reader = Reader(tmp_path, api)
    if sections == INSTALLED:
        shutil.rmtree(tmp_path / "istio/base")
    for command in (command for section in sections for command in commands(section)):
        if KUBELETS not in command:
            reader.types(command)
    made = api.get("deployments,secrets", "-n", "meshwarden-system")["items"]
    names = {one["metadata"]["name"] for one in made}
    assert {"ext-authz", "ratelimit", "meshwarden-keys"} <= names


def test_the_page_says_nothing_that_is_neither_typed_here_nor_known_to_need_more():
    told = re.findall(r"^```\n(.*?)^```", PAGE, re.M | re.S)
    here = {one for section in (*INSTALLED, "To try it") for one in commands(section)}
    for line in "".join(told).splitlines():
        assert line in here or line.startswith(NOT_HERE), line
