"""Asking issuers over HTTP: bounded in size, without redirects, every failure one fault."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from ext_authz.core.discovery import Flavour, Member, document_url, endpoint
from meshwarden.core.faults import InvalidInput, Unavailable

BYTES_AT_MOST = 256 << 10


class HttpClient:
    """One pool of connections. Time limits are the callers'."""

    def __init__(self) -> None:
        # Each request has its own limit for the whole of it; the client's would cut long ones.
        self._client = httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=None)

    async def get(self, url: str) -> bytes:
        """The body at `url`. Raises `Unavailable` for anything but a 200 of a bounded size."""
        return await self._body("GET", url)

    async def post(self, url: str, form: Mapping[str, str], *, user: str, password: str) -> bytes:
        """The answer to a form that is sent with Basic credentials. Raises `Unavailable`."""
        return await self._body("POST", url, data=dict(form), auth=(user, password))

    async def discover(self, issuer: str, flavour: Flavour, member: Member) -> str:
        """The URL that the issuer's own document gives. Raises `Unavailable`."""
        content = await self.get(document_url(issuer, flavour))
        try:
            return endpoint(issuer, content, member)
        except InvalidInput as error:
            raise Unavailable(str(error)) from None

    async def close(self) -> None:
        await self._client.aclose()

    async def _body(self, method: str, url: str, **content: object) -> bytes:
        try:
            async with self._client.stream(method, url, **content) as response:  # type: ignore[arg-type]
                if response.status_code != 200:
                    raise Unavailable(f"{url} answered {response.status_code}")
                body = b""
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > BYTES_AT_MOST:
                        raise Unavailable(f"{url} answered more than {BYTES_AT_MOST} bytes")
                return body
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise Unavailable(f"{url}: {type(error).__name__}") from None
