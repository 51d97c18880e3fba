"""What `render resilience` makes of an API outside of the mesh, asked by a workload's sidecar: TLS
that is verified, retries of reads, and nothing sent twice that may not be.

Only the name's address is the test's: the ServiceEntry has an endpoint on loopback in place of DNS.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from meshwarden.adapters.istio.resilience import EXAMPLES, for_external_api
from tests.support.certificates import Authority, Issued
from tests.support.envoy import RunningEnvoy
from tests.support.istio_mesh import IstioMesh, namespace
from tests.support.istio_mesh import wait_for_status as answered
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.sidecars import running_sidecar
from tests.support.threaded_servers import serving_in_a_thread

pytestmark = pytest.mark.timeout(180)
PLACE = "external"
OPTIONS = EXAMPLES["external-api.yaml"].model_copy(update={"namespace": PLACE, "port": 8090})


class Api(ThreadingHTTPServer):
    """An API that speaks TLS; it tells whom it was asked for, and how often what was executed."""

    daemon_threads = True

    def __init__(self, own: Issued, folder: Path) -> None:
        self.executed: Counter[str] = Counter()
        self.names: set[str | None] = set()
        self.status = 200
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*own.write(folder, "api"))
        context.sni_callback = lambda _socket, name, _context: self.names.add(name)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_arguments: object) -> None:
        """A client that refuses the certificate ends the connection, as it should."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Api

    def _answer(self) -> None:
        self.server.executed[f"{self.command} {self.path}"] += 1
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_arguments: object) -> None:
        """Tests count what is executed."""


@contextmanager
def served(own: Issued, folder: Path) -> Iterator[Api]:
    api = Api(own, folder)
    with serving_in_a_thread(api):
        yield api


@contextmanager
def asked(
    mesh: IstioMesh, api: Api, authority: Authority, number: int
) -> Iterator[tuple[httpx2.Client, RunningEnvoy]]:
    """A client that asks the API through a sidecar, and that."""
    documents: list[dict[str, Any]] = for_external_api(OPTIONS)
    endpoint = {"address": "localhost", "ports": {"http": api.server_port}}
    documents[0]["spec"]["endpoints"] = [endpoint]
    mesh.apply(namespace(PLACE))
    with (
        mesh.applied(*documents),
        running_sidecar(
            mesh,
            authority,
            "web",
            PLACE,
            labels={"app": "web"},
            workload_port=free_port(),
            asks=[(f"{PLACE}/{OPTIONS.host}", OPTIONS.port, "HTTP")],
            number=number,
        ) as sidecar,
        sidecar.asking(OPTIONS.host, OPTIONS.port) as client,
    ):
        yield client, sidecar.envoy
        mesh.require_no_rejects(sidecar.envoy)


def test_it_is_asked_over_tls_and_what_may_not_be_sent_twice_is_not(
    mesh: IstioMesh, tmp_path: Path
):
    authority = Authority("cluster.local")
    own = authority.issue(dns=(OPTIONS.host,))
    with served(own, tmp_path) as api, asked(mesh, api, authority, 70) as (client, _):
        answered(client, "/", 200)
        assert api.names == {OPTIONS.host}
        api.status = 503
        assert client.get("/payments").status_code == 503
        assert api.executed["GET /payments"] == 1 + OPTIONS.retries_at_most
        assert client.post("/payments").status_code == 503
        assert api.executed["POST /payments"] == 1


@pytest.mark.parametrize(
    ("name", "is_ours", "failure", "number"),
    [("api.evil.example", True, "san", 71), (OPTIONS.host, False, "error", 72)],
    ids=["another name", "another authority"],
)
def test_whoever_can_not_prove_the_name_is_sent_nothing(
    name: str, is_ours: bool, failure: str, number: int, mesh: IstioMesh, tmp_path: Path
):
    authority = Authority("cluster.local")
    own = (authority if is_ours else Authority("another")).issue(dns=(name,))
    refused = f"cluster.outbound|{OPTIONS.port}||{OPTIONS.host};.ssl.fail_verify_{failure}"
    with served(own, tmp_path) as api, asked(mesh, api, authority, number) as (client, envoy):
        answered(client, "/", 503)
        wait_until(lambda: envoy.stat(refused) > 0, "its certificate is refused")
        assert client.get("/payments").status_code == 503
        assert not api.executed
