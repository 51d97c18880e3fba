"""Redis as every service reaches it: its client, its errors as faults.

Imported where Redis is used: the library takes a tenth of a second.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from meshwarden.core.faults import Misconfigured, Unavailable

LIBRARY_ERRORS = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    exceptions.ChildDeadlockedError,
    exceptions.IncorrectPolicyType,
    OSError,
)
_LASTING_ERRORS = (
    exceptions.AuthenticationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
    exceptions.DataError,
    exceptions.IncorrectPolicyType,
)


def client(url: str, *, auth: str = "", protocol: int = 2) -> Any:
    """The library's asyncio client, without its own retries and time limits.

    `auth` is a password, or user:password. Raises `Misconfigured` where `url` is none.
    """
    username, _, password = auth.rpartition(":")
    credentials = {"username": username, "password": password}
    named: dict[str, Any] = {name: value for name, value in credentials.items() if value}
    try:
        return redis.asyncio.Redis.from_url(
            url,
            **named,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=protocol,
            driver_info=None,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError:
        # What the library says may show a part of a password.
        raise Misconfigured("the URL of Redis can't be used: host:port is needed") from None


def translated(error: BaseException, *, time_limit_seconds: float = 0) -> Unavailable:
    """The library's exception as a fault, in its own words; a `TimeoutError` tells the limit."""
    if isinstance(error, TimeoutError) and time_limit_seconds:
        return Unavailable(f"redis: no answer within {time_limit_seconds:g} s")
    text = str(error) or type(error).__name__
    return Unavailable(f"redis: {text}", retryable=not isinstance(error, _LASTING_ERRORS))
