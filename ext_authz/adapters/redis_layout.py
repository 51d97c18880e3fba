"""Where key records and revocations lie in Redis: the names that reader and writer share.

<prefix>key:<digest>     a KeyRecord as JSON; the digest is the index, so that none is searched for
<prefix>key-id:<id>      the digest of the key with this id, for `meshwarden keys revoke`
<prefix>revocations      hash of id to Revocation as JSON

One key takes about 440 bytes of Redis' memory with both entries (perf/key_store.py). Expired
records are removed by Redis itself a day after their end, expired revocations by the next writer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ext_authz.core.api_keys import KeyRecord

PREFIX = "meshwarden:"


@dataclass(frozen=True, slots=True)
class Layout:
    """`prefix` stands before every name."""

    prefix: str = PREFIX

    @property
    def keys(self) -> str:
        """What the names of key records begin with."""
        return f"{self.prefix}key:"

    @property
    def revocations(self) -> str:
        return f"{self.prefix}revocations"

    def key(self, digest: str) -> str:
        return f"{self.keys}{digest}"

    def key_id(self, key_id: str) -> str:
        return f"{self.prefix}key-id:{key_id}"


def encoded(record: KeyRecord) -> str:
    """A record as it is stored: without its digest, which is its name, and without defaults."""
    return record.model_dump_json(exclude={"digest"}, exclude_defaults=True)


def decoded(digest: str, text: bytes) -> KeyRecord:
    """The record stored under `digest`. Raises `ValueError` for text that is none."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("a key record must be an object")
    return KeyRecord.model_validate({**value, "digest": digest})
