"""One AccessPolicy, with everything that it refers to resolved."""

from __future__ import annotations

import re
from datetime import time
from zoneinfo import ZoneInfo

from ext_authz.core.addresses import parse_networks
from ext_authz.core.compile_answers import compile_answers
from ext_authz.core.compile_methods import challenges, compile_methods
from ext_authz.core.conditions import Condition
from ext_authz.core.kubernetes_access import Access, variables_of
from ext_authz.core.kubernetes_kind import KubernetesAccess
from ext_authz.core.lookups import AccessAttributes
from ext_authz.core.paths import PathPattern, parse_pattern
from ext_authz.core.place import Place
from ext_authz.core.policies import CompiledRule, MethodKind, Policy
from ext_authz.core.policy_kind import AccessPolicy, Rule, TimeOfWeek
from ext_authz.core.resources import qualified
from ext_authz.core.time_windows import DAYS, TimeWindow

_PATH_VARIABLE = re.compile(r"""request\.path_variables(?:\.(\w+)|\[\s*["'](\w+)["']\s*\])""")


def compile_policy(
    resource: AccessPolicy, place: Place, *, can_sign: bool, can_review: bool
) -> Policy:
    """The policy that `resource`, which stands at `place`, writes; `can_sign`: there are keys for
    identity tokens, `can_review`: Kubernetes can be asked.
    """
    spec = resource.spec
    methods = compile_methods(spec.identify, place.at("identify"))
    for index, method in enumerate(methods):
        for source in method.sources:
            if source.place == "header" and source.name in spec.identityHeaders:
                what = f"the header '{source.name}' brings the credential and the identity"
                place.at("identify", index).refuse(what)
        if method.kind is MethodKind.KUBERNETES and not can_review:
            _refuse_reviews(place.at("identify", index, "kubernetesToken"))
    names: set[str] = set()
    for index, rule in enumerate(spec.rules):
        if rule.kubernetesAccess is not None and not can_review:
            _refuse_reviews(place.at("rules", index, "kubernetesAccess"))
        if rule.name in names:
            place.at("rules", index, "name").refuse(f"the rule name '{rule.name}' stands twice")
        names.add(rule.name)
    rules = [compile_rule(rule, place.at("rules", index)) for index, rule in enumerate(spec.rules)]
    return Policy(
        name=qualified(resource.namespace, resource.name),
        methods=methods,
        identity_headers=tuple(spec.identityHeaders.items()),
        deny_rules=tuple(rule for rule in rules if rule.is_denial),
        allow_rules=tuple(rule for rule in rules if not rule.is_denial),
        challenges=challenges(methods, spec.realm),
        forwards_credential=spec.forwardCredential,
        namespace=resource.namespace,
        roles=place.scope.roles,
        answer=compile_answers(spec, place, can_sign=can_sign),
        trusted_proxies=parse_networks(spec.trustedProxies),
    )


def compile_rule(rule: Rule, place: Place) -> CompiledRule:
    scope, document = place.scope, place.document
    scope.require(document, "AccessRole", rule.roles, place.at("roles").path)
    scope.require_granted(document, rule.permissions, place.at("permissions").path)
    patterns = tuple(parse_pattern(text) for text in rule.paths)
    default = "identified" if rule.effect == "allow" else "anyone"
    return CompiledRule(
        name=rule.name,
        is_for_anyone=(rule.callers or default) == "anyone",
        is_denial=rule.effect == "deny",
        methods=frozenset(rule.methods),
        patterns=patterns,
        roles=frozenset(rule.roles),
        permissions=frozenset(rule.permissions),
        scopes=frozenset(rule.scopes),
        groups=frozenset(rule.groups),
        principals=frozenset(rule.principals),
        headers=tuple((name, frozenset(values)) for name, values in rule.headers.items()),
        query=tuple((name, frozenset(values)) for name, values in rule.query.items()),
        grpc=tuple(_grpc_method(text) for text in rule.grpc),
        client_networks=parse_networks(rule.clientAddresses),
        times=tuple(map(_time_window, rule.times)),
        condition=_condition(rule.when, patterns, place.at("when")),
        access=_access(rule.kubernetesAccess, patterns, place.at("kubernetesAccess")),
    )


def _access(
    asked: KubernetesAccess | None, patterns: tuple[PathPattern, ...], place: Place
) -> Access | None:
    if asked is None:
        return None
    attributes = AccessAttributes(
        verb=asked.verb,
        group=asked.group,
        resource=asked.resource,
        subresource=asked.subresource,
        namespace=asked.namespace,
        name=asked.name,
        path=asked.nonResourcePath or "",
    )
    for name in sorted(variables_of(attributes)):
        if not _is_in_every(name, patterns):
            place.refuse(f"not every path of the rule has a segment '{{{name}}}'")
    return Access(
        attributes,
        trust_domains=frozenset(asked.trustDomains),
        user_prefix=asked.userPrefix or "",
        is_fault_when_unavailable=asked.onUnavailable == "fault",
    )


def _refuse_reviews(place: Place) -> None:
    hint = "set --kubernetes-reviews.enabled, and .kubeconfig outside the cluster"
    place.refuse("this service is not told how to ask Kubernetes", hint)


def _condition(
    text: str | None, patterns: tuple[PathPattern, ...], place: Place
) -> Condition | None:
    if text is None:
        return None
    try:
        condition = Condition(text)
    except ValueError as error:
        place.refuse(f"when: {error}")
        return None
    for name in sorted({a or b for a, b in _PATH_VARIABLE.findall(text)}):
        if not _is_in_every(name, patterns):
            place.refuse(f"when: not every path of the rule has a segment '{{{name}}}'")
    return condition


def _is_in_every(name: str, patterns: tuple[PathPattern, ...]) -> bool:
    return bool(patterns) and all(name in dict(p.names).values() for p in patterns)


def _grpc_method(text: str) -> tuple[str, str]:
    service, _, method = text.partition("/")
    return service, "" if method == "*" else method


def _time_window(times: TimeOfWeek) -> TimeWindow:
    return TimeWindow(
        days=frozenset(DAYS.index(day) for day in times.days),
        begins=time.fromisoformat(times.begins),
        ends=time.fromisoformat(times.ends),
        zone=ZoneInfo(times.timeZone),
    )
