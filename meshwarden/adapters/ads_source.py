"""Configuration from a stream: an ADS client, state of the world, of one type of resource.

    connect -> request -> response -> bundle -> accepted: ACK, the version is ours
       ^                                     -> refused: NACK with the reasons, the version stays;
       |                                        sent again: NACK, but not at once
       +-- wait -- any failure

Each response holds all resources there are. What they mean, `bundle_of` says, which its service
brings along. While the server is away the last good configuration serves, however old; the first
one is waited for. Source: xDS protocol, `envoy.service.discovery.v3.AggregatedDiscoveryService`.
Known weakness: a response of a type that was not asked for is refused as if it had been.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from meshwarden.adapters.ads_channel import ads_channel
from meshwarden.adapters.ads_settings import AdsSettings
from meshwarden.adapters.logs import logger
from meshwarden.adapters.protobuf import message_class
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.backoff import Backoff
from meshwarden.core.faults import Misconfigured, Problem
from meshwarden.core.snapshot import Bundle, Outcome, Refused

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
PROBLEMS_TOLD_AT_MOST = 50
FAILURE_CHARACTERS_AT_MOST = 500

_RESENT = Backoff(initial_seconds=1, at_most_seconds=5)
"""go-control-plane sends a version that was refused again and again, as fast as it is refused
(tried, v0.13.4: 700 times a second); what is sent after it waits for our answer, so not longer.
"""

_UNEXPLAINED = "the stream ended while it was written to"
"""grpc.aio forgets the server's reason then; the next try is likely to bring it."""

BundleOf = Callable[[Sequence[Any]], Bundle]
"""The bundle of a response's resources (`google.protobuf.Any`); what can't be read is listed in
it.
"""


class StreamFailure(Exception):
    """The stream can't be had, or ended; `stage` says how far it had come. It stays in here."""

    def __init__(self, stage: Literal["connect", "stream", "message"], what: str) -> None:
        super().__init__(what[:FAILURE_CHARACTERS_AT_MOST])
        self.stage = stage


class AdsSource:
    """The resources of type `type_url`; `told` hears what became of each bundle, `chance` gives
    numbers from 0 up to 1.
    """

    def __init__(
        self,
        settings: AdsSettings,
        *,
        type_url: str,
        bundle_of: BundleOf,
        metrics: Metrics,
        chance: Callable[[], float],
        told: Callable[[Bundle, Outcome], None] = lambda _bundle, _outcome: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._type_url = type_url
        self._bundle_of = bundle_of
        self._told = told
        self._chance = chance
        self._pause = pause
        self._backoff = settings.backoff_rule()
        self._outcome: Outcome | None = None
        self._version = ""
        self._refused_version: str | None = None
        self._resent = 0
        self._is_open = False
        self._failure: StreamFailure | None = None
        self._answers = metrics.tally(
            "configuration_stream_answers",
            "Responses of the ADS server, by our answer.",
            ["answer"],
        )
        self._failures = metrics.tally(
            "configuration_stream_failures",
            "Streams that ended or could not be had, by how far they came.",
            ["stage"],
        )
        metrics.gauge(
            "configuration_stream_is_open",
            "1 while the ADS server is connected.",
            lambda: float(self._is_open),
            across_workers="livemin",
        )

    def read(self) -> None:
        """Nothing can be had without waiting."""

    def answered(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def status(self) -> dict[str, object]:
        """How the stream is, for `/readyz?verbose`."""
        return {
            "server": self._settings.server,
            "is_open": self._is_open,
            "version": self._version or None,
            "failure": None if self._failure is None else str(self._failure),
        }

    async def changes(self, resync_seconds: float) -> AsyncGenerator[Bundle]:
        """A bundle for each response, for ever; `resync_seconds` means nothing to a stream."""
        del resync_seconds
        failures = 0
        while True:
            try:
                async with aclosing(self._stream()) as bundles:
                    async for bundle in bundles:
                        failures = 0
                        yield bundle
            except StreamFailure as failure:
                self._tell(failure)
                failures += failure.stage != "connect"
                await self._pause(self._wait(failure, failures))

    def _wait(self, failure: StreamFailure, failures: int) -> float:
        """Seconds: about the same while the server is away, longer each time for one that is there
        and fails.
        """
        if failure.stage == "connect":
            return self._settings.connect_retry_seconds * (0.5 + self._chance())
        return self._backoff.seconds(failures, chance=self._chance())

    async def _stream(self) -> AsyncGenerator[Bundle]:
        """The bundles of one connection. Raises `StreamFailure` at its end."""
        try:
            channel = ads_channel(self._settings)
        except Misconfigured as fault:
            raise StreamFailure("connect", str(fault)) from None
        try:
            call = channel.stream_stream(METHOD)(metadata=self._settings.header_pairs())
            await self._open(call, channel)
            request = self._request()
            while True:
                response = await _exchange(call, request, channel)
                if self._failure is not None:
                    # It could be connected before, so only a response shows that it works again.
                    self._recovered()
                # Ten thousand resources take long enough to be felt by requests.
                bundle = await asyncio.to_thread(self._bundle, response)
                self._outcome = None
                yield bundle
                request = self._answer(response, bundle)
                if self._resent:
                    await self._pause(_RESENT.seconds(self._resent, chance=self._chance()))
        finally:
            self._is_open = False
            await channel.close()

    async def _open(self, call: Any, channel: Any) -> None:
        limit = self._settings.connect_time_limit_seconds
        try:
            async with asyncio.timeout(limit):
                await call.wait_for_connection()
        except TimeoutError:
            raise StreamFailure("connect", f"no connection within {limit} s") from None
        except aio.AioRpcError as error:
            raise _failure(error.code(), error.details(), channel) from None
        self._is_open = True
        if self._failure is None or self._failure.stage == "connect":
            self._recovered()

    def _recovered(self) -> None:
        self._failure = None
        logger().info("configuration_stream_open", server=self._settings.server)

    def _bundle(self, response: Any) -> Bundle:
        if response.type_url not in ("", self._type_url):
            what = f"unexpected type URL '{response.type_url}', want '{self._type_url}'"
            return Bundle({}, (Problem("", 0, what),))
        return self._bundle_of(response.resources)

    def _answer(self, response: Any, bundle: Bundle) -> Any:
        """The ACK or NACK of `response`, by what became of `bundle`."""
        if self._outcome is None:
            raise AssertionError("nobody said what became of the bundle")
        self._told(bundle, self._outcome)
        if isinstance(self._outcome, Refused):
            is_again = response.version_info == self._refused_version
            self._resent = self._resent + 1 if is_again else 0
            self._refused_version = response.version_info
            self._answers.add("nack")
            problems = self._outcome.problems[:PROBLEMS_TOLD_AT_MOST]
            request = self._request(response.nonce)
            request.error_detail.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            request.error_detail.message = "\n".join(str(problem) for problem in problems)
            return request
        self._resent, self._refused_version = 0, None
        self._version = response.version_info
        self._answers.add("ack")
        return self._request(response.nonce)

    def _request(self, nonce: str = "") -> Any:
        request = message_class("envoy.service.discovery.v3.DiscoveryRequest")(
            version_info=self._version, type_url=self._type_url, response_nonce=nonce
        )
        request.node.id = self._settings.node_id
        request.node.metadata.update(self._settings.metadata_pairs())
        return request

    def _tell(self, failure: StreamFailure) -> None:
        """Count each failure; log the first, and each that differs from the one before."""
        self._failures.add(failure.stage)
        if self._failure is not None and str(failure) == _UNEXPLAINED:
            return
        if self._failure is None or str(self._failure) != str(failure):
            logger().warning(
                "configuration_stream_failed",
                server=self._settings.server,
                stage=failure.stage,
                reason=str(failure),
            )
        self._failure = failure


async def _exchange(call: Any, request: Any, channel: Any) -> Any:
    """Send `request`, and wait for the next response. Raises `StreamFailure`."""
    try:
        await call.write(request.SerializeToString())
    except aio.AioRpcError:
        raise StreamFailure("stream", _UNEXPLAINED) from None
    except asyncio.InvalidStateError:
        pass  # It ended before there was anything to write; reading tells why.
    try:
        message = await call.read()
    except aio.AioRpcError as error:
        raise _failure(error.code(), error.details(), channel) from None
    if message is aio.EOF:
        raise _failure(await call.code(), await call.details(), channel)
    try:
        return message_class("envoy.service.discovery.v3.DiscoveryResponse").FromString(message)
    except DecodeError:
        raise StreamFailure("message", "what came is not a DiscoveryResponse") from None


def _failure(code: grpc.StatusCode, details: str | None, channel: Any) -> StreamFailure:
    """The end of a call in words that are the same wherever it was noticed."""
    is_away = channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
    what = (
        "the server ended the stream" if code is grpc.StatusCode.OK else f"{code.name}: {details}"
    )
    return StreamFailure("connect" if is_away else "stream", what)
