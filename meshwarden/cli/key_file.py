"""Key records and revocations in files of the state folder.

Every change rewrites a file whole, under a lock.

What `ext_authz.app.key_records` is for Redis: the same methods, the same promises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ext_authz.core.api_keys import KeyFile, KeyRecord, parse_records
from ext_authz.core.revocations import Revocation, RevocationFile, parse_revocations
from meshwarden.cli.state_folder import StateFolder, write_private
from meshwarden.core.documents import parse_json
from meshwarden.core.faults import InvalidInput, Misconfigured


class FileRecords:
    """The records of one state folder. Raises `Misconfigured` for what can't be read or written,
    `InvalidInput` for a file that holds something else.
    """

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        folder.prepare()

    def records(self) -> tuple[KeyRecord, ...]:
        """Every key record, in the order in which they were made."""
        path = self._folder.api_keys
        return parse_records(str(path), parse_json(str(path), read(path))).keys

    def add(self, records: Sequence[KeyRecord]) -> None:
        """Store records, each in place of one of the same id."""
        ids = {record.id for record in records}
        self._change(lambda keys: (*(old for old in keys if old.id not in ids), *records))

    def revoke(self, key_id: str, now: float) -> KeyRecord:
        """Mark a key as revoked. Raises `InvalidInput` when there is none of that id."""
        found = next((record for record in self.records() if record.id == key_id), None)
        if found is None:
            raise InvalidInput(
                f"there is no key with the id '{key_id}'; see `meshwarden keys list`"
            )
        revoked = found.model_copy(update={"revoked_at": found.revoked_at or now})
        self._change(lambda keys: tuple(revoked if k.id == key_id else k for k in keys))
        return revoked

    def revocations(self) -> list[Revocation]:
        """Every revocation, the oldest first."""
        path = self._folder.revocations
        records = parse_revocations(str(path), parse_json(str(path), read(path)))
        return sorted(records, key=lambda record: (record.made_at, record.id))

    def add_revocation(self, record: Revocation, now: float) -> None:
        """Store a revocation, and remove those that cover no token any more."""
        with self._folder.locked():
            kept = [old for old in self.revocations() if old.expires_at > now]
            made = RevocationFile(revocations=(*kept, record))
            write_private(self._folder.revocations, made.model_dump_json(indent=2) + "\n")

    def close(self) -> None:
        """Nothing is held open."""

    def _change(self, change: Callable[[tuple[KeyRecord, ...]], tuple[KeyRecord, ...]]) -> None:
        """Replace the records by what `change` makes of them."""
        with self._folder.locked():
            made = KeyFile(keys=change(self.records()))
            write_private(self._folder.api_keys, made.model_dump_json(indent=2) + "\n")


def read(path: Path) -> bytes:
    """The content of a file. Raises `Misconfigured` where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}") from None
