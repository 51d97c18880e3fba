"""`meshwarden token`: a token of this machine's development issuer."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from meshwarden.cli.arguments import seconds
from meshwarden.cli.output import print_line
from meshwarden.cli.state_folder import DEFAULT_STATE, State, development_claims, prepared
from meshwarden.core.faults import InvalidInput


def token(
    subject: Annotated[str, typer.Option(help="Who the token speaks for (`sub`).")],
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
    """Print a token of the development issuer, and nothing else.

    [bold]Example:[/bold] curl -H "authorization: Bearer $(meshwarden token --subject rita --role
    reader)" http://127.0.0.1:10000/whoami
    """
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
