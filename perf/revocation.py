"""How long a revocation takes to be in force on every replica.

    python -m perf.revocation     writes a dated result into perf/results/

Two replicas of ext_authz on one Redis, asked again and again; the time runs from the write of the
command to the first refusal of both. Keys and tokens in turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ext_authz.app import key_records
from ext_authz.core.revocations import Revocation
from meshwarden.cli.keys import create_key
from perf.result import write
from tests.support.authz_service import PEPPER, live, serving
from tests.support.check_requests import access_policy, token_issuer
from tests.support.processes import wait_until
from tests.support.redis_server import running_redis
from tests.support.tokens import ISSUER, ec_signer, jwks

TIMES = 30
REPLICAS = 2


def measure() -> dict[str, Any]:
    """Milliseconds: median and most, of API keys and of tokens."""
    signer = ec_signer()
    resources = (token_issuer(jwks(signer)), access_policy({"name": "any", "paths": ["/orders"]}))
    spent: dict[str, list[float]] = {"api_key": [], "token": []}
    with TemporaryDirectory(prefix="meshwarden-perf-") as name, ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        options = ("--keys.redis-url", redis.url)
        replicas = []
        for number in range(REPLICAS):
            folder = Path(name) / str(number)
            folder.mkdir()
            service = serving(folder, *resources, options=options, keeps_keys=False)
            replicas.append(stack.enter_context(service))
        records = key_records(redis.url)

        def asked(**credential: str) -> Callable[[], set[str]]:
            return lambda: {replica.ask(**credential) for replica in replicas}

        for number in range(TIMES):
            key, record = create_key(records, PEPPER, f"k{number}")
            ask = asked(key=key)
            _known(ask)
            began = time.perf_counter()
            records.revoke(record.id, time.time())
            spent["api_key"].append(_refused(ask, began))
            ask = asked(token=signer.token(live(jti=f"j{number}")))
            _known(ask)
            revocation = Revocation(
                id=f"r{number}", issuer=ISSUER, jti=f"j{number}", expires_at=time.time() + 600
            )
            began = time.perf_counter()
            records.add_revocation(revocation, time.time())
            spent["token"].append(_refused(ask, began))
        records.close()
    return {
        "replicas": REPLICAS,
        "revocations": TIMES,
        "milliseconds": {
            name: {"median": round(statistics.median(of), 1), "max": round(max(of), 1)}
            for name, of in spent.items()
        },
    }


def _known(ask: Callable[[], set[str]]) -> None:
    wait_until(lambda: ask() == {"allowed"}, "the credential is good on every replica")


def _refused(ask: Callable[[], set[str]], began: float) -> float:
    wait_until(lambda: "allowed" not in ask(), "it is refused on every replica")
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    sys.exit(write("revocation", measure()))
