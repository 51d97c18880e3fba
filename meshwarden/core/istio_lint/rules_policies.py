"""Rules on AuthorizationPolicies: what passes beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshwarden.core.documents import Document, Path
from meshwarden.core.istio_lint.findings import Severity, Spot, rule
from meshwarden.core.istio_lint.mesh import Mesh, namespace, selector_of
from meshwarden.core.istio_lint.values import at, items, mapping, selects, text, texts

NORMALIZATION = "DECODE_AND_MERGE_SLASHES"
SELECTING = ("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "EnvoyFilter")
JOINING = "meshwarden.io/"
_NO_PATH = re.compile(r"%[0-9A-Fa-f]{2}|[?#]")


def _action(policy: Document) -> str:
    return text(policy.value, "spec", "action") or "ALLOW"


def _operations(policy: Document, field: str) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each list of `field` in the policy's operations: where it stands, its values, and the values
    of the same field in all operations of the policy.
    """
    found = []
    for index, entry in enumerate(items(policy.value, "spec", "rules")):
        for place, target in enumerate(items(entry, "to")):
            values = texts(target, "operation", field)
            path: Path = ("spec", "rules", index, "to", place, "operation", field)
            if values:
                found.append((path, values))
    everything = [value for _, values in found for value in values]
    for path, values in found:
        yield path, values, everything


def _guarding(policy: Document) -> Iterator[tuple[Path, list[str], list[str]]]:
    """The lists of paths that must match for the policy to protect."""
    if _action(policy) in ("CUSTOM", "DENY"):
        yield from _operations(policy, "paths")
    else:
        yield from _operations(policy, "notPaths")


def _exempting(policy: Document) -> Iterator[tuple[Path, list[str], list[str]]]:
    """The lists of paths that are let through."""
    if _action(policy) in ("CUSTOM", "DENY"):
        yield from _operations(policy, "notPaths")
    elif _action(policy) == "ALLOW":
        yield from _operations(policy, "paths")


@rule(
    20,
    Severity.ERROR,
    "Dry run of a CUSTOM policy",
    why="The annotation does nothing with CUSTOM: the policy is in force. `istioctl validate` "
    "refuses it, an API server without istiod's webhook takes it.",
    fix="remove the annotation; try the policy offline (`meshwarden test`) before it is applied",
)
def dry_run(mesh: Mesh) -> Iterator[Spot]:
    for policy in mesh.custom():
        switch = at(policy.value, "metadata", "annotations", "istio.io/dry-run")
        if str(switch).lower() == "true":
            path = ("metadata", "annotations", "istio.io/dry-run")
            yield Spot(policy, path, "istio.io/dry-run does not work with CUSTOM")


@rule(
    21,
    Severity.WARNING,
    "CUSTOM runs before the token is validated",
    why="Istio's order is CUSTOM, then RequestAuthentication, then ALLOW and DENY: the authorizer "
    "sees a token that nobody has validated (istio#51173, istio#45511).",
    fix="let the authorizer validate the token (a TokenIssuer), and drop RequestAuthentication",
)
def custom_before_jwt(mesh: Mesh) -> Iterator[Spot]:
    for authentication in mesh.of("RequestAuthentication"):
        for policy in mesh.custom():
            both = [
                workload.document.name
                for workload in mesh.workloads
                if mesh.covers(policy, workload) and mesh.covers(authentication, workload)
            ]
            if both or (not mesh.workloads and namespace(policy) == namespace(authentication)):
                what = f"the CUSTOM policy {policy.name} is asked before these tokens are validated"
                yield Spot(authentication, ("spec",), what)
                break


@rule(
    22,
    Severity.ERROR,
    "A protected path without what lies below it",
    why="`/admin` matches neither `/admin/` nor `/admin/users`, which most workloads serve "
    "(istio#49716).",
    fix='write `["/admin", "/admin/*"]`',
)
def exact_path(mesh: Mesh) -> Iterator[Spot]:
    for policy in mesh.policies:
        for path, values, everything in _guarding(policy):
            for index, value in enumerate(values):
                if "*" in value or "{" in value or value.endswith("/"):
                    continue
                if not any(_covers_below(other, value) for other in everything):
                    what = f"'{value}' leaves '{value}/' outside of {_action(policy)}"
                    yield Spot(policy, (*path, index), what)


def _covers_below(pattern: str, value: str) -> bool:
    if pattern == f"{value}/{{**}}":
        return True
    return pattern.endswith("*") and f"{value}/".startswith(pattern[:-1])


@rule(
    23,
    Severity.ERROR,
    "An exempted prefix that does not end at a slash",
    why="`/open*` lets `/openadmin` and `/open-internal` pass as well.",
    fix='write `["/open", "/open/*"]`',
)
def loose_exemption(mesh: Mesh) -> Iterator[Spot]:
    for policy in mesh.policies:
        for path, values, _everything in _exempting(policy):
            for index, value in enumerate(values):
                if value.endswith("*") and not value.endswith("/*") and len(value) > 1:
                    what = f"'{value}' exempts every path that begins so"
                    yield Spot(policy, (*path, index), what)


@rule(
    24,
    Severity.WARNING,
    "Paths are compared as the client wrote them",
    why="Istio's default (BASE) merges no slashes and decodes no `%2F`, `%5C`: `//admin` passes a "
    "policy on `/admin`, and many workloads serve it.",
    fix=f"set `meshConfig.pathNormalization.normalization: {NORMALIZATION}`",
)
def path_normalization(mesh: Mesh) -> Iterator[Spot]:
    on_paths = any(
        True
        for policy in mesh.policies
        for field in ("paths", "notPaths")
        for _ in _operations(policy, field)
    )
    for config in mesh.configs if on_paths else ():
        chosen = text(config.value, "pathNormalization", "normalization")
        if chosen != NORMALIZATION:
            what = f"pathNormalization is {chosen or 'not set'}, and policies speak of paths"
            yield Spot(config.document, (*config.path, "pathNormalization"), what)


@rule(
    25,
    Severity.ERROR,
    "A protected host without its port",
    why="A client may send `Host: api.example.com:8080`; `api.example.com` does not match that.",
    fix='write `["api.example.com", "api.example.com:*"]`',
)
def host_without_port(mesh: Mesh) -> Iterator[Spot]:
    for policy in mesh.policies:
        field = "hosts" if _action(policy) in ("CUSTOM", "DENY") else "notHosts"
        for path, values, everything in _operations(policy, field):
            for index, value in enumerate(values):
                if ":" in value or value.endswith("*") or f"{value}:*" in everything:
                    continue
                what = f"'{value}' leaves '{value}:80' outside of {_action(policy)}"
                yield Spot(policy, (*path, index), what)


@rule(
    26,
    Severity.ERROR,
    "A method in small letters",
    why="Methods are compared as they are: `get` matches no request.",
    fix="write it in capitals",
)
def small_method(mesh: Mesh) -> Iterator[Spot]:
    for policy in mesh.policies:
        for field in ("methods", "notMethods"):
            for path, values, _everything in _operations(policy, field):
                for index, value in enumerate(values):
                    if value != value.upper():
                        yield Spot(policy, (*path, index), f"no request has the method '{value}'")


@rule(
    27,
    Severity.ERROR,
    "A path that no request has",
    why="A path is compared without its query, after normalization has decoded it: `/a%2Fb` and "
    "`/a?x=1` match nothing.",
    fix="write the decoded path, and leave out the query",
)
def impossible_path(mesh: Mesh) -> Iterator[Spot]:
    for policy in mesh.policies:
        for field in ("paths", "notPaths"):
            for path, values, _everything in _operations(policy, field):
                for index, value in enumerate(values):
                    if _NO_PATH.search(value) or (value and value[0] not in "/*{"):
                        yield Spot(policy, (*path, index), f"no request has the path '{value}'")


@rule(
    28,
    Severity.ERROR,
    "A selector that selects nothing",
    why="A policy or filter for labels that no workload has is accepted, and does nothing.",
    fix="use the labels of the workload's Pods",
)
def selects_nothing(mesh: Mesh) -> Iterator[Spot]:
    for document, path, wanted, told in _selecting_nothing(mesh):
        if any(wanted.keys() <= workload.labels.keys() for workload in mesh.in_reach(document)):
            what = f"workloads have other values than {told} in namespace {namespace(document)}"
            yield Spot(document, path, what)


@rule(
    35,
    Severity.WARNING,
    "A selector for workloads that were not read",
    why="Whether any workload has these labels stands in other manifests; where none has, the "
    "policy or filter does nothing. Labels of `meshwarden.io` are for workloads to join by, and "
    "may be without any.",
    fix="check the workloads' manifests together with this one: repeat `--istio`",
)
def selects_unseen(mesh: Mesh) -> Iterator[Spot]:
    for document, path, wanted, told in _selecting_nothing(mesh):
        has_keys = any(wanted.keys() <= one.labels.keys() for one in mesh.in_reach(document))
        if not has_keys and not any(key.startswith(JOINING) for key in wanted):
            what = f"no workload in what was read has {told} in namespace {namespace(document)}"
            yield Spot(document, path, what)


def _selecting_nothing(mesh: Mesh) -> Iterator[tuple[Document, Path, dict[str, str], str]]:
    """Each resource whose selector fits no workload in its reach: itself, where the selector
    stands, and the selector, also as text.
    """
    for kind in SELECTING:
        for document in mesh.of(kind):
            path, wanted = selector_of(document)
            if wanted and not any(selects(wanted, one.labels) for one in mesh.in_reach(document)):
                told = ", ".join(f"{key}={value}" for key, value in sorted(wanted.items()))
                yield document, path, wanted, told


@rule(
    29,
    Severity.ERROR,
    "A target that is not there",
    why="A policy whose `targetRefs` name nothing is accepted, and does nothing.",
    fix="name a Gateway, Service or ServiceEntry of the policy's own namespace",
)
def missing_target(mesh: Mesh) -> Iterator[Spot]:
    for kind in SELECTING:
        for document in mesh.of(kind):
            for index, ref in enumerate(items(document.value, "spec", "targetRefs")):
                wanted = (text(ref, "kind"), text(ref, "name"), namespace(document))
                known = {(d.kind, d.name, namespace(d)) for d in mesh.documents}
                if wanted[0] in ("Gateway", "Service", "ServiceEntry") and wanted not in known:
                    what = f"no {wanted[0]} {wanted[1]} in namespace {wanted[2]} in what was read"
                    yield Spot(document, ("spec", "targetRefs", index), what)


def is_open(policy: Document) -> bool:
    """Whether a policy restricts nothing: it allows everybody everything, only records, or is a
    dry run.
    """
    if _action(policy) == "AUDIT" or policy_is_dry_run(policy):
        return True
    rules = items(policy.value, "spec", "rules")
    return _action(policy) == "ALLOW" and any(entry == {} for entry in rules)


def policy_is_dry_run(policy: Document) -> bool:
    annotations = mapping(policy.value, "metadata", "annotations")
    is_asked = str(annotations.get("istio.io/dry-run")).lower() == "true"
    return is_asked and _action(policy) != "CUSTOM"
