"""Statistics as the reference writes them to its log when no other output is on.

{"level":"debug","ts":1.5,"logger":"gostats.loggingsink","msg":"flushing counter",
 "json":{"name":"ratelimit.service.config_load_success","type":"counter","value":"1.000000"}}
"""

from __future__ import annotations

import json
from collections.abc import Callable

from ratelimit_service.core.statsd_lines import Kind, Line

_KINDS = {"c": "counter", "g": "gauge", "ms": "timer"}


def log_line(suffix: str, clock: Callable[[], float]) -> Line:
    """Lines as gostats' logging sink writes them; `suffix` holds the tags."""

    def line(kind: Kind, name: str, value: int) -> str:
        word = _KINDS[kind]
        document = {
            "level": "debug",
            "ts": round(clock(), 6),
            "logger": "gostats.loggingsink",
            "msg": f"flushing {word}",
            "json": {"name": name + suffix, "type": word, "value": f"{value}.000000"},
        }
        return json.dumps(document, separators=(",", ":")) + "\n"

    return line
