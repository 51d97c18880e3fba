"""The command line: one module a command, imported only when it is called.

Exit status of every command: 0 it went well; 1 what was looked at has faults; 2 it was called, or
is set up, wrongly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from meshwarden.core.faults import Fault

COMMANDS = ("up", "check", "test", "explain", "limits", "token", "keys", "render", "doctor")
"""Each is a module here with a function of its name, or, where it has subcommands, with an
`app`.
"""


def application(words: Sequence[str]) -> typer.Typer:
    """The command line as the words after its name need it: the command that they call, else
    all.
    """
    app = typer.Typer(
        name="meshwarden",
        epilog="Exit status: 0 it went well; 1 what was looked at has faults; "
        "2 called or set up wrongly.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback()(_purpose)
    is_completing = "_MESHWARDEN_COMPLETE" in os.environ
    called = words[0] if words and words[0] in COMMANDS and not is_completing else ""
    for name in [called] if called else COMMANDS:
        module = import_module(f"meshwarden.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"meshwarden {version('meshwarden')}")
        raise typer.Exit


def _purpose(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Decides, for every request at an Envoy or Istio proxy, who is calling, whether they may, and
    how often.
    """


def main() -> None:
    """Run the command line; a fault, or a file that can't be used, is told on standard error,
    without a traceback.
    """
    try:
        application(sys.argv[1:])()
    except Fault as fault:
        for problem in fault.problems:
            sys.stderr.write(f"meshwarden: {problem}\n")
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"meshwarden: {error.filename}: {error.strerror}\n")
        sys.exit(2)
