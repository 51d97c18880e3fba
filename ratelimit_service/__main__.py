"""`python -m ratelimit_service`, or `ratelimit` as in envoyproxy/ratelimit's image: the service
alone. `--help` lists its settings.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run until told to stop."""
    gc.disable()  # What is imported stays: looking for garbage in it is a tenth of the start.
    from meshwarden.adapters.service import run
    from ratelimit_service.app import Settings, build

    sys.exit(run("ratelimit_service", Settings, build))


if __name__ == "__main__":
    main()
