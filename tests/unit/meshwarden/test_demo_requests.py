"""Which of the demo's requests `up` offers: those that the configuration answers as stated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from meshwarden.cli import configuration_folder
from meshwarden.cli.demo import Demo
from meshwarden.cli.demo_requests import REQUESTS
from meshwarden.cli.state_folder import StateFolder
from meshwarden.core.faults import Misconfigured
from ratelimit_service.core.model import Node, Rules
from tests.support.processes import CHECKOUT


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKOUT / "examples" / "quickstart", tmp_path / "config"))


def left_out(config: Path) -> set[str]:
    """The names of the requests that are not offered for this folder."""
    state = StateFolder(config.parent / "state")
    demo = Demo(state, gateway="http://127.0.0.1:10000", envoy_admin="http://127.0.0.1:9901")
    demo.prepare()
    rules = configuration_folder.limits(config)
    domain = configuration_folder.domain_of(rules)
    demo.choose(configuration_folder.load(config, state), rules, domain)
    assert len(demo.table()) == len(demo.requests)
    return {request.name for request in REQUESTS} - {request.name for request in demo.requests}


def edit(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_the_quickstart_answers_all_of_them(config: Path):
    assert left_out(config) == set()


def test_a_request_that_another_rule_decides_is_left_out(config: Path):
    edit(config / "policy.yaml", "roles: [reader]", "roles: [admin]")
    assert left_out(config) == {"reader reads"}


def test_a_folder_for_another_host_is_offered_nothing(config: Path):
    """What no policy covers is denied whatever is asked: that shows nothing."""
    edit(config / "policy.yaml", 'hosts: ["*"]', "hosts: [api.example.com]")
    assert left_out(config) == {request.name for request in REQUESTS}


@pytest.mark.parametrize("limit", ["requests_per_unit: 6", "unlimited: true"])
def test_a_limit_that_twelve_tries_may_not_reach_is_left_out(config: Path, limit: str):
    if limit == "unlimited: true":
        edit(config / "limits.yaml", "            unit: minute\n", "")
    edit(config / "limits.yaml", "requests_per_unit: 5", limit)
    assert left_out(config) == {"over the limit"}


def test_a_limit_of_nothing_leaves_out_what_it_refuses(config: Path):
    edit(config / "limits.yaml", "value: limited", "value: whoami")
    edit(config / "limits.yaml", "requests_per_unit: 5", "requests_per_unit: 0")
    assert left_out(config) == {"who am I", "over the limit"}


def test_the_domain_is_the_quickstarts_or_the_only_one():
    def domain(*names: str) -> str:
        return configuration_folder.domain_of(Rules({name: Node() for name in names}))

    assert domain() == "quickstart"
    assert domain("shop") == "shop"
    assert domain("shop", "quickstart") == "quickstart"
    with pytest.raises(Misconfigured, match="there are bank, shop"):
        domain("shop", "bank")
