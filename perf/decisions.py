"""Micro-benchmarks of `decide` in both services: CPU time of one decision, without any transport.

Each case runs in rounds; the rounds of all cases are interleaved, so that a machine that slows down
slows all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ext_authz.core.compile import Configured
from ext_authz.core.engine import decide as authorize
from ext_authz.core.keys import Keys
from ext_authz.core.model import Request
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.cli import configuration_folder
from meshwarden.cli.key_file import FileRecords, read
from meshwarden.cli.keys import create_key
from meshwarden.cli.state_folder import StateFolder, development_claims
from ratelimit_service.adapters.memory_store import MemoryStore
from ratelimit_service.core.compile import compile_limits
from ratelimit_service.core.decide import decide as limit
from ratelimit_service.core.model import Descriptor, DescriptorSet, Entry

QUICKSTART = Path("examples/quickstart")
ROUNDS = 7
DECISIONS_A_ROUND = 2000


def measure() -> dict[str, dict[str, float]]:
    """Microseconds of CPU for one decision, by case: min, median and max over the rounds."""
    with TemporaryDirectory(prefix="meshwarden-perf-") as name:
        cases = {**_authorizations(StateFolder(Path(name))), **_limits()}
        rounds: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(ROUNDS):
            for case, decision in cases.items():
                began = time.process_time()
                for _ in range(DECISIONS_A_ROUND):
                    decision()
                spent = time.process_time() - began
                rounds[case].append(spent / DECISIONS_A_ROUND * 1e6)
    return {
        case: {
            "min_us": round(min(spent), 2),
            "median_us": round(statistics.median(spent), 2),
            "max_us": round(max(spent), 2),
        }
        for case, spent in rounds.items()
    }


def _authorizations(state: StateFolder) -> dict[str, Callable[[], object]]:
    state.prepare()
    api_key, _ = create_key(FileRecords(state), read(state.pepper).strip(), "service")
    configured = configuration_folder.load(QUICKSTART, state)
    claims = development_claims("rita", ["reader"], expires_in_seconds=3600)
    token = {"authorization": f"Bearer {state.sign(claims)}"}
    warm = _keys(configured)
    cold = _keys(configured)
    now = time.time()

    def cold_token() -> object:
        cold.remembered.forget(token["authorization"].removeprefix("Bearer "))
        return authorize(_request("/orders", token), configured.policies, cold, now)

    def case(path: str, headers: dict[str, str]) -> Callable[[], object]:
        return lambda: authorize(_request(path, headers), configured.policies, warm, now)

    return {
        "ext_authz: warm token, allowed": case("/orders", token),
        "ext_authz: warm token, denied": case("/admin/reports", token),
        "ext_authz: cold token (ES256)": cold_token,
        "ext_authz: API key": case("/whoami", {"x-api-key": api_key}),
        "ext_authz: no credential": case("/orders", {}),
    }


def _keys(configured: Configured) -> Keys:
    return Keys(configured.policies.keys_configured(), configured.api_keys)


def _request(path: str, headers: dict[str, str]) -> Request:
    usual = {
        "accept": "*/*",
        "user-agent": "curl/8.5",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-proto": "https",
        "x-request-id": "7b1f5f0e-3c2f-4a57-9f0d-0f1d2b0c9a11",
    }
    return Request("GET", "orders.example.com", path, {**usual, **headers})


def _limits() -> dict[str, Callable[[], object]]:
    rules = compile_limits(FolderSource(QUICKSTART).read())
    counters = MemoryStore(counters_at_most=100_000)
    now = int(time.time())

    def case(count: int) -> Callable[[], object]:
        entries = (Entry("rule", "limited"), Entry("principal", "jwt:rita"))
        descriptors = DescriptorSet("quickstart", (Descriptor(entries),) * count, 1)
        return lambda: limit(descriptors, rules, counters=counters, now=now)

    return {f"ratelimit: {count} descriptors, memory": case(count) for count in (1, 2, 10)}
