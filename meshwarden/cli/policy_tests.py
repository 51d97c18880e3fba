"""`*.test.yaml`: what such a file may say, and reading those of a folder.

`callers.py` makes the credentials that a test asks for, `expectations.py` holds what came against
what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, model_validator

from ext_authz.core.api_keys import KeyName, KeyNamespace, KeyWord
from ext_authz.core.kind_parts import Part, Word
from ext_authz.core.model import Reason
from ext_authz.core.policy_kind import CredentialSource
from meshwarden.cli.explain import RequestFile
from meshwarden.core.documents import Document, no_document, parse, validate
from meshwarden.core.documents import Path as Place
from meshwarden.core.faults import Fault, InvalidInput, Misconfigured, Problem

SUFFIXES = (".test.yaml", ".test.yml")


class TokenCaller(Part):
    """A caller with a token of an issuer: a JWT, or one that the issuer is asked about.

    `roles`, `scopes` and `groups` become the claims that the issuer names for them; `claims` come
    last, and null removes one.
    """

    kind: Literal["jwt", "opaque"]
    issuer: Word = Field(description="The name of a TokenIssuer; the policy's namespace first.")
    subject: Word
    roles: list[str] | None = None
    scopes: list[str] | None = None
    groups: list[str] | None = None
    claims: dict[str, Any] = Field({})
    source: CredentialSource | None = Field(
        None, description="Where the credential stands; unset: where the policy looks first."
    )


class KeyCaller(Part):
    """A caller with an API key that brings these."""

    kind: Literal["key"]
    name: KeyName
    namespace: KeyNamespace = ""
    roles: list[KeyWord] = Field([])
    scopes: list[KeyWord] = Field([])
    groups: list[KeyWord] = Field([])
    source: CredentialSource | None = None


class SpiffeCaller(Part):
    """A workload: the proxy has verified its certificate, and names it so."""

    kind: Literal["spiffe"]
    id: Word


class CertificateCaller(Part):
    """A peer whose certificate the proxy has verified, by the name that the proxy gives."""

    kind: Literal["cert"]
    name: Word


class KubernetesCaller(Part):
    """A caller with a token that Kubernetes authenticates as this user for the policy's audiences.

    `groups` unset: those of a ServiceAccount where `user` is one, else none.
    """

    kind: Literal["kubernetes"]
    user: Word = Field(description="Such as system:serviceaccount:shop:web.")
    groups: list[Word] | None = None
    source: CredentialSource | None = None


class AllowedAccess(Part):
    """One thing that Kubernetes lets the caller do; the words of `kubernetesAccess`."""

    verb: Word
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    nonResourcePath: str = ""  # noqa: N815


Caller = Annotated[
    TokenCaller | KeyCaller | SpiffeCaller | CertificateCaller | KubernetesCaller,
    Field(discriminator="kind"),
]
Access = Annotated[
    list[AllowedAccess] | None,
    Field(
        alias="kubernetesAllows",
        description="What Kubernetes says yes to when it is asked, with every variable filled in; "
        "to all else it says no. Unset: it does not answer.",
    ),
]
Now = Annotated[pydantic.AwareDatetime | None, Field(strict=False)]
Values = dict[str, str | None]
"""By name; null: it is not there."""


class ExpectedAnswer(Part):
    """What the client of a denied request sees."""

    status: int | None = None
    headers: Values = Field({})
    body_contains: str | None = None


class Expected(Part):
    """What must hold of the verdict; what is not named may be anything. Null: none."""

    allowed: bool | None = None
    status: int | None = Field(None, description="200, or that of the denial.")
    reason: Annotated[Reason | None, Field(strict=False)] = None
    policy: str | None = None
    rule: str | None = None
    principal: str | None = None
    headers: Values = Field({}, description="As the upstream gets them.")
    query: Values = Field({}, description="Query parameters as the upstream gets them.")
    identity_token: dict[str, Any] = Field({}, description="Claims of the signed identity token.")
    response_headers: Values = Field({}, description="Added to an allowed request's answer.")
    metadata: Values = Field({})
    shown: ExpectedAnswer | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Expected:
        if not self.model_fields_set:
            raise ValueError("nothing is expected, so the test can't fail")
        return self


class PolicyTest(Part):
    """One request, who sends it, and what is expected."""

    name: Word
    now: Now = None
    request: RequestFile = RequestFile()
    caller: Caller | None = Field(None, alias="as")
    access: Access = None
    expect: Expected


class PolicyTests(Part):
    """A document of a file; `now`, `request` and `as` hold for those tests that don't say else."""

    now: Now = None
    request: RequestFile = RequestFile()
    caller: Caller | None = Field(None, alias="as")
    access: Access = None
    tests: list[PolicyTest] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class WrittenTest:
    """One test with the defaults of its document; `now`: seconds since the epoch, if it matters."""

    document: Document
    index: int
    test: PolicyTest
    request: RequestFile
    caller: Caller | None
    now: float | None
    access: list[AllowedAccess] | None = None

    @property
    def name(self) -> str:
        return self.test.name

    def line(self, *place: str | int) -> int:
        """Where the part of it at `place` stands in the file."""
        return self.document.line(("tests", self.index, *place))

    def problem(self, what: str, place: Place, hint: str = "") -> Problem:
        """A fault of its caller, which may stand in the document's defaults."""
        if "caller" in self.test.model_fields_set:
            place = ("tests", self.index, *place)
        return self.document.problem(what, place, hint)


def read(folder: Path) -> list[WrittenTest]:
    """Every test below `folder`. Raises `InvalidInput` with everything that is wrong in any file,
    `Misconfigured` where there is none.
    """
    found: list[WrittenTest] = []
    problems: list[Problem] = []
    paths = sorted(_paths(folder))
    if not paths:
        hint = "write one: a request, and what is expected"
        raise Misconfigured([Problem(str(folder), 0, "holds no *.test.yaml file", hint)])
    for path in paths:
        try:
            found += _tests(path)
        except Fault as fault:
            problems += fault.problems
    if problems:
        raise InvalidInput(problems)
    return found


def _paths(folder: Path) -> Iterator[Path]:
    """The test files below `folder`; what is hidden is left out, as of a configuration."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place) / name


def _tests(path: Path) -> list[WrittenTest]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured([Problem(str(path), 0, f"can't be read: {error.strerror}")]) from None
    documents = parse(str(path), content)
    if not documents:
        raise InvalidInput([no_document(str(path))])
    found: list[WrittenTest] = []
    problems: list[Problem] = []
    for document in documents:
        try:
            tests = validate(document, PolicyTests)
        except InvalidInput as fault:
            problems += fault.problems
            continue
        found += (_with_defaults(document, index, tests) for index in range(len(tests.tests)))
    if problems:
        raise InvalidInput(problems)
    return found


def _with_defaults(document: Document, index: int, tests: PolicyTests) -> WrittenTest:
    test = tests.tests[index]
    is_named = "caller" in test.model_fields_set
    now = test.now or tests.now
    return WrittenTest(
        document,
        index,
        test,
        _merged(tests.request, test.request),
        test.caller if is_named else tests.caller,
        now.timestamp() if now else None,
        test.access if "access" in test.model_fields_set else tests.access,
    )


def _merged(default: RequestFile, own: RequestFile) -> RequestFile:
    """`own` over `default`, header by header."""
    values = {name: getattr(own, name) for name in own.model_fields_set}
    if "headers" in values:
        values["headers"] = {
            **{name.lower(): value for name, value in default.headers.items()},
            **{name.lower(): value for name, value in own.headers.items()},
        }
    return default.model_copy(update=values)
