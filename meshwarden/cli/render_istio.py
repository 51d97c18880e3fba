"""`meshwarden render istio`: manifests for a mesh, for one folder of policies and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshwarden.cli.chosen_options import Setting, chosen, print_options
from meshwarden.cli.configuration_folder import QUICKSTART
from meshwarden.cli.output import print_line, write_files


def istio(
    folder: Annotated[
        Path, typer.Option("--config", help="Folder of policies and limits.", file_okay=False)
    ] = QUICKSTART,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the files below DIR; without it they are printed."),
    ] = None,
    setting: Setting = None,
    options: Annotated[bool, typer.Option("--options", help="List the options and stop.")] = False,
) -> None:
    """Write the manifests that put Meshwarden into an Istio mesh: hosts, descriptors and identity
    headers are those of the policies.

    [bold]Example:[/bold] meshwarden render istio --config policies --out istio --set
    istio_versions=1.30,1.31
    """
    from meshwarden.adapters.istio import IstioOptions, files
    from meshwarden.cli.mesh_facts import policy_facts

    if options:
        print_options(IstioOptions)
        return
    asked = chosen(IstioOptions, setting)
    rendered = files(asked, policy_facts(folder, asked.ratelimit_domain))
    if out is not None:
        write_files(out, rendered)
        return
    for name, text in rendered.items():
        print_line(f"---\n# {name}\n{text.rstrip()}")
