"""Fixtures that the tests of the real Envoy share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.envoy_mesh import Mesh, running_mesh


@pytest.fixture(scope="module")
def module_mesh() -> Iterator[Mesh]:
    with running_mesh() as mesh:
        yield mesh


@pytest.fixture
def mesh(module_mesh: Mesh) -> Mesh:
    """The module's mesh, allowing everything, with empty records."""
    module_mesh.reset()
    return module_mesh
