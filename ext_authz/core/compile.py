"""From a bundle of files to what `decide` reads; everything that is wrong is found in one go.

`resources.py` reads each resource, `compile_keys.py`, `compile_roles.py` and `compile_policy.py`
make what `decide` reads of them; here they are put together.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ext_authz.core.api_keys import ApiKeys
from ext_authz.core.compile_keys import KeyCompiler
from ext_authz.core.compile_policy import compile_policy
from ext_authz.core.hosts import HostIndex
from ext_authz.core.identity_token import SigningKeys
from ext_authz.core.place import Place
from ext_authz.core.policies import HEADERS_AT_MOST, Policy, PolicySet
from ext_authz.core.policy_kind import AccessPolicy
from ext_authz.core.resources import SHARED, Resources
from ext_authz.core.revocations import Revocations
from ext_authz.core.role_kinds import AccessRole
from ext_authz.core.scopes import Scopes
from meshwarden.core.documents import Document, parse
from meshwarden.core.faults import InvalidInput
from meshwarden.core.host_patterns import parse_host_pattern, wildcards_above
from meshwarden.core.snapshot import Bundle


@dataclass(frozen=True)
class Configured:
    """What one configuration says: policies, and the API keys and revocations that came with it.

    `pepper` is that of the digests of API keys, also of those in a key store.
    """

    policies: PolicySet
    api_keys: ApiKeys = field(default_factory=ApiKeys)
    revocations: Revocations = field(default_factory=Revocations)
    pepper: bytes = field(default=b"", repr=False)
    role_count: int = 0
    signing: SigningKeys = field(default_factory=SigningKeys)

    def counts(self) -> dict[str, int]:
        """How much of what is configured."""
        return {
            "hosts": len(self.policies.policies),
            "issuers": len(self.policies.issuers),
            "roles": self.role_count,
            "api_keys": len(self.api_keys),
            "revocations": len(self.revocations),
        }


@dataclass(frozen=True, slots=True)
class Options:
    """`identity_issuer`: the `iss` of the identity tokens that we sign. `assumes_development_keys`:
    a check away from the running service takes the development issuer, and identity tokens, as they
    are, and so that Kubernetes can be asked. `can_review`: it can.
    """

    headers_at_most: int = HEADERS_AT_MOST
    identity_issuer: str = ""
    assumes_development_keys: bool = False
    can_review: bool = False


FILES_OF = {
    "TokenIssuer": (("jwks", "file"), ("introspection", "clientSecretFile")),
    "AccessPolicy": (
        ("identify", "spiffe", "authoritiesFile"),
        ("identify", "clientCertificate", "authoritiesFile"),
    ),
}
"""Where in a kind's `spec` a file is named."""


def referenced_files(files: Mapping[str, bytes]) -> set[str]:
    """The files that resources name: key sets, secrets, authorities. What can't be parsed is not
    looked into: `compile_policies` says why.
    """
    found: set[str] = set()
    for name, content in files.items():
        if b"File" not in content and b"file" not in content:
            continue
        try:
            documents = parse(name, content)
        except InvalidInput:
            continue
        for document in documents:
            spec = document.value.get("spec") if isinstance(document.value, dict) else None
            for path in FILES_OF.get(document.kind, ()):
                found.update(posixpath.normpath(text) for text in _texts_at(spec, path))
    return found


def _texts_at(value: object, path: tuple[str, ...]) -> Iterator[str]:
    """Each text at `path` in plain values; a list on the way means each of its items."""
    if isinstance(value, list):
        for item in value:
            yield from _texts_at(item, path)
    elif not path:
        if isinstance(value, str) and value:
            yield value
    elif isinstance(value, dict):
        yield from _texts_at(value.get(path[0]), path[1:])


def compile_policies(bundle: Bundle, options: Options = Options()) -> Configured:
    """Everything that `bundle` configures. Raises `InvalidInput` with every problem of every
    file.
    """
    resources = Resources(bundle.files)
    keys = KeyCompiler(
        resources,
        bundle.files,
        assumes_development_keys=options.assumes_development_keys,
    )
    issuers = keys.issuers()
    scopes = Scopes(resources, issuers)
    signing = keys.signing(options.identity_issuer)
    can_sign = bool(signing.keys) or options.assumes_development_keys
    can_review = options.can_review or options.assumes_development_keys
    policies = _by_host(resources, scopes, bundle.files, can_sign=can_sign, can_review=can_review)
    policy_set = PolicySet(
        policies=HostIndex(policies),
        issuers=issuers,
        identity_headers=frozenset(
            header
            for _, resource in resources.of_kind(AccessPolicy)
            for header in _identity_headers(resource)
        ),
        headers_at_most=options.headers_at_most,
    )
    pepper = keys.pepper()
    result = Configured(
        policy_set,
        keys.api_keys(pepper),
        keys.revocations(),
        pepper,
        len(resources.of_kind(AccessRole)),
        signing,
    )
    if resources.problems:
        raise InvalidInput(resources.problems)
    return result


def _identity_headers(resource: AccessPolicy) -> Iterator[str]:
    yield from resource.spec.identityHeaders
    if resource.spec.identityToken is not None:
        yield resource.spec.identityToken.header


def _by_host(
    resources: Resources,
    scopes: Scopes,
    files: Mapping[str, bytes],
    *,
    can_sign: bool,
    can_review: bool,
) -> dict[str, Policy]:
    """Each policy under each of its host patterns; one pattern belongs to one policy, and what lies
    below a namespace's wildcard to that namespace.
    """
    policies: dict[str, Policy] = {}
    places: list[tuple[Document, int, str]] = []
    for document, resource in resources.of_kind(AccessPolicy):
        scope = scopes.of(resource.namespace)
        policy = compile_policy(
            resource,
            Place(resources, scope, files, document),
            can_sign=can_sign,
            can_review=can_review,
        )
        for index, text in enumerate(resource.spec.hosts):
            host = parse_host_pattern(text)
            if host in policies:
                what = (
                    f"the host '{host}' is already covered by AccessPolicy '{policies[host].name}'"
                )
                resources.refuse(document, what, ("spec", "hosts", index))
            policies[host] = policy
            places.append((document, index, host))
    for document, index, host in places:
        if document.namespace == SHARED:
            continue
        for wildcard in wildcards_above(host):
            owner = policies.get(wildcard)
            if owner is not None and owner.namespace not in (SHARED, document.namespace):
                what = f"the host '{host}' lies below '{wildcard}' of AccessPolicy '{owner.name}'"
                hint = "a namespace can't take hosts from another"
                resources.refuse(document, what, ("spec", "hosts", index), hint)
    return policies
