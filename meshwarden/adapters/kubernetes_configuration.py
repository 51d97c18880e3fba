"""Puts the parts of a Kubernetes source together, the same for each service that chooses it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from meshwarden.adapters.kubernetes_client import KubernetesClient, connection
from meshwarden.adapters.kubernetes_reporting import KubernetesReporting, this_replica, times_for
from meshwarden.adapters.kubernetes_source import KubernetesSource, plural
from meshwarden.adapters.kubernetes_watch import Collection
from meshwarden.adapters.service import Service
from meshwarden.adapters.settings import KubernetesSettings
from meshwarden.core.documents import API_VERSION
from meshwarden.core.offered_objects import ObjectRules
from meshwarden.core.partial_acceptance import PartialAcceptance
from meshwarden.core.snapshot import Bundle

SnapshotType = TypeVar("SnapshotType")
REPORTED_AS = {"ext_authz": "ext-authz", "ratelimit_service": "ratelimit"}


def kubernetes_configuration(
    service: Service,
    settings: KubernetesSettings,
    compile_bundle: Callable[[Bundle], SnapshotType],
    rules: ObjectRules,
    *,
    named: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> tuple[PartialAcceptance[SnapshotType], KubernetesSource]:
    """The compiler for the service's `SnapshotHolder`, and its `Source`. `named` as of
    `KubernetesSource`, `aliases` as of `PartialAcceptance`. Raises `Misconfigured`.
    """
    client = KubernetesClient(
        connection(settings.kubeconfig), time_limit_seconds=settings.time_limit_seconds
    )
    acceptance = PartialAcceptance(compile_bundle, rules, aliases=aliases)
    source = KubernetesSource(
        settings,
        client,
        rules=rules,
        acceptance=acceptance,
        metrics=service.metrics,
        clock=time.monotonic,
        chance=random.random,
        named=named,
    )
    service.readiness.checks["kubernetes"] = source.unready_reason
    service.readiness.details["kubernetes"] = source.status
    if settings.report:
        source.reporter = _reporting(service, settings, client, rules).reporter
    service.closers.append(client.close)
    return acceptance, source


def _reporting(
    service: Service, settings: KubernetesSettings, client: KubernetesClient, rules: ObjectRules
) -> KubernetesReporting:
    """What tells the cluster what became of its objects, running with the service."""
    group, version = API_VERSION.split("/")
    reporting = KubernetesReporting(
        client,
        this_replica(REPORTED_AS[service.name], settings.shared_namespace, os.environ),
        [
            (kind, Collection(group, version, plural(kind), namespace))
            for kind in rules.kinds
            for namespace in settings.watched_namespaces()
        ],
        metrics=service.metrics,
        times=times_for(time_limit_seconds=settings.time_limit_seconds),
    )
    service.tasks += [reporting.follow_reports, reporting.follow_lease]
    service.closers.append(reporting.close)
    return reporting
