"""What a folder says that the mesh's manifests must agree with: `PolicyFacts` of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ext_authz.core.compile import Options, compile_policies, referenced_files
from ext_authz.core.object_rules import localized
from ext_authz.core.policy_kind import AccessPolicy
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.istio.facts import ClusterFile, LimitEntry, PolicyFacts
from meshwarden.cli import configuration_folder
from meshwarden.core.documents import API_VERSION, Document, parse
from meshwarden.core.faults import InvalidInput, Misconfigured, Problem
from meshwarden.core.host_patterns import parse_host_pattern
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import domains_as_written
from ratelimit_service.core.grammar import DescriptorSpec, DomainSpec

_BODY = re.compile(r"request\.(body|json|form|files)\b")


def policy_facts(folder: Path, domain: str = "") -> PolicyFacts:
    """The facts of `folder`, whose limits of `domain` are asked; empty: of the only one. Raises
    `InvalidInput` with everything that is wrong in the folder, and `Misconfigured` for what a mesh
    can't be given of it.
    """
    problems = configuration_folder.problems(folder)
    if problems:
        raise InvalidInput(problems)
    bundle = FolderSource(folder, references=referenced_files).read()
    documents = [one for name in sorted(bundle.files) for one in _documents(name, bundle)]
    policies = [
        AccessPolicy.model_validate(one.value) for one in documents if one.kind == "AccessPolicy"
    ]
    limits = _asked(domains_as_written(bundle)[0], domain)
    policy_set = compile_policies(bundle, Options(assumes_development_keys=True)).policies
    return PolicyFacts(
        hosts=tuple(dict.fromkeys(host for one in policies for host in one.spec.hosts)),
        identity_headers=tuple(sorted(policy_set.identity_headers)),
        metadata_names=frozenset(part.name for one in policies for part in one.spec.metadata),
        domain=limits[0].domain if limits else "",
        descriptors=tuple(
            dict.fromkeys(found for spec in limits for found in _limited(spec.descriptors))
        ),
        reads_certificate=any(map(_reads_certificate, policies)),
        reads_body=any(_BODY.search(one.model_dump_json()) for one in policies),
        reads_api_keys=any(way.apiKey for one in policies for way in one.spec.identify),
        signs_tokens=any(one.spec.identityToken is not None for one in policies),
        asks_kubernetes=any(map(_asks_kubernetes, policies)),
        files=_cluster_files(documents),
        host_owners=tuple(
            (parse_host_pattern(host), one.namespace)
            for one in _in_namespaces(documents, "AccessPolicy")
            for host in one.value["spec"]["hosts"]
        ),
        domain_owners=tuple(
            (one.value["spec"]["domain"], one.namespace)
            for one in _in_namespaces(documents, "RateLimit")
        ),
        resources=tuple(_resource(one) for one in documents),
    )


def _in_namespaces(documents: Iterable[Document], kind: str) -> Iterator[Document]:
    return (one for one in documents if one.kind == kind and one.namespace)


def _cluster_files(documents: Iterable[Document]) -> tuple[ClusterFile, ...]:
    """The Secrets and ConfigMaps that the documents refer to. Raises `Misconfigured` with every
    reference that would be none in a cluster.
    """
    found: dict[ClusterFile, None] = {}
    problems = []
    for document in documents:
        referred = localized(document.kind, document.namespace, document.value.get("spec"))
        hint = "name it so, keep the file at that path in the folder, and make the object of it"
        problems += [document.problem(problem, (), hint) for problem in referred.problems]
        for name in referred.files:
            sort, *_, object_name, _ = name.split("/")
            found[ClusterFile(document.namespace, sort, object_name)] = None
    if problems:
        raise Misconfigured(problems)
    return tuple(found)


def _documents(name: str, bundle: Bundle) -> Iterator[Document]:
    if name.endswith((".yaml", ".yml")):
        yield from parse(name, bundle.files[name])


def _asked(domains: Iterable[DomainSpec], domain: str) -> list[DomainSpec]:
    """What stands under the domain that is asked for: a proxy asks for one."""
    found = list(domains)
    names = sorted({one.domain for one in found})
    if domain and domain not in names:
        what = f"--set ratelimit_domain={domain}: there is no such domain of limits"
        raise Misconfigured([Problem("", 0, what, f"there are {', '.join(names) or 'none'}")])
    if not domain and len(names) > 1:
        what = f"a proxy asks for one domain of limits, and there are {', '.join(names)}"
        raise Misconfigured([Problem("", 0, what, "--set ratelimit_domain=NAME chooses one")])
    return [one for one in found if one.domain == (domain or names[0])] if found else []


def _limited(
    specs: Iterable[DescriptorSpec], path: tuple[LimitEntry, ...] = ()
) -> Iterator[tuple[LimitEntry, ...]]:
    """The way from the root to every descriptor that has a limit."""
    for spec in specs:
        here = (*path, LimitEntry(spec.key, spec.value))
        if spec.rate_limit is not None:
            yield here
        yield from _limited(spec.descriptors, here)


def _reads_certificate(policy: AccessPolicy) -> bool:
    """Whether the peer's principal, which the proxy always tells, is not enough."""
    ways = [
        way for method in policy.spec.identify for way in (method.spiffe, method.clientCertificate)
    ]
    return any(way is not None and way.authoritiesFile is not None for way in ways) or any(
        method.clientCertificate is not None for method in policy.spec.identify
    )


def _asks_kubernetes(policy: AccessPolicy) -> bool:
    """Whether a caller's token, or what a caller may do, is the cluster's to say."""
    ways, rules = policy.spec.identify, policy.spec.rules
    return any(way.kubernetesToken for way in ways) or any(rule.kubernetesAccess for rule in rules)


def _resource(document: Document) -> dict[str, Any]:
    """The document as a plain resource; an envoyproxy/ratelimit file becomes a RateLimit."""
    value: dict[str, Any] = json.loads(json.dumps(document.value, default=str))
    if document.kind:
        return value
    name = re.sub(r"[^a-z0-9-]+", "-", str(value.get("domain", "")).lower()).strip("-")
    return {
        "apiVersion": API_VERSION,
        "kind": "RateLimit",
        "metadata": {"name": name or "limits"},
        "spec": value,
    }
