"""A replica of ext_authz as far as it reports: its client, report and candidacy, run here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from meshwarden.adapters.kubernetes_client import KubernetesClient, connection
from meshwarden.adapters.kubernetes_lease import LeaseTimes
from meshwarden.adapters.kubernetes_reporting import KubernetesReporting, ReportingTimes
from meshwarden.adapters.kubernetes_reports import Replica, ReportTimes
from meshwarden.adapters.kubernetes_statuses import StatusTimes
from meshwarden.adapters.kubernetes_watch import Collection, WatchTimes
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.backoff import Backoff
from meshwarden.core.documents import API_VERSION
from meshwarden.core.faults import Problem
from meshwarden.core.object_verdicts import ACCEPTED, ObjectId, ObjectVerdict

PLATFORM = "meshwarden-system"
LEASE_SECONDS = 4
DEAD_SECONDS = 3.0
TIMES = ReportingTimes(
    reports=ReportTimes(renewal=1, retry=Backoff(0.2, 1)),
    lease=LeaseTimes(duration=LEASE_SECONDS, renew_within=2, retry=0.5, calls_end_within=2),
    statuses=StatusTimes(
        pending=0.5,
        dead_after=DEAD_SECONDS,
        deleted_after=2 * DEAD_SECONDS,
        watch=WatchTimes(silence=3, retry=Backoff(0.2, 1)),
    ),
)
"""As the defaults, but shorter."""


class ReportingReplica:
    """One replica. `stop` is a clean shutdown, `crash` leaves everything as it is."""

    def __init__(self, kubeconfig: Path, name: str, *, pod_uid: str = "") -> None:
        self.metrics = Metrics()
        self.client = KubernetesClient(connection(kubeconfig), time_limit_seconds=2)
        group, version = API_VERSION.split("/")
        pod_name = name if pod_uid else ""
        self.reporting = KubernetesReporting(
            self.client,
            Replica("ext-authz", name, PLATFORM, pod_name=pod_name, pod_uid=pod_uid),
            [("AccessPolicy", Collection(group, version, "accesspolicies"))],
            metrics=self.metrics,
            times=TIMES,
        )
        self.has_ended = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        follow = (self.reporting.follow_reports(), self.reporting.follow_lease())
        self._tasks = [asyncio.create_task(each) for each in follow]

    @property
    def is_leading(self) -> bool:
        return self.reporting.lease.is_leading

    def tell(self, *verdicts: ObjectVerdict) -> None:
        self.reporting.reporter.report(verdicts, "0123456789abcdef")

    def metric(self, line: str) -> float:
        """The value of a line of the exposition; 0 where there is none."""
        for text in self.metrics.exposition().decode().splitlines():
            if text.startswith(f"{line} "):
                return float(text.rsplit(" ", 1)[1])
        return 0.0

    async def stop(self) -> None:
        await self._end()
        await self.reporting.close()
        await self.client.close()

    async def crash(self) -> None:
        await self._end()
        await self.client.close()

    async def _end(self) -> None:
        self.has_ended = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []


@asynccontextmanager
async def reporting_replicas(
    kubeconfig: Path, names: Sequence[str]
) -> AsyncIterator[list[ReportingReplica]]:
    """Started, and stopped at the end, save what has ended by then."""
    replicas = [ReportingReplica(kubeconfig, name) for name in names]
    try:
        for replica in replicas:
            replica.start()
        yield replicas
    finally:
        for replica in replicas:
            if not replica.has_ended:
                await replica.stop()


def verdict(item: dict[str, object], reason: str = ACCEPTED, what: str = "") -> ObjectVerdict:
    """What a replica says of an object as the API server gave it."""
    metadata = item["metadata"]
    assert isinstance(metadata, dict)
    object_id = ObjectId(str(item["kind"]), metadata["namespace"], metadata["name"])
    problems = (Problem(object_id.file, 1, what),) if what else ()
    return ObjectVerdict(object_id, metadata["uid"], metadata["generation"], reason, problems)
