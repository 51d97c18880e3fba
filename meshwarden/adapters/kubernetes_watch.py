"""Keeps the objects of one collection current: list, then watch from there, for ever.

    list (pages) -> watch ---- the server ends it, or it was silent too long ----> watch again
      ^               |
      +---------------+-- 410 Gone, an error event, or a relist is due
      +-- wait (longer each time) -- any failure

A bookmark moves the resourceVersion on without an object, so that a quiet collection needs no list
after a while. A connection that is silent is given up and made anew: an API server that is there
answers at once, one that hangs (or whose machine vanished) is found so. Objects that are known stay
known whatever fails. Source: Kubernetes API concepts, "Efficient detection of changes".
Known weakness: a watch that the API server keeps alive but sends nothing of is found by the relist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meshwarden.adapters.kubernetes_client import ApiFailure, KubernetesClient
from meshwarden.adapters.logs import logger
from meshwarden.core.backoff import Backoff

PAGE = 500
GONE = 410
OBJECTS_AT_MOST = 100_000
_KEPT = ("name", "namespace", "uid", "generation", "creationTimestamp")
SHORT_SECONDS = 1.0
"""A watch that the server ends sooner is taken for a failure: it would be asked without pause."""

Objects = dict[tuple[str, str], dict[str, Any]]
"""By namespace and name."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What is watched: the `resource` of a group (`""`: the core one) and version, in one namespace
    or (`""`) in all, one name or all.
    """

    group: str
    version: str
    resource: str
    namespace: str = ""
    name: str = ""

    @property
    def path(self) -> str:
        root = f"/apis/{self.group}" if self.group else "/api"
        scope = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{root}/{self.version}{scope}/{self.resource}"

    @property
    def query(self) -> dict[str, str]:
        # RBAC that names single objects allows list and watch of one with this selector only.
        return {"fieldSelector": f"metadata.name={self.name}"} if self.name else {}

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.resource}{f' {self.name}' if self.name else ''}{where}"


_RETRY = Backoff(initial_seconds=0.5, at_most_seconds=15)


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """Seconds: a watch is ended by the server after `watch`, given up after `silence` without a
    line; everything is listed anew after `relist`; the wait after a failure.
    """

    watch: float = 290
    silence: float = 90
    relist: float = 1800
    retry: Backoff = _RETRY


def configuration_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """What configures us: not the status, nor metadata that changes with it."""
    metadata = {name: value for name, value in item.get("metadata", {}).items() if name in _KEPT}
    return {name: value for name, value in item.items() if name != "status"} | {
        "metadata": metadata
    }


class Watch:
    """`objects` is what is known, of each object what `kept` keeps of it; `changed` is called after
    each change of that, and when the first answer came or failed. `counted` hears why a watch
    ended: `ended`, `silent`, `gone` or `failed`.
    """

    def __init__(
        self,
        client: KubernetesClient,
        collection: Collection,
        *,
        changed: Callable[[], None],
        times: WatchTimes,
        clock: Callable[[], float],
        chance: Callable[[], float],
        counted: Callable[[str], None] = lambda _why: None,
        kept: Callable[[Mapping[str, Any]], dict[str, Any]] = configuration_of,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.collection = collection
        self.objects: Objects = {}
        self.is_listed = False
        self.is_connected = False
        self.failure = ""
        self.failure_status = 0
        self.heard_at = clock()
        self._client = client
        self._changed = changed
        self._times = times
        self._clock = clock
        self._chance = chance
        self._counted = counted
        self._kept = kept
        self._pause = pause
        self._version = ""
        self._listed_at = 0.0

    @property
    def has_answered(self) -> bool:
        """Whether it is known what is there, or that it can't be known now."""
        return self.is_listed or bool(self.failure)

    async def run(self) -> None:
        """Follow the collection, for ever."""
        failures = 0
        while True:
            try:
                if not self._version or self._clock() - self._listed_at > self._times.relist:
                    await self._list()
                started = self._clock()
                await self._watch()
                self._counted("ended")
                failures = failures + 1 if self._clock() - started < SHORT_SECONDS else 0
                if failures:
                    await self._pause(self._times.retry.seconds(failures, chance=self._chance()))
            except TimeoutError:
                failures = 0
                self._counted("silent")
            except ApiFailure as failure:
                if failure.status == GONE:
                    self._version = ""
                    self._counted("gone")
                    failures += 1
                    if failures == 1:
                        continue
                else:
                    failures += 1
                    self._counted("failed")
                    self._fail(failure)
                await self._pause(self._times.retry.seconds(failures, chance=self._chance()))

    async def _list(self) -> None:
        """All objects, page by page; what is no longer there goes."""
        found: Objects = {}
        query = self.collection.query | {"limit": str(PAGE)}
        while True:
            page = await self._client.call("GET", self.collection.path, query=query)
            for item in page.get("items") or ():
                found[_key(item)] = self._kept(item)
            if len(found) > OBJECTS_AT_MOST:
                raise ApiFailure(0, f"there are more than {OBJECTS_AT_MOST} {self.collection}")
            metadata = page.get("metadata", {})
            following = metadata.get("continue")
            if not following:
                break
            query = query | {"continue": following}
        self._version = str(metadata.get("resourceVersion", ""))
        self._listed_at = self._clock()
        self._heard()
        is_new = not self.is_listed or found != self.objects
        self.objects, self.is_listed = found, True
        if is_new:
            self._changed()

    async def _watch(self) -> None:
        """Follow changes until the connection ends. Raises `ApiFailure` and `TimeoutError`."""
        query = self.collection.query | {
            "watch": "true",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(self._times.watch))),
        }
        path, silence = self.collection.path, self._times.silence
        try:
            async with self._client.lines(path, query=query, silence_seconds=silence) as events:
                self._heard()
                async for event in events:
                    self._heard()
                    self._take(event)
        except ApiFailure:
            self.is_connected = False
            raise

    def _take(self, event: Mapping[str, Any]) -> None:
        sort, item = event.get("type"), event.get("object") or {}
        if sort == "ERROR":
            status = int(item.get("code", 0))
            # The version may be what it objects to, whatever it says.
            self._version = ""
            raise ApiFailure(status, f"{status}: {item.get('message', 'an error event')}")
        self._version = str(item.get("metadata", {}).get("resourceVersion", self._version))
        if sort == "DELETED":
            self.objects.pop(_key(item), None)
        elif sort in ("ADDED", "MODIFIED"):
            kept = self._kept(item)
            if self.objects.get(_key(item)) == kept:
                return
            self.objects[_key(item)] = kept
        else:
            return
        self._changed()

    def _heard(self) -> None:
        self.heard_at = self._clock()
        self.is_connected = True
        if self.failure:
            logger().info("kubernetes_watch_recovered", collection=str(self.collection))
            self.failure, self.failure_status = "", 0

    def _fail(self, failure: ApiFailure) -> None:
        """Log the first of a row, and each that differs from the one before."""
        self.is_connected = False
        what = _explained(failure, self.collection)
        is_first = not self.has_answered
        if what != self.failure:
            logger().warning(
                "kubernetes_watch_failed", collection=str(self.collection), reason=what
            )
        self.failure, self.failure_status = what, failure.status
        if is_first:
            self._changed()


def _key(item: Mapping[str, Any]) -> tuple[str, str]:
    metadata = item.get("metadata", {})
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def _explained(failure: ApiFailure, collection: Collection) -> str:
    if failure.status == 403:
        return f"{failure} (grant get, list and watch of {collection} to the ServiceAccount)"
    if failure.status == 404 and collection.group:
        return f"{failure} (apply istio/crds: the API server doesn't know {collection.resource})"
    return str(failure)
