"""From a bundle of files to what `decide` reads; everything that is wrong is found in one go.

`resources.py` reads each resource; here they are put together: references, duplicates, conditions.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ext_authz.core.api_keys import ApiKeys, parse_key_file, parse_pepper
from ext_authz.core.conditions import Condition
from ext_authz.core.hosts import HostIndex, parse_host_pattern
from ext_authz.core.jwks import EMPTY, KeySet, key_set, parse_jwks
from ext_authz.core.kinds import (
    AccessPolicy,
    AccessRole,
    AccessRoleBinding,
    CredentialSource,
    IdentifyMethod,
    Rule,
    TokenIssuer,
)
from ext_authz.core.paths import parse_pattern
from ext_authz.core.policies import (
    HEADERS_AT_MOST,
    CompiledRule,
    Issuer,
    Method,
    MethodKind,
    OnUnavailable,
    Policy,
    PolicySet,
    Roles,
    Source,
)
from ext_authz.core.resources import Resources
from ext_authz.core.revocations import Revocations, parse_revocation_file
from meshwarden.core.documents import Document, Path, hint_for, parse
from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle

API_KEYS = "@api_keys"
PEPPER = "@pepper"
DEVELOPMENT_JWKS = "@development_jwks"
REVOCATIONS = "@revocations"


@dataclass(frozen=True)
class Configured:
    """What one configuration says: policies, and the API keys and revocations that came with it.

    `pepper` is that of the digests of API keys, also of those in a key store.
    """

    policies: PolicySet
    api_keys: ApiKeys = field(default_factory=ApiKeys)
    revocations: Revocations = field(default_factory=Revocations)
    pepper: bytes = field(default=b"", repr=False)

    def counts(self) -> dict[str, int]:
        """How much of what is configured."""
        return {
            "hosts": len(self.policies.policies),
            "issuers": len(self.policies.issuers),
            "roles": len(self.policies.roles.closure),
            "api_keys": len(self.api_keys),
            "revocations": len(self.revocations),
        }


@dataclass(frozen=True, slots=True)
class Options:
    """`assumes_development_keys`: a check away from the running service takes the development
    issuer as it is.
    """

    headers_at_most: int = HEADERS_AT_MOST
    assumes_development_keys: bool = False


def referenced_files(files: Mapping[str, bytes]) -> set[str]:
    """The JWKS files that TokenIssuers name. What can't be parsed is not looked into:
    `compile_policies` says why.
    """
    found = set()
    for name, content in files.items():
        if b"TokenIssuer" not in content:
            continue
        try:
            documents = parse(name, content)
        except InvalidInput:
            continue
        for document in documents:
            spec = document.value.get("spec") if isinstance(document.value, dict) else None
            jwks = spec.get("jwks") if isinstance(spec, dict) else None
            file = jwks.get("file") if isinstance(jwks, dict) else None
            if document.kind == "TokenIssuer" and isinstance(file, str) and file:
                found.add(posixpath.normpath(file))
    return found


def compile_policies(bundle: Bundle, options: Options = Options()) -> Configured:
    """Everything that `bundle` configures. Raises `InvalidInput` with every problem of every
    file.
    """
    compiler = _Compiler(bundle, options)
    result = compiler.run()
    if compiler.problems:
        raise InvalidInput(compiler.problems)
    return result


class _Compiler:
    """Gathers problems on its way; its result counts only when there are none."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._files = bundle.files
        self._options = options
        self._resources = Resources(bundle.files)
        self.problems = self._resources.problems

    def run(self) -> Configured:
        issuers = self._issuers()
        roles = self._roles()
        policies: dict[str, Policy] = {}
        claimed: dict[str, str] = {}
        identity_headers: set[str] = set()
        for document, resource in self._resources.of_kind(AccessPolicy):
            policy = self._policy(document, resource)
            identity_headers.update(resource.spec.identityHeaders)
            for index, text in enumerate(resource.spec.hosts):
                host = parse_host_pattern(text)
                if host in claimed:
                    what = f"the host '{host}' is already covered by AccessPolicy '{claimed[host]}'"
                    self._resources.refuse(document, what, ("spec", "hosts", index))
                claimed[host] = resource.name
                policies[host] = policy
        policy_set = PolicySet(
            policies=HostIndex(policies),
            issuers=issuers,
            roles=roles,
            identity_headers=frozenset(identity_headers),
            headers_at_most=self._options.headers_at_most,
        )
        pepper = self._pepper()
        return Configured(policy_set, self._api_keys(pepper), self._revocations(), pepper)

    # --- issuers and keys

    def _issuers(self) -> dict[str, Issuer]:
        issuers: dict[str, Issuer] = {}
        prefixes: dict[str, str] = {}
        for document, resource in self._resources.of_kind(TokenIssuer):
            spec = resource.spec
            if spec.issuer in issuers:
                first = issuers[spec.issuer].name
                what = f"the issuer '{spec.issuer}' is already TokenIssuer '{first}'"
                self._resources.refuse(document, what, ("spec", "issuer"))
            if spec.subjectPrefix in prefixes:
                what = (
                    f"TokenIssuer '{prefixes[spec.subjectPrefix]}' has the same subjectPrefix "
                    f"'{spec.subjectPrefix}', so each could speak for the other's subjects"
                )
                self._resources.refuse(
                    document, what, ("spec",), "give one of them another subjectPrefix"
                )
            prefixes[spec.subjectPrefix] = resource.name
            issuers[spec.issuer] = Issuer(resource.name, spec, self._key_set(document, resource))
        return issuers

    def _key_set(self, document: Document, resource: TokenIssuer) -> KeySet | None:
        source = resource.spec.jwks
        path: Path = ("spec", "jwks")
        if source.url is not None:
            return None
        try:
            if source.inline is not None:
                return key_set(source.inline, repr(source.inline).encode())
            name = posixpath.normpath(source.file) if source.file else DEVELOPMENT_JWKS
            content = self._files.get(name)
            if content is not None:
                return parse_jwks(name, content)
            if source.file:
                what = f"the file '{source.file}' is missing or can't be read"
                self._resources.refuse(document, what, (*path, "file"))
            if source.development and not self._options.assumes_development_keys:
                hint = "it is for one machine only; name the issuer's keys by url, file or inline"
                what = "the development issuer is not switched on here"
                self._resources.refuse(document, what, (*path, "development"), hint)
        except InvalidInput as error:
            self.problems.extend(error.problems)
        except ValueError as error:
            self._resources.refuse(document, f"the JWKS {error}", path)
        return EMPTY

    def _pepper(self) -> bytes:
        content = self._files.get(PEPPER)
        if content is None and API_KEYS not in self._files:
            return b""
        try:
            return parse_pepper("pepper", content or b"")
        except InvalidInput as error:
            self.problems.extend(error.problems)
            return b""

    def _api_keys(self, pepper: bytes) -> ApiKeys:
        content = self._files.get(API_KEYS)
        if content is None:
            return ApiKeys()
        try:
            return parse_key_file("API keys", content, pepper)
        except InvalidInput as error:
            self.problems.extend(error.problems)
            return ApiKeys()

    def _revocations(self) -> Revocations:
        content = self._files.get(REVOCATIONS)
        if content is None:
            return Revocations()
        try:
            return parse_revocation_file("revocations", content)
        except InvalidInput as error:
            self.problems.extend(error.problems)
            return Revocations()

    # --- roles

    def _roles(self) -> Roles:
        inherits: dict[str, list[str]] = {}
        for document, role in self._resources.of_kind(AccessRole):
            inherits[role.name] = list(role.spec.inherits)
            self._known(document, "AccessRole", role.spec.inherits, ("spec", "inherits"))
        closure = {name: _closure(name, inherits) for name in inherits}
        for document, role in self._resources.of_kind(AccessRole):
            if any(role.name in _closure(parent, inherits) for parent in role.spec.inherits):
                what = f"AccessRole '{role.name}' inherits itself"
                self._resources.refuse(document, what, ("spec", "inherits"))
        permissions = {
            role.name: frozenset(role.spec.permissions)
            for _, role in self._resources.of_kind(AccessRole)
        }
        of_principal: dict[str, frozenset[str]] = {}
        of_group: dict[str, frozenset[str]] = {}
        for document, binding in self._resources.of_kind(AccessRoleBinding):
            self._known(document, "AccessRole", [binding.spec.role], ("spec", "role"))
            for subject in binding.spec.subjects:
                holders, name = (
                    (of_principal, subject.principal)
                    if subject.principal
                    else (of_group, subject.group)
                )
                holders[name or ""] = holders.get(name or "", frozenset()) | {binding.spec.role}
        return Roles(closure, permissions, of_principal, of_group)

    def _known(self, document: Document, kind: str, names: Iterable[str], path: Path) -> None:
        """Say of each of `names`, which stand at `path`, that nothing of the kind has it."""
        known = self._resources.named[kind]
        for index, name in enumerate(names):
            if name not in known:
                hint = hint_for(name, known) if known else "define it"
                self._resources.refuse(
                    document, f"there is no {kind} '{name}'", (*path, index), hint
                )

    def _granted_permissions(self, document: Document, names: Iterable[str], path: Path) -> None:
        """Say of each of `names` that no role grants it: a deny rule with it would never match."""
        granted = {
            p for _, role in self._resources.of_kind(AccessRole) for p in role.spec.permissions
        }
        are_all_roles_read = self._resources.are_all_valid("AccessRole")
        for index, name in enumerate(names):
            if name not in granted and are_all_roles_read:
                hint = hint_for(name, granted) if granted else "grant it"
                self._resources.refuse(
                    document, f"no AccessRole grants '{name}'", (*path, index), hint
                )

    # --- policies

    def _policy(self, document: Document, resource: AccessPolicy) -> Policy:
        spec = resource.spec
        methods = tuple(
            self._method(document, index, method) for index, method in enumerate(spec.identify)
        )
        seen: list[Source] = []
        for index, method in enumerate(methods):
            for source in method.sources:
                if any(_overlap(source, other) for other in seen):
                    what = f"the {source.place} '{source.name}' is read by two ways to identify"
                    hint = "let the first have onInvalid: skip, and the same scheme"
                    self._resources.refuse(document, what, ("spec", "identify", index), hint)
                if source.place == "header" and source.name in spec.identityHeaders:
                    what = f"the header '{source.name}' brings the credential and the identity"
                    self._resources.refuse(document, what, ("spec", "identify", index))
                if not method.skips_invalid:
                    seen.append(source)
                elif not any(source in other.sources for other in methods[index + 1 :]):
                    what = f"nothing reads the {source.place} '{source.name}' after this"
                    self._resources.refuse(document, what, ("spec", "identify", index), "deny")
        rules = [
            (rule.effect, self._rule(document, index, rule))
            for index, rule in enumerate(spec.rules)
        ]
        return Policy(
            name=resource.name,
            methods=methods,
            identity_headers=tuple(spec.identityHeaders.items()),
            deny_rules=tuple(rule for effect, rule in rules if effect == "deny"),
            allow_rules=tuple(rule for effect, rule in rules if effect == "allow"),
            challenges=_challenges(methods, spec.realm),
            forwards_credential=spec.forwardCredential,
        )

    def _method(self, document: Document, index: int, method: IdentifyMethod) -> Method:
        common: dict[str, Any] = {
            "skips_invalid": method.onInvalid == "skip",
            "on_unavailable": OnUnavailable(method.onUnavailable),
        }
        if method.jwt is not None:
            path: Path = ("spec", "identify", index, "jwt", "issuers")
            self._known(document, "TokenIssuer", method.jwt.issuers, path)
            sources, issuers = method.jwt.sources, frozenset(method.jwt.issuers)
            return Method(MethodKind.JWT, tuple(map(_source, sources)), issuers, **common)
        sources = method.apiKey.sources if method.apiKey else []
        return Method(MethodKind.API_KEY, tuple(map(_source, sources)), **common)

    def _rule(self, document: Document, index: int, rule: Rule) -> CompiledRule:
        path: Path = ("spec", "rules", index)
        self._known(document, "AccessRole", rule.roles, (*path, "roles"))
        self._granted_permissions(document, rule.permissions, (*path, "permissions"))
        condition = None
        if rule.when is not None:
            try:
                condition = Condition(rule.when)
            except ValueError as error:
                self._resources.refuse(document, f"when: {error}", (*path, "when"))
        default = "identified" if rule.effect == "allow" else "anyone"
        return CompiledRule(
            name=rule.name,
            is_for_anyone=(rule.callers or default) == "anyone",
            methods=frozenset(rule.methods),
            patterns=tuple(parse_pattern(text) for text in rule.paths),
            roles=frozenset(rule.roles),
            permissions=frozenset(rule.permissions),
            scopes=frozenset(rule.scopes),
            groups=frozenset(rule.groups),
            principals=frozenset(rule.principals),
            condition=condition,
        )


def _closure(name: str, inherits: Mapping[str, list[str]]) -> frozenset[str]:
    """`name` and every role that it inherits, directly or not; ends in a cycle, too."""
    found, waiting = {name}, [name]
    while waiting:
        for parent in inherits.get(waiting.pop(), []):
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return frozenset(found)


def _source(source: CredentialSource) -> Source:
    places: tuple[tuple[str, str | None], ...] = (
        ("header", source.header),
        ("cookie", source.cookie),
        ("query", source.query),
    )
    place, name = next((place, name) for place, name in places if name is not None)
    return Source(place, name, (source.scheme or "").lower())


def _overlap(source: Source, other: Source) -> bool:
    """Whether one credential can be read from both, so that it would count as two."""
    is_same_place = (source.place, source.name) == (other.place, other.name)
    return is_same_place and (source.scheme == other.scheme or "" in (source.scheme, other.scheme))


def _challenges(methods: tuple[Method, ...], realm: str) -> tuple[str, ...]:
    """A WWW-Authenticate challenge for each way to identify, each scheme once."""
    schemes: dict[str, None] = {}
    for method in methods:
        schemes["ApiKey" if method.kind is MethodKind.API_KEY else "Bearer"] = None
    return tuple(f'{scheme} realm="{realm}"' for scheme in schemes)
