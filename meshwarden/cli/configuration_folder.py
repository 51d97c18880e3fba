"""A folder of configuration as the services would take it, for commands that look at one
offline.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.core.compile import Configured, Options, compile_policies, referenced_files
from ext_authz.core.compile_keys import (
    API_KEYS,
    DEVELOPMENT_JWKS,
    PEPPER,
    REVOCATIONS,
    SIGNING_KEYS,
)
from ext_authz.core.discovery import document_url, endpoint
from ext_authz.core.engine import decide
from ext_authz.core.jwks import KeySet, parse_jwks
from ext_authz.core.keys import Keys
from ext_authz.core.model import Request
from ext_authz.core.policies import PolicySet
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.cli import probes
from meshwarden.cli.output import print_problems
from meshwarden.cli.state_folder import StateFolder
from meshwarden.core.faults import Fault, Misconfigured, Problem
from ratelimit_service.core.model import Rules

QUICKSTART = Path("examples/quickstart")
QUICKSTART_DOMAIN = "quickstart"

Folder = Annotated[
    Path, typer.Option("--config", help="Folder of policies and limits.", file_okay=False)
]


def problems(folder: Path) -> list[Problem]:
    """Everything that is wrong with the policies and limits in `folder`; each once."""
    from ratelimit_service.core.compile import compile_limits

    _require(folder)
    bundle = FolderSource(folder, references=referenced_files).read()
    found: set[Problem] = set(bundle.unreadable)
    try:
        compile_policies(bundle, Options(assumes_development_keys=True))
    except Fault as fault:
        found.update(fault.problems)
    told = {(problem.file, problem.line) for problem in found}
    try:
        compile_limits(bundle)
    except Fault as fault:
        # Both services read every file: what is no YAML, or an unknown kind, both would tell.
        found.update(p for p in fault.problems if (p.file, p.line) not in told)
    return sorted(_in_folder(folder, problem) for problem in found)


def _in_folder(folder: Path, problem: Problem) -> Problem:
    """The problem with its file as it can be opened from here."""
    path = folder / problem.file
    if not problem.file or not path.exists():
        return problem
    shown = os.path.relpath(path)
    if shown.startswith(".."):
        shown = str(path.absolute())
    return Problem(shown, problem.line, problem.what, problem.hint)


def load(folder: Path, state: StateFolder) -> Configured:
    """The policies in `folder` with this machine's development keys and API keys, as `up` runs
    them; without those where there is no state folder, which is not made.
    """
    _require(folder)
    extra = {}
    if state.path.is_dir():
        extra = {
            API_KEYS: state.api_keys,
            PEPPER: state.pepper,
            DEVELOPMENT_JWKS: state.jwks,
            REVOCATIONS: state.revocations,
            SIGNING_KEYS: state.signing_keys,
        }
    bundle = FolderSource(folder, extra=extra, references=referenced_files).read()
    if bundle.unreadable:
        raise Misconfigured(bundle.unreadable)
    return compile_policies(bundle, Options(assumes_development_keys=not extra))


def policies_alone(folder: Path) -> PolicySet:
    """The policies in `folder` without anything of this machine. Raises `InvalidInput`."""
    _require(folder)
    bundle = FolderSource(folder, references=referenced_files).read()
    return compile_policies(bundle, Options(assumes_development_keys=True)).policies


def limits(folder: Path) -> Rules:
    """The limits in `folder`."""
    from ratelimit_service.core.compile import compile_limits

    _require(folder)
    return compile_limits(FolderSource(folder).read())


def domain_of(rules: Rules) -> str:
    """The domain whose limits Envoy asks for. Raises `Misconfigured` where it could be any of
    several: one Envoy asks for one.
    """
    domains = sorted(rules.domains)
    if not domains or QUICKSTART_DOMAIN in domains:
        return QUICKSTART_DOMAIN
    if len(domains) > 1:
        what = f"Envoy asks for one domain of limits, and there are {', '.join(domains)}"
        hint = f"leave one, or name one '{QUICKSTART_DOMAIN}'"
        raise Misconfigured([Problem("", 0, what, hint)])
    return domains[0]


def anonymous_status(folder: Path, host: str) -> int:
    """What a GET of / without a credential is to be answered: 200 stands for passing it on."""
    policies = policies_alone(folder)
    asked = Request("GET", host, "/", {"user-agent": "meshwarden", "accept": "*/*"})
    verdict = decide(asked, policies, Keys(), time.time())
    return 200 if verdict.is_allowed else verdict.status


def issuer_keys(policies: PolicySet) -> dict[str, KeySet]:
    """The key set of each issuer, fetched where it has a URL; empty where that fails, which is
    told on standard error.
    """
    found = policies.keys_configured()
    for issuer in policies.issuers.values():
        source = issuer.spec.jwks
        if source is None or not source.is_fetched:
            continue
        try:
            url = source.url or ""
            if source.discovery is not None:
                name = issuer.spec.issuer
                content = _fetched(document_url(name, source.discovery))
                url = endpoint(name, content, "jwks_uri")
            found[issuer.name] = parse_jwks(url, _fetched(url))
        except (ValueError, Fault) as error:
            print_problems([Problem("", 0, f"the keys of issuer {issuer.name}: {error}")])
    return found


def _fetched(url: str) -> bytes:
    """The body at `url`. Raises `ValueError` for anything but a 200."""
    response = probes.fetch(url)
    if response is None or response.status_code != 200:
        raise ValueError("no answer" if response is None else f"{response.status_code}")
    return response.content


def _require(folder: Path) -> None:
    if not folder.is_dir():
        raise Misconfigured(f"{folder} is not a folder")
