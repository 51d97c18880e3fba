"""TLS from Envoy to our services: their certificate checked against a CA and a name, ours shown.

Envoy reads files that stand in the bootstrap once, at its start. Those that a file of its secret
discovery service (SDS) names it follows, if they are renamed into their folder or the folder is a
mounted Kubernetes Secret (tried, Envoy 1.40; `watched_directory` outside of SDS changes nothing).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from betterproto2 import Casing
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from meshwarden.adapters.envoy.options import EnvoyOptions
from meshwarden.adapters.envoy.typed import is_ip_address, packed

CA_SECRET = "services_ca"  # noqa: S105 - a name
CERTIFICATE_SECRET = "services_certificate"  # noqa: S105 - a name


def transport_socket(options: EnvoyOptions) -> core.TransportSocket | None:
    """How the services' clusters connect; None: without TLS."""
    if not options.services_tls_ca_file:
        return None
    common = tls.CommonTlsContext(
        alpn_protocols=["h2"],
        tls_params=tls.TlsParameters(
            tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2,
            tls_maximum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_3,
        ),
    )
    if options.services_tls_secrets_folder:
        common.validation_context_sds_secret_config = _followed(CA_SECRET, options)
    else:
        common.validation_context = _validation(options)
    if options.services_tls_certificate_file:
        if options.services_tls_secrets_folder:
            named = _followed(CERTIFICATE_SECRET, options)
            common.tls_certificate_sds_secret_configs = [named]
        else:
            common.tls_certificates = [_certificate(options)]
    name = options.services_tls_san
    context = tls.UpstreamTlsContext(
        common_tls_context=common,
        sni=name if _kind(name) == tls.SubjectAltNameMatcherSanType.DNS else "",
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def secrets(options: EnvoyOptions) -> dict[str, dict[str, Any]]:
    """The SDS files that `services_tls_secrets_folder` must hold, by name."""
    made = []
    if options.services_tls_ca_file:
        validation = _validation(options)
        validation.watched_directory = _folder_of(options.services_tls_ca_file)
        made.append(tls.Secret(name=CA_SECRET, validation_context=validation))
    if options.services_tls_certificate_file:
        certificate = _certificate(options)
        certificate.watched_directory = _folder_of(options.services_tls_certificate_file)
        made.append(tls.Secret(name=CERTIFICATE_SECRET, tls_certificate=certificate))
    return {
        f"{secret.name}.yaml": discovery.DiscoveryResponse(resources=[packed(secret)]).to_dict(
            casing=Casing.SNAKE
        )
        for secret in made
    }


def _followed(name: str, options: EnvoyOptions) -> tls.SdsSecretConfig:
    path = PurePosixPath(options.services_tls_secrets_folder, f"{name}.yaml")
    return tls.SdsSecretConfig(
        name=name,
        sds_config=core.ConfigSource(
            path_config_source=core.PathConfigSource(path=str(path)),
            resource_api_version=core.ApiVersion.V3,
        ),
    )


def _validation(options: EnvoyOptions) -> tls.CertificateValidationContext:
    name = options.services_tls_san
    return tls.CertificateValidationContext(
        trusted_ca=core.DataSource(filename=options.services_tls_ca_file),
        match_typed_subject_alt_names=[
            tls.SubjectAltNameMatcher(
                san_type=_kind(name), matcher=matcher.StringMatcher(exact=name)
            )
        ],
    )


def _certificate(options: EnvoyOptions) -> tls.TlsCertificate:
    return tls.TlsCertificate(
        certificate_chain=core.DataSource(filename=options.services_tls_certificate_file),
        private_key=core.DataSource(filename=options.services_tls_key_file),
    )


def _folder_of(file: str) -> core.WatchedDirectory:
    return core.WatchedDirectory(path=str(PurePosixPath(file).parent))


def _kind(name: str) -> tls.SubjectAltNameMatcherSanType:
    if "://" in name:
        return tls.SubjectAltNameMatcherSanType.URI
    kinds = tls.SubjectAltNameMatcherSanType
    return kinds.IP_ADDRESS if is_ip_address(name) else kinds.DNS
