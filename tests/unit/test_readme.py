"""What the README shows is true."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_every_file_that_the_documents_name_is_there():
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "ext_authz/README.md",
        "perf/README.md",
        "examples/README.md",
    ):
        text = (CHECKOUT / page).read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in link:
                assert (CHECKOUT / Path(page).parent / link).exists(), f"{page}: {link}"


def test_the_quickstart_is_one_configuration_of_each_kind():
    files = FolderSource(CHECKOUT / "examples" / "quickstart").read().files
    assert set(files) == {"issuer.yaml", "limits.yaml", "policy.yaml", "roles.yaml"}
