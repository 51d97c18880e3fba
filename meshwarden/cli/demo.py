"""The demo of one run of `up`: its credentials, `demo.json`, and the requests to type."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ext_authz.core.api_keys import parse_pepper
from ext_authz.core.compile import Configured
from ext_authz.core.keys import Keys
from meshwarden.cli.demo_requests import REQUESTS, DemoRequest, Expectation, credential_header
from meshwarden.cli.key_file import FileRecords, read
from meshwarden.cli.keys import create_key
from meshwarden.cli.state_folder import (
    API_KEY_HEADER,
    DEFAULT_STATE,
    DEVELOPMENT_AUDIENCE,
    DEVELOPMENT_ISSUER,
    StateFolder,
    development_claims,
    write_private,
)
from ratelimit_service.core.model import Rules

TOKEN_SECONDS = 12 * 3600
_COMMAND = ".venv/bin/meshwarden"


class Demo:
    """Made at start; offers only what would be answered as stated."""

    def __init__(self, folder: StateFolder, *, gateway: str, envoy_admin: str) -> None:
        self._folder = folder
        self._gateway = gateway
        self._envoy_admin = envoy_admin
        self._credentials: dict[str, str] = {}
        self._expired = ""
        self.requests: tuple[DemoRequest, ...] = ()

    def prepare(self) -> None:
        """Make the credentials; the services must know them before they are asked."""
        records = FileRecords(self._folder)
        pepper = parse_pepper(str(self._folder.pepper), read(self._folder.pepper))
        key, _ = create_key(records, pepper, "service", key_id="demo-service")
        self._credentials = {
            "reader": self._token("rita", "reader", TOKEN_SECONDS),
            "admin": self._token("adam", "admin", TOKEN_SECONDS),
            "service": key,
        }
        self._expired = self._token("rita", "reader", -60)

    def choose(self, configured: Configured, rules: Rules, domain: str) -> None:
        """Keep the requests that this configuration answers as they state."""
        expectation = Expectation(
            policies=configured.policies,
            keys=Keys(
                issuer_keys=configured.policies.keys_configured(), api_keys=configured.api_keys
            ),
            rules=rules,
            domain=domain,
            host=self._gateway.partition("//")[2],
            credentials=self._known(),
            now=time.time(),
        )
        self.requests = tuple(filter(expectation.holds, REQUESTS))

    def write(self, identity_headers: list[str]) -> None:
        """Write `demo.json`, the sign that everything in it answers as stated."""
        environment = "".join(f"{n.upper()}={c}\n" for n, c in self._credentials.items())
        write_private(self._folder.demo_environment, environment)
        write_private(
            self._folder.demo, json.dumps(self._described(identity_headers), indent=2) + "\n"
        )

    def table(self) -> list[tuple[str, str, str]]:
        """Name, expected status and a command to type, with shell variables for the credentials."""
        variables = {name: f"${name.upper()}" for name in self._credentials}
        state = f" --state {self._folder.path}" if self._folder.path != DEFAULT_STATE else ""
        variables["expired"] = f"$({_COMMAND} token --subject rita --expires-in -60{state})"
        return [
            (request.name, str(request.expect), self._curl("curl -i", request, variables, '"'))
            for request in self.requests
        ]

    def _token(self, subject: str, role: str, seconds: float) -> str:
        return self._folder.sign(development_claims(subject, [role], expires_in_seconds=seconds))

    def _known(self) -> dict[str, str]:
        return {**self._credentials, "expired": self._expired}

    def _described(self, identity_headers: list[str]) -> dict[str, Any]:
        known = self._known()
        return {
            "gateway": self._gateway,
            "envoy_admin": self._envoy_admin,
            "issuer": DEVELOPMENT_ISSUER,
            "audience": DEVELOPMENT_AUDIENCE,
            "jwks_file": os.path.relpath(self._folder.jwks),
            "api_key_header": API_KEY_HEADER,
            "identity_headers": identity_headers,
            "credentials": self._credentials,
            "requests": [
                {"name": r.name, "curl": self._curl("curl -sS", r, known, "'"), "expect": r.expect}
                for r in self.requests
            ],
        }

    def _curl(
        self, program: str, request: DemoRequest, credentials: dict[str, str], quote: str
    ) -> str:
        """One command, to which options can be appended; `quote` stands round credentials."""
        words = [program]
        if request.caller:
            name, value = credential_header(request.caller, credentials[request.caller])
            words.append(f"-H {quote}{name}: {value}{quote}")
        if request.order:
            words.append(f"-X POST -H 'content-type: application/json' -d '{request.order}'")
        words += [f"-H '{name}: {value}'" for name, value in request.headers]
        query = f"?try=[1-{request.times}]" if request.times > 1 else ""
        return " ".join([*words, f"'{self._gateway}{request.path}{query}'"])
