"""Which of several processes does what only one should: leader election by a Lease.

    following -- the Lease is free, or nobody renewed it for its duration --> leading
    leading   -- not renewed within `renew_within` seconds, or another holds it --> following
    leading   -- closed --> the Lease is given back, and free at once

As in client-go: the Lease is changed only where its resourceVersion is the one that was read (the
API server answers 409 otherwise), so one of two wins. Whether it expired is judged by the time
since we saw its last change, on our own clock; what is written in it (`renewTime`) is for people.
Wall clocks that differ or jump change nothing.

Guarantee: who leads stops before anybody else can start. Leading ends `renew_within` seconds after
the last successful renewal was *sent*; another waits the longer `duration` since it *saw* that
renewal. The difference is what calls under way have left to end (`Lease` refuses times without it).
Assumed: clocks run equally fast. Known weakness: a process that is suspended within a call goes on
with that call when it wakes up; so what a leader writes has to bear a resourceVersion itself.

Source: coordination.k8s.io/v1 Lease; client-go tools/leaderelection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshwarden.adapters.kubernetes_client import ApiFailure, KubernetesClient
from meshwarden.adapters.logs import logger

MICROS = "%Y-%m-%dT%H:%M:%S.%fZ"
RELEASE_SECONDS = 2.0
_FOUND_NOTHING, _CHANGED_MEANWHILE = 404, 409


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds: a Lease that was not renewed for `duration` may be taken; who leads stops
    `renew_within` after its last renewal; it is tried again every `retry`, and calls under way at
    the end of leading have `calls_end_within`.
    """

    duration: int = 15
    renew_within: float = 9
    retry: float = 2
    calls_end_within: float = 5

    def __post_init__(self) -> None:
        if not 0 < 2 * self.retry <= self.renew_within:
            raise ValueError("a renewal must be tried twice before leading ends")
        if self.renew_within + self.calls_end_within > self.duration:
            raise ValueError("calls of who led must end before another may lead")


class Lease:
    """One candidate for a Lease. `identity` must be that of no other; `clock` tells seconds and
    never goes back, `now` is UTC for people, `chance` is from 0 up to 1.
    """

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        chance: Callable[[], float],
        times: LeaseTimes | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.holder = ""
        self._client = client
        self._namespace = namespace
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._identity = identity
        self._clock = clock
        self._now = now
        self._chance = chance
        self._times = times or LeaseTimes()
        self._pause = pause
        self._leads_until = float("-inf")
        self._seen: dict[str, Any] = {}
        self._seen_at = float("-inf")
        self._failure = ""

    @property
    def is_leading(self) -> bool:
        """Whether we may write now; also right where the process was suspended."""
        return self._clock() < self._leads_until

    async def run(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Stand for election for ever; `lead()` runs while we lead, and is cancelled when that
        ends. Raises what it raises.
        """
        while True:
            while not await self.renew():
                await self._pause(self._retry_seconds())
            logger().info("leadership_gained", lease=self.name)
            leading = asyncio.create_task(lead())
            try:
                reason = await self._kept(leading)
            finally:
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)
            self._leads_until = float("-inf")
            logger().warning("leadership_lost", lease=self.name, reason=reason)

    async def close(self) -> None:
        """Give the Lease back if we lead. What we led must have ended."""
        if not self.is_leading:
            return
        self._leads_until = float("-inf")
        given_back = self._spec(self._seen, holder="") | {"leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._write(given_back)
        except (ApiFailure, TimeoutError) as failure:
            logger().warning("lease_not_released", lease=self.name, reason=str(failure))
        else:
            logger().info("leadership_released", lease=self.name)

    async def _kept(self, leading: asyncio.Task[None]) -> str:
        """Renew until that fails for too long or `leading` ends; why we lead no longer."""
        while True:
            await asyncio.wait([leading], timeout=self._retry_seconds())
            if leading.done():
                leading.result()
                return "what was led ended"
            # A renewal that hangs must not outlast what it would renew.
            left = self._leads_until - self._clock()
            try:
                async with asyncio.timeout(max(left, 0)):
                    await self.renew()
            except TimeoutError:
                self._failure = "the API server did not answer"
            if not self.is_leading:
                return self._failure or f"held by {self.holder}"

    async def renew(self) -> bool:
        """Take or renew the Lease where we may; whether we hold it now."""
        try:
            return await self._taken()
        except ApiFailure as failure:
            if failure.status == _CHANGED_MEANWHILE:
                return False
            what = str(failure)
            if what != self._failure:
                logger().warning("lease_not_renewed", lease=self.name, reason=what)
            self._failure = what
            return False

    async def _taken(self) -> bool:
        sent_at = self._clock()
        try:
            found = await self._client.call("GET", f"{self._path}/{self.name}")
        except ApiFailure as failure:
            if failure.status != _FOUND_NOTHING:
                raise
            found = {}
        self._observe(found)
        is_ours = self.holder == self._identity
        if not is_ours:
            self._leads_until = float("-inf")
        if self.holder and not is_ours and self._clock() < self._expires_at():
            self._failure = ""
            return False
        await self._write(self._spec(found, holder=self._identity))
        self._leads_until = sent_at + self._times.renew_within
        self._failure = ""
        return True

    def _observe(self, found: dict[str, Any]) -> None:
        version = _metadata(found).get("resourceVersion")
        if not self._seen or version != _metadata(self._seen).get("resourceVersion"):
            self._seen_at = self._clock()
        self._seen = found
        self.holder = str(_spec_of(found).get("holderIdentity") or "")

    def _expires_at(self) -> float:
        """By what its holder chose, as client-go; never sooner than our own duration."""
        chosen = _spec_of(self._seen).get("leaseDurationSeconds")
        duration = chosen if isinstance(chosen, int) else 0
        return self._seen_at + max(duration, self._times.duration)

    def _spec(self, found: Mapping[str, Any], *, holder: str) -> dict[str, Any]:
        before = _spec_of(found)
        moment = self._now().strftime(MICROS)
        is_new_holder = bool(holder) and before.get("holderIdentity") != holder
        transitions = before.get("leaseTransitions") or 0
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": self._times.duration,
            "acquireTime": moment if is_new_holder else before.get("acquireTime", moment),
            "renewTime": moment,
            "leaseTransitions": transitions + (1 if is_new_holder and before else 0),
        }

    async def _write(self, spec: Mapping[str, Any]) -> None:
        """Create the Lease, or change it where it is as we saw it."""
        metadata = {"name": self.name, "namespace": self._namespace}
        version = _metadata(self._seen).get("resourceVersion")
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
        if version:
            body = lease | {"metadata": metadata | {"resourceVersion": version}}
            written = await self._client.call("PUT", f"{self._path}/{self.name}", body=body)
        else:
            body = lease | {"metadata": metadata}
            written = await self._client.call("POST", self._path, body=body)
        self._observe(written)

    def _retry_seconds(self) -> float:
        """With jitter, so that followers don't all ask at once; never longer than `retry`."""
        return self._times.retry * (1 - self._chance() / 4)


def _metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return value.get("metadata") or {}


def _spec_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return value.get("spec") or {}
