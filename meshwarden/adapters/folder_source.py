"""Configuration from a folder: read whole, watched, read again.

Reads every `*.yaml` and `*.yml` below the folder (names that start with a dot are skipped, which is
how Kubernetes mounts a ConfigMap: visible symlinks into `..data`, which is swapped at once), the
files that those refer to, and the `extra` files that settings name. `*.test.yaml` files belong to
`meshwarden test`. Known weakness: a file that is being written in place can be seen half written; a
quiet time of 50 ms before reading, and refusing empty files, make that rare and harmless. Rename
into place to be sure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path

from watchfiles import awatch

from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Bundle

SUFFIXES = (".yaml", ".yml")
FILE_BYTES_AT_MOST = 16 << 20
FILES_AT_MOST = 10_000
QUIET_MILLISECONDS = 50

References = Callable[[Mapping[str, bytes]], Collection[str]]


class FolderSource:
    """The files of one folder, and of what they refer to.

    `extra` names further files by the name under which the service's compiler looks for them, such
    as `@api_keys`. `references` says which other files the read ones name; a name is relative to
    the folder.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        extra: Mapping[str, Path] | None = None,
        references: References = lambda _files: (),
    ) -> None:
        self.folder = folder
        self._extra = dict(extra or {})
        self._references = references
        self._outside: set[Path] = set(self._extra.values())

    def read(self) -> Bundle:
        """All files as they are now; what can't be read is listed in the bundle, which is then
        refused.
        """
        files: dict[str, bytes] = {}
        problems: list[Problem] = []
        for name, path in [*self._listed(problems), *self._extra.items()]:
            _read_into(files, problems, name, path)
        try:
            named = self._references(files)
        except InvalidInput as error:
            return Bundle(files, tuple(problems) + error.problems)
        outside = set(self._extra.values())
        for name in sorted(set(named) - files.keys()):
            path = (self.folder or Path()) / name
            outside.add(path)
            _read_into(files, problems, name, path)
        self._outside = outside
        return Bundle(files, tuple(problems))

    def _listed(self, problems: list[Problem]) -> list[tuple[str, Path]]:
        if self.folder is None:
            return []
        if not self.folder.is_dir():
            problems.append(Problem(str(self.folder), 0, "is not a folder that can be read"))
            return []
        found = []
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            if any(part.startswith(".") for part in relative.parts) or path.suffix not in SUFFIXES:
                continue
            if path.is_dir() or path.name.endswith((".test.yaml", ".test.yml")):
                continue
            found.append((relative.as_posix(), path))
        if len(found) > FILES_AT_MOST:
            problems.append(Problem(str(self.folder), 0, f"holds more than {FILES_AT_MOST} files"))
        return found[:FILES_AT_MOST]

    def _watched(self) -> set[Path]:
        folders = {path.parent.resolve() for path in self._outside if path.parent.is_dir()}
        if self.folder is not None and self.folder.is_dir():
            folders.add(self.folder.resolve())
        return folders

    async def changes(self, resync_seconds: float) -> AsyncIterator[Bundle]:
        """A bundle after each change that was seen, and every `resync_seconds` whether one was seen
        or not.
        """
        while True:
            watched = self._watched()
            if not watched:
                await asyncio.sleep(resync_seconds)
                yield self.read()
                continue
            async for _ in awatch(
                *watched,
                watch_filter=None,
                debounce=1600,
                step=QUIET_MILLISECONDS,
                rust_timeout=int(resync_seconds * 1000),
                yield_on_timeout=True,
                ignore_permission_denied=True,
            ):
                yield self.read()
                if self._watched() != watched:
                    break


def _read_into(files: dict[str, bytes], problems: list[Problem], name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_AT_MOST + 1)
    except OSError as error:
        problems.append(
            Problem(name, 0, f"{path} can't be read: {error.strerror or type(error).__name__}")
        )
        return
    if len(content) > FILE_BYTES_AT_MOST:
        problems.append(Problem(name, 0, f"is larger than {FILE_BYTES_AT_MOST} bytes"))
    elif not content.strip():
        problems.append(Problem(name, 0, "is empty", "remove the file, or write it whole"))
    else:
        files[name] = content
