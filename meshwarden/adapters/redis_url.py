"""Where Redis is, as a setting; apart from its client, so that naming it imports no library."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def parse_redis_url(value: object) -> object:
    """A URL, from what the reference takes: `host:port`, a socket's path, or a URL."""
    if not isinstance(value, str) or value.startswith(("redis://", "rediss://", "unix://")):
        return value
    if value.startswith("/"):
        return f"unix://{value}"
    if re.fullmatch(r"[^,/\s]+:\d+", value):
        return f"redis://{value}"
    raise ValueError("must be host:port, a socket's path, or a redis://, rediss:// or unix:// URL")


def single_url(text: str) -> str:
    """One server's URL, of any form. Raises `ValueError` in words that show no password."""
    url = str(parse_redis_url(text))
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("can't be used: its host or port is none") from None
    if parts.query and not re.fullmatch(r"db=\d+", parts.query):
        raise ValueError("may have no ?options but db; there is a setting for each")
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError("names no socket")
    elif not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError("may have no path but a database's number")
    return url


RedisUrl = Annotated[str, AfterValidator(single_url)]
