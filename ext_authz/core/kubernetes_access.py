"""What a rule asks Kubernetes about a caller, as a question that can be sent and remembered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ext_authz.core.lookups import AccessAttributes, AccessReviewLookup
from ext_authz.core.model import Kind, Principal
from ext_authz.core.spiffe import parse_spiffe_id

SERVICE_ACCOUNT = "system:serviceaccount:"

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,253}\Z")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]{0,1023}\Z")
_WORKLOAD = re.compile(r"/ns/([a-z0-9-]{1,63})/sa/([a-z0-9.-]{1,253})\Z")


@dataclass(frozen=True, slots=True)
class Access:
    """`attributes` as they are written, with `{variables}` of the rule's path."""

    attributes: AccessAttributes
    trust_domains: frozenset[str] = frozenset()
    user_prefix: str = ""
    is_fault_when_unavailable: bool = False

    def question(
        self, principal: Principal, variables: Mapping[str, str]
    ) -> AccessReviewLookup | None:
        """What to ask about `principal`; None where it can't be asked about. Raises `ValueError`
        where a variable's value can be no namespace, name or path.
        """
        asked_about = self._user(principal)
        if asked_about is None:
            return None
        user, groups = asked_about
        return AccessReviewLookup(user, tuple(sorted(groups)), _filled(self.attributes, variables))

    def _user(self, principal: Principal) -> tuple[str, frozenset[str]] | None:
        if principal.kind is Kind.KUBERNETES:
            return principal.subject, principal.groups
        if principal.kind is Kind.SPIFFE:
            found = parse_spiffe_id(principal.subject)
            if found is not None and found.trust_domain in self.trust_domains:
                workload = _WORKLOAD.match(found.path)
                if workload is not None:
                    return service_account(workload[1], workload[2])
        if not self.user_prefix or principal.kind is Kind.ANONYMOUS:
            return None
        groups = frozenset(self.user_prefix + group for group in principal.groups)
        return self.user_prefix + principal.name, groups


def service_account(namespace: str, name: str) -> tuple[str, frozenset[str]]:
    """The user and the groups that Kubernetes knows a ServiceAccount by."""
    groups = {"system:serviceaccounts", f"system:serviceaccounts:{namespace}"}
    return f"{SERVICE_ACCOUNT}{namespace}:{name}", frozenset({*groups, "system:authenticated"})


def variables_of(attributes: AccessAttributes) -> set[str]:
    """The names in braces."""
    parts = (attributes.namespace, attributes.name, attributes.path)
    return {name for text in parts for name in _VARIABLE.findall(text)}


def _filled(attributes: AccessAttributes, variables: Mapping[str, str]) -> AccessAttributes:
    """With every variable's value; one that would be empty would mean all of them."""
    filled = {}
    for field, form in (("namespace", _NAMESPACE), ("name", _NAME), ("path", _PATH)):
        written: str = getattr(attributes, field)
        if "{" not in written:
            continue
        values = {name: variables[name] for name in _VARIABLE.findall(written)}
        text = _VARIABLE.sub(lambda found: values[found[1]], written)  # noqa: B023 - used at once
        if form.match(text) is None or any("/" in value for value in values.values()):
            raise ValueError(f"a variable of the path can be no {field}")
        filled[field] = text
    return replace(attributes, **filled) if filled else attributes
