"""`python -m ext_authz`: the service alone. `--help` lists its settings."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run until told to stop."""
    gc.disable()  # What is imported stays: looking for garbage in it is a tenth of the start.
    from ext_authz.app import Settings, build
    from meshwarden.adapters.service import run

    sys.exit(run("ext_authz", Settings, build))


if __name__ == "__main__":
    main()
