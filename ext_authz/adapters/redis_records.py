"""Writing key records and revocations to Redis, for the command line and the control plane.

Each change is one transaction, and every replica of ext_authz is told of it by Redis. Listing walks
all records (SCAN), which is for people, never for a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from ext_authz.adapters.redis_layout import PREFIX, Layout, decoded, encoded
from ext_authz.core.api_keys import KeyRecord
from ext_authz.core.revocations import Revocation
from meshwarden.adapters.redis_client import LIBRARY_ERRORS, translated
from meshwarden.core.faults import InvalidInput, Misconfigured

TIME_LIMIT_SECONDS = 5.0
KEPT_AFTER_EXPIRY_SECONDS = 86_400
"""An expired key can still be listed for so long."""
RECORDS_PER_CALL = 500


class RedisRecords:
    """The records in one Redis. Raises `Misconfigured` where `url` is none, `Unavailable` from each
    method when Redis does not answer.
    """

    def __init__(self, url: str, *, prefix: str = PREFIX) -> None:
        self._layout = Layout(prefix)
        try:
            self._redis: Any = redis.Redis.from_url(
                url, socket_timeout=TIME_LIMIT_SECONDS, socket_connect_timeout=TIME_LIMIT_SECONDS
            )
        except ValueError as error:
            raise Misconfigured(f"the Redis URL can't be used: {error}") from None

    def records(self) -> Iterator[KeyRecord]:
        """Every key record, in no order."""
        with _translating():
            batch: list[bytes] = []
            for name in self._redis.scan_iter(match=f"{self._layout.keys}*", count=1000):
                batch.append(name)
                if len(batch) == RECORDS_PER_CALL:
                    yield from self._read(batch)
                    batch = []
            yield from self._read(batch)

    def add(self, records: Sequence[KeyRecord]) -> None:
        """Store records, each in place of one of the same id."""
        with _translating(), self._redis.pipeline(transaction=True) as pipeline:
            before = self._redis.mget([self._layout.key_id(r.id) for r in records])
            for record, old in zip(records, before, strict=True):
                if old is not None and old.decode() != record.digest:
                    pipeline.delete(self._layout.key(old.decode()))
                until = None
                if record.expires_at is not None:
                    until = int(record.expires_at) + KEPT_AFTER_EXPIRY_SECONDS
                pipeline.set(self._layout.key(record.digest), encoded(record), exat=until)
                pipeline.set(self._layout.key_id(record.id), record.digest, exat=until)
            pipeline.execute()

    def revoke(self, key_id: str, now: float) -> KeyRecord:
        """Mark a key as revoked. Raises `InvalidInput` when there is none of that id."""
        with _translating():
            digest = self._redis.get(self._layout.key_id(key_id))
            found = list(self._read([self._layout.key(digest.decode()).encode()] if digest else []))
        if not found:
            raise InvalidInput(
                f"there is no key with the id '{key_id}'; see `meshwarden keys list`"
            )
        revoked = found[0].model_copy(update={"revoked_at": found[0].revoked_at or now})
        self.add([revoked])
        return revoked

    def revocations(self) -> list[Revocation]:
        """Every revocation, the oldest first."""
        with _translating():
            stored = self._redis.hvals(self._layout.revocations)
        records = [Revocation.model_validate_json(text) for text in stored]
        return sorted(records, key=lambda record: (record.made_at, record.id))

    def add_revocation(self, record: Revocation, now: float) -> None:
        """Store a revocation, and remove those that cover no token any more."""
        over = [old.id for old in self.revocations() if old.expires_at <= now]
        with _translating(), self._redis.pipeline(transaction=True) as pipeline:
            if over:
                pipeline.hdel(self._layout.revocations, *over)
            pipeline.hset(self._layout.revocations, record.id, record.model_dump_json())
            pipeline.execute()

    def close(self) -> None:
        self._redis.close()

    def _read(self, names: Sequence[bytes]) -> Iterator[KeyRecord]:
        for name, text in zip(names, self._redis.mget(names) if names else (), strict=True):
            if text is not None:
                yield decoded(name.decode().removeprefix(self._layout.keys), text)


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except LIBRARY_ERRORS as error:
        raise translated(error) from None
