"""Fixtures that many tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support.measured import MEASURED

# Shared machines stall for longer than hypothesis' deadline; a law is no timing test.
settings.register_profile(
    "house", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which a test was skipped has not shown what it stands for."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured, however well it went, and why a run with skipped tests fails."""
    for line in MEASURED:
        terminalreporter.write_line(f"measured: {line}")
    if terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("a test was skipped: what it stands for was not shown")


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Logging as it was, after the test: what is tested configures that of its own process, which
    here is ours.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
