"""TLS of the ports of real processes: who is let in, certificates that change under traffic."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import ext_authz.app
from ext_authz.adapters.envoy_check import CHECK
from meshwarden.adapters import workers
from meshwarden.adapters.envoy import EnvoyOptions, bootstrap, secrets, to_yaml
from meshwarden.adapters.service import run
from meshwarden.adapters.tls import RESYNC_SECONDS
from tests.support.authz_service import Service, reason_of, request_of, serving
from tests.support.certificates import Authority, Issued, serial_of
from tests.support.check_requests import access_policy
from tests.support.envoy import validate
from tests.support.guarded_mesh import guarded_mesh
from tests.support.service_certificates import (
    NAME,
    Mount,
    channel,
    issued,
    shown_serial,
    unencrypted,
)

RULE = {"name": "open", "callers": "anyone", "paths": ["/open"]}
POLICY = access_policy(RULE, identify=[{"apiKey": {}}])
OLD, NEW = Authority("old"), Authority("new")
BOTH = OLD.certificate + NEW.certificate
EMPTY = "tls.client_ca_file: is empty (remove the file, or write it whole)"
CLIENT, NEW_CLIENT = issued(OLD, "client"), issued(NEW, "client")


class Secured:
    """A running ext_authz that asks for client certificates, and its mounted files."""

    def __init__(self, service: Service, mount: Mount, trust: ssl.SSLContext | None = None) -> None:
        """`trust`: its HTTP port speaks TLS, too."""
        self.service = service
        self.mount = mount
        self.http = httpx2.Client(
            base_url=f"{'http' if trust is None else 'https'}://127.0.0.1:{service.http_port}",
            verify=trust or True,
            trust_env=False,
        )

    def outcome(self, shown: Issued | None, *, trusted: bytes = BOTH) -> str:
        """What a call on a connection of its own comes to: the reason, or gRPC's status."""
        return outcome(channel(self.service.grpc_port, trusted, shown))

    def swap(self, pair: Issued, *authorities: bytes) -> None:
        """Swap in `pair` and wait until new connections are shown it."""
        self.mount.put(pair, *authorities)
        self.until(lambda: shown_serial(self.service.grpc_port) == pair.serial, "the new one")

    def until(self, condition: Callable[[], object], what: str) -> None:
        self.service.process.wait_until(condition, what, limit_seconds=RESYNC_SECONDS - 1)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/readyz?verbose").json()["tls"]
        return found

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.service.process.output.splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]


def outcome(connection: grpc.Channel) -> str:
    with connection:
        try:
            return reason_of(connection.unary_unary(CHECK)(request_of("/open"), timeout=5))
        except grpc.RpcError as error:
            return str(error.code().name)


@pytest.fixture(scope="module")
def module_secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    mount = Mount(folder / "tls")
    mount.put(issued(OLD), CLIENT.ca)
    with serving(folder, POLICY, options=mount.flags()) as service:
        secured = Secured(service, mount)
        with secured.http:
            yield secured


@pytest.fixture
def secured(module_secured: Secured) -> Secured:
    """The module's service with a certificate, and clients, of the old CA."""
    module_secured.swap(issued(OLD), CLIENT.ca)
    return module_secured


def test_a_client_needs_a_certificate_of_the_right_ca(secured: Secured):
    assert secured.outcome(CLIENT) == "allowed"
    assert secured.outcome(None) == "UNAVAILABLE"
    assert secured.outcome(NEW_CLIENT) == "UNAVAILABLE"
    assert outcome(unencrypted(secured.service.grpc_port)) == "UNAVAILABLE"
    assert secured.outcome(CLIENT, trusted=NEW_CLIENT.ca) == "UNAVAILABLE"


def test_the_streaming_port_asks_for_the_same(secured: Secured):
    def health(connection: grpc.Channel) -> str:
        with connection:
            watch = health_pb2_grpc.HealthStub(connection).Watch(
                health_pb2.HealthCheckRequest(), timeout=5
            )
            try:
                return health_pb2.HealthCheckResponse.ServingStatus.Name(next(watch).status)
            except grpc.RpcError as error:
                return str(error.code().name)

    port = secured.service.streaming_port
    assert health(channel(port, CLIENT.ca, CLIENT)) == "SERVING"
    assert health(channel(port, CLIENT.ca)) == "UNAVAILABLE"
    assert health(unencrypted(port)) == "UNAVAILABLE"
    assert shown_serial(port) == shown_serial(secured.service.grpc_port)


def test_certificate_and_client_ca_change_under_traffic_and_no_call_fails(secured: Secured):
    """First the certificate and a second client CA, then the old CA goes: as one renews both."""
    port = secured.service.grpc_port
    pair = issued(NEW)
    kept = channel(port, BOTH, CLIENT)
    kept_call = kept.unary_unary(CHECK)
    assert reason_of(kept_call(request_of("/open"), timeout=5)) == "allowed"
    outcomes = [secured.outcome(CLIENT)]
    secured.mount.put(pair, CLIENT.ca, NEW_CLIENT.ca)

    def is_shown() -> bool:
        outcomes.extend([secured.outcome(CLIENT), secured.outcome(CLIENT)])
        return shown_serial(port) == pair.serial

    secured.until(is_shown, "the new certificate is shown")
    outcomes += [secured.outcome(shown) for shown in (CLIENT, NEW_CLIENT) for _ in range(5)]
    assert set(outcomes) == {"allowed"}
    assert secured.outcome(CLIENT, trusted=CLIENT.ca) == "UNAVAILABLE"
    secured.swap(issued(NEW), NEW_CLIENT.ca)
    assert secured.outcome(NEW_CLIENT) == "allowed"
    assert secured.outcome(CLIENT) == "UNAVAILABLE"
    with kept:
        assert reason_of(kept_call(request_of("/open"), timeout=5)) == "allowed"


def test_a_broken_change_is_told_once_and_the_last_good_pair_serves(secured: Secured):
    before = secured.status()
    assert before["refused"] is None
    assert before["clients_need_a_certificate"]
    refusals = len(secured.events("tls_refused"))
    other = issued(OLD)
    broken = Issued(other.certificate, issued(OLD).key, other.ca)
    secured.mount.put(broken, CLIENT.ca)
    fault = "tls.key_file: is not the key of the certificate in tls.certificate_file"
    secured.until(lambda: secured.status()["refused"] == [fault], "it is refused")
    assert secured.outcome(CLIENT) == "allowed"
    assert shown_serial(secured.service.grpc_port) == before["serial"]
    assert secured.metric("tls_certificate_is_refused") == 1
    assert secured.metric('tls_reloads_total{outcome="refused"}') == refusals + 1
    told = secured.events("tls_refused")[refusals:]
    assert [(event["problems"], event["still_serving"]) for event in told] == [
        ([fault], before["serial"])
    ]
    # A folder that is being swapped shows nothing for a moment, so does one that was unmounted.
    secured.mount.key.unlink()
    secured.until(lambda: "can't be read" in str(secured.status()["refused"]), "it is refused")
    secured.swap(other, CLIENT.ca)
    assert secured.status()["refused"] is None
    assert secured.metric("tls_certificate_is_refused") == 0
    assert b"\n".join(other.key.splitlines()[1:-1]).decode() not in secured.service.process.output


def test_the_expiry_of_what_serves_is_shown(secured: Secured):
    pair = issued(OLD, days=3)
    secured.swap(pair, CLIENT.ca)
    assert secured.metric("tls_certificate_expiry_timestamp_seconds") == pair.expires
    assert secured.status()["serial"] == pair.serial
    expiry = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(pair.expires))
    assert secured.status()["expires"] == expiry
    assert secured.events("tls_accepted")[-1]["expires"] == expiry


def test_each_worker_follows_on_its_http_port_too_where_it_is_told_to(tmp_path: Path):
    """HTTP asks for no client certificate: a kubelet has none."""
    mount, pair = Mount(tmp_path / "tls"), issued(NEW)
    mount.put(issued(OLD), CLIENT.ca)
    options = (*mount.flags(), "--tls.http", "--workers", "2")
    trust = ssl.create_default_context(cadata=BOTH.decode())
    with serving(tmp_path, POLICY, options=options, is_ready=False) as service:
        secured = Secured(service, mount, trust)
        service.process.wait_until(lambda: len(secured.events("ready")) == 2, "both are ready")
        with secured.http as kept:
            assert kept.get("/healthz").text == "ok"
            with pytest.raises(httpx2.TransportError):
                service.get("/healthz")
            mount.put(pair, CLIENT.ca)
            secured.until(lambda: len(secured.events("tls_accepted")) == 2, "both have taken it")
            assert kept.get("/healthz").text == "ok"
            expiry = "tls_certificate_expiry_timestamp_seconds"
            secured.until(lambda: secured.metric("tls_reloads_total") == 2, "both have told it")
            assert secured.metric(expiry) == pair.expires
        assert secured.outcome(CLIENT) == "allowed"
        ports = ((service.grpc_port, "h2"), (service.http_port, "http/1.1"))
        shown = {shown_serial(port, protocol=name) for port, name in ports for _ in range(12)}
        assert shown == {pair.serial}


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize(
    ("count", "is_worker", "expected"), [("1", False, 2), ("2", False, 2), ("2", True, 1)]
)
def test_all_faults_are_told_at_start(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    count: str,
    is_worker: bool,
    expected: int,
):
    """A worker that takes a dead one's place while the files are broken ends alone: status 2 would
    end the others, which serve the last good pair.
    """
    monkeypatch.setattr(workers, "is_worker", lambda: is_worker)
    monkeypatch.setattr(workers, "end_with_parent", lambda: None)
    pair = issued(OLD)
    mount = Mount(tmp_path / "tls")
    mount.put(Issued(pair.key, pair.certificate, pair.ca))
    (tmp_path / "config").mkdir()
    arguments = ["--configuration.folder", str(tmp_path / "config"), "--workers", count]
    status = run(
        "ext_authz", ext_authz.app.Settings, ext_authz.app.build, [*arguments, *mount.flags()]
    )
    assert status == expected
    told = capsys.readouterr().err
    if is_worker:
        assert told == f"ext_authz: {EMPTY}\n"
        return
    assert told.splitlines() == [
        "ext_authz: tls.certificate_file: holds no certificate (PEM is needed)",
        f"ext_authz: {EMPTY}",
        "ext_authz: tls.key_file: holds no private key (PEM is needed)",
    ]


def envoy_options(mount: Mount, *, san: str = NAME) -> dict[str, str]:
    return {
        "services_tls_ca_file": str(mount.ca),
        "services_tls_san": san,
        "services_tls_certificate_file": str(mount.certificate),
        "services_tls_key_file": str(mount.key),
    }


def with_secrets(folder: Path, options: dict[str, str]) -> dict[str, str]:
    """The options of an Envoy that follows its files by what `render envoy-secrets` writes."""
    folder.mkdir()
    for name, document in secrets(EnvoyOptions(**options)).items():
        (folder / name).write_text(to_yaml(document))
    return {**options, "services_tls_secrets_folder": str(folder)}


def test_envoy_takes_the_files_themselves_and_each_kind_of_name(tmp_path: Path):
    """A DNS name alone can be sent as SNI."""
    mount = Mount(tmp_path)
    mount.put(CLIENT, OLD.certificate)
    for san, sni in ((NAME, NAME), ("10.0.0.1", ""), ("spiffe://cluster.local/ns/m/sa/a", "")):
        document = bootstrap(EnvoyOptions(**envoy_options(mount, san=san)))
        sockets = {
            cluster["name"]: cluster["transport_socket"]["typed_config"].get("sni", "")
            for cluster in document["static_resources"]["clusters"]
            if "transport_socket" in cluster
        }
        assert sockets == {"ext_authz": sni, "ratelimit": sni}
    done = validate(document)
    assert done.returncode == 0, done.stderr


def test_envoy_asks_over_mutual_tls_and_follows_new_certificates(tmp_path: Path):
    """Both sides move to a new CA in four steps while requests go on; then a service of the right
    CA and another name is not asked.
    """
    ours, envoys = Mount(tmp_path / "ours"), Mount(tmp_path / "envoys")
    ours.put(issued(OLD), CLIENT.ca)
    envoys.put(CLIENT, OLD.certificate)
    options = with_secrets(tmp_path / "secrets", envoy_options(envoys))
    # Old connections end at once, so that requests meet new ones.
    flags = (*ours.flags(), "--grpc.connection-age-seconds", "0.2")
    with guarded_mesh(tmp_path, POLICY, options=flags, envoy=options) as mesh:
        secured = Secured(mesh.authorizer, ours)
        assert mesh.reason("/closed") == "missing_credential"
        reasons = {mesh.reason("/open")}

        def envoy_has(serial: str) -> bool:
            reasons.add(mesh.reason("/open"))
            return serial in httpx2.get(f"{mesh.envoy.admin}/certs").text

        envoys.put(CLIENT, BOTH)
        secured.until(lambda: envoy_has(serial_of(NEW.certificate)), "Envoy trusts both CAs")
        secured.swap(issued(NEW), CLIENT.ca, NEW_CLIENT.ca)
        envoys.put(NEW_CLIENT, BOTH)
        secured.until(lambda: envoy_has(NEW_CLIENT.serial), "Envoy shows its new certificate")
        secured.swap(issued(NEW), NEW_CLIENT.ca)
        handshakes = mesh.envoy.stat("cluster.ext_authz.ssl.handshake")

        def is_anew() -> bool:
            reasons.add(mesh.reason("/open"))
            return mesh.envoy.stat("cluster.ext_authz.ssl.handshake") > handshakes + 2

        secured.until(is_anew, "Envoy has connected anew")
        assert reasons == {"allowed"}
        assert mesh.envoy.stat("cluster.ext_authz.health_check.success") > 0
        assert mesh.envoy.stat("cluster.ext_authz.membership_healthy") == 1
        secured.swap(issued(NEW, "other.internal"), NEW_CLIENT.ca)
        secured.until(
            lambda: mesh.reason("/open") == "authorizer_unavailable", "the other is refused"
        )
