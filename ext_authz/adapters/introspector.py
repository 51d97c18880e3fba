"""Asks issuers whether tokens are active (RFC 7662), each token once at a time.

Many requests with one token share one question; at most `QUESTIONS_AT_MOST` are under way at an
issuer, and who comes then is told that it is unavailable, so that a flood of wrong tokens makes no
flood of questions.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

from ext_authz.adapters.http_client import HttpClient
from ext_authz.core.policies import Issuer, PolicySet
from meshwarden.adapters.logs import logger
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.documents import parse_json
from meshwarden.core.faults import InvalidInput, Unavailable

QUESTIONS_AT_MOST = 100
DISCOVERED_SECONDS = 300.0
Question = tuple[str, bytes]


class Introspector:
    """Asks the issuers of the current policies."""

    def __init__(
        self,
        http: HttpClient,
        *,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._clock = clock
        self._issuers: dict[str, Issuer] = {}
        self._under_way: dict[Question, asyncio.Task[Any]] = {}
        self._discovered: dict[str, tuple[float, str]] = {}
        self._last_error: dict[str, str] = {}
        self._questions = metrics.tally(
            "introspections", "Questions about tokens.", ["issuer", "outcome"]
        )

    def follow(self, policies: PolicySet) -> None:
        """Take the issuers of a new configuration."""
        issuers = policies.issuers.items()
        self._issuers = {n: issuer for n, issuer in issuers if issuer.spec.introspection}
        self._discovered.clear()

    def status(self) -> dict[str, object]:
        """For `/readyz?verbose`: how the last question to each issuer went."""
        return {name: {"last_error": self._last_error.get(name)} for name in self._issuers}

    async def ask(self, name: str, token: str) -> object:
        """What the issuer says of `token`, as it says it. Raises `Unavailable`."""
        question = name, hashlib.sha256(token.encode()).digest()
        task = self._under_way.get(question)
        if task is None:
            if sum(asked == name for asked, _ in self._under_way) >= QUESTIONS_AT_MOST:
                self._questions.add(name, "too_many")
                raise Unavailable(f"more than {QUESTIONS_AT_MOST} questions to {name} are open")
            task = asyncio.create_task(self._ask(self._issuers[name], token))
            self._under_way[question] = task
            task.add_done_callback(lambda _: self._under_way.pop(question, None))
        # Shielded: others wait for the same answer, and it is worth remembering.
        return await asyncio.shield(task)

    async def close(self) -> None:
        for task in list(self._under_way.values()):
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _ask(self, issuer: Issuer, token: str) -> object:
        asked = issuer.spec.introspection
        if asked is None:
            raise Unavailable(f"{issuer.name} is not asked any more")
        try:
            async with asyncio.timeout(asked.timeoutSeconds):
                content = await self._http.post(
                    await self._url(issuer),
                    {"token": token, "token_type_hint": "access_token"},
                    # RFC 6749 section 2.3.1: both are form-encoded first.
                    user=quote_plus(asked.clientId),
                    password=quote_plus(issuer.client_secret),
                )
            answer = parse_json(f"answer of {issuer.name}", content)
            if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
                raise InvalidInput(f"the answer of {issuer.name} does not say 'active'")
        except (Unavailable, InvalidInput, TimeoutError) as error:
            told = str(error) or "no answer in time"
            self._questions.add(issuer.name, "failed")
            if self._last_error.get(issuer.name) != told:
                logger().warning("introspection_failed", issuer=issuer.name, error=told)
            self._last_error[issuer.name] = told
            raise Unavailable(told) from None
        self._last_error.pop(issuer.name, None)
        self._questions.add(issuer.name, "active" if answer["active"] else "inactive")
        return answer

    async def _url(self, issuer: Issuer) -> str:
        asked = issuer.spec.introspection
        if asked is None or asked.discovery is None:
            return str(asked.url if asked else "")
        until, url = self._discovered.get(issuer.name, (0.0, ""))
        if self._clock() >= until:
            url = await self._http.discover(
                issuer.spec.issuer, asked.discovery, "introspection_endpoint"
            )
            self._discovered[issuer.name] = (self._clock() + DISCOVERED_SECONDS, url)
        return url
