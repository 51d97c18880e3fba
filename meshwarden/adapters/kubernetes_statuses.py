"""The leader writes the statuses: it watches all reports and objects of its service, and patches
`/status` where that is not what the replicas together say.

    watches -> aggregate -> waiting changes -- at most 10 a second, 50 at once --> PATCH /status

Of each object only the newest change waits; news of conditions go before mere numbers of replicas,
and Pending only once it has lasted, since the next report mostly ends it. A patch bears the
resourceVersion that it was made from: where the object changed meanwhile the API server answers
409, and the change is made anew from what the watch brings. Reports of dead replicas are deleted,
on the same allowance. While the API server is away changes wait, and the newest are written after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from meshwarden.adapters.kubernetes_client import KubernetesClient
from meshwarden.adapters.kubernetes_reports import RESOURCE
from meshwarden.adapters.kubernetes_watch import Collection, Watch, WatchTimes
from meshwarden.adapters.logs import logger
from meshwarden.adapters.paced_writes import Allowance, PacedWrites, Write
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.aggregated_status import (
    DEAD_AFTER_SECONDS,
    ObservedObject,
    SeenReport,
    StatusChange,
    aggregate,
)
from meshwarden.core.documents import API_VERSION
from meshwarden.core.object_verdicts import ObjectId
from meshwarden.core.replica_report import ReportSpec

SECONDS_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
LOOK_SECONDS = 1.0
"""How often it is looked whether a replica died."""


@dataclass(frozen=True, slots=True)
class StatusTimes:
    """Seconds: changes are gathered for `quiet`, Pending is written after `pending`, a report is
    dead after `dead_after` and deleted after `deleted_after`.
    """

    quiet: float = 0.1
    pending: float = 2
    dead_after: float = DEAD_AFTER_SECONDS
    deleted_after: float = 2 * DEAD_AFTER_SECONDS
    watch: WatchTimes = field(default_factory=WatchTimes)


def observed(item: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an object of ours: who it is, and its status."""
    metadata = item.get("metadata", {})
    names = ("namespace", "name", "uid", "generation", "resourceVersion")
    return {
        "metadata": {name: metadata[name] for name in names if name in metadata},
        "status": item.get("status") or {},
    }


def reported(item: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a report."""
    metadata = item.get("metadata", {})
    names = ("namespace", "name", "uid", "resourceVersion")
    return {
        "metadata": {name: metadata[name] for name in names if name in metadata},
        "spec": item.get("spec") or {},
    }


@dataclass(frozen=True, slots=True)
class _Known:
    """A report as it came, what was read of it, and when its `renewedAt` was first seen."""

    value: Mapping[str, Any]
    spec: ReportSpec | None
    renewed_at: float


class StatusWriter:
    """What the leader of `service` does. `collections` are those of its kinds, each with its kind:
    one for each namespace that is watched, or (of no namespace) one for all.
    """

    def __init__(
        self,
        client: KubernetesClient,
        *,
        service: str,
        installed_in: str,
        collections: Sequence[tuple[str, Collection]],
        is_leading: Callable[[], bool],
        metrics: Metrics,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        chance: Callable[[], float],
        times: StatusTimes | None = None,
        allowance: Allowance | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._service = service
        self._collections = collections
        group, version = API_VERSION.split("/")
        self._reports_at = Collection(group, version, RESOURCE, installed_in)
        self._collection_of = dict(collections)
        self._clock = clock
        self._now = now
        self._chance = chance
        self._times = times or StatusTimes()
        self._pause = pause
        self._changed = asyncio.Event()
        self._order: dict[ObjectId, int] = {}
        self._restart()
        self._writes = PacedWrites(
            allowance or Allowance(),
            may_write=is_leading,
            counted=metrics.tally(
                "kubernetes_status_writes", "Writes of statuses by the leader.", ["result"]
            ),
            clock=clock,
            chance=chance,
            pause=pause,
        )
        metrics.gauge(
            "kubernetes_statuses_waiting",
            "Statuses that are not yet written as they should be.",
            lambda: float(self._writes.waiting),
        )

    def _restart(self) -> None:
        """Know nothing: what was known when we led before is old."""
        self._objects: dict[tuple[str, Collection], Watch] = {}
        self._reports: Watch | None = None
        self._known: dict[str, _Known] = {}
        self._pending_since: dict[ObjectId, float] = {}
        self._based_on: dict[ObjectId, str] = {}
        self._order = {}

    async def run(self) -> None:
        """Keep all statuses current, for as long as we lead."""
        self._restart()
        tasks = [self._watch(self._reports_at, reported)]
        self._reports = tasks[0][0]
        for kind, collection in self._collections:
            tasks.append(self._watch(collection, observed))
            self._objects[kind, collection] = tasks[-1][0]
        writing = asyncio.create_task(self._writes.run())
        running = [*(task for _, task in tasks), writing]
        try:
            while True:
                for task in running:
                    if task.done():
                        task.result()
                await self._look()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._writes.want({})
            self._restart()

    def _watch(
        self, collection: Collection, kept: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> tuple[Watch, asyncio.Task[None]]:
        watch = Watch(
            self._client,
            collection,
            changed=self._changed.set,
            times=self._times.watch,
            clock=self._clock,
            chance=self._chance,
            kept=kept,
            pause=self._pause,
        )
        task = asyncio.create_task(watch.run())
        task.add_done_callback(lambda _task: self._changed.set())
        return watch, task

    async def _look(self) -> None:
        """Wait for a change, or a moment, and make what waits to be written anew."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._changed.wait()
                await self._pause(self._times.quiet)
        except TimeoutError:
            pass
        self._changed.clear()
        watches = [self._reports, *self._objects.values()]
        if all(watch is not None and watch.is_listed for watch in watches):
            now = self._clock()
            wanted: dict[Hashable, Write] = {
                (str(id_), change.resource_version): self._write_of(id_, change)
                for id_, change in self._due(now).items()
            }
            for name, known in self._known.items():
                if known.spec is not None and now - known.renewed_at > self._times.deleted_after:
                    wanted[name, known.value["metadata"]["resourceVersion"]] = self._deletion_of(
                        name, known
                    )
            self._writes.want(wanted)

    def _due(self, now: float) -> dict[ObjectId, StatusChange]:
        """The statuses to be written: news before numbers, what waited before first."""
        self._read_reports(now)
        seen = [
            SeenReport(name, known.spec, known.renewed_at)
            for name, known in self._known.items()
            if known.spec is not None
        ]
        changes = aggregate(
            seen,
            self._observed(),
            now,
            moment=self._now().strftime(SECONDS_FORMAT),
            dead_after=self._times.dead_after,
        )
        pending = {id_ for id_, change in changes.items() if change.is_pending}
        self._pending_since = {id_: self._pending_since.get(id_, now) for id_ in pending}
        due = {
            id_: change
            for id_, change in changes.items()
            if now - self._pending_since.get(id_, float("-inf")) >= self._times.pending
        }
        last = len(self._order)
        ordered = sorted(due, key=lambda id_: (not due[id_].is_news, self._order.get(id_, last)))
        self._order = {id_: place for place, id_ in enumerate(ordered)}
        return {id_: due[id_] for id_ in ordered}

    def _read_reports(self, now: float) -> None:
        """Take up reports that changed, each once."""
        assert self._reports is not None  # noqa: S101 set before anything is looked at
        found: dict[str, _Known] = {}
        for (_, name), value in self._reports.objects.items():
            before = self._known.get(name)
            if before is not None and before.value is value:
                found[name] = before
                continue
            spec = self._read_report(name, value)
            is_renewed = before is None or _renewal(before.value) != _renewal(value)
            found[name] = _Known(
                value, spec, now if is_renewed or before is None else before.renewed_at
            )
        self._known = found

    def _read_report(self, name: str, value: Mapping[str, Any]) -> ReportSpec | None:
        """None where it is another service's, or is no report."""
        if value["spec"].get("service") != self._service:
            return None
        try:
            return ReportSpec.model_validate(value["spec"], strict=False)
        except ValidationError as error:
            reason = f"{error.error_count()} fields are wrong: {error.errors()[0]['msg']}"
            logger().warning("report_not_read", report=name, reason=reason)
            return None

    def _observed(self) -> list[ObservedObject]:
        """Every object, save those whose last write the watch has not shown yet."""
        found = []
        based_on: dict[ObjectId, str] = {}
        for (kind, _), watch in self._objects.items():
            for (namespace, name), value in watch.objects.items():
                metadata = value["metadata"]
                id_ = ObjectId(kind, namespace, name)
                version = metadata.get("resourceVersion", "")
                if self._based_on.get(id_) == version:
                    based_on[id_] = version
                    continue
                found.append(
                    ObservedObject(
                        id_,
                        metadata["uid"],
                        int(metadata.get("generation", 0)),
                        value["status"],
                        version,
                    )
                )
        self._based_on = based_on
        return found

    def _write_of(self, id_: ObjectId, change: StatusChange) -> Write:
        async def patch() -> None:
            body = {
                "metadata": {"resourceVersion": change.resource_version},
                "status": change.status,
            }
            await self._client.call(
                "PATCH",
                f"{replace(self._collection_of[id_.kind], namespace=id_.namespace).path}"
                f"/{id_.name}/status",
                query={"fieldManager": f"meshwarden-{self._service}"},
                body=body,
                content_type="application/merge-patch+json",
            )
            self._based_on[id_] = change.resource_version

        return patch

    def _deletion_of(self, name: str, known: _Known) -> Write:
        """Unless it is renewed in the meantime."""
        metadata = known.value["metadata"]
        unchanged = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}

        async def delete() -> None:
            path = f"{self._reports_at.path}/{name}"
            await self._client.call("DELETE", path, body={"preconditions": unchanged})
            logger().info("report_of_dead_replica_deleted", report=name)

        return delete


def _renewal(value: Mapping[str, Any]) -> Any:
    return value["spec"].get("renewedAt")
