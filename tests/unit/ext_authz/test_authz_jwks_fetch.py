"""Keys from a URL: fetched together, seldom, within bounds; the last good ones stay."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from ext_authz.adapters.http_client import BYTES_AT_MOST, HttpClient
from ext_authz.adapters.jwks_fetch import PAUSE_SECONDS, KeyFetcher
from ext_authz.core.keys import Keys
from meshwarden.adapters.telemetry import Metrics
from tests.support.check_requests import configured, token_issuer
from tests.support.jwks_server import JwksServer, running_jwks_server
from tests.support.processes import until
from tests.support.tokens import ec_signer, ed_signer, jwks

EC, ED = ec_signer(), ed_signer()


class Clock:
    """Time as the test says."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with running_jwks_server(EC) as made:
        yield made


def policies(*urls: str, timeout_seconds: float = 2):
    """A configuration with an issuer for each URL: `i0`, `i1`, ..."""
    issuers = [
        token_issuer(
            name=f"i{number}",
            issuer=f"https://{number}",
            subjectPrefix=str(number),
            jwks={"url": url, "timeoutSeconds": timeout_seconds},
        )
        for number, url in enumerate(urls)
    ]
    return configured(*issuers).policies


@asynccontextmanager
async def fetching(
    *urls: str, timeout_seconds: float = 2
) -> AsyncIterator[tuple[KeyFetcher, Keys, Clock]]:
    """A fetcher of these issuers that fetches only when it is asked."""
    keys, clock, http = Keys(), Clock(), HttpClient()
    fetcher = KeyFetcher(keys, http, metrics=Metrics(), clock=clock)
    fetcher.follow(policies(*urls, timeout_seconds=timeout_seconds))
    try:
        yield fetcher, keys, clock
    finally:
        await http.close()


def kids(keys: Keys, name: str = "i0") -> list[str]:
    return list(keys.of_issuer(name).keys)


async def test_requests_share_one_fetch(server):
    """Twenty requests with an unknown key cost the issuer one."""
    async with fetching(server.url) as (fetcher, keys, _):
        assert await asyncio.gather(*(fetcher.refresh("i0") for _ in range(20))) == [True] * 20
        assert (len(server.paths), kids(keys)) == (1, ["ec"])


async def test_an_unknown_key_makes_one_fetch_in_a_while(server):
    async with fetching(server.url) as (fetcher, keys, clock):
        assert await fetcher.refresh("i0")
        server.serve_keys(EC, ED)
        clock.now += PAUSE_SECONDS - 0.1
        assert not await fetcher.refresh("i0")
        assert (len(server.paths), kids(keys)) == (1, ["ec"])
        clock.now += 0.1
        assert await fetcher.refresh("i0")
        assert (len(server.paths), kids(keys)) == (2, ["ec", "ed"])
        clock.now += PAUSE_SECONDS
        assert not await fetcher.refresh("i0"), "the same keys again are no change"
        assert not await fetcher.refresh("nobody")


OVERSIZED = json.dumps(jwks(ED)).encode() + b" " * BYTES_AT_MOST
MISBEHAVIOUR = {
    "an error": {"status": 500},
    "a redirect": {"status": 302, "headers": {"location": "/elsewhere"}},
    "not modified": {"status": 304},
    "no JSON": {"body": b"<html>not here</html>"},
    "no UTF-8": {"body": b"\xff\xfe"},
    "no JWKS": {"body": b'{"keys": 7}'},
    "members of wrong types": {"body": b'{"keys": [{"kty": [], "kid": "x"}, 7]}'},
    "deep nesting": {"body": b"[" * 100_000},
    "a long number": {"body": b"9" * 5000},
    "a private key": {"body": b'{"keys": [{"kty": "EC", "crv": "P-256", "d": "AA"}]}'},
    "too much": {"body": OVERSIZED},
    "too much when unpacked": {
        "body": gzip.compress(OVERSIZED),
        "headers": {"content-encoding": "gzip"},
    },
    "broken compression": {"body": b"x", "headers": {"content-encoding": "gzip"}},
}


@pytest.mark.parametrize("wrong", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
async def test_the_last_good_keys_stay(server, wrong):
    """Whatever the issuer's server answers; the failure is shown, and good keys come back."""
    async with fetching(server.url) as (fetcher, keys, clock):
        await fetcher.refresh("i0")
        for name, value in wrong.items():
            setattr(server, name, value)
        clock.now += PAUSE_SECONDS
        assert not await fetcher.refresh("i0")
        assert kids(keys) == ["ec"]
        assert fetcher.status()["i0"]["last_error"]
        server.serve_keys(ED)
        clock.now += PAUSE_SECONDS
        assert await fetcher.refresh("i0")
        assert kids(keys) == ["ed"]
        assert fetcher.status()["i0"] == {"keys": 1, "last_error": None}
        assert set(server.paths) == {"/jwks.json"}


async def test_a_fetch_is_bounded_in_time(server):
    async with fetching(server.url, timeout_seconds=0.05) as (fetcher, keys, _):
        server.is_open.clear()
        assert not await fetcher.refresh("i0")
        assert fetcher.status()["i0"] == {"keys": 0, "last_error": "no answer in time"}
        assert kids(keys) == []


async def test_a_server_that_is_not_there_is_a_failure():
    async with fetching("http://127.0.0.1:1/jwks.json", "http://nowhere.invalid/") as (made, _, _c):
        for name in ("i0", "i1"):
            assert not await made.refresh(name)
            assert "ConnectError" in made.status()[name]["last_error"]


async def test_an_abandoned_request_leaves_the_fetch_to_the_others(server):
    async with fetching(server.url) as (fetcher, keys, _):
        server.is_open.clear()
        patient = asyncio.create_task(fetcher.refresh("i0"))
        hasty = asyncio.create_task(fetcher.refresh("i0"))
        await until(lambda: server.paths, "the fetch has begun")
        hasty.cancel()
        server.is_open.set()
        assert await patient
        assert kids(keys) == ["ec"]


async def test_a_new_configuration_keeps_keys_of_the_same_url_only(server):
    """Keys that another server published prove nothing about this one."""
    with running_jwks_server(ED) as other:
        async with fetching(server.url) as (fetcher, keys, _):
            await fetcher.refresh("i0")
            fetcher.follow(policies(server.url, timeout_seconds=1))
            assert kids(keys) == ["ec"]
            fetcher.follow(policies(other.url))
            assert kids(keys) == []
            assert await fetcher.refresh("i0")
            assert kids(keys) == ["ed"]
            fetcher.follow(policies())
            assert keys.issuer_keys == {}


async def test_keys_of_a_server_no_longer_configured_are_not_taken(server):
    """The configuration changes while a fetch is under way."""
    async with fetching(server.url) as (fetcher, keys, _):
        server.is_open.clear()
        fetch = asyncio.create_task(fetcher.refresh("i0"))
        await until(lambda: server.paths, "the fetch has begun")
        inline = token_issuer(jwks(ED), name="i0")
        fetcher.follow(configured(inline).policies)
        server.is_open.set()
        await fetch
        assert kids(keys) == ["ed"]


async def test_readiness_waits_for_the_first_try_of_each_issuer_and_never_again(server):
    """A server that is down must not keep a replica out of service; nor a new issuer later on."""
    async with fetching(server.url, "http://127.0.0.1:1/") as (fetcher, _, _c):
        assert fetcher.unready_reason() == "no keys yet of i0, i1"
        await fetcher.refresh("i1")
        assert fetcher.unready_reason() == "no keys yet of i0"
        await fetcher.refresh("i0")
        assert fetcher.unready_reason() == ""
        fetcher.follow(policies(server.url, server.url + "?new"))
        assert fetcher.unready_reason() == ""


async def test_keys_are_fetched_in_the_background_at_start(server):
    """Nobody has to ask for them; a configuration that comes later is noticed at once."""
    async with fetching() as (fetcher, keys, _):
        running = asyncio.create_task(fetcher.run())
        fetcher.follow(policies(server.url))
        await until(lambda: kids(keys) == ["ec"], "the keys are there")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
