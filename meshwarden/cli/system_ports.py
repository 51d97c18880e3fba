"""The ports of the system that `up` starts: the fixed ones, or free ones."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from enum import StrEnum

from meshwarden.adapters import ports as binding
from meshwarden.core.faults import Misconfigured, Problem

HOST = "127.0.0.1"


class PortChoice(StrEnum):
    DEFAULT = "default"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of the system; all on 127.0.0.1. `upstream` is any free one."""

    gateway: int = 10000
    envoy_admin: int = 9901
    ext_authz: int = 9001
    ext_authz_http: int = 9002
    ext_authz_streaming: int = 9003
    ratelimit: int = 8081
    ratelimit_http: int = 8080
    ratelimit_debug: int = 6070
    ratelimit_streaming: int = 8083
    upstream: int = 0


OF_ENVOY = {"gateway", "envoy_admin"}


def choose(choice: PortChoice, *, with_envoy: bool) -> Ports:
    """Ports that are free now. Raises `Misconfigured`, naming those that are taken.

    Without Envoy its two ports may be taken: by the caller's own Envoy.
    """
    if choice is PortChoice.AUTO:
        return Ports(*binding.free(HOST, len(astuple(Ports()))))
    wanted = {
        name: port
        for name, port in asdict(Ports()).items()
        if port and (with_envoy or name not in OF_ENVOY)
    }
    if taken := {name: port for name, port in wanted.items() if not _is_free(port)}:
        raise Misconfigured([_told(taken, are_all=taken == wanted)])
    return Ports(upstream=binding.free(HOST, 1)[0])


def _told(taken: dict[str, int], *, are_all: bool) -> Problem:
    if are_all:
        hint = "a Meshwarden seems to run here: stop it, or start with --ports auto"
    else:
        hint = "stop what listens there, or start with --ports auto"
    named = ", ".join(f"{port} ({name.replace('_', ' ')})" for name, port in taken.items())
    word, verb = ("port", "is") if len(taken) == 1 else ("ports", "are")
    return Problem("", 0, f"{word} {named} on {HOST} {verb} taken", hint)


def _is_free(port: int) -> bool:
    try:
        binding.require_free(HOST, port)
    except Misconfigured:
        return False
    return True
