"""How the cost of a decision and of memory grows with the configuration: it must stay flat.

Policies of hosts of their own, five rules each; and one policy of many rules. All sizes are
compiled in one process, and their rounds are interleaved. Microseconds are CPU time of `decide`.

    python -m perf.scale          writes a dated result into perf/results/; takes some minutes
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from ext_authz.core.compile import Options, compile_policies
from ext_authz.core.engine import decide
from ext_authz.core.keys import Keys
from ext_authz.core.model import Request
from ext_authz.core.policies import PolicySet
from meshwarden.core.snapshot import Bundle
from perf.result import write
from tests.support.check_requests import access_policy
from tests.support.tokens import NOW

POLICIES = (10, 1_000, 40_000)
RULES = (10, 1_000, 10_000)
ROUNDS = 21
DECISIONS_A_ROUND = 2_000
HOSTS_ASKED = 100


def measure() -> dict[str, Any]:
    """Microseconds a decision by the number of policies and of rules, and what policies cost."""
    sets, costs = {}, {}
    for count in POLICIES:
        before, began = _resident_kilobytes(), time.process_time()
        sets[f"{count} policies"] = _policies(count), _hosts(count)
        costs[str(count)] = {
            "compile_seconds": round(time.process_time() - began, 2),
            "resident_kilobytes_a_policy": round((_resident_kilobytes() - before) / count, 2),
        }
    for count in RULES:
        sets[f"{count} rules"] = _rules(count), _paths(count)
    spent = _interleaved(sets)
    smallest, largest = (spent[f"{count} policies"]["median_us"] for count in POLICIES[::2])
    return {
        "decisions": spent,
        "policies": costs,
        "growth_from_10_to_40000_policies": round(largest / smallest, 2),
    }


def _interleaved(sets: dict[str, tuple[PolicySet, list[Request]]]) -> dict[str, dict[str, float]]:
    keys = Keys()
    rounds: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(ROUNDS):
        for name, (policies, asked) in sets.items():
            began = time.process_time()
            for number in range(DECISIONS_A_ROUND):
                decide(asked[number % HOSTS_ASKED], policies, keys, NOW)
            rounds[name].append((time.process_time() - began) / DECISIONS_A_ROUND * 1e6)
    told: dict[str, Callable[[list[float]], float]] = {
        "min_us": min,
        "median_us": statistics.median,
        "max_us": max,
    }
    return {
        name: {word: round(of(spent), 2) for word, of in told.items()}
        for name, spent in rounds.items()
    }


def _policies(count: int) -> PolicySet:
    files = {
        f"p{start}.yaml": "\n---\n".join(
            json.dumps(_policy(number)) for number in range(start, min(count, start + 1000))
        ).encode()
        for start in range(0, count, 1000)
    }
    return compile_policies(Bundle(files), Options()).policies


def _hosts(count: int) -> list[Request]:
    return [
        Request("GET", f"h{number * 7 % count}.example.com", "/orders/7", {"accept": "*/*"})
        for number in range(HOSTS_ASKED)
    ]


def _policy(number: int) -> dict[str, Any]:
    rules = [
        {"name": f"r{n}", "callers": "anyone", "methods": ["GET"], "paths": [f"/{word}/**"]}
        for n, word in enumerate(("users", "carts", "items", "bills", "orders"))
    ]
    return access_policy(*rules, name=f"p{number}", hosts=[f"h{number}.example.com"], identify=[])


def _rules(count: int) -> PolicySet:
    rules = [
        {"name": f"r{n}", "callers": "anyone", "paths": [f"/api/v1/r{n}/{{id}}"]}
        for n in range(count)
    ]
    policy = json.dumps(access_policy(*rules, identify=[])).encode()
    return compile_policies(Bundle({"p.yaml": policy}), Options()).policies


def _paths(count: int) -> list[Request]:
    return [Request("GET", "h", f"/api/v1/r{n * 7 % count}/x", {}) for n in range(HOSTS_ASKED)]


def _resident_kilobytes() -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123 - a line of it
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(write("scale", measure()))
