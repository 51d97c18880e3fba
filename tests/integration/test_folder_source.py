"""The folder source on a real file system: what is seen, how soon, and what is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from meshwarden.adapters import folder_source
from meshwarden.adapters.configuration import Configuration
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Bundle, SnapshotHolder
from tests.support.processes import PAUSE_SECONDS, until

WITHIN_SECONDS = 1.0
"""What the quickstart promises; a resync would come after a minute."""


def compile_texts(bundle: Bundle) -> dict[str, str]:
    """The compiler of these tests: a file that says `bad` is refused."""
    problems = [Problem(n, 1, "bad") for n, content in bundle.files.items() if b"bad" in content]
    if problems:
        raise InvalidInput(problems)
    return {name: content.decode().strip() for name, content in bundle.files.items()}


class Followed:
    """A folder that is followed, and what came of it."""

    def __init__(self, source: FolderSource) -> None:
        self.applied: list[dict[str, str]] = []
        self.holder = SnapshotHolder(compile_texts)
        self.metrics = Metrics()
        self.told: list[str] = []
        self.configuration = Configuration(
            self.holder,
            source,
            apply=self.applied.append,
            counts=lambda files: {"files": len(files)},
            metrics=self.metrics,
            resync_seconds=60,
            told=lambda outcome: self.told.append(type(outcome).__name__),
        )

    @property
    def current(self) -> dict[str, str] | None:
        return self.holder.current

    @property
    def refused(self) -> str:
        return "" if self.holder.refusal is None else str(self.holder.refusal.problems[0])

    async def sees(self, files: Mapping[str, str]) -> None:
        """Fail unless the current snapshot becomes `files` in time."""
        await until(
            lambda: self.current == files, f"{files} is current", limit_seconds=WITHIN_SECONDS
        )

    async def refuses(self, told: str) -> None:
        await until(lambda: told in self.refused, f"'{told}' is told", limit_seconds=WITHIN_SECONDS)


@asynccontextmanager
async def following(source: FolderSource) -> AsyncIterator[Followed]:
    """Follow `source`, from when its watch is known to work."""
    followed = Followed(source)
    followed.configuration.load()
    task = asyncio.create_task(followed.configuration.follow())
    await until(_watches, "the folder is watched")
    try:
        yield followed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _watches() -> int:
    """How many folders the kernel watches for us (Linux)."""
    count = 0
    for entry in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            count += entry.read_text().count("inotify wd:")
    return count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "config"
    made.mkdir()
    (made / "a.yaml").write_text("one")
    return made


async def test_a_change_is_seen_within_a_second(folder: Path):
    """A file edited, added (deep, too), renamed into place, and removed."""
    async with following(FolderSource(folder)) as followed:
        assert followed.current == {"a.yaml": "one"}
        (folder / "a.yaml").write_text("two")
        await followed.sees({"a.yaml": "two"})
        (folder / "deep").mkdir()
        (folder / "deep" / "b.yml").write_text("b")
        await followed.sees({"a.yaml": "two", "deep/b.yml": "b"})
        (folder / "deep" / "b.yml").write_text("b2")
        await followed.sees({"a.yaml": "two", "deep/b.yml": "b2"})
        (folder / ".a.tmp").write_text("three")
        (folder / ".a.tmp").rename(folder / "a.yaml")
        await followed.sees({"a.yaml": "three", "deep/b.yml": "b2"})
        (folder / "deep" / "b.yml").unlink()
        await followed.sees({"a.yaml": "three"})


async def test_a_change_is_seen_while_other_files_change_all_the_time(folder: Path):
    """As in a folder that an editor, or a state file beside it, writes to without a pause."""
    async with following(FolderSource(folder)) as followed:
        is_noisy = True

        async def noise() -> None:
            while is_noisy:
                (folder / ".noise").write_text(str(time.monotonic()))
                await asyncio.sleep(PAUSE_SECONDS)

        noisy = asyncio.create_task(noise())
        (folder / "a.yaml").write_text("two")
        await followed.sees({"a.yaml": "two"})
        is_noisy = False
        await noisy


async def test_a_config_map_is_swapped_as_kubernetes_does_it(tmp_path: Path):
    """Visible names are symlinks into `..data`, a symlink that is replaced by rename."""
    mount = tmp_path / "mount"
    first, second = mount / "..2026_01", mount / "..2026_02"
    first.mkdir(parents=True)
    (first / "policy.yaml").write_text("one")
    (first / "sub").mkdir()
    (first / "sub" / "roles.yaml").write_text("roles")
    (mount / "..data").symlink_to(first.name)
    (mount / "sub").symlink_to("..data/sub")
    (mount / "policy.yaml").symlink_to("..data/policy.yaml")
    async with following(FolderSource(mount)) as followed:
        assert followed.current == {"policy.yaml": "one", "sub/roles.yaml": "roles"}
        shutil.copytree(first, second)
        (second / "policy.yaml").write_text("two")
        (second / "new.yaml").write_text("new")
        (mount / "..data_tmp").symlink_to(second.name)
        (mount / "..data_tmp").rename(mount / "..data")
        (mount / "new.yaml").symlink_to("..data/new.yaml")
        shutil.rmtree(first)
        await followed.sees({"policy.yaml": "two", "sub/roles.yaml": "roles", "new.yaml": "new"})
        assert followed.refused == ""


async def test_a_folder_that_is_a_link_is_followed_to_its_new_target(tmp_path: Path):
    """As releases are switched by hand: `ln -sfn release-2 current`."""
    for name, text in (("release-1", "one"), ("release-2", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(text)
    (tmp_path / "current").symlink_to("release-1")
    async with following(FolderSource(tmp_path / "current")) as followed:
        (tmp_path / "next").symlink_to("release-2")
        (tmp_path / "next").rename(tmp_path / "current")
        await followed.sees({"a.yaml": "two"})
        (tmp_path / "release-2" / "a.yaml").write_text("three")
        await followed.sees({"a.yaml": "three"})


async def test_a_folder_that_is_made_anew_is_followed_again(folder: Path):
    other = folder.parent / "other"
    other.mkdir()
    (other / "a.yaml").write_text("two")
    async with following(FolderSource(folder)) as followed:
        shutil.rmtree(folder)
        await followed.refuses("is not a folder that can be read")
        assert followed.current == {"a.yaml": "one"}
        shutil.copytree(other, folder)
        await followed.sees({"a.yaml": "two"})
        (folder / "a.yaml").write_text("three")
        await followed.sees({"a.yaml": "three"})


async def test_a_refused_change_leaves_the_last_good_one_and_is_shown(folder: Path):
    async with following(FolderSource(folder)) as followed:
        for content, told in (("bad", "a.yaml:1: bad"), ("", "a.yaml: is empty"), (" \n", "empty")):
            (folder / "a.yaml").write_text(content)
            await followed.refuses(told)
            assert followed.current == {"a.yaml": "one"}
            status = followed.configuration.status()
            assert status["version"] == followed.holder.version
            assert told in str(status["refused"])
        (folder / "a.yaml").write_text("good")
        await followed.sees({"a.yaml": "good"})
        assert followed.configuration.status()["refused"] is None
        # It is compiled in a thread, and put to work in the loop a moment later.
        wanted = [{"a.yaml": "one"}, {"a.yaml": "good"}]
        await until(lambda: followed.applied == wanted, "it is put to work, and once")
        assert followed.told == ["Accepted", "Refused", "Refused", "Accepted"]
        shown = followed.metrics.exposition().decode()
        assert 'configuration_offers_total{outcome="accepted"} 2.0' in shown
        assert "configuration_is_refused 0.0" in shown


async def test_nothing_serves_before_the_first_valid_configuration(tmp_path: Path):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "a.yaml").write_text("bad")
    async with following(FolderSource(folder)) as followed:
        assert followed.configuration.unready_reason() == "the configuration is refused"
        (folder / "a.yaml").write_text("good")
        await followed.sees({"a.yaml": "good"})
        assert followed.configuration.unready_reason() == ""


async def test_a_referenced_file_outside_the_folder_is_watched(folder: Path, tmp_path: Path):
    outside = tmp_path / "keys" / "jwks.txt"
    outside.parent.mkdir()
    outside.write_text("key 1")

    def references(files: Mapping[str, bytes]) -> list[str]:
        return ["../keys/jwks.txt"] if b"see keys" in files.get("a.yaml", b"") else []

    async with following(FolderSource(folder, references=references)) as followed:
        (folder / "a.yaml").write_text("see keys")
        await followed.sees({"a.yaml": "see keys", "../keys/jwks.txt": "key 1"})
        outside.write_text("key 2")
        await followed.sees({"a.yaml": "see keys", "../keys/jwks.txt": "key 2"})
        outside.unlink()
        await followed.refuses("jwks.txt can't be read: No such file or directory")
        assert followed.current == {"a.yaml": "see keys", "../keys/jwks.txt": "key 2"}


async def test_a_file_that_settings_name_is_watched_without_what_lies_beside_it(
    folder: Path, tmp_path: Path
):
    """Its folder may be a checkout or a home: nothing below it costs a watch."""
    named = tmp_path / "home" / "keys.json"
    (tmp_path / "home" / "deep" / "deeper").mkdir(parents=True)
    named.write_text("k1")
    async with following(FolderSource(folder, extra={"@keys": named})) as followed:
        named.write_text("k2")
        await followed.sees({"a.yaml": "one", "@keys": "k2"})
        assert _watches() == 3, "the folder, the one that it is in, and the named file's"


def test_what_is_no_configuration_is_left_out(folder: Path):
    for name in (".hidden.yaml", "notes.txt", "a.test.yaml", "a.test.yml", ".git/x.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "folder.yaml").mkdir()
    assert FolderSource(folder).read() == Bundle({"a.yaml": b"one"})


def test_a_link_to_a_folder_above_is_read_once(folder: Path):
    (folder / "again").symlink_to(folder)
    assert FolderSource(folder).read() == Bundle({"a.yaml": b"one"})


def test_what_can_not_be_read_refuses_the_whole(folder: Path):
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "nowhere.yaml").symlink_to("/nowhere/x.yaml")
    told = [str(problem) for problem in FolderSource(folder).read().unreadable]
    assert told == [
        f"loop.yaml: {folder}/loop.yaml can't be read: Too many levels of symbolic links",
        f"nowhere.yaml: {folder}/nowhere.yaml can't be read: No such file or directory",
    ]


def test_a_folder_within_that_can_not_be_listed_refuses_the_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Passing over it would drop its deny rules without a word. Root reads everything, hence the
    pretence.
    """
    (folder / "locked").mkdir()
    (folder / "locked" / "deny.yaml").write_text("deny")
    real = os.scandir

    def refusing(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (problem,) = FolderSource(folder).read().unreadable
    assert str(problem) == f"locked: {folder}/locked can't be read: Permission denied"


def test_too_large_a_file_and_too_many_files_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_source, "FILE_BYTES_AT_MOST", 100)
    monkeypatch.setattr(folder_source, "FILES_AT_MOST", 3)
    (folder / "b.yaml").write_bytes(b"x" * 100)
    assert FolderSource(folder).read().unreadable == ()
    (folder / "b.yaml").write_bytes(b"x" * 101)
    for name in "cde":
        (folder / f"{name}.yaml").write_text(name)
    told = [problem.what for problem in FolderSource(folder).read().unreadable]
    assert told == ["holds more than 3 files", "is larger than 100 bytes"]


def test_a_device_or_a_pipe_is_refused_and_not_waited_for(folder: Path):
    os.mkfifo(folder / "pipe.yaml")
    (problem,) = FolderSource(folder).read().unreadable
    assert "is not a file" in problem.what
