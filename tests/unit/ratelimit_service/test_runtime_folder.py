"""Which files of a runtime folder are taken, and their names: as the real envoyproxy/ratelimit does
(tried on the build of 2026-01-22), save what it only logs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshwarden.adapters.folder_source import FolderSource
from meshwarden.core.faults import InvalidInput
from ratelimit_service.adapters.runtime_folder import RuntimeListing
from ratelimit_service.core.compile import compile_limits, reference_message


def put(path: Path, domain: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"domain: {domain}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root that is a link, as deployments swap it."""
    version = tmp_path / "v1"
    for name in (
        *("config/a.yaml", "config/noending", "config/x.txt", "config/deep/b.yaml"),
        *("config/.dot.yaml", "config/..2026_11/q.yaml"),
        *("config.c.yaml", "config.d/e.yaml", "other/x.yaml", "configx.yaml"),
    ):
        put(version / "sub" / name, name)
    put(tmp_path / "outside" / "file.yaml", "linked")
    (version / "sub" / "config" / "link").symlink_to(tmp_path / "outside")
    (version / "sub" / "config" / "file.yaml").symlink_to(tmp_path / "outside" / "file.yaml")
    (tmp_path / "current").symlink_to(version)
    return tmp_path / "current"


def source(
    root: Path, *, watches_root: bool = True, ignores_dot_files: bool = True
) -> FolderSource:
    listing = RuntimeListing(
        Path("sub"),
        Path("config"),
        watches_root=watches_root,
        ignores_dot_files=ignores_dot_files,
    )
    return FolderSource(root, listing=listing)


INSIDE = {"a.yaml", "noending", "x.txt", "deep.b.yaml", "file.yaml"}
DOTTED = {".dot.yaml", "..2026_11.q.yaml"}


@pytest.mark.parametrize("ignores_dot_files", [True, False])
def test_any_file_at_any_depth_is_taken_but_links_to_folders_are_not_followed(
    root: Path, ignores_dot_files: bool
):
    inside = INSIDE if ignores_dot_files else INSIDE | DOTTED
    found = source(root, watches_root=False, ignores_dot_files=ignores_dot_files).read()
    assert (set(found.files), found.unreadable) == (inside, ())
    found = source(root, ignores_dot_files=ignores_dot_files).read()
    beside = {"config.c.yaml", "config.d.e.yaml"}
    assert (set(found.files), found.unreadable) == (
        {f"config.{name}" for name in inside} | beside,
        (),
    )


def test_a_fault_names_the_file_as_the_reference_does_whatever_its_ending(root: Path):
    put(root / "sub" / "config" / "deep" / "limits", "''")
    with pytest.raises(InvalidInput) as refused:
        compile_limits(source(root).read(), takes_every_file=True)
    told = [reference_message(problem) for problem in refused.value.problems]
    assert told == ["config.deep.limits: config file cannot have empty domain"]


@pytest.mark.parametrize("case", ["unreadable", "two of one name", "nothing", "no root"])
def test_what_the_reference_only_logs_is_refused(root: Path, case: str, tmp_path: Path):
    config = root / "sub" / "config"
    told = {
        "unreadable": "config.gone.yaml: ",
        "two of one name": "config.deep.b.yaml: is the name of both",
        "nothing": "holds no file",
        "no root": "is not a folder that can be read",
    }[case]
    if case == "unreadable":
        (config / "gone.yaml").symlink_to("nowhere")
    elif case == "two of one name":
        put(config / "deep.b.yaml", "two")
    elif case == "nothing":
        (tmp_path / "empty").mkdir()
        root = tmp_path / "empty"
    else:
        root = tmp_path / "no"
    problems = [str(problem) for problem in source(root).read().unreadable]
    assert len(problems) == 1
    assert told in problems[0]


@pytest.mark.parametrize("change", ["root swapped", "changed in place", "file beside"])
async def test_a_change_is_seen_at_once(root: Path, change: str, tmp_path: Path):
    changes = source(root).changes(resync_seconds=60)
    async with asyncio.timeout(10):
        first = await anext(changes)
        if change == "root swapped":
            put(tmp_path / "v2" / "sub" / "config" / "a.yaml", "swapped")
            (tmp_path / "new").symlink_to("v2")
            (tmp_path / "new").rename(root)
            expected = {"config.a.yaml"}
        elif change == "changed in place":
            put(root / "sub" / "config" / "deep" / "b.yaml", "changed")
            expected = set(first.files)
        else:
            put(root / "sub" / "config.z", "beside")
            expected = {*first.files, "config.z"}
        async for bundle in changes:
            if bundle.version != first.version:
                break
        assert set(bundle.files) == expected
    await changes.aclose()


async def test_a_config_map_that_is_mounted_is_followed(tmp_path: Path):
    """Names are links into `..data`, a link itself, which is swapped at once."""
    mount = tmp_path / "sub" / "config"
    put(mount / "..1" / "limits.yaml", "one")
    (mount / "..data").symlink_to("..1")
    (mount / "limits.yaml").symlink_to(Path("..data", "limits.yaml"))
    changes = source(tmp_path, watches_root=False).changes(resync_seconds=60)
    async with asyncio.timeout(10):
        assert (await anext(changes)).files == {"limits.yaml": b"domain: one"}
        put(mount / "..2" / "limits.yaml", "two")
        (mount / "..data_tmp").symlink_to("..2")
        (mount / "..data_tmp").rename(mount / "..data")
        async for bundle in changes:
            if bundle.files == {"limits.yaml": b"domain: two"}:
                break
    await changes.aclose()
