"""The certificates of a workload, served to its Envoy as istio-agent does, by SDS on loopback.

Serves the secrets `default` (the workload's own certificate), `ROOTCA` (the mesh's authority) and
`file-root:system` (the system's, here the same one), the names under which istiod refers to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from meshwarden.adapters.envoy.services_tls import core, tls
from meshwarden.adapters.protobuf import message_class
from tests.support.certificates import Authority, Issued
from tests.support.threaded_servers import serving_grpc

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
Request = message_class("envoy.service.discovery.v3.DiscoveryRequest")
Response = message_class("envoy.service.discovery.v3.DiscoveryResponse")


def workload_certificate(authority: Authority, namespace: str, account: str) -> Issued:
    """What Istio's authority would issue for a ServiceAccount."""
    return authority.issue(uris=(f"spiffe://cluster.local/ns/{namespace}/sa/{account}",))


@contextmanager
def serving_secrets(own: Issued) -> Iterator[int]:
    """The port at which `own` and its authority are served, for the length of the block."""
    secrets = {
        "default": tls.Secret(
            name="default",
            tls_certificate=tls.TlsCertificate(
                certificate_chain=core.DataSource(inline_bytes=own.certificate),
                private_key=core.DataSource(inline_bytes=own.key),
            ),
        ),
        **{
            name: tls.Secret(
                name=name,
                validation_context=tls.CertificateValidationContext(
                    trusted_ca=core.DataSource(inline_bytes=own.ca)
                ),
            )
            for name in ("ROOTCA", "file-root:system")
        },
    }

    def stream(messages: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            asked = Request.FromString(message)
            if asked.response_nonce:
                assert not asked.HasField("error_detail"), asked.error_detail
                continue
            answer = Response(version_info="1", type_url=TYPE_URL, nonce="1")
            for name in asked.resource_names:
                answer.resources.add(type_url=TYPE_URL, value=bytes(secrets[name]))
            yield answer.SerializeToString()

    handlers = {"StreamSecrets": grpc.stream_stream_rpc_method_handler(stream)}
    with serving_grpc(SERVICE, handlers, threads=16) as port:
        yield port
