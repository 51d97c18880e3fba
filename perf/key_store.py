"""A million API keys in Redis: what they take, and what finding one costs.

    python -m perf.key_store [COUNT]      writes a dated result into perf/results/

Keys are written as `meshwarden keys` writes them and looked up through the adapter that ext_authz
uses: once each from Redis, then from memory. Ten million are planned for by these figures.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

import redis

from ext_authz.adapters.redis_keys import RedisKeys
from ext_authz.adapters.redis_layout import Layout
from ext_authz.app import key_records
from ext_authz.core.api_keys import KeyRecord, digest, make_key
from ext_authz.core.key_memory import RememberedApiKeys
from ext_authz.core.keys import Keys
from meshwarden.adapters.telemetry import Metrics
from perf.result import write
from tests.support.processes import until
from tests.support.redis_server import running_redis

PEPPER = b"0123456789abcdef0123456789abcdef"
COUNT = 1_000_000
BATCH = 5_000
ASKED = 5_000
TOGETHER = 100


def measure(count: int) -> dict[str, Any]:
    with running_redis() as server, redis.Redis(port=server.port) as raw:
        empty = raw.info("memory")["used_memory"]
        began = time.monotonic()
        records = key_records(server.url)
        for start in range(0, count, BATCH):
            records.add([_record(number) for number in range(start, min(count, start + BATCH))])
        written = time.monotonic() - began
        records.close()
        used = raw.info("memory")["used_memory"] - empty
        found = asyncio.run(_look_up(server.url, count))
    return {
        "keys": count,
        "written_a_second": round(count / written),
        "redis_bytes_a_key": round(used / count),
        "redis_gigabytes_for_ten_million": round(used / count * 1e7 / 2**30, 2),
        **found,
    }


def _key(number: int) -> str:
    return make_key(number.to_bytes(32, "big"))


def _record(number: int) -> KeyRecord:
    return KeyRecord(
        id=f"{number:012x}",
        name=f"partner-{number}",
        digest=digest(_key(number), PEPPER),
        roles=("reader",),
        scopes=("orders:read",),
        created_at=1.0,
    )


async def _look_up(url: str, count: int) -> dict[str, float]:
    memory = RememberedApiKeys(entries_at_most=100_000, serves_stale=False)
    memory.use_pepper(PEPPER)
    store = RedisKeys(
        url,
        auth="",
        layout=Layout(),
        keys=Keys(),
        memory=memory,
        serves_stale=False,
        time_limit_seconds=1,
        metrics=Metrics(),
    )
    following = asyncio.create_task(store.follow())
    await until(lambda: not store.unready_reason(), "Redis answers")
    step = count // ASKED
    names = [digest(_key(number * step), PEPPER) for number in range(ASKED)]
    alone = []
    for name in names[: ASKED // 2]:
        began = time.perf_counter()
        await _require(store.ask(name))
        alone.append((time.perf_counter() - began) * 1e6)
    rest, began = names[ASKED // 2 :], time.perf_counter()
    for start in range(0, len(rest), TOGETHER):
        await asyncio.gather(*(store.ask(name) for name in rest[start : start + TOGETHER]))
    together = (time.perf_counter() - began) / len(rest) * 1e6
    keys = [_key(number * step) for number in range(ASKED)]
    began = time.process_time()
    for key in keys:
        memory.find(key, time.time())
    if len(memory) != len(keys):
        raise SystemExit("not every key is remembered")
    remembered = (time.process_time() - began) / len(keys) * 1e6
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await store.close()
    return {
        "from_redis_alone_us_median": round(statistics.median(alone), 1),
        "from_redis_alone_us_p99": round(statistics.quantiles(alone, n=100)[98], 1),
        "from_redis_a_hundred_together_us_each": round(together, 1),
        "from_memory_cpu_us": round(remembered, 2),
    }


async def _require(asked: Any) -> None:
    if await asked is None:
        raise SystemExit("a key that was written is not found")


if __name__ == "__main__":
    sys.exit(write("key_store", measure(int(sys.argv[1]) if sys.argv[1:] else COUNT)))
