"""What ratelimit_service says about its kind where it is an object in a cluster."""

from __future__ import annotations

from typing import Any

from meshwarden.core.claims import Claim
from meshwarden.core.offered_objects import ObjectRules
from meshwarden.core.ownership import DOMAIN


def object_rules(*, merges_domains: bool) -> ObjectRules:
    """A RateLimit claims its domain; where domains are merged, its namespace does."""

    def claims(_kind: str, namespace: str, spec: Any) -> list[Claim]:
        domain = spec.get("domain") if isinstance(spec, dict) else None
        if not isinstance(domain, str):
            return []
        variant = f"namespace {namespace}" if merges_domains else ""
        return [Claim(DOMAIN, domain, "spec.domain", variant=variant)]

    return ObjectRules(kinds=("RateLimit",), claims=claims)
