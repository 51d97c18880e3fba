"""List and watch against an API server that does what a real one does too rarely to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from meshwarden.adapters.kubernetes_client import ApiFailure, KubernetesClient
from meshwarden.adapters.kubernetes_watch import Collection, Watch, WatchTimes

COLLECTION = Collection("meshwarden.io", "v1alpha1", "accesspolicies", "shop")


def item(name: str, version: int = 1, **spec: Any) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": name, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": spec, "status": {"version": version}}


def event(sort: str, name: str, version: int, **spec: Any) -> dict[str, Any]:
    return {"type": sort, "object": item(name, version, **spec)}


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


class Script:
    """An API server that gives what is written, one step a call; then it is silent for ever."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.asked: list[dict[str, str]] = []
        self.is_over = asyncio.Event()
        self.now = 0.0
        self.pauses: list[float] = []

    def _next(self, query: Mapping[str, str]) -> Any:
        self.asked.append(dict(query))
        return self.steps.pop(0) if self.steps else None

    async def call(self, _method: str, _path: str, *, query: Mapping[str, str]) -> Any:
        step = self._next(query)
        if isinstance(step, Exception):
            raise step
        if step is None:
            self.is_over.set()
            await asyncio.Event().wait()
        return step

    @asynccontextmanager
    async def lines(
        self, _path: str, *, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[AsyncGenerator[Any]]:
        assert silence_seconds > 0
        step = self._next(query)
        if isinstance(step, ApiFailure):
            raise step

        async def events() -> AsyncGenerator[Any]:
            self.now += 10
            for one in step or ():
                if isinstance(one, Exception):
                    raise one
                yield one
            if step is None:
                self.is_over.set()
                await asyncio.Event().wait()

        yield events()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def followed(script: Script, **times: float) -> tuple[Watch, list[str]]:
    """A watch that has gone through the script, and why its watches ended."""
    ends: list[str] = []
    watch = Watch(
        cast(KubernetesClient, script),
        COLLECTION,
        changed=lambda: None,
        times=WatchTimes(**times),
        clock=lambda: script.now,
        chance=lambda: 0.0,
        counted=ends.append,
        pause=script.pause,
    )
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(5):
        await asyncio.wait(
            {task, asyncio.create_task(script.is_over.wait())}, return_when="FIRST_COMPLETED"
        )
    task.cancel()
    return watch, ends


def page(*items: Any, version: int = 1, following: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": following}, "items": items}


async def test_pages_are_one_list_and_the_watch_goes_on_from_its_version():
    script = Script(page(item("a"), following="next"), page(item("b"), version=5))
    watch, _ = await followed(script)
    assert set(watch.objects) == {("shop", "a"), ("shop", "b")}
    assert [asked.get("continue") for asked in script.asked] == [None, "next", None]
    assert script.asked[2]["resourceVersion"] == "5"
    assert script.asked[2]["allowWatchBookmarks"] == "true"


async def test_events_change_what_is_known_and_a_bookmark_moves_the_version_on():
    changes = [
        event("ADDED", "b", 6),
        event("MODIFIED", "a", 7, x=1),
        event("DELETED", "b", 8),
        bookmark(20),
    ]
    watch, ends = await followed(Script(page(item("a")), changes))
    assert watch.objects[("shop", "a")]["spec"] == {"x": 1}
    assert set(watch.objects) == {("shop", "a")}
    assert ends == ["ended"]


async def test_after_a_watch_the_next_goes_on_from_the_newest_version():
    script = Script(page(item("a")), [event("ADDED", "b", 6), bookmark(20)])
    await followed(script)
    assert script.asked[-1]["resourceVersion"] == "20"


@pytest.mark.parametrize(
    "gone",
    [
        ApiFailure(410, "410: too old"),
        [{"type": "ERROR", "object": {"code": 410, "message": "too old"}}],
    ],
)
async def test_a_version_that_is_gone_is_listed_anew_at_once(gone):
    """And what was deleted meanwhile goes."""
    script = Script(page(item("a")), gone, page(item("b"), version=9))
    watch, ends = await followed(script)
    assert set(watch.objects) == {("shop", "b")}
    assert ends == ["gone"]
    assert script.pauses == []
    assert not watch.failure


async def test_what_is_known_stays_and_the_wait_grows_while_the_server_fails():
    away = ApiFailure(0, "can't be reached")
    script = Script(page(item("a")), away, away, away)
    watch, ends = await followed(script)
    assert set(watch.objects) == {("shop", "a")}
    assert ends == ["failed"] * 3
    assert script.pauses == [0.5, 1.0, 2.0]


async def test_a_silent_connection_is_made_anew_without_a_failure():
    script = Script(page(item("a")), [event("ADDED", "b", 6), TimeoutError()])
    watch, ends = await followed(script)
    assert ends == ["silent"]
    assert not watch.failure
    assert script.asked[-1]["resourceVersion"] == "6"


async def test_everything_is_listed_anew_when_that_is_due():
    script = Script(page(item("a")), [bookmark(2)], page(item("b"), version=9))
    watch, _ = await followed(script, relist=5)
    assert set(watch.objects) == {("shop", "b")}


async def test_what_may_not_be_read_is_told_with_what_to_do():
    script = Script(ApiFailure(403, "403: forbidden"), ApiFailure(404, "404: not found"))
    told: list[str] = []
    watch = Watch(
        cast(KubernetesClient, script),
        COLLECTION,
        changed=lambda: told.append(watch.failure),
        times=WatchTimes(),
        clock=lambda: 0.0,
        chance=lambda: 0.0,
        pause=script.pause,
    )
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(5):
        await script.is_over.wait()
    task.cancel()
    assert "grant get, list and watch of accesspolicies in shop" in told[0]
    assert "apply istio/crds" in watch.failure
    assert watch.has_answered
    assert not watch.is_listed


def test_one_named_object_is_watched_by_a_field_selector():
    secret = Collection("", "v1", "secrets", "shop", "idp")
    assert secret.path == "/api/v1/namespaces/shop/secrets"
    assert secret.query == {"fieldSelector": "metadata.name=idp"}
    everywhere = Collection("meshwarden.io", "v1alpha1", "accesspolicies")
    assert everywhere.path == "/apis/meshwarden.io/v1alpha1/accesspolicies"
