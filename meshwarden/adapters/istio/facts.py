"""What a folder of policies and limits says that the mesh must agree with.

Made by the command line, which may read the services' own models; nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

DECISION_MEMBERS = ("rule", "principal", "policy", "subject", "reason")
"""What the authorizer always tells of a decision, in its dynamic metadata."""


class LimitEntry(NamedTuple):
    """A key of a descriptor; `value` is empty where any value will do."""

    key: str
    value: str = ""


class ClusterFile(NamedTuple):
    """A Secret or ConfigMap; `sort` is `secret` or `configmap`, `namespace` empty for ours."""

    namespace: str
    sort: str
    name: str


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """`descriptors` are those with a limit, each from the root; `file` and `line` of each say where
    it stands. `metadata_names` are what policies add to the authorizer's dynamic metadata.
    """

    hosts: tuple[str, ...] = ()
    identity_headers: tuple[str, ...] = ()
    metadata_names: frozenset[str] = frozenset()
    domain: str = ""
    descriptors: tuple[tuple[LimitEntry, ...], ...] = ()
    reads_certificate: bool = False
    """A policy needs the peer's certificate, and not its name alone."""
    reads_body: bool = False
    reads_api_keys: bool = False
    signs_tokens: bool = False
    """A policy has the authorizer sign identity tokens for workloads."""
    asks_kubernetes: bool = False
    """A policy has the authorizer ask the API server about tokens or accesses."""
    files: tuple[ClusterFile, ...] = ()
    """What the resources refer to: key sets, secrets, authorities."""
    host_owners: tuple[tuple[str, str], ...] = ()
    """(host, namespace) of each policy that stands in a namespace."""
    domain_owners: tuple[tuple[str, str], ...] = ()
    """(domain, namespace) of the limits that stand in a namespace."""
    resources: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The folder's resources as the cluster is given them."""
