"""A configuration with every kind of issuer and caller, for tests of policy tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ISSUERS = {
    "main": {"audiences": ["orders"], "jwks": {"development": True}},
    "rsa": {
        "audiences": ["orders"],
        "algorithms": ["RS256"],
        "subjectPrefix": "rsa/",
        "tokenType": "at+jwt",
        "jwks": {"url": "https://rsa.example.com/jwks"},
        "claims": {"subject": "email", "roles": "realm.roles", "groups": "https://x.example/g"},
    },
    "edwards": {
        "audiences": ["orders"],
        "algorithms": ["EdDSA"],
        "subjectPrefix": "ed/",
        "jwks": {"url": "https://ed.example.com/jwks"},
    },
    "opaque": {
        "audiences": ["orders"],
        "subjectPrefix": "opaque/",
        "introspection": {
            "url": "https://opaque.example.com/ask",
            "clientId": "us",
            "clientSecretFile": "secret",
        },
    },
}
POLICY = {
    "hosts": ["api.example.com"],
    "identify": [
        {"jwt": {"issuers": ["main"], "sources": [{"cookie": "session"}, {"query": "token"}]}},
        {"jwt": {"issuers": ["rsa", "edwards"], "sources": [{"header": "x-token"}]}},
        {"introspection": {"issuer": "opaque"}},
        {"apiKey": {}},
        {"spiffe": {"trustDomains": ["cluster.local"]}, "onInvalid": "skip"},
        {"clientCertificate": {}},
    ],
    "identityHeaders": {
        "x-subject": "subject", "x-roles": "roles", "x-scopes": "scopes", "x-groups": "groups"
    },
    "identityToken": {"audience": "orders", "claims": {"plan": "principal.claims.plan"}},
    "upstream": {
        "headers": [{"name": "x-list", "value": "ours", "action": "append"}],
        "query": [{"name": "tenant", "value": "t"}],
        "removeQuery": ["debug"],
    },
    "downstream": {"headers": [{"name": "x-served", "value": "yes"}]},
    "metadata": [{"name": "path", "expression": "request.path"}],
    "denied": {"forbidden": {"status": 404, "headers": {"x-why": "${reason}"}}},
    "rules": [
        {"name": "open", "callers": "anyone", "paths": ["/open"]},
        {"name": "own", "paths": ["/own"]},
        {"name": "posted", "callers": "anyone", "paths": ["/posted"], "when":
            "request.json.item == 'tea'"},
        {"name": "at-night", "callers": "anyone", "paths": ["/night"],
         "times": [{"begins": "20:00", "ends": "06:00"}]},
        {"name": "not-here", "effect": "deny", "paths": ["/closed"]},
    ],
}  # fmt: skip


def resource(kind: str, name: str, spec: Any, namespace: str = "") -> str:
    metadata = {"name": name, "namespace": namespace}
    version = "meshwarden.io/v1alpha1"
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})


def write_policies(folder: Path) -> None:
    issuers = (
        resource("TokenIssuer", name, {"issuer": f"https://{name}.example.com", **spec})
        for name, spec in ISSUERS.items()
    )
    tenant = {
        "hosts": ["tenant.example.com"],
        "identify": [{"apiKey": {"sources": [{"header": "x-key", "scheme": "Key"}]}}],
        "rules": [{"name": "all"}],
    }
    written = [*issuers, resource("AccessPolicy", "api", POLICY)]
    written.append(resource("AccessPolicy", "api", tenant, "tenant"))
    (folder / "config.yaml").write_text("\n---\n".join(written))
    (folder / "secret").write_text("s3cret")
