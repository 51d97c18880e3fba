"""`meshwarden render crds`: the CustomResourceDefinitions of the resource kinds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwarden.cli.output import write_files

if TYPE_CHECKING:
    from meshwarden.adapters.istio.crds import Kind


def crds(
    folder: Annotated[Path, typer.Argument(metavar="DIR")] = Path("istio/crds"),
) -> None:
    """Write the CustomResourceDefinition of each kind into DIR.

    [bold]Example:[/bold] meshwarden render crds istio/crds
    """
    from meshwarden.adapters.istio.crds import crd_files

    write_files(folder, crd_files(cluster_kinds()))


def cluster_kinds() -> list[Kind]:
    """Every kind that a cluster is told of."""
    import ext_authz.core.schema_rules
    import ratelimit_service.core.schema_rules
    from ext_authz.core.kinds import MODELS
    from meshwarden.adapters.istio.crds import Kind
    from meshwarden.core.replica_report import ReplicaReport
    from ratelimit_service.core.levels import LEVELS_AT_MOST
    from ratelimit_service.core.resource import RateLimitResource

    named = {
        "TokenIssuer": ("tokenissuers", "ti", {"Issuer": ".spec.issuer"}),
        "AccessRole": ("accessroles", "ar", {}),
        "AccessRoleBinding": ("accessrolebindings", "arb", {"Role": ".spec.role"}),
        "AccessPolicy": ("accesspolicies", "ap", {"Hosts": ".spec.hosts"}),
    }
    kinds = [
        Kind(
            model=MODELS[name],
            name=name,
            plural=plural,
            short_name=short_name,
            additions=ext_authz.core.schema_rules.ADDITIONS,
            columns=columns,
        )
        for name, (plural, short_name, columns) in named.items()
    ]
    limits = Kind(
        model=RateLimitResource,
        name="RateLimit",
        plural="ratelimits",
        short_name="rl",
        additions=ratelimit_service.core.schema_rules.ADDITIONS,
        columns={"Domain": ".spec.domain"},
        levels=LEVELS_AT_MOST,
    )
    reports = Kind(
        model=ReplicaReport,
        name="ReplicaReport",
        plural="replicareports",
        short_name="rr",
        additions={},
        has_status=False,
        columns={
            "Service": ".spec.service",
            "Replica": ".spec.replica",
            "Version": ".spec.version",
            "Renewed": ".spec.renewedAt",
        },
    )
    return [*kinds, limits, reports]
