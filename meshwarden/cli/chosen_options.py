"""Options of what is rendered, as `--set NAME=VALUE` gives them."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeVar

import pydantic
import typer

from meshwarden.cli.output import print_line
from meshwarden.core.faults import Misconfigured, Problem

Model = TypeVar("Model", bound=pydantic.BaseModel)

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE of an option; repeat it. --options lists them."),
]


def print_options(model: type[pydantic.BaseModel]) -> None:
    """Each option with its default and what it does."""
    for name, info in model.model_fields.items():
        print_line(
            f"{name}={_as_set(info.default)}"
            + (f"  # {info.description}" if info.description else "")
        )


def _as_set(value: Any) -> str:
    """The value as `--set` takes it."""
    if isinstance(value, dict):
        return ",".join(f"{key}={text}" for key, text in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def chosen(model: type[Model], setting: list[str] | None) -> Model:
    """The options that `--set` names, every wrong one told at once."""
    values = {}
    for text in setting or []:
        name, separator, value = text.partition("=")
        if not separator:
            raise Misconfigured(f"--set {text}: NAME=VALUE is needed")
        values[name] = value
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        known = list(model.model_fields)
        raise Misconfigured(_problem(detail, values, known) for detail in details) from None


def _problem(detail: Any, values: dict[str, str], known: list[str]) -> Problem:
    """One wrong `--set`, with the option that may have been meant."""
    if not detail["loc"]:  # Options that don't go together.
        return Problem("", 0, detail["msg"].removeprefix("Value error, "), "`--options` lists them")
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "`--options` lists them"
        return Problem("", 0, f"--set {name}: there is no such option", hint)
    what = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    what = what.partition(", unable to parse")[0]
    return Problem("", 0, f"--set {name}={values[name]}: {what}", "`--options` lists them")
