"""`meshwarden keys create|list|revoke|signing`: API keys, of which keyed digests are stored.

In the state folder's file, or in the Redis of a larger installation. A running ext_authz sees each
change within a second. The key itself is shown once, at creation.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import pydantic
import typer

from ext_authz.core.api_keys import KeyRecord, digest, make_key, parse_pepper
from ext_authz.core.revocations import Revocation
from meshwarden.cli.arguments import seconds
from meshwarden.cli.key_file import FileRecords, read
from meshwarden.cli.output import AsJson, print_json, print_line
from meshwarden.cli.signing_keys import signing
from meshwarden.cli.state_folder import DEFAULT_STATE, State, prepared
from meshwarden.core.faults import InvalidInput, Problem

app = typer.Typer(
    help="API keys: make, list, revoke; the keys that sign identity tokens.", no_args_is_help=True
)


class Records(Protocol):
    """Where key records and revocations are kept."""

    def records(self) -> Iterable[KeyRecord]: ...

    def add(self, records: Sequence[KeyRecord]) -> None: ...

    def revoke(self, key_id: str, now: float) -> KeyRecord: ...

    def revocations(self) -> list[Revocation]: ...

    def add_revocation(self, record: Revocation, now: float) -> None: ...

    def close(self) -> None: ...


RedisOption = Annotated[
    str,
    typer.Option(
        envvar="MESHWARDEN_KEYS_REDIS",
        help="The Redis that ext_authz reads (keys.redis-url), in place of the state folder; a "
        "URL with a password belongs into the variable.",
    ),
]
PepperOption = Annotated[
    Path | None,
    typer.Option(
        "--pepper-file",
        help="The secret of the digests, as ext_authz has it; unset: the state folder's.",
    ),
]


@contextmanager
def opened(state: Path, redis: str) -> Iterator[Records]:
    """The records in Redis where it is named, else in the state folder."""
    if redis:
        from ext_authz.app import key_records

        records: Records = key_records(redis)
    else:
        records = FileRecords(prepared(state))
    try:
        yield records
    finally:
        records.close()


def create_key(
    records: Records,
    pepper: bytes,
    name: str,
    *,
    roles: tuple[str, ...] = (),
    scopes: tuple[str, ...] = (),
    namespace: str = "",
    expires_in_seconds: float | None = None,
    key_id: str = "",
) -> tuple[str, KeyRecord]:
    """A new key and its record, which is stored. Raises `InvalidInput` for a name that is none."""
    key, now = make_key(secrets.token_bytes(32)), time.time()
    record = _record(
        {
            "id": key_id or secrets.token_hex(6),
            "name": name,
            "digest": digest(key, pepper),
            "namespace": namespace,
            "roles": roles,
            "scopes": scopes,
            "created_at": now,
            "expires_at": None if expires_in_seconds is None else now + expires_in_seconds,
        }
    )
    records.add([record])
    return key, record


_WORDS = "is text without spaces, commas and what can't be printed, at most 256 characters"
_WHAT_MAY_BE = {
    "namespace": "is lower-case letters, digits and '-', at most 63, as Kubernetes' are",
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


app.command("signing")(signing)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key: the principal is key:NAME.")],
    role: Annotated[list[str] | None, typer.Option(help="A role; repeat it for more.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="A scope; repeat it for more.")] = None,
    namespace: Annotated[
        str, typer.Option(help="Whose policies take the key; unset: those of every namespace.")
    ] = "",
    expires_in: Annotated[
        float | None,
        typer.Option("--expires-in", parser=seconds, metavar="SECONDS", help="Unset: never."),
    ] = None,
    redis: RedisOption = "",
    pepper_file: PepperOption = None,
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it; it is not stored and can't be shown again.

    [bold]Example:[/bold] meshwarden keys create billing --role order-writer --expires-in 86400
    """
    path = pepper_file or prepared(state).pepper
    pepper = parse_pepper(str(path), read(path))
    with opened(state, redis) as records:
        key, record = create_key(
            records,
            pepper,
            name,
            roles=tuple(role or ()),
            scopes=tuple(scope or ()),
            namespace=namespace,
            expires_in_seconds=expires_in,
        )
    if as_json:
        print_json({"id": record.id, "principal": f"key:{record.name}", "key": key})
    else:
        print_line(key)
        typer.echo(f"id {record.id}, principal key:{record.name}; shown this once", err=True)


@app.command("list")
def list_keys(
    redis: RedisOption = "", state: State = DEFAULT_STATE, as_json: AsJson = False
) -> None:
    """Show all keys, without their digests.

    [bold]Example:[/bold] meshwarden keys list --json
    """
    with opened(state, redis) as store:
        records = sorted(store.records(), key=lambda record: (record.created_at, record.id))
    if as_json:
        print_json([json.loads(record.model_dump_json(exclude={"digest"})) for record in records])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("id", no_wrap=True)  # `keys revoke` takes it whole.
    for name in ("principal", "roles", "scopes", "created", "expires", "state"):
        table.add_column(name, overflow="fold")
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
    redis: RedisOption = "",
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Revoke a key; a running ext_authz refuses it within a second.

    [bold]Example:[/bold] meshwarden keys revoke 3f9c2a11d0b7
    """
    with opened(state, redis) as records:
        record = records.revoke(key_id, time.time())
    if as_json:
        print_json({"id": record.id, "principal": f"key:{record.name}", "revoked": True})
    else:
        print_line(f"revoked {record.id} (key:{record.name})")


def _when(seconds: float | None) -> str:
    return "" if not seconds else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"
