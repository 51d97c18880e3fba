"""What ext_authz says about its kinds where they are objects in a cluster."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from ext_authz.core.compile import FILES_OF
from meshwarden.core.claims import Claim
from meshwarden.core.host_patterns import parse_host_pattern
from meshwarden.core.offered_objects import Localized, ObjectRules
from meshwarden.core.ownership import HOST

_REFERENCE = re.compile(
    r"(secret|configmap)/([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)/((?!\.\.?$|\.\.)[A-Za-z0-9._-]{1,253})"
)


def claims(kind: str, _namespace: str, spec: Any) -> list[Claim]:
    """A policy's hosts; the prefix of an issuer's subjects."""
    if not isinstance(spec, dict):
        return []
    if kind == "AccessPolicy":
        return [
            Claim(HOST, host, f"spec.hosts[{index}]") for index, host in _hosts(spec.get("hosts"))
        ]
    if kind == "TokenIssuer":
        issuer, prefix = spec.get("issuer"), spec.get("subjectPrefix", "")
        if isinstance(issuer, str) and isinstance(prefix, str):
            place = "spec.subjectPrefix"
            return [Claim("subjectPrefix", prefix, place, is_local=True, variant=issuer)]
    return []


def _hosts(hosts: Any) -> Iterator[tuple[int, str]]:
    """The host patterns that can be read."""
    for index, text in enumerate(hosts if isinstance(hosts, list) else ()):
        if isinstance(text, str):
            try:
                yield index, parse_host_pattern(text)
            except ValueError:
                continue


def localized(kind: str, namespace: str, spec: Any) -> Localized:
    """References to files are `secret/NAME/KEY` or `configmap/NAME/KEY` of the object's own
    namespace; the bundle has them as `secret/NAMESPACE/NAME/KEY`. Nothing else can be referred to,
    in particular no other namespace's.
    """
    if not any(
        holder.get(path[-1])
        for path in FILES_OF.get(kind, ())
        for holder in _holders(spec, path[:-1])
    ):
        return Localized(spec)
    changed = copy.deepcopy(spec)
    files: list[str] = []
    problems: list[str] = []
    for path in FILES_OF.get(kind, ()):
        for holder in _holders(changed, path[:-1]):
            text = holder.get(path[-1])
            if not isinstance(text, str) or not text:
                continue
            found = _REFERENCE.fullmatch(text)
            if found is None:
                problems.append(
                    f"spec.{'.'.join(path)}: in a cluster a file is secret/NAME/KEY or "
                    f"configmap/NAME/KEY of the object's own namespace, not '{text}'"
                )
                continue
            name = f"{found[1]}/{namespace}/{found[2]}/{found[4]}"
            holder[path[-1]] = name
            files.append(name)
    return Localized(changed, tuple(dict.fromkeys(files)), tuple(dict.fromkeys(problems)))


def _holders(value: Any, path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Each mapping at `path`; a list on the way means each of its items."""
    if isinstance(value, list):
        for item in value:
            yield from _holders(item, path)
    elif isinstance(value, dict):
        if path:
            yield from _holders(value.get(path[0]), path[1:])
        else:
            yield value


def closed(kind: str, _namespace: str, spec: Any) -> Any:
    """A policy that denies everything at the hosts that can be read: without it a wildcard's policy
    would decide there.
    """
    if kind != "AccessPolicy" or not isinstance(spec, dict):
        return None
    hosts = list(dict.fromkeys(host for _, host in _hosts(spec.get("hosts"))))
    return {"hosts": hosts, "rules": []} if hosts else None


RULES = ObjectRules(
    kinds=("TokenIssuer", "AccessRole", "AccessRoleBinding", "AccessPolicy"),
    claims=claims,
    localized=localized,
    closed=closed,
)
