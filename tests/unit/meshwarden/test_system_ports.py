"""What `up` says when its ports are taken: one message, with one hint."""

from __future__ import annotations

import pytest

from meshwarden.cli import system_ports
from meshwarden.cli.system_ports import PortChoice, Ports
from meshwarden.core.faults import Misconfigured


def take(monkeypatch: pytest.MonkeyPatch, *taken: int) -> None:
    monkeypatch.setattr(system_ports, "_is_free", lambda port: port not in taken)


def told(*, with_envoy: bool) -> str:
    with pytest.raises(Misconfigured) as raised:
        system_ports.choose(PortChoice.DEFAULT, with_envoy=with_envoy)
    assert len(raised.value.problems) == 1
    return str(raised.value)


def test_each_taken_port_is_named_and_the_hint_stands_once(monkeypatch: pytest.MonkeyPatch):
    take(monkeypatch, 9901, 6070)
    assert told(with_envoy=True) == (
        "ports 9901 (envoy admin), 6070 (ratelimit debug) on 127.0.0.1 are taken "
        "(stop what listens there, or start with --ports auto)"
    )


def test_where_all_are_taken_a_meshwarden_seems_to_run(monkeypatch: pytest.MonkeyPatch):
    services = (9001, 9002, 9003, 8081, 8080, 6070, 8083)
    take(monkeypatch, *services)
    assert "a Meshwarden seems to run here: stop it" in told(with_envoy=False)
    assert "stop what listens there" in told(with_envoy=True)


def test_envoys_own_ports_may_be_taken_where_it_is_not_started(monkeypatch: pytest.MonkeyPatch):
    take(monkeypatch, 10000, 9901)
    assert system_ports.choose(PortChoice.DEFAULT, with_envoy=False).gateway == Ports().gateway
