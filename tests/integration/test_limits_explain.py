"""`meshwarden limits explain`: as a user types it, and on the counters of a real Redis."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ratelimit_service.core.decide import plan
from ratelimit_service.core.model import Mode, Options
from tests.support.command_line import Command, command_line
from tests.support.limits import descriptor, request, rules
from tests.support.redis_server import RedisServer, running_redis
from tests.support.redis_stores import redis_store

LIMITS = """
domain: shop
descriptors:
- {key: path, value: "/o*", rate_limit: {unit: year, requests_per_unit: 2, name: orders},
   descriptors: [{key: client, rate_limit: {unit: year, requests_per_unit: 1}}]}
- {key: path, rate_limit: {unlimited: true}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis(password="pass word") as running:
        yield running


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "shop.yaml").write_text(LIMITS)
    return tmp_path / "config"


def test_it_shows_each_level_the_limit_its_counter_and_the_answer(command: Command, folder: Path):
    done = command("limits", "explain", "--config", folder, "path=/orders", "client=ada")
    assert done.status == 0, done.errors
    rows = dict(line.strip().split("  ", 1) for line in done.output.splitlines()[2:])
    told = {label: text.strip() for label, text in rows.items()}
    assert done.output.splitlines()[:2] == ["OK in domain shop", "1. path=/orders client=ada"]
    assert told["path=/orders"] == (
        "path_/o* (wildcard) is taken; not there: path_/orders (value); would match, too: path "
        "(key); limit passed over, as the descriptor goes on: shop.path_/o*: 2 a year, name orders"
    )
    assert told["limit"] == "shop.path_/o*.client: 1 a year"
    assert told["envoyproxy key"].startswith("shop_path_/orders_client_ada_")
    assert told["meshwarden key"].endswith("(in use)")
    assert told["answer"] == "OK, 0 of 1 left"


def test_several_descriptors_and_hits_over_a_limit_exit_with_1(command: Command, folder: Path):
    words = ("path=/x", "+", "path=/orders", "+", "other=")
    done = command("limits", "explain", "--config", folder, "--hits", "3", *words)
    assert done.status == 1
    assert done.output.startswith("OVER_LIMIT in domain shop\n1. path=/x\n")
    answers = [line.split()[1:3] for line in done.output.splitlines() if " answer " in line]
    assert answers == [["OK,", "unlimited"], ["OVER_LIMIT,", "0"], ["OK,", "not"]]


def test_a_request_as_json_is_read_from_a_file_or_standard_input(
    command: Command, folder: Path, tmp_path: Path
):
    entries = [{"key": "path", "value": "/o"}]
    limit = {"requestsPerUnit": 0, "unit": "DAY"}
    asked = {"domain": "shop", "descriptors": [{"entries": entries, "limit": limit}]}
    (tmp_path / "request.json").write_text(json.dumps(asked))
    options = ("--config", folder, "--json")
    done = command("limits", "explain", *options, tmp_path / "request.json")
    assert (done.status, done.value["answer"]) == (1, "OVER_LIMIT")
    assert done.value["descriptors"][0]["outcome"] == "own_limit"
    piped = command("limits", "explain", *options, "-", stdin=json.dumps(asked).encode())
    assert piped.value["descriptors"][0]["limit"] == done.value["descriptors"][0]["limit"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["path"], "path can't be read"),
        (["path=/", "client"], "'client' is not key=value (client= for an empty value)"),
        (["path=/", "--config", "nowhere"], "nowhere"),
        (["path=/", "--key-format", "mine"], "store.key_format"),
        (["path=/o", "--redis", "redis://127.0.0.1:1"], "redis: "),
        (["-"], "-: "),
    ],
)
def test_what_cannot_be_explained_is_told_with_status_2(
    command: Command, folder: Path, words: list[str], told: str
):
    done = command("limits", "explain", "--config", folder, *words, stdin=b"{")
    assert (done.status, done.output) == (2, "")
    assert told in done.errors


def test_several_domains_are_told_apart(command: Command, folder: Path):
    (folder / "more.yaml").write_text("domain: more")
    done = command("limits", "explain", "--config", folder, "path=/")
    assert done.status == 2
    assert "which domain? (--domain; configured: more, shop)" in done.errors
    done = command("limits", "explain", "--config", folder, "--domain", "more", "path=/")
    assert (done.status, done.output.splitlines()[0]) == (0, "OK in domain more")


def test_limits_from_a_stream_are_not_guessed(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONFIG_TYPE", "GRPC_XDS_SOTW")
    done = command("limits", "explain", "path=/o1")
    assert done.status == 2
    assert "the limits come from a stream" in done.errors


@pytest.mark.parametrize("key_format", ["meshwarden", "envoyproxy"])
async def test_counters_in_redis_are_told_and_stay_as_they_are(
    command: Command,
    folder: Path,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    key_format: str,
):
    """The environment is that of a running service, as inside its container."""
    used = Options(key_format=key_format, key_prefix=f"{key_format}:")
    asked = request(descriptor(("path", "/o1")), domain="shop", hits_addend=2)
    planned = plan(asked, rules(LIMITS, options=used), now=int(time.time()))
    store = redis_store(server.url, auth="pass word")
    await store.add(planned.increments, mode=Mode.ALWAYS, now=0)
    await store.close()
    with redis.Redis.from_url(server.url, password="pass word") as looking:
        before = {key: looking.get(key) for key in looking.keys("*")}
        monkeypatch.setenv("RUNTIME_ROOT", str(folder.parent))
        monkeypatch.setenv("REDIS_URL", server.url.removeprefix("redis://"))
        monkeypatch.setenv("REDIS_AUTH", "pass word")
        monkeypatch.setenv("CACHE_KEY_PREFIX", f"{key_format}:")
        monkeypatch.setenv("COUNTER_KEY_FORMAT", key_format)
        done = await asyncio.to_thread(command, "limits", "explain", "--json", "path=/o1")
        assert done.status == 1, done.errors
        told = done.value["descriptors"][0]
        assert told["counter"]["key"].encode() in before
        assert told["counter"]["counts"] == {
            name: 2 if name == key_format else 0 for name in ("meshwarden", "envoyproxy")
        }
        assert told["answer"]["code"] == "OVER_LIMIT"
        assert {key: looking.get(key) for key in looking.keys("*")} == before
