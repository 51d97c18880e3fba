"""Runs the steps of our Dockerfile without a container engine: what stands below `/opt` and `/src`
in the image stands below a folder here. Knows the instructions that we use, and refuses others.

What it can't show: the base image. Its place takes a Python 3.11 of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

_IN_IMAGE = re.compile(r"(?<![\w./-])/(?=(?:opt|src)\b)")
_MACHINES_OWN = ("PIP_", "SSL_", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "UV_SYSTEM_CERTS")
"""How this machine reaches its package registry: an image has its own."""
STEP_SECONDS = 600


@dataclass
class Stage:
    """A stage as far as it was run."""

    base: str
    name: str
    environment: dict[str, str]
    folder: str = "/"
    user: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)


class Build:
    """The build of `dockerfile`, whose context is its folder, with all stages' files in `root`."""

    def __init__(self, dockerfile: Path, root: Path, python: Path) -> None:
        self._context, self._root, self._python = dockerfile.parent, root, python
        self.stages: list[Stage] = []
        for words, text in instructions(dockerfile.read_text()):
            getattr(self, f"_{words.lower()}")(text)

    @property
    def image(self) -> Stage:
        return self.stages[-1]

    def here(self, text: str) -> str:
        """`text` with the image's paths as they are on this machine."""
        return _IN_IMAGE.sub(f"{self._root}/", text)

    def _from(self, text: str) -> None:
        base, _, name = text.partition(" AS ")
        home = self._root / "home"
        home.mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if key.startswith(_MACHINES_OWN)}
        path = f"{self._python.parent}:/usr/bin:/bin"
        self.stages.append(Stage(base, name, {**kept, "HOME": str(home), "PATH": path}))

    def _env(self, text: str) -> None:
        for pair in shlex.split(text):
            key, _, value = pair.partition("=")
            old = self.image.environment
            self.image.environment[key] = self.here(value).replace("$PATH", old["PATH"])

    def _workdir(self, text: str) -> None:
        self.image.folder = text
        if _IN_IMAGE.match(text):
            Path(self.here(text)).mkdir(parents=True, exist_ok=True)

    def _copy(self, text: str) -> None:
        *sources, target = shlex.split(text)
        if sources[0].startswith("--from="):
            # Both stages' files stand below one folder: it is there already.
            assert sources == [f"--from={self.stages[0].name}", target]
            assert Path(self.here(target)).is_dir()
            return
        to = Path(self.here(self.image.folder), target)
        for source in (self._context / name for name in sources):
            if source.is_dir():
                junk = shutil.ignore_patterns("__pycache__", "descriptors.binpb")
                shutil.copytree(source, to, ignore=junk)
            else:
                shutil.copy(source, to)

    def _run(self, text: str) -> None:
        folder = self.here(self.image.folder)
        done = subprocess.run(
            ["/bin/sh", "-c", self.here(text)],
            cwd=folder,
            env=self.image.environment,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"RUN {text}\n{done.stdout}{done.stderr}"

    def _label(self, text: str) -> None:
        self.image.labels |= dict(pair.split("=", 1) for pair in shlex.split(text))

    def _user(self, text: str) -> None:
        self.image.user = text

    def _expose(self, text: str) -> None:
        self.image.ports = [int(port) for port in text.split()]

    def _entrypoint(self, text: str) -> None:
        self.image.entrypoint = json.loads(text)

    def _cmd(self, text: str) -> None:
        self.image.command = json.loads(text)


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction and what follows it, its lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word, rest) for word, rest in found]
