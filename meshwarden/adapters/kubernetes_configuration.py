"""Puts the parts of a Kubernetes source together, the same for each service that chooses it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from meshwarden.adapters.kubernetes_client import KubernetesClient, connection
from meshwarden.adapters.kubernetes_source import KubernetesSource
from meshwarden.adapters.service import Service
from meshwarden.adapters.settings import KubernetesSettings
from meshwarden.core.offered_objects import ObjectRules
from meshwarden.core.partial_acceptance import PartialAcceptance
from meshwarden.core.snapshot import Bundle

SnapshotType = TypeVar("SnapshotType")


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
    service.closers.append(client.close)
    return acceptance, source
