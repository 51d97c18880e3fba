"""What each way to identify costs through Envoy, beside Envoy's own jwt_authn and rbac filters.

One Envoy a case, all of one process each and one worker, answering by themselves (direct_response),
so that nothing but the filters differs; the cases are interleaved in rounds. One authorizer serves
by grpc.aio, the others by what `auto` takes. k6 calls with a fixed number of callers. CPU a request
is user and system time of ext_authz and of Envoy from /proc.

    python -m perf.identities     writes a dated result into perf/results/
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ext_authz.core.api_keys import make_key
from meshwarden.adapters.envoy import EnvoyOptions, bootstrap
from perf import k6
from perf.gateway import cpu_seconds
from perf.result import write
from tests.support.authz_service import live, record, serving
from tests.support.check_requests import access_policy, token_issuer
from tests.support.envoy import running_envoy
from tests.support.tokens import AUDIENCE, ISSUER, ec_signer, jwks

ROUNDS = 3
SECONDS = 5
CALLERS = 8
TOKENS = 1000
SIGNER = ec_signer()
HTTP_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"


@dataclass(frozen=True)
class Case:
    """One way, the Envoy before it, and what it is called with."""

    name: str
    url: str
    header: str
    values: Path
    processes: dict[str, int]


def measure() -> dict[str, Any]:
    """By case: requests a second, latencies in milliseconds, CPU in microseconds a request."""
    with TemporaryDirectory(prefix="meshwarden-perf-") as name, ExitStack() as stack:
        folder = Path(name)
        cases = list(_cases(folder, stack))
        for case in cases:
            _k6(folder, case, seconds=2)
        rows: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
        for _ in range(ROUNDS):
            for case in cases:
                rows[case.name].append(_round(folder, case))
    return {
        "callers": CALLERS,
        "seconds_a_round": SECONDS,
        "rounds": rows,
        "medians": {
            name: {key: round(statistics.median(row[key] for row in found), 2) for key in found[0]}
            for name, found in rows.items()
        },
    }


def _cases(folder: Path, stack: ExitStack) -> Iterator[Case]:
    keys = [make_key(number.to_bytes(32, "big")) for number in range(TOKENS)]
    tokens = [SIGNER.token(live(sub=f"u{number}", jti=str(number))) for number in range(TOKENS)]
    written = {}
    for name, values in (("keys", keys), ("tokens", [f"Bearer {token}" for token in tokens])):
        written[name] = folder / f"{name}.json"
        written[name].write_text(json.dumps(values))
    resources = (token_issuer(jwks(SIGNER)), access_policy({"name": "any", "paths": ["/orders"]}))
    for name, options in (
        ("warm", ()),
        ("warm, on grpc.aio,", ("--grpc.transport", "grpcio")),
        ("cold", ("--remembered-tokens-at-most", "0")),
    ):
        (folder / name).mkdir()
        service = stack.enter_context(serving(folder / name, *resources, options=options))
        service.keys(*(record(key, id=str(n), name=f"k{n}") for n, key in enumerate(keys)))
        chosen = {"ext_authz_port": service.grpc_port}
        envoy, url = stack.enter_context(_envoy(**chosen))
        processes = {"ext_authz": service.process.pid, "envoy": envoy}
        yield Case(f"{name} token (ES256)", url, "authorization", written["tokens"], processes)
        if name == "warm":
            yield Case("API key among 1000", url, "x-api-key", written["keys"], processes)
    envoy, url = stack.enter_context(_envoy(ext_authz_enabled=False, own_filters=True))
    yield Case("jwt_authn and rbac", url, "authorization", written["tokens"], {"envoy": envoy})
    envoy, url = stack.enter_context(_envoy(ext_authz_enabled=False))
    yield Case("nobody asked", url, "", written["tokens"], {"envoy": envoy})


@contextmanager
def _envoy(*, own_filters: bool = False, **options: Any) -> Iterator[tuple[int, str]]:
    """An Envoy that answers by itself; its process id and the URL to call."""
    chosen = EnvoyOptions(
        listen_port=0,
        admin_port=0,
        ratelimit_enabled=False,
        local_rate_limit_enabled=False,
        **options,
    )
    document = bootstrap(chosen)
    for chain in document["static_resources"]["listeners"][0]["filter_chains"]:
        manager = chain["filters"][0]["typed_config"]
        manager.pop("access_log", None)
        for host in manager["route_config"]["virtual_hosts"]:
            route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
            host["routes"] = [route]
        if own_filters:
            manager["http_filters"][:0] = _own_filters()
    with running_envoy(document) as envoy:
        yield envoy.process.pid, f"{envoy.gateway}/orders"


def _own_filters() -> list[dict[str, Any]]:
    """Envoy's filters for the same policy: a token of the issuer, any subject, one path."""
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": json.dumps(jwks(SIGNER))},
    }
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "main"}}
    policy = {
        "permissions": [{"url_path": {"path": {"exact": "/orders"}}}],
        "principals": [{"any": True}],
    }
    return [
        {
            "name": "envoy.filters.http.jwt_authn",
            "typed_config": {
                "@type": f"{HTTP_FILTERS}.jwt_authn.v3.JwtAuthentication",
                "providers": {"main": provider},
                "rules": [rule],
            },
        },
        {
            "name": "envoy.filters.http.rbac",
            "typed_config": {
                "@type": f"{HTTP_FILTERS}.rbac.v3.RBAC",
                "rules": {"action": "ALLOW", "policies": {"any": policy}},
            },
        },
    ]


def _round(folder: Path, case: Case) -> dict[str, float]:
    before = {name: cpu_seconds(pid) for name, pid in case.processes.items()}
    began = time.monotonic()
    metrics = _k6(folder, case, seconds=SECONDS)
    took = time.monotonic() - began
    count = metrics["iterations"]["values"]["count"]
    spent = {name: cpu_seconds(pid) - before[name] for name, pid in case.processes.items()}
    latency = metrics["http_req_duration"]["values"]
    return {
        "requests_a_second": round(count / min(took, SECONDS), 1),
        "p50_ms": round(latency["med"], 2),
        "p95_ms": round(latency["p(95)"], 2),
        "p99_ms": round(latency["p(99)"], 2),
        **{f"{name}_us": round(seconds / count * 1e6, 1) for name, seconds in spent.items()},
    }


def _k6(folder: Path, case: Case, *, seconds: int) -> dict[str, Any]:
    environment = {
        "URL": case.url,
        "HEADER": case.header,
        "VALUES": str(case.values),
        "CALLERS": str(CALLERS),
    }
    metrics, held = k6.run("perf/identities.js", folder, environment, seconds=seconds)
    if not held:
        sys.exit(f"{case.name}: not every answer was 200")
    return metrics


if __name__ == "__main__":
    sys.exit(write("identities", measure()))
