"""`python -m ext_authz`: the service alone. `--help` lists its settings."""

from __future__ import annotations

import sys

from ext_authz.app import Settings, build
from meshwarden.adapters.service import run

if __name__ == "__main__":
    sys.exit(run("ext_authz", Settings, build))
