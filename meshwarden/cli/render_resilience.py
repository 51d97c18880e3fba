"""`meshwarden render resilience`: time limits, retries, pools and ejection for one host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshwarden.cli.chosen_options import Setting, chosen, print_options
from meshwarden.cli.output import print_line, write_files


def resilience(
    setting: Setting = None,
    external: Annotated[
        bool, typer.Option("--external", help="For an API outside of the mesh, by TLS.")
    ] = False,
    faults: Annotated[
        bool, typer.Option("--faults", help="With routes that fail on purpose, by a header.")
    ] = False,
    examples: Annotated[
        Path | None, typer.Option("--examples", help="Write the files of istio/resilience.")
    ] = None,
    options: Annotated[bool, typer.Option("--options", help="List the options and stop.")] = False,
) -> None:
    """Print what makes calls to one host survive a failing endpoint.

    [bold]Example:[/bold] meshwarden render resilience --set host=orders.shop.svc.cluster.local
    --set timeout_seconds=2
    """
    from meshwarden.adapters.istio import resilience as builders
    from meshwarden.adapters.istio.resilience_options import ResilienceOptions

    if options:
        print_options(ResilienceOptions)
    elif examples is not None:
        write_files(examples, builders.example_files())
    else:
        asked = chosen(ResilienceOptions, setting)
        documents = (
            builders.for_external_api(asked)
            if external
            else builders.for_service(asked, faults=faults)
        )
        print_line(builders.to_text(documents).rstrip("\n"))
