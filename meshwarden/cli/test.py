"""`meshwarden test DIR`: runs the policy tests of a folder, offline."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ext_authz.core.explain import explain
from ext_authz.core.hosts import normalized_host
from ext_authz.core.policies import PolicySet
from meshwarden.cli import configuration_folder, expectations, policy_tests
from meshwarden.cli.callers import Asked, asked, caller_problem
from meshwarden.cli.expectations import Unmet
from meshwarden.cli.output import AsJson, print_json, print_line
from meshwarden.cli.policy_tests import WrittenTest
from meshwarden.core.faults import InvalidInput
from meshwarden.core.secret import redacted_text


@dataclass(frozen=True, slots=True)
class Ran:
    """One test that was run; `explained`: why the verdict is as it is, of one that failed."""

    test: WrittenTest
    unmet: list[Unmet]
    explained: dict[str, Any]


def test(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of policies and their *.test.yaml.")
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for each test that passes, too.")
    ] = False,  # noqa: PT028 - a command, and no test of pytest's
    as_json: AsJson = False,  # noqa: PT028
) -> None:
    """Run policy tests: each `*.test.yaml` says requests, who sends them, and what is expected.

    [bold]Example:[/bold] meshwarden test examples/quickstart

    Exit status: 0 all passed; 1 some failed; 2 the policies or the tests can't be used.
    """
    faults = configuration_folder.problems(folder)
    if faults:
        raise InvalidInput(faults)
    tests = policy_tests.read(folder)
    policies = configuration_folder.policies_alone(folder)
    wrong = [found for test in tests if (found := caller_problem(test, policies)) is not None]
    if wrong:
        raise InvalidInput(set(wrong))
    now = time.time()
    results = [_ran(test, policies, now) for test in tests]
    failed = sum(bool(result.unmet) for result in results)
    if as_json:
        counts = {"passed": len(results) - failed, "failed": failed}
        print_json({**counts, "tests": [_described(result) for result in results]})
    else:
        for result in results:
            _print(result, verbose=verbose)
        print_line(f"{len(results) - failed} passed, {failed} failed")
    raise typer.Exit(1 if failed else 0)


def _ran(test: WrittenTest, policies: PolicySet, now: float) -> Ran:
    request = asked(test, policies, now if test.now is None else test.now)
    verdict = request.verdict(policies)
    policy = policies.policies.find(normalized_host(request.request.host))
    found = expectations.unmet(test.test.expect, request.request, verdict, policy)
    return Ran(test, found, _explained(request, policies) if found else {})


def _explained(request: Asked, policies: PolicySet) -> dict[str, Any]:
    return explain(request.request, policies, request.keys, request.now, request.answers)


def _described(ran: Ran) -> dict[str, Any]:
    """One result as plain values."""
    test = ran.test
    place = {"name": test.name, "file": test.document.file, "line": test.line()}
    failures = [
        {
            "line": test.line("expect", *one.place),
            "what": ".".join(one.place),
            "expected": one.expected,
            "came": redacted_text(one.came) if isinstance(one.came, str) else one.came,
        }
        for one in ran.unmet
    ]
    return {**place, "passed": not failures, "failures": failures, **ran.explained}


def _print(ran: Ran, *, verbose: bool) -> None:
    test = ran.test
    place = f"{test.document.file}:{test.line()}"
    if not ran.unmet:
        if verbose:
            print_line(f"{place}: passed: {test.name}")
        return
    print_line(f"{place}: FAILED: {test.name}")
    for one in ran.unmet:
        where = f"{test.document.file}:{test.line('expect', *one.place)}"
        what = ".".join(one.place)
        print_line(f"  {where}: {what}: expected {_shown(one.expected)}, got {_shown(one.came)}")
    for text in _why(ran.explained):
        print_line(f"  {text}")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return redacted_text(text) or "''"


def _why(explained: dict[str, Any]) -> Iterator[str]:
    """The verdict, the caller, and how each rule that was tried stood to the request."""
    verdict = explained["verdict"]
    detail = f" ({verdict['detail']})" if verdict["detail"] else ""
    decided = "allowed" if verdict["allowed"] else f"denied: {verdict['reason']}{detail}"
    yield f"{decided}; policy {verdict['policy'] or 'none'}, principal {verdict['principal']}"
    rules = [step for step in explained["steps"] if step["step"] == "rule"]
    for step in rules:
        told = "matches" if step["matches"] else f"does not match: {step['unmet']}"
        yield f"  {step['effect']:5} {step['rule']}: {told}"
    if not rules:
        yield "  no rule was tried"
