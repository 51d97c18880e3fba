"""What the README shows is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ext_authz.core.compile import Options, compile_policies
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.core.snapshot import Bundle
from tests.support.processes import CHECKOUT

BESIDE = """
apiVersion: meshwarden.io/v1alpha1
kind: TokenIssuer
metadata: {name: company}
spec: {issuer: "https://issuer.example.com", audiences: [orders], jwks: {development: true}}
---
apiVersion: meshwarden.io/v1alpha1
kind: AccessRole
metadata: {name: reader}
"""


def test_the_policy_in_the_readme_is_taken_with_what_it_says_stands_beside_it():
    shown = re.findall(r"```yaml\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert len(shown) == 1
    files = {"policy.yaml": shown[0].encode(), "beside.yaml": BESIDE.encode()}
    configured = compile_policies(Bundle(files), Options(assumes_development_keys=True))
    assert configured.policies.policies.find("orders.example.com") is not None


GUIDES = sorted((CHECKOUT / "docs" / "how-to").glob("*.md"))
PAGES = [
    *(
        page
        for places in ("*.md", "*/README.md", "examples/*/*.md", "docs/**/*.md")
        for page in sorted(CHECKOUT.glob(places))
    )
]
FILES = {"introspection-secret": b"secret"}


def _name(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


@pytest.mark.parametrize("page", GUIDES, ids=_name)
def test_the_resources_in_a_guide_are_taken(page: Path):
    """All of one page together, as a reader would write them into a folder."""
    shown = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    files = {f"{number}.yaml": text.encode() for number, text in enumerate(shown)}
    compile_policies(Bundle({**files, **FILES}), Options(assumes_development_keys=True))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_file_that_a_document_names_is_there(page: Path):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_every_test_that_a_document_names_is_there():
    """As `file::test` (several may follow one file), or `file` alone."""
    for page in PAGES:
        for file, tests in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
            text = (CHECKOUT / file).read_text()
            assert not tests or f"def {tests}(" in text, f"{_name(page)}: {file}::{tests}"


def test_the_quickstart_is_one_configuration_of_each_kind():
    files = FolderSource(CHECKOUT / "examples" / "quickstart").read().files
    assert set(files) == {"issuer.yaml", "limits.yaml", "policy.yaml", "roles.yaml"}
