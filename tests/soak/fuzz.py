"""Fuzzes one target: `python -m tests.soak.fuzz TARGET SECONDS FOLDER`, in atheris' environment.

Ends with libFuzzer's `Done N runs`, or with the input that broke a promise and a status that is
not 0. `FOLDER` keeps inputs that reached something new, and the ones that broke something.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["ext_authz", "python_multipart", "meshwarden.core", "meshwarden.adapters.grpc_framing"]
):
    from tests.soak.targets import TARGETS

BYTES_AT_MOST = 8192
SECONDS_AT_MOST = 2
"""For one input: what takes longer is a finding, too."""


def fuzz(name: str, seconds: int, folder: Path) -> None:
    target, seeds = TARGETS[name]
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={BYTES_AT_MOST}",
        f"-timeout={SECONDS_AT_MOST}",
        f"-artifact_prefix={folder}/{name}-",
        "-rss_limit_mb=1024",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
