"""The connection to a Kubernetes API server, by kubeconfig or as a Pod, and JSON over it.

lightkube reads the kubeconfig and authenticates (its token file is read again when the API server
answers 401, which is how a rotated token is taken up). What is asked and how is ours: objects stay
plain JSON, each call has its own time limit, and every failure is an `ApiFailure`. Known weakness:
a CA file that is replaced is read at the next start only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError

from meshwarden.core.faults import Misconfigured

CONNECTIONS_AT_MOST = 2000
"""Each watch has one to itself."""

LINE_BYTES_AT_MOST = 16 << 20
MESSAGE_CHARACTERS_AT_MOST = 500
USER_AGENT = "meshwarden"


class ApiFailure(Exception):
    """The API server did not give what was asked for; `status` is HTTP's, 0 where it gave none."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what[:MESSAGE_CHARACTERS_AT_MOST])
        self.status = status


def connection(kubeconfig: Path | None) -> SingleConfig:
    """The current context of a kubeconfig; None: what Kubernetes mounts into a Pod. Raises
    `Misconfigured`.
    """
    try:
        if kubeconfig is None:
            found = KubeConfig.from_service_account().get()
        else:
            found = KubeConfig.from_file(kubeconfig).get()
    except (ConfigError, OSError, LookupError, ValueError, TypeError) as error:
        where = "the Pod's ServiceAccount" if kubeconfig is None else str(kubeconfig)
        hint = "set --configuration.kubernetes.kubeconfig" if kubeconfig is None else "see kubectl"
        reason = str(error) or type(error).__name__
        raise Misconfigured(
            f"no connection to Kubernetes from {where}: {reason} ({hint})"
        ) from None
    if found is None or found.user is None:
        raise Misconfigured(f"{kubeconfig}: the current context names no user")
    return found


class KubernetesClient:
    """Calls to one API server; `time_limit_seconds` holds for connecting and for each answer."""

    def __init__(self, config: SingleConfig, *, time_limit_seconds: float) -> None:
        self.server = str(config.cluster.server)
        self._time_limit = time_limit_seconds
        parameters = ConnectionParams(timeout=httpx2.Timeout(time_limit_seconds), trust_env=False)
        try:
            found = parameters.httpx_params(config)
        except (ConfigError, OSError, ValueError) as error:
            raise Misconfigured(f"no connection to {self.server}: {error}") from None
        self._client = httpx2.AsyncClient(
            **found,
            headers={"user-agent": USER_AGENT},
            limits=httpx2.Limits(max_connections=CONNECTIONS_AT_MOST, max_keepalive_connections=20),
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """The answer's JSON. Raises `ApiFailure`, also where it takes too long."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": content_type} if content is not None else None
        try:
            async with asyncio.timeout(self._time_limit):
                response = await self._client.request(
                    method, path, params=query, content=content, headers=headers
                )
        except (httpx2.HTTPError, OSError, ConfigError) as error:
            raise _unreached(error, self._time_limit) from None
        if response.status_code >= 300:
            raise _refusal(response.status_code, response.content)
        try:
            return json.loads(response.content)
        except ValueError:
            raise ApiFailure(0, "the answer is not JSON") from None

    @asynccontextmanager
    async def lines(
        self, path: str, *, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[AsyncGenerator[Any]]:
        """The JSON values of a streamed answer, one a line, until it ends. Raises `ApiFailure`, and
        `TimeoutError` where nothing came for `silence_seconds`.
        """
        timeout = httpx2.Timeout(self._time_limit, read=silence_seconds)
        request = self._client.build_request("GET", path, params=query, timeout=timeout)
        try:
            async with asyncio.timeout(self._time_limit):
                response = await self._client.send(request, stream=True)
        except (httpx2.HTTPError, OSError, ConfigError) as error:
            raise _unreached(error, self._time_limit) from None
        try:
            if response.status_code >= 300:
                raise _refusal(response.status_code, await _body(response))
            values = _values(response)
            try:
                yield values
            finally:
                await values.aclose()
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()


async def _body(response: httpx2.Response) -> bytes:
    try:
        return await response.aread()
    except httpx2.HTTPError:
        return b""


async def _values(response: httpx2.Response) -> AsyncGenerator[Any]:
    rest = b""
    try:
        async for chunk in response.aiter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
            if len(rest) > LINE_BYTES_AT_MOST:
                raise ApiFailure(0, f"one event has more than {LINE_BYTES_AT_MOST} bytes")
    except httpx2.ReadTimeout:
        raise TimeoutError from None
    except (httpx2.HTTPError, OSError) as error:
        raise ApiFailure(0, f"the connection ended: {_reason(error)}") from None
    except ValueError:
        raise ApiFailure(0, "what came is not JSON") from None


def _unreached(error: Exception, time_limit: float) -> ApiFailure:
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return ApiFailure(0, f"no answer within {time_limit:g} s")
    return ApiFailure(0, f"can't be reached: {_reason(error)}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _refusal(status: int, content: bytes) -> ApiFailure:
    """In the API server's own words, which name who may not do what."""
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, LookupError, TypeError):
        message = ""
    return ApiFailure(status, f"{status}: {message}" if message else f"the answer is {status}")
