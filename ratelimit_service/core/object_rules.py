"""What ratelimit_service says about its kind where it is an object in a cluster."""

from __future__ import annotations

from typing import Any

from meshwarden.core.claims import Claim
from meshwarden.core.offered_objects import Localized, ObjectRules
from meshwarden.core.ownership import DOMAIN
from ratelimit_service.core.levels import level_problems


def object_rules(*, merges_domains: bool) -> ObjectRules:
    """A RateLimit claims its domain; where domains are merged, its namespace does."""

    def claims(_kind: str, namespace: str, spec: Any) -> list[Claim]:
        domain = spec.get("domain") if isinstance(spec, dict) else None
        if not isinstance(domain, str):
            return []
        variant = f"namespace {namespace}" if merges_domains else ""
        return [Claim(DOMAIN, domain, "spec.domain", variant=variant)]

    return ObjectRules(kinds=("RateLimit",), claims=claims, localized=_bounded)


def _bounded(_kind: str, _namespace: str, spec: Any) -> Localized:
    """The spec as it is, refused where it is deeper than its schema reads."""
    return Localized(spec, problems=tuple(level_problems(spec)))
