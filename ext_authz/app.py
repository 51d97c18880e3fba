"""Puts the parts of ext_authz together; the only place that builds its adapters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ext_authz.adapters import envoy_check
from ext_authz.adapters.envoy_check import Ask, Check
from ext_authz.adapters.http_client import HttpClient
from ext_authz.adapters.identity_routes import identity_routes
from ext_authz.adapters.introspector import Introspector
from ext_authz.adapters.jwks_fetch import KeyFetcher
from ext_authz.adapters.redis_layout import Layout
from ext_authz.core import compile_keys, object_rules
from ext_authz.core.compile import Configured, Options, compile_policies, referenced_files
from ext_authz.core.failure_budget import FailureBudget
from ext_authz.core.key_memory import LONG_AGO, RememberedApiKeys
from ext_authz.core.keys import Keys
from ext_authz.core.lookups import (
    AccessReviewLookup,
    ApiKeyLookup,
    IntrospectionLookup,
    IssuerKeysLookup,
    Lookup,
    TokenReviewLookup,
)
from ext_authz.core.review_memory import ReviewBounds, ReviewMemory
from ext_authz.core.token_memory import TokenMemory
from ext_authz.settings import Settings
from meshwarden.adapters.configuration import Configuration, Source
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.grpc_calls import Method
from meshwarden.adapters.service import Service
from meshwarden.core.faults import Misconfigured, Problem
from meshwarden.core.snapshot import Bundle, SnapshotHolder

if TYPE_CHECKING:
    from ext_authz.adapters.kubernetes_reviewer import KubernetesReviewer
    from ext_authz.adapters.redis_keys import RedisKeys
    from ext_authz.adapters.redis_records import RedisRecords
    from meshwarden.adapters.kubernetes_source import KubernetesSource
    from meshwarden.core.partial_acceptance import PartialAcceptance

__all__ = ["Settings", "build", "key_records", "source"]


def source(settings: Settings) -> FolderSource:
    """The files that configure ext_authz. Raises `Misconfigured` with all that does not fit."""
    _require_what_fits(settings)
    keys = settings.keys
    named: dict[str, Path | None] = {
        compile_keys.API_KEYS: keys.file,
        compile_keys.PEPPER: keys.pepper_file,
        compile_keys.DEVELOPMENT_JWKS: keys.development_jwks,
        compile_keys.REVOCATIONS: keys.revocations_file,
        compile_keys.SIGNING_KEYS: settings.identity_tokens.keys_file,
    }
    extra = {name: path for name, path in named.items() if path is not None}
    return FolderSource(settings.configuration.folder, extra=extra, references=referenced_files)


def _require_what_fits(settings: Settings) -> None:
    """Raises `Misconfigured` with all that does not fit together."""
    keys, tokens = settings.keys, settings.identity_tokens
    is_watched = settings.configuration.kubernetes.enabled
    problems = []
    if not is_watched and settings.configuration.folder is None:
        problems.append(
            "no configuration: set --configuration.folder to a folder of policies, or "
            "--configuration.kubernetes.enabled"
        )
    if is_watched and settings.configuration.folder is not None:
        problems.append("configuration.kubernetes.enabled is in place of configuration.folder")
    pairs = (
        ("keys.file", keys.file, keys.file_secret),
        ("keys.pepper-file", keys.pepper_file, keys.pepper_secret),
        ("keys.revocations-file", keys.revocations_file, keys.revocations_secret),
        ("identity_tokens.keys-file", tokens.keys_file, tokens.keys_secret),
        ("keys.development-jwks", keys.development_jwks, ""),
    )
    for name, path, secret in pairs:
        if is_watched and path is not None:
            problems.append(
                f"{name} is for a folder's configuration; where it comes from Kubernetes a Secret "
                "is named"
            )
        if secret and not is_watched:
            which = name.replace("-file", "-secret") if "-file" in name else f"{name}-secret"
            problems.append(f"{which} needs configuration.kubernetes.enabled")
    has_file = bool(keys.file or keys.file_secret)
    has_pepper = bool(keys.pepper_file or keys.pepper_secret)
    has_revocations = bool(keys.revocations_file or keys.revocations_secret)
    if keys.redis_url is None and has_file != has_pepper:
        problems.append("keys.file and keys.pepper_file go together: set both or none")
    if keys.redis_url is not None and (has_file or has_revocations):
        problems.append("keys.redis-url is in place of keys.file and keys.revocations-file")
    if keys.redis_url is not None and not has_pepper:
        problems.append("keys.redis-url needs keys.pepper-file: without it no key is found")
    if bool(tokens.keys_file or tokens.keys_secret) != bool(tokens.issuer):
        problems.append("identity_tokens.keys-file and .issuer go together: set both or none")
    if problems:
        raise Misconfigured(Problem("", 0, problem) for problem in problems)


def key_records(url: str) -> RedisRecords:
    """The key records and revocations in Redis, to be changed. Raises `Misconfigured`."""
    from ext_authz.adapters.redis_records import RedisRecords

    return RedisRecords(url)


def build(service: Service, settings: Settings) -> None:
    """Add the parts of ext_authz to `service`."""
    tokens_at_most = settings.remembered_tokens_at_most
    keys = Keys(
        remembered=TokenMemory(tokens_at_most),
        active=TokenMemory(tokens_at_most),
        inactive=TokenMemory(tokens_at_most),
        budget=FailureBudget(
            at_once=settings.failures_at_once, per_second=settings.failures_per_second
        ),
    )
    http = HttpClient()
    fetcher = KeyFetcher(keys, http, metrics=service.metrics)
    introspector = Introspector(http, metrics=service.metrics)
    store = None if settings.keys.redis_url is None else _key_store(service, settings, keys)
    reviewer = _reviewer(service, settings, keys)
    check = Check(
        keys,
        _asking(fetcher, introspector, store, reviewer),
        metrics=service.metrics,
        lookup_wait_seconds=settings.lookup_wait_seconds,
        answers_faults=settings.fault_answer == "error_response",
    )

    def apply(configured: Configured) -> None:
        if store is None:
            keys.api_keys, keys.revocations = configured.api_keys, configured.revocations
        else:
            store.memory.use_pepper(configured.pepper)
        keys.signing = configured.signing
        fetcher.follow(configured.policies)
        introspector.follow(configured.policies)
        check.policies = configured.policies

    configuration = _configuration(service, settings, apply)
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
    service.routes += identity_routes(keys)
    service.health_names.append("envoy.service.auth.v3.Authorization")
    service.readiness.checks["configuration"] = configuration.unready_reason
    service.readiness.checks["jwks"] = fetcher.unready_reason
    service.readiness.details["configuration"] = configuration.status
    service.readiness.details["jwks"] = fetcher.status
    service.readiness.details["introspection"] = introspector.status
    service.tasks += [configuration.follow, fetcher.run]
    service.closers += [introspector.close, http.close]


def _asking(
    fetcher: KeyFetcher,
    introspector: Introspector,
    store: RedisKeys | None,
    reviewer: KubernetesReviewer | None,
) -> Ask:
    """Who is asked for what a verdict lacks."""

    async def ask(lookup: Lookup) -> object:
        if isinstance(lookup, IssuerKeysLookup):
            await fetcher.ask(lookup.issuer)
            return None
        if isinstance(lookup, ApiKeyLookup) and store is not None:
            return await store.ask(lookup.digest)
        if isinstance(lookup, IntrospectionLookup):
            return await introspector.ask(lookup.issuer, lookup.token)
        if isinstance(lookup, (TokenReviewLookup, AccessReviewLookup)) and reviewer is not None:
            return await reviewer.ask(lookup)
        raise AssertionError(f"nobody to ask: {type(lookup).__name__}")

    return ask


def _configuration(
    service: Service, settings: Settings, apply: Callable[[Configured], None]
) -> Configuration[Configured]:
    options = Options(
        headers_at_most=settings.headers_at_most,
        identity_issuer=settings.identity_tokens.issuer,
        can_review=settings.kubernetes_reviews.enabled,
    )
    compiled: Callable[[Bundle], Configured] = partial(compile_policies, options=options)
    chosen = settings.configuration.kubernetes
    followed: Source
    if chosen.enabled:
        _require_what_fits(settings)
        acceptance, followed = _watched(service, settings, compiled)
        compiled = acceptance.compiled
    else:
        followed = source(settings)
    return Configuration(
        SnapshotHolder(compiled),
        followed,
        apply=apply,
        counts=Configured.counts,
        metrics=service.metrics,
        resync_seconds=settings.configuration.resync_seconds,
    )


def _reviewer(service: Service, settings: Settings, keys: Keys) -> KubernetesReviewer | None:
    """Who asks Kubernetes, where policies may."""
    chosen = settings.kubernetes_reviews
    if not chosen.enabled:
        return None
    from ext_authz.adapters.kubernetes_reviewer import KubernetesReviewer
    from meshwarden.adapters.kubernetes_client import KubernetesClient, connection

    keys.reviews = ReviewMemory(
        ReviewBounds(
            token_seconds=chosen.token_seconds,
            refused_token_seconds=chosen.refused_token_seconds,
            allowed_seconds=chosen.allowed_seconds,
            denied_seconds=chosen.denied_seconds,
            entries_at_most=chosen.remembered_at_most,
        )
    )
    reviewer = KubernetesReviewer(
        KubernetesClient(
            connection(chosen.kubeconfig), time_limit_seconds=chosen.time_limit_seconds
        ),
        metrics=service.metrics,
    )
    service.metrics.gauge(
        "ext_authz_remembered_reviews",
        "Answers of Kubernetes in memory.",
        lambda: len(keys.reviews),
    )
    service.readiness.details["kubernetes_reviews"] = reviewer.status
    service.closers.append(reviewer.close)
    return reviewer


def _watched(
    service: Service, settings: Settings, compiled: Callable[[Bundle], Configured]
) -> tuple[PartialAcceptance[Configured], KubernetesSource]:
    """The objects of a cluster, and the Secrets that the settings name."""
    from meshwarden.adapters.kubernetes_configuration import kubernetes_configuration

    keys = settings.keys
    named = {
        compile_keys.API_KEYS: keys.file_secret,
        compile_keys.PEPPER: keys.pepper_secret,
        compile_keys.REVOCATIONS: keys.revocations_secret,
        compile_keys.SIGNING_KEYS: settings.identity_tokens.keys_secret,
    }
    return kubernetes_configuration(
        service,
        settings.configuration.kubernetes,
        compiled,
        object_rules.RULES,
        named={name: f"secret/{text}" for name, text in named.items() if text},
        aliases=compile_keys.CALLED,
    )


def _key_store(service: Service, settings: Settings, keys: Keys) -> RedisKeys:
    """API keys and revocations from Redis."""
    from ext_authz.adapters.redis_keys import RedisKeys

    chosen = settings.keys
    serves_stale = chosen.on_store_failure == "serve_stale"
    memory = RememberedApiKeys(entries_at_most=chosen.remembered_at_most, serves_stale=serves_stale)
    keys.api_keys = memory
    if not serves_stale:
        keys.revocations_current_until = LONG_AGO
    store = RedisKeys(
        str(chosen.redis_url),
        auth=chosen.redis_auth.get_secret_value(),
        layout=Layout(chosen.redis_prefix),
        keys=keys,
        memory=memory,
        serves_stale=serves_stale,
        time_limit_seconds=chosen.redis_time_limit_seconds,
        metrics=service.metrics,
    )
    service.readiness.checks["key_store"] = store.unready_reason
    service.readiness.details["key_store"] = store.status
    service.tasks.append(store.follow)
    service.closers.append(store.close)
    return store
