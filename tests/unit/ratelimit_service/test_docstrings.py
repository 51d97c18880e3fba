"""The examples in docstrings are true."""

from __future__ import annotations

import doctest

import pytest

from ratelimit_service.core import counter, which_limit, wildcard


@pytest.mark.parametrize(
    "module", [counter, which_limit, wildcard], ids=lambda module: module.__name__
)
def test_the_examples_of(module: object):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
