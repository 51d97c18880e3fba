"""What an operator may choose about the rendered manifests; the rest is fixed where it is built.

What a policy folder says (hosts, identity headers, descriptors) is no option: `facts.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from meshwarden.adapters.envoy.options import MEBIBYTE

DnsLabel = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)
]
LabelText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9./_-]{1,317}$")]
IstioVersion = Annotated[str, StringConstraints(pattern=r"^1\.[0-9]{1,3}$")]

GATEWAY_API_ACCOUNT = "meshwarden-istio"
"""The ServiceAccount that istiod makes for the Gateway `meshwarden` of the class `istio`."""


def _listed(value: Any) -> Any:
    """`a,b` of the command line as a list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _paired(value: Any) -> Any:
    """`a=b,c=d` of the command line as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in _listed(value)]
    if any(not separator for _, separator, _ in pairs):
        raise ValueError("write KEY=VALUE, and a comma between two")
    found = [(key.strip(), text.strip()) for key, _, text in pairs]
    twice = [key for key, count in Counter(key for key, _ in found).items() if count > 1]
    if twice:
        raise ValueError(f"'{twice[0]}' stands twice")
    return dict(found)


Labels = Annotated[dict[LabelText, LabelText], BeforeValidator(_paired), Field(max_length=20)]
Namespaces = Annotated[tuple[DnsLabel, ...], BeforeValidator(_listed), Field(max_length=1000)]
Versions = Annotated[
    tuple[IstioVersion, ...], BeforeValidator(_listed), Field(min_length=1, max_length=20)
]
ClusterFiles = Annotated[
    tuple[
        Annotated[
            str,
            StringConstraints(
                pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/(secret|configmap)"
                r"/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
            ),
        ],
        ...,
    ],
    BeforeValidator(_listed),
    Field(max_length=1000),
]
Owners = Annotated[dict[str, DnsLabel], BeforeValidator(_paired), Field(max_length=10_000)]
Words = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(max_length=1000)]
Pairs = Annotated[dict[str, str], BeforeValidator(_paired), Field(max_length=100)]


class IstioOptions(BaseModel):
    """One installation of Meshwarden in one mesh."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: DnsLabel = Field(default="meshwarden-system", description="Where our services run.")
    root_namespace: DnsLabel = Field(
        default="istio-system",
        description="The mesh's root namespace: what stands there holds in every namespace.",
    )
    cluster_domain: str = Field(
        default="cluster.local",
        pattern=r"^[a-z0-9.-]{1,200}$",
        description="Ends every Service's DNS name.",
    )
    trust_domain: str = Field(
        default="cluster.local",
        pattern=r"^[a-z0-9.-]{1,200}$",
        description="Of the mesh's SPIFFE identities.",
    )
    image: str = Field(
        default="ghcr.io/meshwarden/meshwarden:0.1.0",
        min_length=1,
        max_length=400,
        description="The image of both services; name a digest in production.",
    )

    gateway_labels: Labels = Field(
        default={"istio": "ingressgateway"}, description="Labels of the ingress gateway's Pods."
    )
    gateway_namespace: DnsLabel = Field(
        default="istio-system", description="Where the ingress gateway runs."
    )
    gateway_service_account: DnsLabel = Field(
        default="istio-ingressgateway-service-account",
        description="Its ServiceAccount: identity headers are believed from it alone.",
    )
    gateway_tls_secret: str = Field(
        default="",
        pattern=r"^[a-z0-9.-]{0,253}$",
        description="Secret with the gateway's certificate; empty: plain HTTP on port 80.",
    )
    istio_versions: Versions = Field(
        default=("1.31",),
        description="Minor versions of the proxies that EnvoyFilters are written for; others get "
        "none of them.",
    )
    unguarded_hosts: Words = Field(
        default=(),
        description="Hosts for which the gateway asks no authorizer; every other host is asked "
        "for.",
    )
    guarded_namespaces: Namespaces = Field(
        default=(),
        description="Namespaces whose every sidecar asks the authorizer and the limits, without a "
        "label on its Pod.",
    )
    caller_namespaces: Namespaces = Field(
        default=(),
        description="Namespaces that may ask our services, beside the gateway's; empty: the whole "
        "mesh.",
    )

    host_owners: Owners = Field(
        default={},
        description="HOST=NAMESPACE: whose AccessPolicies may speak for which hosts; those of the "
        "services' own namespace may for any.",
    )
    domain_owners: Owners = Field(
        default={}, description="DOMAIN=NAMESPACE: whose RateLimits may speak for which domains."
    )
    open_claims: bool = Field(
        default=False,
        description="Let any namespace speak for hosts and domains that nobody holds.",
    )
    watched_namespaces: Namespaces = Field(
        default=(),
        description="Namespaces whose objects of our kinds count, beside our own; empty: all, by "
        "a ClusterRole.",
    )
    readable_files: ClusterFiles = Field(
        default=(),
        description="NAMESPACE/secret/NAME or NAMESPACE/configmap/NAME that objects there may "
        "refer to, beside what the folder's refer to.",
    )

    ext_authz_timeout_seconds: float = Field(
        default=0.2, gt=0, le=5, description="A decision, retry included; then 503."
    )
    ext_authz_body_bytes: int = Field(
        default=8192,
        ge=1,
        le=MEBIBYTE,
        description="How much of a request's body is sent, where some policy reads it.",
    )
    ratelimit_timeout_seconds: float = Field(
        default=0.15, gt=0, le=5, description="A count, retry included; then the request passes."
    )
    ratelimit_failure_mode: Literal["allow", "deny"] = Field(
        default="allow", description="deny: without an answer the request is a 500."
    )
    ratelimit_domain: str = Field(
        default="", max_length=253, description="Whose limits apply; empty: the folder's only one."
    )
    descriptor_headers: Pairs = Field(
        default={},
        description="Descriptor keys that are request headers, KEY=HEADER: of the client's word.",
    )

    replicas: int = Field(default=2, ge=1, le=1000, description="Of each service.")
    redis_secret: DnsLabel = Field(
        default="meshwarden-redis", description="Secret with `url`, and `auth` if it needs one."
    )
    keys_secret: DnsLabel = Field(
        default="meshwarden-keys",
        description="Secret with `api-keys.json` and `pepper`, and `signing-keys.json` where a "
        "policy signs identity tokens.",
    )
    kubernetes_reviews: bool = Field(
        default=False,
        description="Let policies that are applied later use kubernetesToken and kubernetesAccess; "
        "those of the folder may anyhow.",
    )
    otlp_service: str = Field(
        default="opentelemetry-collector.observability.svc.cluster.local",
        pattern=r"^[a-z0-9.-]{0,253}$",
        description="Collector of traces: OTLP over gRPC on 4317 for proxies, HTTP on 4318 for us; "
        "empty: none.",
    )
    trace_percent: float = Field(
        default=1.0, ge=0, le=100, description="Of requests whose trace begins here."
    )

    @model_validator(mode="after")
    def _agreeing(self) -> IstioOptions:
        """An authorizer whose own sidecar asks it can never answer."""
        if self.namespace in self.guarded_namespaces:
            raise ValueError(
                f"guarded_namespaces names '{self.namespace}', where the authorizer itself runs"
            )
        if self.open_claims and (self.host_owners or self.domain_owners):
            raise ValueError("open_claims lets any namespace claim what others would own")
        return self

    @property
    def proxy_version(self) -> str:
        """The regular expression of `match.proxy.proxyVersion`; 1.3 must not match 1.31."""
        minors = "|".join(re.escape(version) for version in self.istio_versions)
        return rf"^({minors})([.-].*)?$"

    @property
    def version(self) -> str:
        """The image's tag, as a label takes it."""
        tag = self.image.partition("@")[0].rpartition("/")[2].partition(":")[2]
        return tag[:63] or "unknown"

    @property
    def callers(self) -> tuple[str, ...]:
        """The namespaces that may ask our services, where they are named."""
        named = (self.gateway_namespace, *self.guarded_namespaces, *self.caller_namespaces)
        return tuple(dict.fromkeys(named))

    @property
    def gateway_principals(self) -> list[str]:
        """The identities of the ingress gateway and of the one that istiod deploys for the Gateway
        API, as Istio writes them: without `spiffe://`.
        """
        place = f"{self.trust_domain}/ns/{self.gateway_namespace}/sa"
        return [f"{place}/{self.gateway_service_account}", f"{place}/{GATEWAY_API_ACCOUNT}"]

    def host(self, service: str) -> str:
        """The full DNS name of a Service of ours."""
        return f"{service}.{self.namespace}.svc.{self.cluster_domain}"
