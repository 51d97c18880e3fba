"""Which files the reference takes from its runtime folder, and what it calls them.

    RUNTIME_ROOT / RUNTIME_SUBDIRECTORY / RUNTIME_APPDIRECTORY / any file, at any depth

A file's name is its path with dots for slashes, as in `config.basic.yaml`. Watching the root, it
starts below the subdirectory, and files there whose name begins with `config.` are taken as well;
else it starts below the last folder. No ending is asked for, and links to folders are not followed,
which is how `..data` of a mounted ConfigMap is left alone. Source: `goruntime`'s loader and the
reference's file provider, tried on the real one.

What the reference passes over with a line in its log (a file or folder that can't be read, a folder
without files) is refused here: it would lift limits. Of two files with one name it takes the last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshwarden.core.faults import Problem


@dataclass(frozen=True, slots=True)
class RuntimeListing:
    """A `meshwarden.adapters.folder_source.Listing` of the root."""

    subdirectory: Path
    app_directory: Path
    watches_root: bool
    ignores_dot_files: bool

    def __call__(
        self, root: Path, problems: list[Problem]
    ) -> tuple[list[tuple[str, Path]], list[Path]]:
        above = root / self.subdirectory
        place = above / self.app_directory
        start = above if self.watches_root else place
        found: dict[str, Path] = {}
        folders = [above]
        for folder, names in self._walked(place, problems):
            folders.append(folder)
            for name in names:
                self._add(found, folder / name, start, problems)
        if self.watches_root:
            for path in self._beside(place, problems):
                self._add(found, path, start, problems)
        if not found and not problems:
            problems.append(Problem(str(place), 0, "holds no file"))
        return sorted(found.items()), [folder for folder in folders if folder.is_dir()]

    def _walked(self, top: Path, problems: list[Problem]) -> Iterator[tuple[Path, list[str]]]:
        def refuse(error: OSError) -> None:
            if isinstance(error, FileNotFoundError):
                return
            what = f"can't be listed: {error.strerror or type(error).__name__}"
            problems.append(Problem(str(error.filename), 0, what))

        for folder, folders, files in os.walk(top, onerror=refuse):
            folders[:] = sorted(name for name in folders if self._is_taken(name))
            yield Path(folder), sorted(name for name in files if self._is_taken(name))

    def _beside(self, place: Path, problems: list[Problem]) -> Iterator[Path]:
        """What lies beside the folder under a name that begins with the folder's and a dot."""
        for path in sorted(place.parent.glob(f"{place.name}.*")):
            if not path.is_dir():
                yield path
            elif not path.is_symlink():
                for folder, names in self._walked(path, problems):
                    yield from (folder / name for name in names)

    def _is_taken(self, name: str) -> bool:
        return not (self.ignores_dot_files and name.startswith("."))

    @staticmethod
    def _add(found: dict[str, Path], path: Path, start: Path, problems: list[Problem]) -> None:
        name = path.relative_to(start).as_posix().replace("/", ".")
        if name in found:
            what = f"is the name of both {found[name]} and {path}"
            problems.append(Problem(name, 0, what, "rename one"))
        found[name] = path
