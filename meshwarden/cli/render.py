"""`meshwarden render`: what others read: Envoy's bootstrap, and the reference pages of this
repository.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import typer

from meshwarden.cli.output import print_line
from meshwarden.core.faults import Misconfigured, Problem

if TYPE_CHECKING:
    from meshwarden.adapters.envoy import EnvoyOptions

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"

app = typer.Typer(help="Write Envoy's bootstrap, or the reference pages.", no_args_is_help=True)


Setting = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE of an Envoy option; repeat it. --options lists them."),
]


@app.command("envoy")
def envoy(
    setting: Setting = None,
    options: Annotated[bool, typer.Option("--options", help="List the options and stop.")] = False,
) -> None:
    """Print the bootstrap of a stock Envoy 1.40 in front of the services.

    [bold]Example:[/bold] meshwarden render envoy --set upstream_port=8080 > envoy.yaml
    """
    from meshwarden.adapters.envoy import EnvoyOptions, bootstrap, to_yaml

    if options:
        for name, info in EnvoyOptions.model_fields.items():
            print_line(
                f"{name}={info.default}" + (f"  # {info.description}" if info.description else "")
            )
        return
    print_line(to_yaml(bootstrap(_chosen(setting))).rstrip("\n"))


@app.command("envoy-secrets")
def envoy_secrets(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    setting: Setting = None,
) -> None:
    """Write into DIR what Envoy's option services_tls_secrets_folder names, so that Envoy follows
    changed certificates.

    [bold]Example:[/bold] meshwarden render envoy-secrets /etc/envoy/secrets --set
    services_tls_ca_file=/etc/envoy/tls/ca.crt --set services_tls_san=meshwarden.internal
    """
    from meshwarden.adapters.envoy import secrets, to_yaml

    files = secrets(_chosen(setting))
    if not files:
        raise Misconfigured("without services_tls_ca_file there are no secrets: --set it")
    _write(folder, {name: to_yaml(document) for name, document in files.items()})


def _chosen(setting: list[str] | None) -> EnvoyOptions:
    """The options that `--set` names, every wrong one told at once."""
    from meshwarden.adapters.envoy import EnvoyOptions

    values = {}
    for text in setting or []:
        name, separator, value = text.partition("=")
        if not separator:
            raise Misconfigured(f"--set {text}: NAME=VALUE is needed")
        values[name] = value
    try:
        return EnvoyOptions.model_validate(values)
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        known = list(EnvoyOptions.model_fields)
        raise Misconfigured(_option_problem(detail, values, known) for detail in details) from None


def _option_problem(detail: Any, values: dict[str, str], known: list[str]) -> Problem:
    """One wrong `--set`, with the option that may have been meant."""
    if not detail["loc"]:  # Options that don't go together.
        return Problem("", 0, detail["msg"].removeprefix("Value error, "), "`--options` lists them")
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "`--options` lists them"
        return Problem("", 0, f"--set {name}: there is no such option", hint)
    what = detail["msg"].replace("Input should be", "must be").partition(", unable to parse")[0]
    return Problem("", 0, f"--set {name}={values[name]}: {what}", "`--options` lists them")


@app.command("reference")
def reference(
    folder: Annotated[Path, typer.Argument(metavar="DIR")] = Path("docs/reference"),
) -> None:
    """Write the settings of each service and the JSON Schema of each resource kind into DIR.

    [bold]Example:[/bold] meshwarden render reference docs/reference
    """
    _write(folder, reference_files())


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write each file below `folder` and say so."""
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            what = f"{path} can't be written: {error.filename}: {error.strerror}"
            raise Misconfigured(
                [Problem("", 0, what, "name a folder that may be written")]
            ) from None
        print_line(str(path))


def reference_files() -> dict[str, str]:
    """The reference pages by their name below `docs/reference`."""
    import ext_authz.app
    import ratelimit_service.app
    from ext_authz.core.conditions import VARIABLES
    from meshwarden.adapters.settings import leaves, reference_page

    pages = {
        "ext_authz_settings.md": reference_page(ext_authz.app.Settings, "ext_authz"),
        "ratelimit_service_settings.md": reference_page(
            ratelimit_service.app.Settings, "ratelimit_service"
        ),
        "ratelimit_variables.md": ratelimit_service.app.variables_page(
            {name for name, _ in leaves(ratelimit_service.app.Settings)}
        ),
        "conditions.md": _conditions_page(
            {name: (kind.name(), text) for name, (kind, text) in VARIABLES.items()}
        ),
    }
    schemas = json_schemas()
    schemas["any"] = {
        "$schema": SCHEMA_DIALECT,
        "description": "Any resource of Meshwarden, told apart by its kind.",
        "oneOf": [{"$ref": f"{kind}.json"} for kind in schemas],
    }
    for kind, schema in schemas.items():
        pages[f"schemas/{kind}.json"] = json.dumps(schema, indent=2) + "\n"
    return pages


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema (2020-12) of each resource kind, for editors."""
    from ext_authz.core.kinds import MODELS
    from ratelimit_service.core.resource import RateLimitResource

    models: dict[str, type[pydantic.BaseModel]] = {**MODELS, "RateLimit": RateLimitResource}
    return {
        kind: {"$schema": SCHEMA_DIALECT, **model.model_json_schema()}
        for kind, model in models.items()
    }


def _conditions_page(variables: dict[str, tuple[str, str]]) -> str:
    lines = [
        "# Conditions",
        "",
        "Generated by `meshwarden render reference`. What a rule's `when` can read; its language",
        "is CEL, its regular expressions are RE2. At most 2048 characters. A condition that fails",
        "while it runs (a missing key, too many iterations) doesn't match in an allow rule and",
        "denies in a deny rule; it is counted in `ext_authz_failed_conditions_total`.",
        "",
        "| variable | type | what it is |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {kind} | {text} |" for name, (kind, text) in variables.items()]
    return "\n".join(lines) + "\n"
