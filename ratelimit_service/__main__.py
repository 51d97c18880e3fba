"""`python -m ratelimit_service`, or `ratelimit` as in envoyproxy/ratelimit's image: the service
alone. `--help` lists its settings.
"""

from __future__ import annotations

import sys

from meshwarden.adapters.service import run
from ratelimit_service.app import Settings, build


def main() -> None:
    """Run until told to stop."""
    sys.exit(run("ratelimit_service", Settings, build))


if __name__ == "__main__":
    main()
