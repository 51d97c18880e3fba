"""structlog without rich, which it imports for tracebacks in colour wherever it is installed, and
which the command line brings along: a tenth of a service's start, for what no log of ours shows.
"""

from __future__ import annotations

import sys

_without_rich = "rich" not in sys.modules
if _without_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402 - this is the point

if _without_rich:
    del sys.modules["rich"]

__all__ = ["structlog"]
