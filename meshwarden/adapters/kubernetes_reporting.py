"""Puts together what tells a cluster what became of its objects, the same for each service."""

from __future__ import annotations

import math
import os
import random
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from meshwarden.adapters.kubernetes_client import KubernetesClient
from meshwarden.adapters.kubernetes_lease import Lease, LeaseTimes
from meshwarden.adapters.kubernetes_reports import Replica, ReplicaReporter, ReportTimes
from meshwarden.adapters.kubernetes_statuses import StatusTimes, StatusWriter
from meshwarden.adapters.kubernetes_watch import Collection
from meshwarden.adapters.paced_writes import Allowance
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.workers import is_worker

NAME_CHARACTERS_AT_MOST = 240


LEASE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class ReportingTimes:
    reports: ReportTimes = field(default_factory=ReportTimes)
    lease: LeaseTimes = field(default_factory=LeaseTimes)
    statuses: StatusTimes = field(default_factory=StatusTimes)
    allowance: Allowance = field(default_factory=Allowance)


def times_for(*, time_limit_seconds: float) -> ReportingTimes:
    """The times where a call to the API server may take so long: a Lease outlasts its calls."""
    renew_within = LeaseTimes().renew_within
    lease = LeaseTimes(
        duration=max(LEASE_SECONDS, math.ceil(renew_within + time_limit_seconds)),
        renew_within=renew_within,
        calls_end_within=time_limit_seconds,
    )
    return ReportingTimes(lease=lease)


def this_replica(service: str, installed_in: str, environment: Mapping[str, str]) -> Replica:
    """This process, by its Pod where POD_NAME and POD_UID say so, else by the machine's name.

    The report's name is that of the service and the Pod; each of several workers, which read for
    themselves, has one of its own.
    """
    pod_name, pod_uid = environment.get("POD_NAME", ""), environment.get("POD_UID", "")
    host = re.sub(r"[^a-z0-9.-]+", "-", (pod_name or socket.gethostname()).lower()).strip("-.")
    name = host if host.startswith(f"{service}-") else f"{service}-{host}".rstrip("-")
    name = name[:NAME_CHARACTERS_AT_MOST].rstrip("-.")
    if is_worker():
        name = f"{name}-{os.getpid()}"
    return Replica(service, name, installed_in, pod_name=pod_name, pod_uid=pod_uid)


class KubernetesReporting:
    """A replica's report, and its candidacy for writing the statuses of its service's objects.

    `reporter` is for the source; `follow_reports` and `follow_lease` are tasks for ever; `close`
    once they ended, while `client` is still open. One Lease a service, each for its own kinds.
    """

    def __init__(
        self,
        client: KubernetesClient,
        replica: Replica,
        collections: Sequence[tuple[str, Collection]],
        *,
        metrics: Metrics,
        times: ReportingTimes | None = None,
    ) -> None:
        chosen = times or ReportingTimes()
        self.reporter = ReplicaReporter(
            client,
            replica,
            metrics=metrics,
            clock=time.monotonic,
            now=_now,
            chance=random.random,
            times=chosen.reports,
        )
        self.lease = Lease(
            client,
            namespace=replica.namespace,
            name=f"meshwarden-{replica.service}",
            identity=replica.name,
            clock=time.monotonic,
            now=_now,
            chance=random.random,
            times=chosen.lease,
        )
        self._statuses = StatusWriter(
            client,
            service=replica.service,
            installed_in=replica.namespace,
            collections=collections,
            is_leading=lambda: self.lease.is_leading,
            metrics=metrics,
            clock=time.monotonic,
            now=_now,
            chance=random.random,
            times=chosen.statuses,
            allowance=chosen.allowance,
        )
        metrics.gauge(
            "kubernetes_is_leader",
            "1 while this process writes the statuses of its service's objects.",
            lambda: float(self.lease.is_leading),
        )

    async def follow_reports(self) -> None:
        await self.reporter.run()

    async def follow_lease(self) -> None:
        await self.lease.run(self._statuses.run)

    async def close(self) -> None:
        """Give the Lease back and delete the report."""
        await self.lease.close()
        await self.reporter.close()


def _now() -> datetime:
    return datetime.now(UTC)
