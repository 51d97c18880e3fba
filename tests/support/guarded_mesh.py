"""A real Envoy that asks a real ext_authz about each request to a real upstream.

The way of a request as users have it, the rate limit left out; what Envoy alone does is tested on
`envoy_mesh.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from meshwarden.adapters.envoy import EnvoyOptions, bootstrap
from tests.support import envoy_services
from tests.support.authz_service import Service, serving
from tests.support.envoy import RunningEnvoy, running_envoy

Bootstrap = dict[str, Any]


@dataclass
class GuardedMesh:
    """One Envoy, its authorizer and the upstream behind both."""

    envoy: RunningEnvoy
    authorizer: Service
    client: httpx2.Client
    upstream: envoy_services.Upstream

    def get(self, path: str, headers: Any = None, **options: Any) -> httpx2.Response:
        return self.client.get(path, headers=headers, **options)

    def reason(self, path: str, headers: Any = None, **options: Any) -> str:
        """Why a request is denied, or `allowed`."""
        answer = self.get(path, headers, **options)
        if answer.status_code == 200:
            return "allowed"
        return str(json.loads(answer.text)["reason"])

    def seen(self, path: str, headers: Any = None, **options: Any) -> dict[str, list[str]]:
        """What the upstream received of an allowed request: values by name in lower case, the
        request's path and query under `:path`.
        """
        answer = self.get(path, headers, **options)
        assert answer.status_code == 200, answer.text
        found: dict[str, list[str]] = {}
        for line in answer.text.splitlines():
            name, _, value = line.partition(": ")
            found.setdefault(name.lower(), []).append(value)
        return found


@contextmanager
def guarded_mesh(
    folder: Path,
    *resources: Any,
    options: tuple[str, ...] = (),
    files: Mapping[str, str] | None = None,
    keeps_keys: bool = True,
    envoy: Mapping[str, Any] | None = None,
    changed: Callable[[Bootstrap], Bootstrap] = lambda document: document,
) -> Iterator[GuardedMesh]:
    """The mesh over `resources`; `options` are flags of ext_authz, `files` stand beside the
    policy, `keeps_keys`: API keys are in a file, `envoy` are fields of EnvoyOptions, `changed` may
    change the bootstrap.
    """
    with (
        envoy_services.upstream() as upstream,
        serving(
            folder,
            *resources,
            options=options,
            files=files,
            keeps_keys=keeps_keys,
            is_measured=False,
        ) as authorizer,
    ):
        chosen = EnvoyOptions(
            listen_port=0,
            admin_port=0,
            upstream_port=upstream.port,
            ext_authz_port=authorizer.grpc_port,
            ratelimit_enabled=False,
            **(envoy or {}),
        )
        with (
            running_envoy(changed(bootstrap(chosen))) as running,
            httpx2.Client(base_url=running.gateway, timeout=10) as client,
        ):
            yield GuardedMesh(running, authorizer, client, upstream)
