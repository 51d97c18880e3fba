"""`python -m ratelimit_service`: the service alone. `--help` lists its settings."""

from __future__ import annotations

import sys

from meshwarden.adapters.service import run
from ratelimit_service.app import Settings, build

if __name__ == "__main__":
    sys.exit(run("ratelimit_service", Settings, build))
