"""CheckRequests and what is answered to them, and an authorizer in memory to ask.

Resources are written as Python values and become one JSON document each, which is YAML, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ext_authz.adapters.envoy_check import CheckRequest, CheckResponse
from ext_authz.core.compile import Configured, Options, compile_policies
from ext_authz.core.engine import decide
from ext_authz.core.keys import Keys
from ext_authz.core.known import NO_ANSWERS
from ext_authz.core.lookups import Answers
from ext_authz.core.model import Request, Verdict
from meshwarden.core.snapshot import Bundle
from tests.support.tokens import AUDIENCE, ISSUER, NOW

HOST = "api.example.com"
Headers = Mapping[str, str] | Sequence[tuple[str, str]]


# --- messages


def check_request(
    path: str | None = "/",
    *,
    method: str = "GET",
    host: str = HOST,
    headers: Headers = (),
    is_raw: bool = False,
) -> bytes:
    """A CheckRequest as Envoy writes it; `is_raw`: with `encode_raw_headers`.

    Without `is_raw`, repeated headers are merged as Envoy merges them. No `path`: no HTTP part.
    """
    message = CheckRequest()
    message.attributes.source.address.socket_address.address = "10.1.2.3"
    if path is None:
        return bytes(message.SerializeToString())
    http = message.attributes.request.http
    http.method, http.path, http.host = method, path, host
    lines = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    pseudo = [(":method", method), (":path", path), (":authority", host)]
    for name, value in pseudo + lines:
        if is_raw:
            http.header_map.headers.add(key=name, raw_value=value.encode())
        elif name in http.headers:
            separator = "; " if name.lower() == "cookie" else ","
            http.headers[name] += separator + value
        else:
            http.headers[name] = value
    return bytes(message.SerializeToString())


def response_of(answer: bytes) -> Any:
    """The CheckResponse in `answer`."""
    return CheckResponse.FromString(answer)


def problem_of(answer: bytes) -> dict[str, Any]:
    """The problem document of a denial. Fails for anything but a well-formed denial."""
    response = response_of(answer)
    assert response.WhichOneof("http_response") == "denied_response"
    assert response.status.code != 0
    problem: dict[str, Any] = json.loads(response.denied_response.body)
    assert problem["status"] == response.denied_response.status.code
    return problem


# --- resources


def resource(kind: str, name: str, spec: Any = None) -> dict[str, Any]:
    document = {"apiVersion": "meshwarden.io/v1alpha1", "kind": kind, "metadata": {"name": name}}
    return document if spec is None else {**document, "spec": spec}


def token_issuer(keys: Any = None, *, name: str = "main", **spec: Any) -> dict[str, Any]:
    """A TokenIssuer whose keys are `keys` (a JWKS), or come from the `jwks` of `spec`."""
    common = {"issuer": ISSUER, "audiences": [AUDIENCE], "leewaySeconds": 0}
    source = {} if keys is None else {"jwks": {"inline": keys}}
    return resource("TokenIssuer", name, {**common, **source, **spec})


def access_policy(*rules: Any, name: str = "orders", **spec: Any) -> dict[str, Any]:
    """An AccessPolicy for every host, tokens and API keys, unless `spec` says else."""
    common = {"hosts": ["*"], "identify": [{"jwt": {"issuers": ["main"]}}, {"apiKey": {}}]}
    return resource("AccessPolicy", name, {**common, **spec, "rules": list(rules)})


def access_role(name: str, *permissions: str, inherits: Sequence[str] = ()) -> dict[str, Any]:
    return resource(
        "AccessRole", name, {"permissions": list(permissions), "inherits": list(inherits)}
    )


def role_binding(role: str, *subjects: Mapping[str, str]) -> dict[str, Any]:
    return resource(
        "AccessRoleBinding", f"holders-of-{role}", {"role": role, "subjects": list(subjects)}
    )


def configured(*resources: Any, files: Mapping[str, bytes] | None = None) -> Configured:
    """What `resources` configure. Raises `InvalidInput` as the service does."""
    text = "\n---\n".join(json.dumps(document, indent=1) for document in resources)
    written = {"config.yaml": text.encode()} if resources else {}
    return compile_policies(Bundle({**written, **(files or {})}), Options(can_review=True))


class Authorizer:
    """`decide` over configured resources at a time that the test moves."""

    def __init__(self, *resources: Any, files: Mapping[str, bytes] | None = None) -> None:
        self.keys = Keys()
        self.now = NOW
        self.configure(*resources, files=files)

    def configure(self, *resources: Any, files: Mapping[str, bytes] | None = None) -> None:
        """Take new resources, as the service does when its configuration changes."""
        made = configured(*resources, files=files)
        self.policies = made.policies
        self.keys.api_keys = made.api_keys
        self.keys.issuer_keys = made.policies.keys_configured()

    def decide(self, request: Request, answers: Answers = NO_ANSWERS) -> Verdict:
        return decide(request, self.policies, self.keys, self.now, answers)

    def ask(
        self,
        target: str = "/orders",
        *,
        token: str = "",
        method: str = "GET",
        host: str = HOST,
        headers: Mapping[str, str] | None = None,
        answers: Answers = NO_ANSWERS,
    ) -> Verdict:
        """The verdict over one request, with `token` as its bearer token."""
        sent = dict(headers or {})
        if token:
            sent["authorization"] = f"Bearer {token}"
        request = Request(method, host, target, sent, source_address="10.1.2.3")
        return self.decide(request, answers)
