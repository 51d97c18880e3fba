"""Fetches issuers' key sets in the background, from URLs given or discovered; the last good stay.

Each issuer is fetched at start, then every `refreshSeconds`; a failure is tried again sooner, with
growing pauses. A token with an unknown kid makes one fetch at most every `PAUSE_SECONDS` an issuer,
which requests share. A fetch is bounded in time and size and follows no redirect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from ext_authz.adapters.http_client import HttpClient
from ext_authz.core.issuer_kind import KeySource
from ext_authz.core.jwks import KeySet, parse_jwks
from ext_authz.core.keys import Keys
from ext_authz.core.policies import Issuer, PolicySet
from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import InvalidInput, Unavailable

PAUSE_SECONDS = 5.0
RETRY_SECONDS = 1.0


@dataclass
class _Followed:
    """One issuer with a URL: its last good keys and how its fetches went."""

    issuer: Issuer
    source: KeySource
    keys: KeySet | None = None
    fetched_at: float = float("-inf")
    failures: int = 0
    last_error: str = ""
    fetch: asyncio.Task[bool] | None = None

    @property
    def place(self) -> tuple[str | None, str | None, str]:
        return _place(self.issuer, self.source)


def _place(issuer: Issuer, source: KeySource) -> tuple[str | None, str | None, str]:
    """Where keys are fetched from: the same place gives the same keys."""
    return source.url, source.discovery, issuer.spec.issuer


class KeyFetcher:
    """Keeps `keys.issuer_keys` true for the issuers of the current policies."""

    def __init__(
        self,
        keys: Keys,
        http: HttpClient,
        *,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._http = http
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        self._configured: dict[str, KeySet] = {}
        self._were_all_asked = False
        self._woken = asyncio.Event()
        self._fetches = metrics.tally("jwks_fetches", "Fetches of key sets.", ["issuer", "outcome"])

    def follow(self, policies: PolicySet) -> None:
        """Take the issuers of a new configuration; keys already fetched from the same URL are
        kept.
        """
        before, self._followed = self._followed, {}
        self._configured = policies.keys_configured()
        for issuer in policies.issuers.values():
            source = issuer.spec.jwks
            if source is None or not source.is_fetched:
                continue
            known = before.get(issuer.name)
            if known is not None and known.place == _place(issuer, source):
                known.issuer = issuer
                known.source = source
                self._followed[issuer.name] = known
            else:
                self._followed[issuer.name] = _Followed(issuer, source)
        self._publish()
        self._woken.set()

    def unready_reason(self) -> str:
        """Which issuers' first fetch has not ended; empty when each has been tried.

        Once none is missing, none is again: an issuer that comes later, or whose server is down,
        must not take a replica out of service.
        """
        if self._were_all_asked:
            return ""
        names = [n for n, f in self._followed.items() if f.keys is None and not f.failures]
        self._were_all_asked = bool(self._followed) and not names
        return f"no keys yet of {', '.join(sorted(names))}" if names else ""

    def status(self) -> dict[str, object]:
        return {
            name: {
                "keys": len(followed.keys.keys) if followed.keys else 0,
                "last_error": followed.last_error or None,
            }
            for name, followed in self._followed.items()
        }

    async def refresh(self, name: str) -> bool:
        """Fetch the keys of an issuer because a token names an unknown one; whether they
        changed.
        """
        followed = self._followed.get(name)
        if followed is None:
            return False
        if followed.fetch is None:
            if self._clock() - followed.fetched_at < PAUSE_SECONDS:
                return False
            self._begin(followed)
        fetch = followed.fetch
        return False if fetch is None else await asyncio.shield(fetch)

    async def ask(self, name: str) -> None:
        """Fetch an issuer's keys, if that is not too soon. Raises `Unavailable` where its server
        does not give any.
        """
        await self.refresh(name)
        followed = self._followed.get(name)
        if followed is not None and followed.failures:
            raise Unavailable(followed.last_error)

    async def run(self) -> None:
        """Fetch what is due, for ever."""
        while True:
            self._woken.clear()
            now = self._clock()
            for followed in self._followed.values():
                if followed.fetch is None and now >= self._due(followed):
                    self._begin(followed)
            pause = min((self._due(f) - now for f in self._followed.values()), default=60.0)
            try:
                await asyncio.wait_for(self._woken.wait(), max(0.05, min(pause, 60.0)))
            except TimeoutError:
                continue

    def _due(self, followed: _Followed) -> float:
        interval = followed.source.refreshSeconds
        if followed.failures:
            interval = min(interval, RETRY_SECONDS * 2 ** min(followed.failures - 1, 6))
        return followed.fetched_at + interval

    def _begin(self, followed: _Followed) -> None:
        followed.fetched_at = self._clock()
        followed.fetch = asyncio.create_task(self._fetch(followed))

    async def _fetch(self, followed: _Followed) -> bool:
        name = followed.issuer.name
        try:
            async with asyncio.timeout(followed.source.timeoutSeconds):
                content = await self._content(followed)
            fetched = parse_jwks(f"JWKS of {name}", content)
        except (Unavailable, InvalidInput, ValueError, TimeoutError) as error:
            followed.failures += 1
            followed.last_error = str(error) or "no answer in time"
            self._fetches.add(name, "failed")
            logger().warning("jwks_fetch_failed", issuer=name, error=followed.last_error)
            return False
        finally:
            followed.fetch = None
            self._woken.set()
        followed.failures, followed.last_error = 0, ""
        self._fetches.add(name, "fetched")
        if followed.keys is not None and followed.keys.text == fetched.text:
            return False
        followed.keys = fetched
        self._publish()
        logger().info("jwks_changed", issuer=name, keys=len(fetched.keys))
        return True

    async def _content(self, followed: _Followed) -> bytes:
        source = followed.source
        url = source.url or ""
        if source.discovery is not None:
            name = followed.issuer.spec.issuer
            url = await self._http.discover(name, source.discovery, "jwks_uri")
        return await self._http.get(url)

    def _publish(self) -> None:
        fetched = {name: f.keys for name, f in self._followed.items() if f.keys is not None}
        self._keys.issuer_keys = {**self._configured, **fetched}
