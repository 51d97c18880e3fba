"""API key records that a key store gave, remembered for as long as they are known to be current.

The store tells of each change, and the adapter that listens says until when nothing was missed:
`current_until`. Past it what is remembered counts for nothing, unless the setting is to serve it
however old. Unknown keys are remembered apart, so that a flood of them forgets no good one. Takes
no lock: one event loop owns it.
"""

from __future__ import annotations

from collections import OrderedDict

from ext_authz.core.api_keys import KeyRecord, digest, has_form
from ext_authz.core.lookups import ApiKeyLookup

UNKNOWN_AT_MOST = 10_000
LONG_AGO = float("-inf")


class RememberedApiKeys:
    """At most `entries_at_most` records, the most recently used."""

    def __init__(self, *, entries_at_most: int, serves_stale: bool) -> None:
        self._entries_at_most = entries_at_most
        self._serves_stale = serves_stale
        self._pepper = b""
        self._records: OrderedDict[str, KeyRecord] = OrderedDict()
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self.current_until = LONG_AGO

    def __len__(self) -> int:
        return len(self._records)

    def use_pepper(self, pepper: bytes) -> None:
        """Digests are made with `pepper` from now on."""
        if pepper != self._pepper:
            self._pepper = pepper
            self.forget_all()

    def find(self, key: str, now: float) -> KeyRecord | ApiKeyLookup | None:
        """What is known of `key`, or what to ask the store; its digest is the index."""
        if not has_form(key):
            return None
        wanted = digest(key, self._pepper)
        if now > self.current_until and not self._serves_stale:
            return ApiKeyLookup(wanted)
        record = self._records.get(wanted)
        if record is not None:
            self._records.move_to_end(wanted)
            return record
        return None if wanted in self._unknown else ApiKeyLookup(wanted)

    def remember(self, wanted: str, record: KeyRecord | None) -> None:
        """What the store said of the key with the digest `wanted`."""
        if record is None:
            self._unknown[wanted] = None
            if len(self._unknown) > UNKNOWN_AT_MOST:
                self._unknown.popitem(last=False)
            return
        self._records[wanted] = record
        if len(self._records) > self._entries_at_most:
            self._records.popitem(last=False)

    def forget(self, wanted: str) -> None:
        """The record changed."""
        self._records.pop(wanted, None)
        self._unknown.pop(wanted, None)

    def forget_all(self) -> None:
        """Changes may have been missed."""
        self._records.clear()
        self._unknown.clear()
