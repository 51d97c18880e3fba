"""Puts the parts of ext_authz together; the only place that builds its adapters."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ext_authz.adapters import envoy_check
from ext_authz.adapters.envoy_check import Check
from ext_authz.adapters.jwks_fetch import KeyFetcher
from ext_authz.core import compile as compiling
from ext_authz.core.compile import Configured, Options, compile_policies, referenced_files
from ext_authz.core.keys import Keys
from ext_authz.core.token_memory import TokenMemory
from ext_authz.settings import Settings
from meshwarden.adapters.configuration import Configuration
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.grpc_server import Method
from meshwarden.adapters.service import Service
from meshwarden.core.faults import Misconfigured
from meshwarden.core.snapshot import SnapshotHolder

__all__ = ["Settings", "build", "source"]


def source(settings: Settings) -> FolderSource:
    """The files that configure ext_authz. Raises `Misconfigured` when there is no folder."""
    if settings.configuration.folder is None:
        raise Misconfigured("no configuration: set --configuration.folder to a folder of policies")
    if (settings.keys.file is None) != (settings.keys.pepper_file is None):
        raise Misconfigured("keys.file and keys.pepper_file go together: set both or none")
    named: dict[str, Path | None] = {
        compiling.API_KEYS: settings.keys.file,
        compiling.PEPPER: settings.keys.pepper_file,
        compiling.DEVELOPMENT_JWKS: settings.keys.development_jwks,
    }
    extra = {name: path for name, path in named.items() if path is not None}
    return FolderSource(settings.configuration.folder, extra=extra, references=referenced_files)


def build(service: Service, settings: Settings) -> None:
    """Add the parts of ext_authz to `service`."""
    keys = Keys(remembered=TokenMemory(settings.remembered_tokens_at_most))
    fetcher = KeyFetcher(keys, metrics=service.metrics)
    check = Check(
        keys,
        fetcher.refresh,
        metrics=service.metrics,
        key_wait_seconds=settings.key_wait_seconds,
    )
    options = Options(headers_at_most=settings.headers_at_most)

    def apply(configured: Configured) -> None:
        keys.api_keys = configured.api_keys
        fetcher.follow(configured.policies)
        check.policies = configured.policies

    configuration = Configuration(
        SnapshotHolder(partial(compile_policies, options=options)),
        source(settings),
        apply=apply,
        counts=Configured.counts,
        metrics=service.metrics,
        resync_seconds=settings.configuration.resync_seconds,
    )
    configuration.load()
    service.metrics.gauge(
        "ext_authz_remembered_tokens", "Verified tokens in memory.", lambda: len(keys.remembered)
    )
    service.methods.append(
        Method(
            envoy_check.CHECK,
            check.handle,
            overloaded=check.overloaded,
            trace_headers=envoy_check.trace_headers,
        )
    )
    service.health_names.append("envoy.service.auth.v3.Authorization")
    service.readiness.checks["configuration"] = configuration.unready_reason
    service.readiness.checks["jwks"] = fetcher.unready_reason
    service.readiness.details["configuration"] = configuration.status
    service.readiness.details["jwks"] = fetcher.status
    service.tasks += [configuration.follow, fetcher.run]
    service.closers.append(fetcher.close)
