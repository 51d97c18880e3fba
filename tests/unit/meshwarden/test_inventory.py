"""What `meshwarden check` says was found."""

from __future__ import annotations

from pathlib import Path

from meshwarden.cli.inventory import inventory


def test_a_folder_that_configures_nothing_is_told_so(tmp_path: Path):
    (tmp_path / "limits.yaml").write_text("domain: d\n")
    assert inventory(tmp_path) == "nothing is configured, so everything is denied"


def test_the_limits_of_a_plain_file_are_counted_at_every_level(tmp_path: Path):
    (tmp_path / "limits.yaml").write_text(
        "domain: d\n"
        "descriptors:\n"
        "  - key: a\n"
        "    rate_limit: {unit: hour, requests_per_unit: 1}\n"
        "    descriptors:\n"
        "      - {key: b}\n"
        "      - {key: c, rate_limit: {unit: hour, requests_per_unit: 2}}\n"
        "  - {key: d, value: 'x*', rate_limit: {unit: hour, requests_per_unit: 3}}\n"
    )
    assert inventory(tmp_path) == "3 limits"


def test_rules_are_counted_beside_their_policies(tmp_path: Path):
    (tmp_path / "policies.yaml").write_text(
        "\n---\n".join(
            "apiVersion: meshwarden.io/v1alpha1\n"
            "kind: AccessPolicy\n"
            f"metadata: {{name: {name}}}\n"
            f"spec: {{hosts: [{name}.example.com], rules: [{{name: r, paths: [/]}}]}}"
            for name in ("a", "b")
        )
    )
    assert inventory(tmp_path) == "2 policies (2 rules)"
