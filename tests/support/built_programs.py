"""Programs of others that a tier builds once a machine, outside the checkout."""

from __future__ import annotations

import os
from pathlib import Path


def built_program(name: str, *, variable: str, folder: str, tier: str) -> Path:
    """The program `name`, in the folder that `variable` names, which the Makefile sets, else in the
    newest that is called like the pattern `folder` in the cache. Fails, naming the tier that builds
    it, where there is none.
    """
    found = os.environ.get(variable)
    if found is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        found = str(max((cache / "meshwarden").glob(folder), default=""))
    program = Path(found, name)
    assert program.is_file(), f"no {name} at {program}: run `make {tier}`"
    return program


def http2_client(name: str) -> Path:
    """`h2spec`, `ghz`, `grpcurl` or `h2load`."""
    return built_program(
        name, variable="HTTP2_CLIENTS", folder="http2-clients-*", tier="test-transport"
    )
