"""Resources of each kind with every field in use, and those of the examples and the documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from ext_authz.core.compile import Options, compile_policies
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import compile_limits
from tests.support.certificates import Authority
from tests.support.processes import CHECKOUT

_AUTHORITY = Authority().certificate
API_VERSION = "meshwarden.io/v1alpha1"


def resource(kind: str, spec: dict[str, Any], name: str = "x") -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


ISSUER = {
    "issuer": "https://login.example.com",
    "audiences": ["site"],
    "algorithms": ["ES256"],
    "jwks": {"discovery": "oidc", "refreshSeconds": 60, "timeoutSeconds": 1.5},
    "leewaySeconds": 5,
    "tokenType": "at+jwt",
    "subjectPrefix": "site/",
    "claims": {"subject": "email", "roles": "realm.roles"},
}
OPAQUE = {
    "issuer": "https://opaque.example.com",
    "audiences": ["site"],
    "subjectPrefix": "opaque/",
    "introspection": {
        "url": "https://opaque.example.com/ask",
        "clientId": "us",
        "clientSecretFile": "secret",
        "cacheSeconds": 3,
        "requiresAudience": False,
    },
}
ROLE = {"inherits": ["reader"], "permissions": ["orders:read", "bestellgr\u00f6\u00dfe:\u0634"]}
BINDING = {"role": "writer", "subjects": [{"principal": "jwt:site/a"}, {"group": "staff"}]}
BEARER = {"header": "authorization", "scheme": "Bearer"}
POLICY = {
    "hosts": ["shop.example.com", "*.Shop.example.com"],
    "realm": "shop",
    "identify": [
        {"jwt": {"issuers": ["company"], "sources": [BEARER]}, "onInvalid": "skip"},
        {"introspection": {"issuer": "opaque", "sources": [BEARER]}, "onUnavailable": "deny"},
        {"jwt": {"issuers": ["company"], "sources": [{"cookie": "session"}, {"query": "token"}]}},
        {"kubernetesToken": {"audiences": ["meshwarden"], "sources": [{"header": "x-workload"}]}},
        {"apiKey": {"sources": [{"header": "x-api-key"}]}},
        {
            "spiffe": {
                "trustDomains": ["cluster.local"],
                "forwarded": {"trustedProxies": ["10.0.0.0/8"]},
            }
        },
        {"clientCertificate": {"authoritiesFile": "ca.pem"}},
    ],
    "identityHeaders": {"x-user": "subject", "x-roles": "roles"},
    "trustedProxies": ["10.0.0.0/8"],
    "forwardCredential": False,
    "upstream": {
        "headers": [
            {"name": "x-via", "value": "mesh", "action": "append"},
            {"name": "x-plan", "expression": "principal.subject"},
        ],
        "removeHeaders": ["x-internal"],
        "query": [{"name": "tenant", "expression": "principal.subject"}],
        "removeQuery": ["debug"],
    },
    "downstream": {"headers": [{"name": "x-served-by", "value": "mesh"}]},
    "metadata": [{"name": "plan", "expression": "principal.subject"}],
    "denied": {
        "unauthenticated": {
            "redirect": {"location": "https://login.example.com/?next=${url}", "status": 303}
        },
        "forbidden": {
            "status": 404,
            "headers": {"x-why": "${reason}"},
            "body": {"text": "<p>${reason}</p>", "contentType": "text/html"},
        },
    },
    "identityToken": {
        "header": "x-token",
        "audience": "shop",
        "lifetimeSeconds": 60,
        "claims": {"plan": "principal.subject"},
    },
    "rules": [
        {
            "name": "orders",
            "effect": "allow",
            "callers": "identified",
            "methods": ["GET"],
            "paths": ["/orders/{id}/**"],
            "roles": ["reader"],
            "permissions": ["orders:read"],
            "scopes": ["orders"],
            "groups": ["staff"],
            "principals": ["jwt:site/a", "spiffe://cluster.local/ns/a/sa/b", "kubernetes:x"],
            "headers": {"x-kind": ["a", "b"]},
            "query": {"page": ["1"]},
            "clientAddresses": ["10.0.0.0/8", "::1"],
            "times": [
                {"days": ["mon"], "begins": "08:00", "ends": "17:00", "timeZone": "Europe/Berlin"}
            ],
            "when": "request.path_variables.id == principal.subject",
        },
        {"name": "calls", "effect": "deny", "callers": "anyone", "grpc": ["orders.v1.Orders/*"]},
        {
            "name": "cluster",
            "paths": ["/ns/{ns}"],
            "kubernetesAccess": {
                "verb": "get",
                "group": "apps",
                "resource": "deployments",
                "namespace": "{ns}",
                "trustDomains": ["cluster.local"],
                "userPrefix": "meshwarden:",
                "onUnavailable": "deny",
            },
        },
        {"name": "path", "kubernetesAccess": {"verb": "get", "nonResourcePath": "/healthz"}},
    ],
}
LIMITS = {
    "domain": "shop",
    "descriptors": [
        {
            "key": "rule",
            "value": "orders",
            "rate_limit": {"unit": "MINUTE", "requests_per_unit": 5, "name": "a", "atomic": True},
            "metadata": {"plan": {"name": "gold", "of": [1, "two", None]}},
            "descriptors": [
                {
                    "key": "principal",
                    "value": "jwt:*",
                    "share_threshold": True,
                    "rate_limit": {
                        "unit": "day",
                        "requests_per_unit": 4294967295,
                        "replaces": [{"name": "a"}],
                    },
                },
                {
                    "key": "tenant",
                    "shadow_mode": True,
                    "quota_mode": False,
                    "rate_limit": {"unlimited": True},
                },
            ],
        }
    ],
}
FULL: dict[str, dict[str, Any]] = {
    "issuer": resource("TokenIssuer", ISSUER, "company"),
    "opaque": resource("TokenIssuer", OPAQUE, "opaque"),
    "reader": resource("AccessRole", {"permissions": ["orders:read"]}, "reader"),
    "role": resource("AccessRole", ROLE, "writer"),
    "binding": resource("AccessRoleBinding", BINDING),
    "policy": resource("AccessPolicy", POLICY),
    "limits": resource("RateLimit", LIMITS),
}
"""Together a configuration that compiles, with the files of `judged`."""


def judged(resources: Iterable[dict[str, Any]]) -> list[str]:
    """What our services find wrong with resources in a folder, as text; none: they take them."""
    files = {f"{n:02}.yaml": json.dumps(found).encode() for n, found in enumerate(resources)}
    problems: list[Problem] = []
    with_keys = {**files, "secret": b"s", "ca.pem": _AUTHORITY}
    for judge in (
        lambda: compile_policies(Bundle(with_keys), Options(assumes_development_keys=True)),
        lambda: compile_limits(Bundle(files)),
    ):
        try:
            judge()
        except InvalidInput as error:
            problems += error.problems
    return [problem.what for problem in problems]


def nested_limits(levels: int) -> dict[str, Any]:
    """Limits with descriptors that stand `levels` deep in each other."""
    descriptor: dict[str, Any] = {"key": "k", "rate_limit": {"unit": "day"}}
    for _ in range(levels - 1):
        descriptor = {"key": "k", "descriptors": [descriptor]}
    return resource("RateLimit", {"domain": "deep", "descriptors": [descriptor]}, "deep")


def written_resources() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each resource of the examples and of the pages that users copy from, with where it stands;
    plain limits as the RateLimit that they are in a cluster.
    """
    texts = {
        path: path.read_text()
        for path in sorted((CHECKOUT / "examples").rglob("*.yaml"))
        if not path.name.endswith(".test.yaml")
    }
    for page in [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs" / "how-to").glob("*.md"))]:
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
        texts[page] = "\n---\n".join(blocks)
    for path, text in texts.items():
        for document in yaml.safe_load_all(text):
            if isinstance(document, dict) and document.get("apiVersion") == API_VERSION:
                yield str(path.relative_to(CHECKOUT)), document
            elif isinstance(document, dict) and "domain" in document:
                yield str(path.relative_to(CHECKOUT)), resource("RateLimit", document, "plain")
