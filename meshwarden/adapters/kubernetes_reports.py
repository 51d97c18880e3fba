"""A replica tells what it took and refused, in one object of its own: its ReplicaReport.

    report() -> newest verdicts -- at most one write a second --> server-side apply, whole
                                -- nothing new for 10 s -------> merge patch of `renewedAt` alone
    close()  -> deleted

Only the newest verdicts are kept, so an API server that is away costs no memory: what is true when
it is back is written then. A report that somebody deleted is written anew at the next renewal. Its
owner is the Pod where that is known, so the cluster removes it after a crash; else the leader does
(`kubernetes_statuses.py`). Known weakness: whoever may write ReplicaReports in the installation's
namespace can write another's (RBAC knows no authors); renewing a report of thousands of objects
makes the API server store all of it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshwarden.adapters.kubernetes_client import ApiFailure, KubernetesClient
from meshwarden.adapters.kubernetes_lease import MICROS
from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.backoff import Backoff
from meshwarden.core.documents import API_VERSION
from meshwarden.core.object_verdicts import ObjectVerdict
from meshwarden.core.replica_report import KIND, report_of

RESOURCE = "replicareports"
GONE = 404
DELETE_SECONDS = 2.0
_RETRY = Backoff(initial_seconds=1, at_most_seconds=10)


@dataclass(frozen=True, slots=True)
class Replica:
    """Who reports, and where: `service` is `ext-authz` or `ratelimit`, `name` that of the report
    and of no other replica's, `pod_uid` empty where there is no Pod.
    """

    service: str
    name: str
    namespace: str
    pod_name: str = ""
    pod_uid: str = ""

    @property
    def path(self) -> str:
        """Of the collection of reports."""
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{RESOURCE}"


@dataclass(frozen=True, slots=True)
class ReportTimes:
    """Seconds: `between_writes` at least, `renewal` at most."""

    between_writes: float = 1
    renewal: float = 10
    retry: Backoff = _RETRY


class ReplicaReporter:
    """The `Reporter` of a `KubernetesSource`; `run` writes what `report` was told."""

    def __init__(
        self,
        client: KubernetesClient,
        replica: Replica,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        chance: Callable[[], float],
        times: ReportTimes | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = replica.name
        self._client = client
        self._replica = replica
        self._clock = clock
        self._now = now
        self._chance = chance
        self._times = times or ReportTimes()
        self._pause = pause
        self._told: tuple[tuple[ObjectVerdict, ...], str] | None = None
        self._written: tuple[tuple[ObjectVerdict, ...], str] | None = None
        self._news = asyncio.Event()
        self._failure = ""
        self._writes = metrics.tally(
            "kubernetes_report_writes", "Writes of this replica's report.", ["result"]
        )
        metrics.gauge(
            "kubernetes_report_is_current",
            "1 while the cluster has this replica's newest report.",
            lambda: float(self._told is not None and self._told == self._written),
            across_workers="livemin",
        )

    def report(self, verdicts: Sequence[ObjectVerdict], version: str) -> None:
        """Tell this from now on; it is written later."""
        self._told = (tuple(verdicts), version)
        self._news.set()

    async def run(self) -> None:
        """Write what was told, and renew it, for ever."""
        failures = 0
        while True:
            if self._told is None or self._told == self._written:
                await self._wait_for_news()
            try:
                await self._write()
            except ApiFailure as failure:
                failures += 1
                self._fail(failure)
                await self._pause(self._times.retry.seconds(failures, chance=self._chance()))
            else:
                failures = 0
                self._recover()
                await self._pause(self._times.between_writes)

    async def close(self) -> None:
        """Delete the report, so that the leader counts this replica no longer."""
        if self._written is None:
            return
        self._written = None
        try:
            async with asyncio.timeout(DELETE_SECONDS):
                await self._client.call("DELETE", self._own_path)
        except (ApiFailure, TimeoutError) as failure:
            reason = str(failure) or f"no answer within {DELETE_SECONDS:g} s"
            logger().warning("report_not_deleted", report=self._replica.name, reason=reason)

    @property
    def _own_path(self) -> str:
        return f"{self._replica.path}/{self._replica.name}"

    async def _wait_for_news(self) -> None:
        """Return when there are some, or when what is written has to be renewed."""
        self._news.clear()
        if self._told != self._written:
            return
        limit = None if self._told is None else self._times.renewal * (1 - self._chance() / 4)
        try:
            async with asyncio.timeout(limit):
                await self._news.wait()
        except TimeoutError:
            return

    async def _write(self) -> None:
        told = self._told
        if told is None:
            return
        if told == self._written:
            try:
                await self._renew()
                return
            except ApiFailure as failure:
                if failure.status != GONE:
                    raise
                logger().warning("report_vanished", report=self._replica.name)
        # A call that fails may have been done all the same.
        self._written = None
        await self._apply(*told)
        self._written = told
        self._writes.add("written")

    async def _renew(self) -> None:
        patch = {"spec": {"renewedAt": self._moment()}}
        content_type = "application/merge-patch+json"
        await self._client.call(
            "PATCH",
            self._own_path,
            query={"fieldManager": f"meshwarden-{self._replica.service}"},
            body=patch,
            content_type=content_type,
        )
        self._writes.add("renewed")

    async def _apply(self, verdicts: Sequence[ObjectVerdict], version: str) -> None:
        spec = report_of(
            verdicts,
            service=self._replica.service,
            replica=self._replica.pod_name or self._replica.name,
            version=version,
            renewed_at=self._moment(),
        )
        document = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": self._metadata(),
            "spec": spec.model_dump(mode="json", exclude_defaults=True),
        }
        await self._client.call(
            "PATCH",
            self._own_path,
            query={"fieldManager": f"meshwarden-{self._replica.service}", "force": "true"},
            body=document,
            content_type="application/apply-patch+yaml",
        )

    def _metadata(self) -> Mapping[str, Any]:
        replica = self._replica
        metadata: dict[str, Any] = {
            "name": replica.name,
            "labels": {
                "app.kubernetes.io/name": replica.service,
                "app.kubernetes.io/part-of": "meshwarden",
            },
        }
        if replica.pod_name and replica.pod_uid:
            owner = {"apiVersion": "v1", "kind": "Pod"}
            owner |= {"name": replica.pod_name, "uid": replica.pod_uid}
            metadata["ownerReferences"] = [owner]
        return metadata

    def _moment(self) -> str:
        return self._now().strftime(MICROS)

    def _fail(self, failure: ApiFailure) -> None:
        self._writes.add("failed")
        what = str(failure)
        if failure.status == GONE:
            what += " (apply istio/crds: the API server doesn't know ReplicaReport)"
        elif failure.status == 403:
            what += f" (grant create, patch and delete of {RESOURCE} to the ServiceAccount)"
        if what != self._failure:
            logger().warning("report_not_written", report=self._replica.name, reason=what)
        self._failure = what

    def _recover(self) -> None:
        if self._failure:
            logger().info("report_written_again", report=self._replica.name)
            self._failure = ""
