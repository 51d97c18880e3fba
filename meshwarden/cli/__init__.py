"""The command line: one module a command; each imports what it needs when it runs.

Exit status of every command: 0 it went well; 1 what was looked at has faults; 2 it was called, or
is set up, wrongly.
"""

from __future__ import annotations

import sys

import typer

from meshwarden.cli import check, doctor, explain, keys, render, token, up
from meshwarden.core.faults import Fault

app = typer.Typer(
    name="meshwarden",
    help="Decides, for every request at an Envoy or Istio proxy, who is calling, whether they may, "
    "and how often.",
    epilog="Exit status: 0 it went well; 1 what was looked at has faults; "
    "2 called or set up wrongly.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("check")(check.check)
app.command("explain")(explain.explain)
app.command("token")(token.token)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.add_typer(render.app, name="render")


def main() -> None:
    """Run the command line; a fault is told on standard error, without a traceback."""
    try:
        app()
    except Fault as fault:
        for problem in fault.problems:
            sys.stderr.write(f"meshwarden: {problem}\n")
        sys.exit(2)
