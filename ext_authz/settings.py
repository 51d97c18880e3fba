"""The settings of ext_authz; each is a flag, an environment variable and a row of the reference
page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from meshwarden.adapters.redis_url import RedisUrl
from meshwarden.adapters.settings import GrpcSettings, HttpSettings, Section, ServiceSettings

SecretKey = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9.-]{0,252}/[A-Za-z0-9._-]{1,253})?$")]


class KeySettings(Section):
    """Where API keys and the development issuer's keys are."""

    file: Path | None = Field(
        None, description="File of API key records, as `meshwarden keys` writes it."
    )
    pepper_file: Path | None = Field(
        None, description="File with the secret under which the keys' digests were made."
    )
    revocations_file: Path | None = Field(
        None, description="File of revoked tokens, as `meshwarden token revoke` writes it."
    )
    file_secret: SecretKey = Field(
        "",
        description="NAME/KEY of the Secret with API key records, in place of the file where "
        "configuration comes from Kubernetes.",
    )
    pepper_secret: SecretKey = Field("", description="Likewise for pepper-file.")
    revocations_secret: SecretKey = Field("", description="Likewise for revocations-file.")
    redis_url: RedisUrl | None = Field(
        None,
        description="Redis with API keys and revocations, in place of the files; the pepper stays "
        "a file.",
    )
    redis_auth: SecretStr = Field(SecretStr(""), description="Password, or user:password.")
    redis_prefix: str = Field("meshwarden:", description="Put before every name in Redis.")
    redis_time_limit_seconds: float = Field(
        0.1, gt=0, le=10, description="Redis must answer within this time."
    )
    remembered_at_most: int = Field(
        100_000, ge=1, le=10_000_000, description="Key records kept in memory, about 2 kB each."
    )
    on_store_failure: Literal["serve_stale", "refuse"] = Field(
        "serve_stale",
        description="When Redis can't be heard: serve_stale goes on with the keys and revocations "
        "that are known; refuse lets each policy's onUnavailable decide, for tokens, too.",
    )
    development_jwks: Path | None = Field(
        None,
        description="Public keys of this machine's development issuer; unset: such an issuer "
        "is refused.",
    )


class IdentityTokenSettings(Section):
    """The signed tokens that tell upstreams who is calling."""

    keys_file: Path | None = Field(
        None,
        description="Private keys (JWKS) that all replicas share, as `meshwarden keys signing` "
        "writes them; unset: no policy may ask for a token.",
    )
    keys_secret: SecretKey = Field(
        "",
        description="NAME/KEY of the Secret with them, in place of the file where configuration "
        "comes from Kubernetes.",
    )
    issuer: str = Field(
        "",
        pattern=r"^(https?://[^/\s?#]+(/[^\s?#]*)?)?$",
        description="The `iss` of the tokens: the URL at which workloads reach our HTTP port, "
        "where keys and the discovery document are.",
    )


class KubernetesReviewSettings(Section):
    """Asking Kubernetes whose a token is (TokenReview) and what a caller may (SubjectAccessReview).

    Its account must be bound to the ClusterRole system:auth-delegator.
    """

    enabled: bool = Field(
        False, description="Whether policies may use kubernetesToken and kubernetesAccess."
    )
    kubeconfig: Path | None = Field(
        None, description="File that says how to reach the API server; unset: as a Pod does."
    )
    time_limit_seconds: float = Field(
        1.0,
        gt=0,
        le=30,
        description="Time limit of one question. A request waits for lookup-wait-seconds at most; "
        "the answer to a question that takes longer serves those who ask meanwhile.",
    )
    token_seconds: float = Field(
        60,
        ge=0,
        le=600,
        description="How long a token is taken for good, never past its own end. A deleted "
        "ServiceAccount is noticed so late, and up to 10 s later: the API server remembers, too.",
    )
    refused_token_seconds: float = Field(
        5, ge=0, le=600, description="How long a token is taken for bad."
    )
    allowed_seconds: float = Field(
        60,
        ge=0,
        le=600,
        description="How long an access stays allowed: so late a removed RoleBinding is noticed.",
    )
    denied_seconds: float = Field(
        10, ge=0, le=600, description="How long an access stays denied: so late a new one is."
    )
    remembered_at_most: int = Field(
        20_000,
        ge=1,
        le=10_000_000,
        description="Answers of each kind kept in memory, about 1 kB each.",
    )


class Settings(ServiceSettings):
    """Who is calling, and may they."""

    model_config = SettingsConfigDict(env_prefix="EXT_AUTHZ_")

    grpc: GrpcSettings = GrpcSettings(port=9001, streaming_port=9003)
    http: HttpSettings = HttpSettings(port=9002)
    keys: KeySettings = KeySettings()
    identity_tokens: IdentityTokenSettings = IdentityTokenSettings()
    kubernetes_reviews: KubernetesReviewSettings = KubernetesReviewSettings()
    remembered_tokens_at_most: int = Field(
        20_000, ge=0, le=10_000_000, description="Verified tokens kept in memory, about 2 kB each."
    )
    lookup_wait_seconds: float = Field(
        0.1,
        ge=0.001,
        le=10,
        description="A request that needs what is not in memory (new keys of an issuer, a key "
        "record, a review of Kubernetes) waits this long; keep it below Envoy's timeout.",
    )
    fault_answer: Literal["grpc_error", "error_response"] = Field(
        "grpc_error",
        description="How a fault of ours is answered. Both obey Envoy's failure mode; "
        "error_response says why in its body.",
    )
    failures_at_once: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="Credentials that are not valid which one address may have verified at once; "
        "beyond them an unknown one from there is 429, and known ones are served.",
    )
    failures_per_second: float = Field(
        10, gt=0, le=1_000_000, description="So many more are given to each address a second."
    )
    headers_at_most: int = Field(
        80, ge=1, le=1000, description="A request with more header lines is denied with 431."
    )
