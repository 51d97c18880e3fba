"""`meshwarden token`: a token of the development issuer; `token revoke` ends tokens early."""

from __future__ import annotations

import json
import secrets
import sys
import time
from typing import Annotated, Any

import typer

from ext_authz.core import jose
from ext_authz.core.revocations import Revocation
from meshwarden.cli.arguments import seconds
from meshwarden.cli.keys import RedisOption, opened
from meshwarden.cli.output import AsJson, print_json, print_line
from meshwarden.cli.state_folder import (
    DEFAULT_STATE,
    DEVELOPMENT_ISSUER,
    State,
    development_claims,
    prepared,
)
from meshwarden.core.faults import InvalidInput, Misconfigured, Problem

KEPT_SECONDS = 30 * 86_400
"""How long a revocation is kept that does not know when its tokens expire."""

app = typer.Typer()


@app.callback(invoke_without_command=True)
def token(
    context: typer.Context,
    subject: Annotated[
        str | None, typer.Option(help="Who the token speaks for (`sub`); needed.")
    ] = None,
    role: Annotated[list[str] | None, typer.Option(help="A role; repeat it for more.")] = None,
    claims: Annotated[
        str, typer.Option(help="A JSON object of further claims, merged last; null removes one.")
    ] = "{}",
    expires_in: Annotated[
        float,
        typer.Option(
            "--expires-in",
            "--expires-in-seconds",
            parser=seconds,
            metavar="SECONDS",
            help="A negative time makes an expired token.",
        ),
    ] = 3600,
    state: State = DEFAULT_STATE,
) -> None:
    """Print a token of the development issuer, and nothing else; `revoke` ends tokens early.

    [bold]Example:[/bold] curl -H "authorization: Bearer $(meshwarden token --subject rita --role
    reader)" http://127.0.0.1:10000/whoami
    """
    if context.invoked_subcommand is not None:
        return
    if subject is None:
        raise Misconfigured([Problem("", 0, "--subject is missing", "who is the token for?")])
    try:
        further = json.loads(claims)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"--claims is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(further, dict):
        raise InvalidInput("--claims is not a JSON object")
    folder = prepared(state)
    merged: dict[str, Any] = {
        **development_claims(subject, role or [], expires_in_seconds=expires_in),
        **further,
    }
    print_line(folder.sign({name: value for name, value in merged.items() if value is not None}))


@app.command("revoke")
def revoke(
    jti: Annotated[str | None, typer.Option(help="The id of one token (its claim `jti`).")] = None,
    subject: Annotated[
        str | None, typer.Option(help="The tokens of a subject (`sub`) that are there now.")
    ] = None,
    issued_before: Annotated[
        float | None,
        typer.Option(
            help="Tokens issued before this time, in seconds since the epoch; with --subject only "
            "that one's, else all of the issuer's. Default with --subject: now."
        ),
    ] = None,
    issuer: Annotated[str, typer.Option(help="Whose tokens (`iss`).")] = DEVELOPMENT_ISSUER,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read the token itself, which tells its issuer and jti.")
    ] = False,
    keep: Annotated[
        float, typer.Option(parser=seconds, metavar="SECONDS", help="For how long; unset: 30 days.")
    ] = KEPT_SECONDS,
    redis: RedisOption = "",
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Refuse tokens that have not expired yet; every running ext_authz does within a second.

    [bold]Example:[/bold] meshwarden token revoke --subject rita

    A revocation must be kept as long as the longest life of the tokens it covers.
    """
    now = time.time()
    values: dict[str, Any] = {"jti": jti, "subject": subject, "issued_before": issued_before}
    if stdin:
        issuer, values["jti"], keep = _named_by_token(sys.stdin.read().strip(), now, keep)
    elif subject is not None and issued_before is None:
        # A second later than now: `iat` is in whole seconds, and tokens of this one are meant.
        values["issued_before"] = int(now) + 1
    if (values["jti"] is None) == (values["issued_before"] is None):
        what = "say which tokens: one of --stdin, --jti, --subject, --issued-before"
        raise Misconfigured([Problem("", 0, what, "see --help")])
    record = Revocation(
        id=secrets.token_hex(6), issuer=issuer, made_at=now, expires_at=now + keep, **values
    )
    with opened(state, redis) as records:
        records.add_revocation(record, now)
    if as_json:
        print_json(record.model_dump(exclude_none=True))
    else:
        print_line(f"revoked {_described(record)}; kept for {keep:.0f} s (id {record.id})")


def _named_by_token(text: str, now: float, keep: float) -> tuple[str, str, float]:
    """Issuer and jti of a token, and how long it may live. Raises `InvalidInput`; says nothing of
    the token itself.
    """
    try:
        payload = jose.parse_token(text).payload
        expires = jose.numeric_date(payload, "exp")
    except jose.Malformed as error:
        raise InvalidInput(f"standard input holds no token: {error}") from None
    issuer, jti = payload.get("iss"), payload.get("jti")
    if not isinstance(issuer, str) or not isinstance(jti, str):
        raise InvalidInput("the token has no iss or no jti; revoke by --subject")
    # Some leeway is forgiven at the end of a token's life: 300 seconds at most.
    return issuer, jti, keep if expires is None else max(1.0, expires + 300 - now)


def _described(record: Revocation) -> str:
    if record.jti is not None:
        return f"the token {record.jti} of {record.issuer}"
    whose = f"of {record.subject} " if record.subject is not None else ""
    return f"the tokens {whose}of {record.issuer} issued before {record.issued_before:.0f}"
