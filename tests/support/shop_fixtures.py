"""Fixtures of tests in a mesh: Kubernetes, istiod, our services, a shop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.authz_service import Service, record, serving
from tests.support.istio_mesh import IstioMesh, running_istio
from tests.support.limit_service import Served, served
from tests.support.replica_process import Replica, running_replica
from tests.support.shop_mesh import (
    AUTHZ_LABELS,
    KEY,
    LIMITER_LABELS,
    LIMITS,
    ORDERS_LABELS,
    OURS,
    SHOP,
    Shop,
    installation_without_sidecars,
    mesh_config,
    policies,
    shop_behind_a_gateway,
    workload_of_the_shop,
)


@pytest.fixture(scope="session")
def mesh() -> Iterator[IstioMesh]:
    """Started once: it takes ten seconds. A test that breaks it mends it."""
    with running_istio(mesh_config()) as running:
        running.apply(*installation_without_sidecars(), *workload_of_the_shop())
        yield running


@pytest.fixture(scope="module")
def authorizer(mesh: IstioMesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One replica of ext_authz."""
    folder = tmp_path_factory.mktemp("ext_authz")
    with serving(folder, *policies(), is_measured=False) as service:
        service.keys(record(KEY))
        mesh.workload("ext-authz-a", OURS, AUTHZ_LABELS, {"grpc": service.grpc_port})
        yield service
        mesh.leave("ext-authz-a", OURS)


@pytest.fixture(scope="module")
def limiter(mesh: IstioMesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One replica of ratelimit_service, counting in memory."""
    folder = tmp_path_factory.mktemp("ratelimit")
    (folder / "limits.yaml").write_text(LIMITS)
    with served(folder, is_measured=False) as service:
        mesh.workload("ratelimit-a", OURS, LIMITER_LABELS, {"grpc": service.grpc_port})
        yield service
        mesh.leave("ratelimit-a", OURS)


@pytest.fixture(scope="session")
def good(mesh: IstioMesh) -> Iterator[Replica]:
    """A replica of the workload that stays well."""
    with running_replica("good") as replica:
        mesh.workload("orders-good", SHOP, ORDERS_LABELS, {"http": replica.port})
        yield replica


@pytest.fixture
def shop(mesh: IstioMesh, authorizer: Service, limiter: Served, good: Replica) -> Iterator[Shop]:
    """A gateway of the test's own, in front of all of them."""
    del authorizer, limiter, good
    with shop_behind_a_gateway(mesh) as running:
        yield running
