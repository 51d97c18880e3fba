"""How a service gets its settings: defaults, environment, command line; every fault at once; a
reference page.

Holds the parts that all services have in common and the loading. What a service adds, its own
`settings.py` says. Precedence: command line over environment over default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshwarden.core.documents import hint_for
from meshwarden.core.faults import Misconfigured, Problem

Port = Annotated[int, Field(ge=0, le=65535)]
Settings = TypeVar("Settings", bound="ServiceSettings")


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GrpcSettings(Section):
    host: str = Field("0.0.0.0", description="Address that the gRPC ports bind to.")
    port: Port = Field(0, description="Main gRPC port; 0 takes a free one.")
    transport: Literal["auto", "grpcio", "nghttp2"] = Field(
        "auto",
        description="What serves the main port: nghttp2 (the library libnghttp2, at a fifth of the "
        "cost), grpcio, or auto: nghttp2 where the library is found.",
    )
    socket: str = Field(
        "",
        max_length=107,
        description="Path of a UNIX socket in place of the main port; `@name` is an abstract one.",
    )
    streaming_port: Port = Field(0, description="gRPC port of reflection and health Watch.")
    message_bytes_at_most: int = Field(
        4 << 20, ge=1024, le=64 << 20, description="A larger request is refused."
    )
    metadata_bytes_at_most: int = Field(
        16 << 10, ge=1024, le=1 << 20, description="A call with more metadata is refused."
    )
    calls_at_most: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Calls in flight; beyond them the overload answer is given.",
    )
    connections_at_most: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Connections to the main port of one process, if it has as many file "
        "descriptors and 128 more; the next are closed at once. Not of `grpcio`.",
    )
    connection_age_seconds: float = Field(
        3600,
        gt=0,
        description="A connection is asked to close at this age, so that clients rebalance.",
    )
    connection_age_grace_seconds: float = Field(
        30, gt=0, description="How long its calls may go on after that."
    )
    keepalive_interval_seconds: float = Field(
        30, gt=0, description="A silent connection is probed this often."
    )
    ping_interval_at_least_seconds: float = Field(
        1,
        gt=0,
        description="A client that pings more often, four times, is disconnected; the rendered "
        "Envoy pings every two seconds.",
    )

    @property
    def streams_at_most(self) -> int:
        """Streams a connection may open at once: far above `calls_at_most`, as a refused stream is
        an error, where a flood must be answered in-band.
        """
        return max(10_000, 2 * self.calls_at_most)


class HttpSettings(Section):
    host: str = Field("0.0.0.0", description="Address that the HTTP side port binds to.")
    port: Port = Field(0, description="Port of /healthz, /readyz and /metrics; 0 takes a free one.")


class TlsSettings(Section):
    certificate_file: Path | None = Field(
        None,
        description="PEM file of the service's certificate and its chain: the gRPC ports speak "
        "TLS. A change is followed.",
    )
    key_file: Path | None = Field(None, description="PEM file of the certificate's private key.")
    client_ca_file: Path | None = Field(
        None,
        description="PEM file of CAs: a gRPC client must show a certificate that one of them "
        "signed.",
    )
    client_san: str = Field(
        "",
        description="A name, address or URI that a gRPC client's certificate must hold; empty: any "
        "that client-ca-file signed.",
    )
    http: bool = Field(
        False, description="The HTTP ports speak TLS, too; no client certificate is asked for."
    )


Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Namespaces = Annotated[
    str,
    Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(,[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*)?$"),
]


class KubernetesSettings(Section):
    """Configuration from the custom resources of a Kubernetes API server."""

    enabled: bool = Field(False, description="Watch custom resources, in place of a folder.")
    kubeconfig: Path | None = Field(
        None, description="File that says where the API server is; unset: the Pod's ServiceAccount."
    )
    namespaces: Namespaces = Field(
        "",
        description="Namespaces that are watched, with commas between them; empty: all, which "
        "needs a ClusterRole.",
    )
    shared_namespace: Namespace = Field(
        "meshwarden-system",
        description="Its objects are the platform's: all namespaces see them. Always watched.",
    )
    secret_namespaces: Namespaces = Field(
        "",
        description="Namespaces whose objects may refer to Secrets and ConfigMaps; the shared one "
        "always may.",
    )
    ownership: str = Field(
        "",
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$",
        description="ConfigMap in the shared namespace whose key `ownership.yaml` says which "
        "namespace may speak for which hosts and domains; empty: for any that nobody holds.",
    )
    report: bool = Field(
        True,
        description="Tell the cluster what became of each object: a ReplicaReport in the shared "
        "namespace, and (by one replica, which a Lease names) the objects' status.",
    )
    time_limit_seconds: float = Field(
        5, gt=0, le=60, description="The API server must answer within this time."
    )
    watch_seconds: float = Field(
        290, ge=1, le=3600, description="A watch is asked to end, and is made anew, at this age."
    )
    silence_seconds: float = Field(
        90, ge=0.1, le=3600, description="A connection that was silent for so long is made anew."
    )
    relist_seconds: float = Field(
        1800, ge=1, le=86_400, description="Everything is listed anew this often."
    )
    retry_at_most_seconds: float = Field(
        3, gt=0, le=300, description="The longest wait before the API server is tried again."
    )

    def watched_namespaces(self) -> tuple[str, ...]:
        """Each namespace to be watched, `""` for all."""
        listed = {text for text in self.namespaces.split(",") if text}
        return tuple(sorted(listed | {self.shared_namespace})) if listed else ("",)

    def namespaces_of_secrets(self) -> frozenset[str]:
        listed = {text for text in self.secret_namespaces.split(",") if text}
        return frozenset(listed | {self.shared_namespace})


class ConfigurationSettings(Section):
    folder: Path | None = Field(None, description="Folder of configuration files.")
    kubernetes: KubernetesSettings = KubernetesSettings()
    resync_seconds: float = Field(
        5,
        gt=0,
        le=3600,
        description="The folder is read again this often even when no change was seen.",
    )


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level.")
    format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or text."
    )


class TracingSettings(Section):
    otlp_endpoint: str = Field(
        "",
        description="OTLP/HTTP endpoint, such as http://collector:4318/v1/traces; empty: off.",
    )
    sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of traces started here that are kept; a parent decides first.",
    )
    service_name: str = Field("", description="`service.name` of the spans; empty: the service's.")
    service_namespace: str = Field("", description="`service.namespace` of the spans.")
    service_instance_id: str = Field("", description="`service.instance.id`; empty: a random one.")


class ServiceSettings(BaseSettings):
    """What every service can be told."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        # A section is set field by field; JSON in its place would be a second way, and bad JSON in
        # it an exception that hides every other fault.
        enable_decoding=False,
        nested_model_default_partial_update=True,
    )

    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the ports; /readyz?verbose speaks for one.",
    )
    stop_seconds: float = Field(
        8, gt=0, le=600, description="Calls in flight may go on this long after SIGTERM."
    )
    drain_seconds: float = Field(
        0, ge=0, le=600, description="Time between not ready and closing the ports, for balancers."
    )
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    grpc: GrpcSettings
    http: HttpSettings
    tls: TlsSettings = TlsSettings()
    configuration: ConfigurationSettings = ConfigurationSettings()

    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of everything that the service listens on."""
        grpc, http = self.grpc, self.http
        main = [] if grpc.socket else [(grpc.host, grpc.port)]
        return [*main, (grpc.host, grpc.streaming_port), (http.host, http.port)]

    @classmethod
    def environment_problems(cls) -> list[Problem]:
        """What is wrong with variables that a service reads besides those named by its settings."""
        return []

    @classmethod
    def ways_to_set(cls, name: str) -> str:
        """How the setting `name` (dotted) can be set, for messages."""
        return f"--{name.replace('_', '-')} or {variable(cls, name)}"

    @model_validator(mode="after")
    def require_a_port_that_workers_can_share(self) -> Self:
        """The kernel spreads connections over the processes at a port, never at a socket."""
        if self.workers > 1 and self.grpc.socket:
            raise ValueError(f"{self.workers} workers can't share grpc.socket: use one worker")
        return self


def load(model: type[Settings], arguments: Sequence[str], program: str) -> Settings:
    """The settings of a service from `arguments` and the environment; `--help` prints them all and
    exits.

    Raises `Misconfigured` with one problem for each setting that is wrong, named as it can be set.
    """
    problems = [*_unknown_variables(model), *model.environment_problems()]
    if not {"-h", "--help"}.isdisjoint(arguments):
        model = _with_variables_told(model)
    try:
        settings = model(
            _cli_parse_args=list(arguments),
            _cli_prog_name=program,
            _cli_kebab_case=True,
            _cli_implicit_flags=True,
            _cli_hide_none_type=True,
            _cli_avoid_json=True,
        )
    except pydantic.ValidationError as error:
        problems += [
            _problem(model, detail)
            for detail in error.errors(include_url=False, include_input=False)
        ]
    if problems:
        raise Misconfigured(problems)
    return settings


def _with_variables_told(model: type[Settings]) -> type[Settings]:
    """`model` as `--help` shows it: with the rule by which a flag's variable is named."""
    name = "grpc.port"
    rule = f"Each setting is an environment variable, too: --{name} is {variable(model, name)}."
    return type(model.__name__, (model,), {"__doc__": f"{model.__doc__} {rule}"})


def _problem(model: type[ServiceSettings], detail: Any) -> Problem:
    """One fault that pydantic found, named as the setting can be set."""
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [known for known, _ in leaves(model) if known.startswith(name.rpartition(".")[0])]
        return Problem("", 0, f"{name}: there is no such setting", hint_for(name, known))
    if detail["type"] in ("model_type", "model_attributes_type"):
        field = next(known for known, _ in leaves(model) if known.startswith(f"{name}."))
        hint = f"set its fields, such as {variable(model, field)}"
        return Problem("", 0, f"{name}: is a group of settings", hint)
    message = str(detail["msg"]).removeprefix("Value error, ")
    hint = model.ways_to_set(name) if name else ""
    return Problem("", 0, f"{name}: {message}" if name else message, hint)


def variable(model: type[ServiceSettings], name: str) -> str:
    """The environment variable of the setting `name` (dotted)."""
    return f"{model.model_config.get('env_prefix', '')}{name.replace('.', '__')}".upper()


def _unknown_variables(model: type[ServiceSettings]) -> Iterator[Problem]:
    """Variables of a misspelt section, which pydantic-settings passes over; fields it finds by
    itself.

    Only nested names are judged: Kubernetes adds `<SERVICE>_PORT` and the like by itself.
    """
    prefix = str(model.model_config.get("env_prefix", "")).upper()
    sections = {name.upper() for name in model.model_fields}
    for name in sorted(os.environ):
        section, separator, _ = name.upper().removeprefix(prefix).partition("__")
        if name.upper().startswith(prefix) and separator and section not in sections:
            yield Problem("", 0, f"the environment variable {name} is no setting", "see --help")


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each single setting as (dotted name, its FieldInfo)."""
    for name, info in model.model_fields.items():
        if not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            yield prefix + name, info
            continue
        default = info.get_default()
        for inner, inner_info in leaves(info.annotation, f"{prefix}{name}."):
            shown = copy(inner_info)
            shown.default = getattr(default, inner.rpartition(".")[2], inner_info.default)
            yield inner, shown


def reference_page(model: type[ServiceSettings], program: str) -> str:
    """The settings of a service as a Markdown page."""
    lines = [
        f"# Settings of {program}",
        "",
        "Generated by `meshwarden render reference`. Each is a flag of",
        f"`python -m {program}` and an environment variable; the flag wins.",
        "All faults are reported together at start.",
        "",
        "| flag | variable | default | bounds | what it does |",
        "|---|---|---|---|---|",
    ]
    for name, info in leaves(model):
        default = "" if info.is_required() or info.get_default() is None else info.get_default()
        shown = "" if default == "" else f"`{default}`"
        cells = (
            f"`--{name.replace('_', '-')}`",
            f"`{variable(model, name)}`",
            "(secret)" if isinstance(default, pydantic.SecretStr) else shown,
            _bounds(info),
            info.description or "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _bounds(info: Any) -> str:
    words = []
    for item in info.metadata:
        for kind, sign in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")):
            if isinstance(item, (kind, Interval)) and getattr(item, sign, None) is not None:
                mark = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}[sign]
                words.append(f"{mark} {getattr(item, sign)}")
    if getattr(info.annotation, "__origin__", None) is Literal:
        words.append(", ".join(str(choice) for choice in info.annotation.__args__))
    return " ".join(words)
