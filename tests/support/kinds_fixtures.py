"""An API server that knows our kinds, for the tests of `tests/istio` that share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kubernetes_api import KubernetesApi, running_kubernetes
from tests.support.strict_api import StrictApi, apply_crds, strict_api


@pytest.fixture(scope="session")
def kinds_api() -> Iterator[KubernetesApi]:
    """Nothing but the kinds; tests store objects in the namespace `default`."""
    with running_kubernetes() as server:
        apply_crds(server)
        yield server


@pytest.fixture(scope="session")
def ask(kinds_api: KubernetesApi) -> Iterator[StrictApi]:
    """What it says of our resources."""
    with strict_api(kinds_api) as client:
        yield client
