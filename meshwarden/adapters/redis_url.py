"""Where Redis is, as a setting; apart from its client, so that naming it imports no library."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator


def parse_redis_url(value: object) -> object:
    """A URL, from what the reference takes: `host:port`, a socket's path, or a URL."""
    if not isinstance(value, str) or value.startswith(("redis://", "rediss://", "unix://")):
        return value
    if value.startswith("/"):
        return f"unix://{value}"
    if re.fullmatch(r"[^,/\s]+:\d+", value):
        return f"redis://{value}"
    raise ValueError("must be host:port, a socket's path, or a redis://, rediss:// or unix:// URL")


RedisUrl = Annotated[str, BeforeValidator(parse_redis_url)]
