"""`meshwarden explain REQUEST.json`: the verdict over one request, and what each step saw."""

from __future__ import annotations

import time
from typing import Annotated, Any

import pydantic
import typer

from ext_authz.core.explain import explain as explained
from ext_authz.core.keys import Keys
from ext_authz.core.model import Request
from meshwarden.cli import configuration_folder
from meshwarden.cli.arguments import content
from meshwarden.cli.configuration_folder import QUICKSTART, Folder
from meshwarden.cli.output import AsJson, print_json, print_line
from meshwarden.cli.state_folder import DEFAULT_STATE, State, StateFolder
from meshwarden.core.documents import hint_for, parse_json
from meshwarden.core.faults import InvalidInput, Problem


class RequestFile(pydantic.BaseModel):
    """A request as a user writes it down; a repeated header is a list of its values."""

    model_config = pydantic.ConfigDict(extra="forbid")

    method: str = "GET"
    host: str = "localhost"
    path: str = "/"
    headers: dict[str, str | list[str]] = {}
    source_address: str = "127.0.0.1"
    source_principal: str = ""
    source_certificate: str = ""
    scheme: str = "http"
    body: str | None = None
    context: dict[str, str] = {}

    def request(self) -> Request:
        headers = {
            name.lower(): value if isinstance(value, str) else ",".join(value)
            for name, value in self.headers.items()
            if not name.startswith(":")
        }
        if self.body is not None:
            # As Envoy says of a body that it sends whole.
            headers.setdefault("x-envoy-auth-partial-body", "false")
        return Request(
            method=self.method,
            host=self.host,
            target=self.path,
            headers=headers,
            source_address=self.source_address,
            source_principal=self.source_principal,
            source_certificate=self.source_certificate,
            scheme=self.scheme,
            body=(self.body or "").encode(),
            context=self.context,
        )


def _of_check_request(value: dict[str, Any]) -> dict[str, Any]:
    """What Envoy asks (`envoy.service.auth.v3.CheckRequest` as JSON), as a request file."""
    attributes = value["attributes"]
    http = attributes["request"]["http"]
    address = attributes.get("source", {}).get("address", {})
    socket = address.get("socketAddress", address.get("socket_address", {}))
    source = attributes.get("source", {})
    wanted = ("method", "host", "path", "headers", "scheme", "body")
    return {
        **{name: http[name] for name in wanted if name in http},
        "source_address": socket.get("address", ""),
        "source_principal": source.get("principal", ""),
        "source_certificate": source.get("certificate", ""),
        "context": attributes.get("contextExtensions", attributes.get("context_extensions", {})),
    }


def explain(
    request: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST.json",
            help="method, host, path, headers, body, source_address, source_principal; or a "
            "CheckRequest as JSON; "
            "- reads it from standard input.",
        ),
    ],
    config: Folder = QUICKSTART,
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Say what would be decided, by which rule, for which caller, and what each step saw.

    [bold]Example:[/bold] echo '{"path": "/orders", "headers": {"x-api-key": "..."}}' | meshwarden
    explain -

    Exit status: 0 allowed; 1 denied; 2 the request or the folder can't be read.
    """
    asked = read_request(request, content(request))
    configured = configuration_folder.load(config, StateFolder(state))
    keys = Keys(
        issuer_keys=configuration_folder.issuer_keys(configured.policies),
        api_keys=configured.api_keys,
        revocations=configured.revocations,
    )
    result = explained(asked, configured.policies, keys, time.time())
    if as_json:
        print_json(result)
    else:
        _print(result)
    raise typer.Exit(0 if result["verdict"]["allowed"] else 1)


def read_request(name: str, written: bytes) -> Request:
    """The request in a file's content. Raises `InvalidInput`, naming the file."""
    value = parse_json(name, written)
    try:
        if isinstance(value, dict) and "attributes" in value:
            value = _of_check_request(value)
        return RequestFile.model_validate(value).request()
    except (KeyError, TypeError, AttributeError):
        what = "is no CheckRequest with attributes.request.http"
        raise InvalidInput([Problem(name, 0, what)]) from None
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise InvalidInput({_shape_problem(name, detail) for detail in details}) from None


def _shape_problem(name: str, detail: Any) -> Problem:
    """One fault of a request's shape, in our words; the same for each shape that was tried."""
    known = list(RequestFile.model_fields)
    field, *inner = detail["loc"] or [""]
    if not field:
        return Problem(name, 0, f"a request is an object with some of {', '.join(known)}")
    if detail["type"] == "extra_forbidden":
        return Problem(name, 0, f"there is no field '{field}'", hint_for(field, known))
    if field == "headers" and inner:
        return Problem(name, 0, f"headers.{inner[0]}: must be a text, or a list of texts")
    wanted = "an object of names and values" if field == "headers" else "a text"
    return Problem(name, 0, f"{field}: must be {wanted}")


def _print(result: dict[str, Any]) -> None:
    verdict = result["verdict"]
    detail = f" ({verdict['detail']})" if verdict["detail"] else ""
    if verdict["allowed"]:
        print_line("allowed")
    else:
        print_line(f"denied with {verdict['status']}: {verdict['reason']}{detail}")
    print_line(
        f"  principal {verdict['principal']}, policy {verdict['policy'] or '-'}, "
        f"rule {verdict['rule'] or '-'}"
    )
    if verdict["needs"]:
        print_line(f"  needs   {verdict['needs']}: the service asks; here it is not known")
    for step in result["steps"]:
        told = ", ".join(
            f"{name} {_shown(value)}" for name, value in step.items() if name != "step"
        )
        print_line(f"  {step['step']:7} {told}")
    for name, value in verdict["headers"].items():
        print_line(f"  sets    {name}: {value}")
    if verdict["headers_to_remove"]:
        print_line(f"  removes {', '.join(verdict['headers_to_remove'])}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(value) or "-"
    return "-" if value is None else str(value)
