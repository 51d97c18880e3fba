"""An Envoy whose listener wants a client's certificate, and clients that show one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx2

from tests.support.certificates import Authority, Issued
from tests.support.guarded_mesh import Bootstrap, GuardedMesh

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def with_mutual_tls(
    folder: Path, authority: Authority, *, is_required: bool = True
) -> Callable[[Bootstrap], Bootstrap]:
    """Changes a bootstrap: its listener wants a client's certificate of `authority`, or takes one
    where it is not required.
    """
    (folder / "ca.pem").write_bytes(authority.certificate)
    certificate, key = authority.issue(dns=("localhost",)).write(folder, "server")
    context = {
        "@type": _TLS,
        "require_client_certificate": is_required,
        "common_tls_context": {
            "tls_certificates": [
                {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}
            ],
            "validation_context": {"trusted_ca": {"filename": str(folder / "ca.pem")}},
        },
    }

    def change(document: Bootstrap) -> Bootstrap:
        for chain in document["static_resources"]["listeners"][0]["filter_chains"]:
            chain["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": context,
            }
        return document

    return change


def mutual_tls_client(mesh: GuardedMesh, folder: Path, shown: Issued | None) -> httpx2.Client:
    """A client that shows this certificate, or none, to the listener made with `folder`."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if shown is not None:
        context.load_cert_chain(*shown.write(folder, "shown"))
    address = mesh.envoy.gateway.replace("http://127.0.0.1", "https://localhost")
    return httpx2.Client(verify=context, trust_env=False, base_url=address)
