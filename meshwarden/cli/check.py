"""`meshwarden check DIR`: whether policies and limits would be taken; every fault at once.

With `--istio`, the mistakes in manifests that Istio takes without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshwarden.cli import configuration_folder
from meshwarden.cli.inventory import inventory
from meshwarden.cli.output import AsJson, print_json, print_line, problem_values
from meshwarden.core.faults import Misconfigured

ConfigDir = Annotated[
    str | None,
    typer.Option(
        "-config_dir",
        "--config_dir",
        metavar="DIR",
        help="Check a folder of envoyproxy/ratelimit files, as its own check does.",
    ),
]
MergeDomainConfigs = Annotated[
    bool,
    typer.Option(
        "-merge_domain_configs",
        "--merge_domain_configs",
        help="With -config_dir: several files may describe one domain.",
    ),
]
IstioDirs = Annotated[
    list[str] | None,
    typer.Option(
        "--istio",
        metavar="DIR",
        help="Check Istio's manifests in DIR (`-`: standard input) for mistakes that fail "
        "silently; repeat it for what belongs together, mesh configuration included.",
    ),
]


def check(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of policies and limits.")
    ] = None,
    as_json: AsJson = False,
    istio: IstioDirs = None,
    config_dir: ConfigDir = None,
    merge_domain_configs: MergeDomainConfigs = False,
) -> None:
    """Validate policies and limits: print every fault with file, line and a hint.

    [bold]Example:[/bold] meshwarden check examples/quickstart
    [bold]Example:[/bold] kubectl kustomize overlays/production | meshwarden check --istio - --istio
    install

    Exit status: 0 all of it would be taken; 1 it has faults; 2 DIR is no folder.
    """
    if config_dir is not None:
        from meshwarden.cli.reference_check import check_as_the_reference

        raise typer.Exit(check_as_the_reference(config_dir, merges_domains=merge_domain_configs))
    if istio:
        from meshwarden.cli.istio_check import check_istio

        raise typer.Exit(check_istio(istio, as_json=as_json))
    if folder is None:
        raise Misconfigured("name the folder to check: meshwarden check DIR")
    found = configuration_folder.problems(folder)
    if as_json:
        print_json({"ok": not found, "problems": problem_values(found)})
    elif found:
        for problem in found:
            print_line(str(problem))
        print_line(f"{len(found)} {'fault' if len(found) == 1 else 'faults'} in {folder}")
    else:
        print_line(f"{folder}: ok: {inventory(folder)}")
    raise typer.Exit(1 if found else 0)
