"""Issuers with their keys and secrets, API keys, revocations: what callers are verified with."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from typing import TypeVar

from ext_authz.core.api_keys import ApiKeys, parse_key_file, parse_pepper
from ext_authz.core.identity_token import SigningKeys, parse_signing_keys
from ext_authz.core.issuer_kind import TokenIssuer
from ext_authz.core.jwks import EMPTY, KeySet, key_set, parse_jwks
from ext_authz.core.policies import Issuer
from ext_authz.core.resources import SHARED, Resources, qualified
from ext_authz.core.revocations import Revocations, parse_revocation_file
from meshwarden.core.documents import Document, Path
from meshwarden.core.faults import InvalidInput

API_KEYS = "@api_keys"
PEPPER = "@pepper"
DEVELOPMENT_JWKS = "@development_jwks"
REVOCATIONS = "@revocations"
SIGNING_KEYS = "@signing_keys"
CALLED = {
    "API keys": API_KEYS,
    "pepper": PEPPER,
    "revocations": REVOCATIONS,
    "signing keys": SIGNING_KEYS,
}
"""What problems call each of these files."""

Parsed = TypeVar("Parsed")


class KeyCompiler:
    """Notes in `resources` what is wrong. `assumes_development_keys`: the development issuer is
    taken as it is, without its keys.
    """

    def __init__(
        self, resources: Resources, files: Mapping[str, bytes], *, assumes_development_keys: bool
    ) -> None:
        self._resources = resources
        self._files = files
        self._assumes_development_keys = assumes_development_keys

    def issuers(self) -> dict[str, Issuer]:
        """Each TokenIssuer by its qualified name."""
        issuers: dict[str, Issuer] = {}
        claimed: dict[tuple[str, str], str] = {}
        prefixes: dict[tuple[str, str], Issuer] = {}
        # The shared ones first: each namespace sees them beside its own.
        found = sorted(self._resources.of_kind(TokenIssuer), key=lambda pair: pair[1].namespace)
        for document, resource in found:
            spec, namespace = resource.spec, resource.namespace
            name = qualified(namespace, resource.name)
            first = claimed.setdefault((namespace, spec.issuer), name)
            if first != name:
                what = f"the issuer '{spec.issuer}' is already TokenIssuer '{first}'"
                self._resources.refuse(document, what, ("spec", "issuer"))
            keys, secret = self._key_set(document, resource), self._secret(document, resource)
            issuer = Issuer(name, spec, keys, secret)
            issuers[name] = issuer
            for scope in {namespace, SHARED}:
                other = prefixes.get((scope, spec.subjectPrefix))
                if other is not None and other.spec.issuer != spec.issuer:
                    self._refuse_prefix(document, spec.subjectPrefix, other.name)
            prefixes[namespace, spec.subjectPrefix] = issuer
        return issuers

    def _refuse_prefix(self, document: Document, prefix: str, other: str) -> None:
        what = (
            f"TokenIssuer '{other}' has the same subjectPrefix '{prefix}', so each could speak for "
            "the other's subjects"
        )
        hint = "give one of them another subjectPrefix"
        self._resources.refuse(document, what, ("spec",), hint)

    def _key_set(self, document: Document, resource: TokenIssuer) -> KeySet | None:
        source = resource.spec.jwks
        path: Path = ("spec", "jwks")
        if source is None:
            return EMPTY
        if source.is_fetched:
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
            if source.development and not self._assumes_development_keys:
                hint = "it is for one machine only; name the issuer's keys by url, file or inline"
                what = "the development issuer is not switched on here"
                self._resources.refuse(document, what, (*path, "development"), hint)
        except InvalidInput as error:
            self._resources.problems.extend(error.problems)
        except ValueError as error:
            self._resources.refuse(document, f"the JWKS {error}", path)
        return EMPTY

    def _secret(self, document: Document, resource: TokenIssuer) -> str:
        """Our secret at the introspection endpoint."""
        asked = resource.spec.introspection
        if asked is None:
            return ""
        content = self._files.get(posixpath.normpath(asked.clientSecretFile), b"").strip()
        try:
            if content:
                return content.decode()
            what = "is missing, empty or can't be read"
        except UnicodeDecodeError:
            what = "is not UTF-8 text"
        path: Path = ("spec", "introspection", "clientSecretFile")
        self._resources.refuse(document, f"the file '{asked.clientSecretFile}' {what}", path)
        return ""

    def pepper(self) -> bytes:
        content = self._files.get(PEPPER)
        if content is None and API_KEYS not in self._files:
            return b""
        try:
            return parse_pepper("pepper", content or b"")
        except InvalidInput as error:
            self._resources.problems.extend(error.problems)
            return b""

    def api_keys(self, pepper: bytes) -> ApiKeys:
        return self._parsed(
            API_KEYS, ApiKeys(), lambda content: parse_key_file("API keys", content, pepper)
        )

    def revocations(self) -> Revocations:
        return self._parsed(
            REVOCATIONS,
            Revocations(),
            lambda content: parse_revocation_file("revocations", content),
        )

    def signing(self, issuer: str) -> SigningKeys:
        """The keys that sign identity tokens."""
        return self._parsed(
            SIGNING_KEYS,
            SigningKeys(),
            lambda content: parse_signing_keys("signing keys", content, issuer),
        )

    def _parsed(self, name: str, none: Parsed, parse: Callable[[bytes], Parsed]) -> Parsed:
        """What is in the file `name`; `none` where there is none, or it has faults."""
        content = self._files.get(name)
        if content is None:
            return none
        try:
            return parse(content)
        except InvalidInput as error:
            self._resources.problems.extend(error.problems)
            return none
