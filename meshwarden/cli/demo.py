"""The quickstart's demo: its credentials, and the requests to try with what each is answered."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from meshwarden.cli.keys import KeyStore
from meshwarden.cli.state_folder import (
    DEVELOPMENT_AUDIENCE,
    DEVELOPMENT_ISSUER,
    StateFolder,
    development_claims,
    write_private,
)

TOKEN_SECONDS = 12 * 3600
API_KEY_HEADER = "x-api-key"
_ORDER = """-H 'content-type: application/json' -d '{"item": "tea", "quantity": 2}'"""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One request: `caller` is reader, admin, service, or empty; `options` are curl's, before the
    URL.
    """

    name: str
    expect: int
    path: str
    caller: str = ""
    options: str = ""


REQUESTS = (
    DemoRequest("anonymous ping", 200, "/public/ping"),
    DemoRequest("no credential", 401, "/whoami"),
    DemoRequest("bad token", 401, "/whoami", options="-H 'authorization: Bearer not.a.token'"),
    DemoRequest("expired token", 401, "/whoami", "expired"),
    DemoRequest("two credentials", 401, "/whoami", "reader", options="-H 'x-api-key: second'"),
    DemoRequest("who am I", 200, "/whoami", "reader"),
    DemoRequest("reader reads", 200, "/orders", "reader"),
    DemoRequest("reader writes", 403, "/orders", "reader", f"-X POST {_ORDER}"),
    DemoRequest("admin writes", 201, "/orders", "admin", f"-X POST {_ORDER}"),
    DemoRequest("API key writes", 201, "/orders", "service", f"-X POST {_ORDER}"),
    DemoRequest("reader in /admin/", 403, "/admin/reports", "reader"),
    DemoRequest("admin in /admin/", 200, "/admin/reports", "admin"),
    DemoRequest("unknown path", 403, "/nowhere", "admin"),
    DemoRequest("over the limit", 429, "/limited?try=[1-12]", "reader"),
)
"""Twelve at five a minute: more than two windows let through, so that the end of a minute changes
nothing.
"""


class Demo:
    """The demo of one run of `up`."""

    def __init__(self, folder: StateFolder, *, gateway: str, envoy_admin: str) -> None:
        self._folder = folder
        self._gateway = gateway
        self._envoy_admin = envoy_admin
        self.credentials: dict[str, str] = {}

    def remove(self) -> None:
        """Take away what an earlier run wrote."""
        self._folder.demo.unlink(missing_ok=True)
        self._folder.demo_environment.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the credentials; the services must know them before they are asked."""
        key, _ = KeyStore(self._folder).create("service", key_id="demo-service")
        self.credentials = {
            "reader": self._token("rita", "reader", TOKEN_SECONDS),
            "admin": self._token("adam", "admin", TOKEN_SECONDS),
            "service": key,
        }

    def write(self, identity_headers: list[str]) -> None:
        """Write `demo.json`, the sign that everything in it answers as stated."""
        environment = "".join(f"{n.upper()}={c}\n" for n, c in self.credentials.items())
        write_private(self._folder.demo_environment, environment)
        write_private(
            self._folder.demo, json.dumps(self._described(identity_headers), indent=2) + "\n"
        )

    def _token(self, subject: str, role: str, seconds: float) -> str:
        return self._folder.sign(development_claims(subject, [role], expires_in_seconds=seconds))

    def _described(self, identity_headers: list[str]) -> dict[str, Any]:
        expired = self._token("rita", "reader", -60)
        known = {**self.credentials, "expired": expired}
        return {
            "gateway": self._gateway,
            "envoy_admin": self._envoy_admin,
            "issuer": DEVELOPMENT_ISSUER,
            "audience": DEVELOPMENT_AUDIENCE,
            "jwks_file": os.path.relpath(self._folder.jwks),
            "api_key_header": API_KEY_HEADER,
            "identity_headers": identity_headers,
            "credentials": self.credentials,
            "requests": [
                {"name": r.name, "curl": self._curl(r, known), "expect": r.expect} for r in REQUESTS
            ],
        }

    def _curl(self, request: DemoRequest, credentials: dict[str, str]) -> str:
        words = ["curl -sS"]
        if request.caller:
            words.append(_credential_option(request.caller, credentials[request.caller], "'"))
        if request.options:
            words.append(request.options)
        return " ".join([*words, f"'{self._gateway}{request.path}'"])

    def table(self) -> list[tuple[str, str, str]]:
        """Name, expected status and a command to type, with shell variables for the credentials."""
        rows = []
        for request in REQUESTS:
            words = ["curl -i"]
            if request.caller == "expired":
                words.append(
                    '-H "authorization: Bearer '
                    '$(.venv/bin/meshwarden token --subject rita --expires-in -60)"'
                )
            elif request.caller:
                words.append(_credential_option(request.caller, f"${request.caller.upper()}", '"'))
            if request.options:
                words.append(request.options)
            rows.append(
                (
                    request.name,
                    str(request.expect),
                    " ".join([*words, f"'{self._gateway}{request.path}'"]),
                )
            )
        return rows


def _credential_option(caller: str, credential: str, quote: str) -> str:
    if caller == "service":
        return f"-H {quote}{API_KEY_HEADER}: {credential}{quote}"
    return f"-H {quote}authorization: Bearer {credential}{quote}"
