"""`meshwarden keys create|list|revoke`: API keys in a file of keyed digests.

A running ext_authz sees each change within a second. The key itself is shown once, at creation.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pydantic
import typer

from ext_authz.core.api_keys import KeyFile, KeyRecord, digest, make_key, parse_records
from meshwarden.cli.arguments import seconds
from meshwarden.cli.output import AsJson, print_json, print_line
from meshwarden.cli.state_folder import (
    DEFAULT_STATE,
    State,
    StateFolder,
    prepared,
    write_private,
)
from meshwarden.core.documents import parse_json
from meshwarden.core.faults import InvalidInput, Misconfigured, Problem

app = typer.Typer(help="API keys of the file store.", no_args_is_help=True)


class KeyStore:
    """The records in a file; every change rewrites it whole, under a lock."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        folder.prepare()

    def records(self) -> tuple[KeyRecord, ...]:
        path = self._folder.api_keys
        return parse_records(str(path), parse_json(str(path), _read(path))).keys

    def change(self, change: Callable[[tuple[KeyRecord, ...]], tuple[KeyRecord, ...]]) -> None:
        """Replace the records by what `change` makes of them."""
        with self._folder.locked():
            keys = change(self.records())
            text = KeyFile(keys=keys).model_dump_json(indent=2)
            write_private(self._folder.api_keys, text + "\n")

    def create(
        self,
        name: str,
        *,
        roles: tuple[str, ...] = (),
        scopes: tuple[str, ...] = (),
        expires_in_seconds: float | None = None,
        key_id: str = "",
    ) -> tuple[str, KeyRecord]:
        """A new key and its record. Raises `InvalidInput` for a name that is none."""
        key, now = make_key(secrets.token_bytes(32)), time.time()
        values = {
            "id": key_id or secrets.token_hex(6),
            "name": name,
            "digest": digest(key, _read(self._folder.pepper).strip()),
            "roles": roles,
            "scopes": scopes,
            "created_at": now,
            "expires_at": None if expires_in_seconds is None else now + expires_in_seconds,
        }
        record = _record(values)
        self.change(lambda keys: (*(old for old in keys if old.id != record.id), record))
        return key, record

    def revoke(self, key_id: str) -> KeyRecord:
        """Mark a key as revoked. Raises `InvalidInput` when there is none of that id."""
        now = time.time()
        found = next((record for record in self.records() if record.id == key_id), None)
        if found is None:
            raise InvalidInput(
                f"there is no key with the id '{key_id}'; see `meshwarden keys list`"
            )
        revoked = found.model_copy(update={"revoked_at": found.revoked_at or now})
        self.change(lambda keys: tuple(revoked if k.id == key_id else k for k in keys))
        return revoked


_WORDS = "is text without spaces, commas and what can't be printed, at most 256 characters"
_WHAT_MAY_BE = {
    "name": "starts with a letter or digit, then at most 127 letters, digits or any of . _ / -",
    "roles": _WORDS,
    "scopes": _WORDS,
}


def _record(values: dict[str, Any]) -> KeyRecord:
    """The record of a new key. Raises `InvalidInput`, saying what a name, role or scope may be."""
    try:
        return KeyRecord.model_validate(values)
    except pydantic.ValidationError as error:
        wrong = {str(detail["loc"][0]) for detail in error.errors(include_url=False)}
        raise InvalidInput(
            Problem(
                "", 0, f"the {field.removesuffix('s')} can't be used", f"it {_WHAT_MAY_BE[field]}"
            )
            for field in wrong
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}") from None


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key: the principal is key:NAME.")],
    role: Annotated[list[str] | None, typer.Option(help="A role; repeat it for more.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="A scope; repeat it for more.")] = None,
    expires_in: Annotated[
        float | None,
        typer.Option("--expires-in", parser=seconds, metavar="SECONDS", help="Unset: never."),
    ] = None,
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it; it is not stored and can't be shown again.

    [bold]Example:[/bold] meshwarden keys create billing --role order-writer --expires-in 86400
    """
    key, record = KeyStore(prepared(state)).create(
        name, roles=tuple(role or ()), scopes=tuple(scope or ()), expires_in_seconds=expires_in
    )
    if as_json:
        print_json({"id": record.id, "principal": f"key:{record.name}", "key": key})
    else:
        print_line(key)
        typer.echo(f"id {record.id}, principal key:{record.name}; shown this once", err=True)


@app.command("list")
def list_keys(state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """Show all keys, without their digests.

    [bold]Example:[/bold] meshwarden keys list --json
    """
    records = KeyStore(prepared(state)).records()
    if as_json:
        print_json([json.loads(record.model_dump_json(exclude={"digest"})) for record in records])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("id", no_wrap=True)  # `keys revoke` takes it whole.
    for name in ("principal", "roles", "scopes", "created", "expires", "state"):
        table.add_column(name)
    for record in records:
        state_word = "revoked" if record.revoked_at else "valid"
        if state_word == "valid" and not record.is_valid(time.time()):
            state_word = "expired"
        table.add_row(
            record.id,
            f"key:{record.name}",
            " ".join(record.roles),
            " ".join(record.scopes),
            _when(record.created_at),
            _when(record.expires_at),
            state_word,
        )
    Console().print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Revoke a key; a running ext_authz refuses it within a second.

    [bold]Example:[/bold] meshwarden keys revoke 3f9c2a11d0b7
    """
    record = KeyStore(prepared(state)).revoke(key_id)
    if as_json:
        print_json({"id": record.id, "principal": f"key:{record.name}", "revoked": True})
    else:
        print_line(f"revoked {record.id} (key:{record.name})")


def _when(seconds: float | None) -> str:
    return "" if not seconds else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"
