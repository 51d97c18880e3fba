"""Configuration from a folder: read whole, watched, read again.

Reads every `*.yaml` and `*.yml` below the folder (names that start with a dot are skipped, which is
how Kubernetes mounts a ConfigMap: visible symlinks into `..data`, which is swapped at once), the
files that those refer to, and the `extra` files that settings name. `*.test.yaml` files belong to
`meshwarden test`. Known weakness: a file that is being written in place can be seen half written; a
quiet time of 50 ms before reading, and refusing empty files, make that rare and harmless. Rename
into place to be sure. What lies behind a symlink out of the folder, to a file, is seen at the
next resync.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from watchfiles import Change, awatch

from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Bundle, Outcome

SUFFIXES = (".yaml", ".yml")
FILE_BYTES_AT_MOST = 16 << 20
FILES_AT_MOST = 10_000
QUIET_MILLISECONDS = 50
WAIT_FOR_QUIET_MILLISECONDS = 400

References = Callable[[Mapping[str, bytes]], Collection[str]]
Listing = Callable[[Path, list[Problem]], tuple[list[tuple[str, Path]], list[Path]]]
"""Of a folder, the files that configure us by name, and the folders that hold them, to be watched;
adds what stands in the way to the problems.
"""


def yaml_files(folder: Path, problems: list[Problem]) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The `Listing` of every `*.yaml` and `*.yml` below `folder`; hidden ones are left out."""
    found, folders = [], []
    for place, names in _walked(folder, problems):
        folders.append(place)
        for name in names:
            path = place / name
            if path.suffix in SUFFIXES and not name.endswith((".test.yaml", ".test.yml")):
                found.append((path.relative_to(folder).as_posix(), path))
    if not found and not problems:
        # An emptied folder is taken for an accident: it would lift every limit.
        problems.append(Problem(str(folder), 0, "holds no *.yaml or *.yml file"))
    return found, folders


class FolderSource:
    """The files of one folder, and of what they refer to.

    `extra` names further files by the name under which the service's compiler looks for them, such
    as `@api_keys`. `references` says which other files the read ones name; a name is relative to
    the folder. `listing` finds the files.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        extra: Mapping[str, Path] | None = None,
        references: References = lambda _files: (),
        listing: Listing = yaml_files,
    ) -> None:
        self.folder = folder
        self._listing = listing
        self._extra = dict(extra or {})
        self._references = references
        self._outside: set[Path] = set(self._extra.values())
        self._folders: list[Path] = []

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

    def answered(self, outcome: Outcome) -> None:
        """Nobody to tell: who writes the files looks at the log, the metrics or `/readyz`."""

    def _listed(self, problems: list[Problem]) -> list[tuple[str, Path]]:
        """The configuration files by name; notes the folders that they are in, to be watched."""
        self._folders = []
        if self.folder is None:
            return []
        if not os.path.isdir(self.folder):  # noqa: PTH112 - Path.is_dir raises where it may not look
            problems.append(Problem(str(self.folder), 0, "is not a folder that can be read"))
            return []
        found, self._folders = self._listing(self.folder, problems)
        if len(found) > FILES_AT_MOST:
            problems.append(Problem(str(self.folder), 0, f"holds more than {FILES_AT_MOST} files"))
        return sorted(found)[:FILES_AT_MOST]

    def _watched(self) -> dict[Path, tuple[int, int]]:
        """Each folder to be watched, and which one it is: a path may come to lead elsewhere."""
        paths = [*self._folders, *(path.parent for path in self._outside)]
        if self.folder is not None:
            paths.append(self.folder.absolute().parent)
        found = {}
        for path in paths:
            with suppress(OSError):
                found[path.absolute()] = _identity(path)
        return found

    def _concerns_us(self, _change: Change, changed: str) -> bool:
        """Whether what changed is below the folder, the folder itself, or a file outside it."""
        path = Path(changed)
        if self.folder is not None and path.is_relative_to(self.folder.absolute()):
            return True
        beside = {outside.absolute() for outside in self._outside}
        return path in beside or (
            path.name.startswith("..") and path.parent in {other.parent for other in beside}
        )

    async def changes(self, resync_seconds: float) -> AsyncGenerator[Bundle]:
        """A bundle at first, after each change that was seen, and every `resync_seconds` whether
        one was seen or not.
        """
        while True:
            watched = self._watched()
            if not watched:
                await asyncio.sleep(resync_seconds)
                yield self.read()
                continue
            is_over = asyncio.Event()
            watcher = awatch(
                *watched,
                stop_event=is_over,
                watch_filter=self._concerns_us,
                debounce=WAIT_FOR_QUIET_MILLISECONDS,
                step=QUIET_MILLISECONDS,
                rust_timeout=int(resync_seconds * 1000),
                yield_on_timeout=True,
                recursive=False,
                ignore_permission_denied=True,
            )
            seen = asyncio.ensure_future(anext(watcher))
            try:
                await asyncio.sleep(0)
                # The watch stands now; what changed before it is found by reading once more.
                yield self.read()
                while self._watched() == watched:
                    await seen
                    seen = asyncio.ensure_future(anext(watcher))
                    yield self.read()
            finally:
                # The watching thread ends by this event; cancelling alone once left it running.
                is_over.set()
                seen.cancel()
                # `wait`: to await `seen` and swallow its cancellation would swallow ours, too.
                await asyncio.wait({seen})
                if not seen.cancelled():
                    seen.exception()


def _walked(folder: Path, problems: list[Problem]) -> Iterator[tuple[Path, list[str]]]:
    """Each folder from `folder` down with the names of its files; hidden ones are left out.

    Links to folders are followed, each folder once: Kubernetes mounts `sub/x.yaml` of a ConfigMap
    below the link `sub`. A folder that can't be listed is a problem, never an empty one.
    """

    def refuse(error: OSError) -> None:
        path = Path(error.filename)
        problems.append(_unreadable(path.relative_to(folder).as_posix(), path, error))

    known: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        path = Path(place)
        if (identity := _identity(path)) in known:
            folders.clear()
            continue
        known.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, [name for name in files if not name.startswith(".")]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _unreadable(name: str, path: Path, error: OSError) -> Problem:
    return Problem(name, 0, f"{path} can't be read: {error.strerror or type(error).__name__}")


def _read_into(files: dict[str, bytes], problems: list[Problem], name: str, path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problems.append(Problem(name, 0, f"{path} is not a file"))
            return
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_AT_MOST + 1)
    except OSError as error:
        problems.append(_unreadable(name, path, error))
        return
    if len(content) > FILE_BYTES_AT_MOST:
        problems.append(Problem(name, 0, f"is larger than {FILE_BYTES_AT_MOST} bytes"))
    elif not content.strip():
        problems.append(Problem(name, 0, "is empty", "remove the file, or write it whole"))
    else:
        files[name] = content
