"""What `kubectl get accesspolicies` shows, written by replicas to a real API server under a
ServiceAccount that may do no more than `access` grants.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshwarden.adapters.istio.access import Access, access
from meshwarden.adapters.kubernetes_client import ApiFailure
from meshwarden.core.documents import API_VERSION
from tests.support.cluster_objects import watching
from tests.support.kubernetes_api import KubernetesApi, running_kubernetes
from tests.support.measured import measured
from tests.support.processes import until, wait_until
from tests.support.reporting_replica import (
    DEAD_SECONDS,
    LEASE_SECONDS,
    PLATFORM,
    ReportingReplica,
    reporting_replicas,
    verdict,
)
from tests.support.watching_services import watching_service

pytestmark = [
    pytest.mark.timeout(180),
    # httpcore2 leaves a connection whose handshake is cancelled to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GROUP, VERSION = API_VERSION.split("/")
STATUS_SECONDS = 2.0
MANY = 1000
KINDS = {
    "TokenIssuer": "tokenissuers",
    "AccessRole": "accessroles",
    "AccessRoleBinding": "accessrolebindings",
    "AccessPolicy": "accesspolicies",
    "ReplicaReport": "replicareports",
}


def definition(kind: str, plural: str) -> dict[str, Any]:
    """A kind that takes anything: its schema is another test's subject."""
    path = '.status.conditions[?(@.type=="Accepted")]'
    columns = {"Accepted": f"{path}.status", "Reason": f"{path}.reason"}
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
        "additionalPrinterColumns": [
            {"name": name, "type": "string", "jsonPath": path} for name, path in columns.items()
        ],
    }
    if kind != "ReplicaReport":
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


def policy(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": API_VERSION, "kind": "AccessPolicy", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def server() -> Iterator[KubernetesApi]:
    with running_kubernetes() as api:
        api.apply(*(definition(kind, plural) for kind, plural in KINDS.items()))
        names = [f"crd/{plural}.{GROUP}" for plural in KINDS.values()]
        api.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
        for name in (PLATFORM, "shop"):
            api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        api.apply(*access(Access("ext-authz")))
        yield api


@pytest.fixture
def api(server: KubernetesApi) -> KubernetesApi:
    """Without what other tests left."""
    # One call for all: `kubectl delete --all` makes one for each.
    policies = f"/apis/{API_VERSION}/namespaces/shop/accesspolicies"
    server.kubectl("delete", "--raw", policies)
    server.kubectl("delete", "replicareports,leases", "--all", f"--namespace={PLATFORM}")
    return server


@pytest.fixture
def account(api: KubernetesApi) -> Path:
    return api.account(PLATFORM, "ext-authz")


async def item(replica: ReportingReplica, name: str) -> dict[str, Any]:
    """An object as the API server has it; asked as a replica, which is faster than kubectl."""
    path = f"/apis/{API_VERSION}/namespaces/shop/accesspolicies/{name}"
    found = await replica.client.call("GET", path)
    assert isinstance(found, dict)
    return found


async def accepted(replica: ReportingReplica, name: str) -> tuple[str, str, str]:
    """Status, reason and message of the condition; empty texts where there is none."""
    status = (await item(replica, name)).get("status", {})
    for each in status.get("conditions", ()):
        if each["type"] == "Accepted":
            return each["status"], each["reason"], each["message"]
    return "", "", ""


async def until_status(replica: ReportingReplica, name: str, *wanted: str, limit: float) -> float:
    """Seconds until the condition has this status, and reason, and message."""
    started = time.monotonic()

    async def has_it() -> bool:
        return (await accepted(replica, name))[: len(wanted)] == wanted

    await until(has_it, f"{name} is {wanted}", limit_seconds=limit)
    return time.monotonic() - started


async def reports(replica: ReportingReplica) -> dict[str, dict[str, Any]]:
    path = f"/apis/{API_VERSION}/namespaces/{PLATFORM}/replicareports"
    found = await replica.client.call("GET", path)
    return {each["metadata"]["name"]: each for each in found["items"]}


async def until_reported(replica: ReportingReplica, *names: str) -> None:
    async def are_there() -> bool:
        return set(names) == set(await reports(replica))

    await until(are_there, f"the reports are those of {names}", limit_seconds=20)


async def test_what_two_replicas_say_is_shown(api: KubernetesApi, account: Path) -> None:
    """One refuses: False, with its reason and message; both take the next generation: True within
    two seconds. kubectl shows it.
    """
    api.apply(policy("orders", hosts=["*"]))
    async with reporting_replicas(account, "ab") as (a, b):
        await until(lambda: a.is_leading or b.is_leading, "one leads", limit_seconds=20)
        assert a.is_leading != b.is_leading
        found = await item(a, "orders")
        a.tell(verdict(found))
        b.tell(verdict(found, "Refused", "spec.rules: is missing"))
        wanted = ("False", "Refused", "spec.rules: is missing")
        took = await until_status(a, "orders", *wanted, limit=10)
        refused = (await item(a, "orders"))["status"]
        assert refused["observedGeneration"] == 1
        api.apply(policy("orders", hosts=["*"], rules=[]))
        found = await item(a, "orders")
        assert found["metadata"]["generation"] == 2
        a.tell(verdict(found))
        b.tell(verdict(found))
        took_next = await until_status(a, "orders", "True", "Accepted", limit=10)
        assert max(took, took_next) < STATUS_SECONDS
        status = (await item(a, "orders"))["status"]
        assert status["replicas"] == {"accepted": 2, "known": 2}
        assert status["observedGeneration"] == 2
        shown = api.kubectl("get", "accesspolicies", "-n", "shop").splitlines()
        assert shown[0].split() == ["NAME", "ACCEPTED", "REASON"]
        assert shown[1].split() == ["orders", "True", "Accepted"]
        measured(f"a status is written {took:.2f} and {took_next:.2f} s after the report")


async def test_a_replica_that_has_not_told_yet_leaves_it_pending(
    api: KubernetesApi, account: Path
) -> None:
    api.apply(policy("orders"))
    async with reporting_replicas(account, "ab") as (a, b):
        a.tell(verdict(await item(a, "orders")))
        b.tell()
        await until_status(a, "orders", "Unknown", "Pending", limit=20)
        b.tell(verdict(await item(b, "orders")))
        await until_status(a, "orders", "True", limit=10)


async def test_a_dead_replicas_refusal_does_not_stay_and_its_report_goes(
    api: KubernetesApi, account: Path
) -> None:
    api.apply(policy("orders"))
    async with reporting_replicas(account, "ab") as (a, b):
        await until(lambda: a.is_leading or b.is_leading, "one leads", limit_seconds=20)
        living, dying = (a, b) if a.is_leading else (b, a)
        found = await item(a, "orders")
        living.tell(verdict(found))
        dying.tell(verdict(found, "Conflict", "an older one has it"))
        await until_status(living, "orders", "False", "Conflict", limit=10)
        await dying.crash()
        limit = DEAD_SECONDS + 5
        took = await until_status(living, "orders", "True", "Accepted", limit=limit)
        assert took > DEAD_SECONDS / 2
        await until_reported(living, living.reporting.reporter.name)


async def test_another_takes_over_when_the_leader_is_killed_and_at_once_when_it_ends(
    api: KubernetesApi, account: Path
) -> None:
    """A killed one within the Lease's duration, and never while the old one may still write."""
    api.apply(policy("orders"))
    async with reporting_replicas(account, "abc") as replicas:

        def leading() -> list[ReportingReplica]:
            return [replica for replica in replicas if replica.is_leading]

        await until(leading, "one leads", limit_seconds=20)
        (killed,) = leading()
        started = time.monotonic()
        await killed.crash()
        # It may still take itself for the leader until its time is over.
        await until(lambda: not leading(), "its time is over", limit_seconds=LEASE_SECONDS)
        await until(leading, "another leads", limit_seconds=20)
        took = time.monotonic() - started
        assert took < LEASE_SECONDS + 2
        (ending,) = leading()
        started = time.monotonic()
        await ending.stop()
        await until(leading, "the third leads", limit_seconds=20)
        assert time.monotonic() - started < LEASE_SECONDS / 2
        lease = api.get("lease", "meshwarden-ext-authz", "-n", PLATFORM)["spec"]
        assert lease["leaseTransitions"] == 2
        (third,) = leading()
        third.tell(verdict(await item(third, "orders")))
        await until_status(third, "orders", "True", limit=20)
        measured(
            f"another leads {took:.1f} s after the leader was killed (Lease of {LEASE_SECONDS} s)"
        )


async def test_writes_are_bounded_when_a_thousand_objects_change_at_once(
    api: KubernetesApi, account: Path
) -> None:
    """Ten a second after the first fifty; every change is written once."""
    api.kubectl("create", "-f", "-", stdin=_list([policy(f"p{n}") for n in range(MANY)]))
    async with reporting_replicas(account, "a") as (a,):
        await until(lambda: a.is_leading, "it leads", limit_seconds=20)
        items = api.get("accesspolicies", "-n", "shop")["items"]
        line = 'kubernetes_status_writes_total{result="written"}'
        a.tell(*map(verdict, items))
        started = time.monotonic()
        await until(lambda: a.metric(line) >= 1, "the first is written", limit_seconds=20)
        for limit in (60, 90, 150):
            await until(lambda limit=limit: a.metric(line) >= limit, "more", limit_seconds=60)  # type: ignore[misc]
            written, passed = a.metric(line), time.monotonic() - started
            assert written <= 50 + 10 * passed + 1
        assert a.metric("kubernetes_statuses_waiting") > MANY - 300
        assert a.metric('kubernetes_status_writes_total{result="conflict"}') == 0
        found = api.get("accesspolicies", "-n", "shop")["items"]
        changed = [each for each in found if "status" in each]
        assert len(changed) <= 50 + 10 * (time.monotonic() - started) + 1
        measured(f"{written:.0f} of {MANY} statuses are written after {passed:.1f} s")


async def test_what_is_true_after_an_api_server_was_away_is_written_then(
    api: KubernetesApi, account: Path
) -> None:
    """Paused for longer than the Lease: nobody leads meanwhile, reporting never waits, and only the
    newest is written.
    """
    api.apply(policy("orders"))
    async with reporting_replicas(account, "ab") as (a, b):
        found = await item(a, "orders")
        a.tell(verdict(found))
        b.tell(verdict(found))
        await until_status(a, "orders", "True", limit=20)
        api.pause()
        try:
            for number in range(100):
                a.tell(verdict(found, "Refused", f"wrong {number}"))
            await until(
                lambda: not (a.is_leading or b.is_leading),
                "nobody leads",
                limit_seconds=2 * LEASE_SECONDS,
            )
            failed = 'kubernetes_report_writes_total{result="failed"}'
            await until(lambda: a.metric(failed) >= 1, "a write has failed", limit_seconds=20)
            assert a.metric("kubernetes_report_is_current") == 0
        finally:
            api.resume()
        await until_status(a, "orders", "False", "Refused", "wrong 99", limit=30)
        assert a.metric("kubernetes_report_is_current") == 1


async def test_a_report_comes_back_when_deleted_goes_on_shutdown_and_has_its_pod_as_owner(
    api: KubernetesApi, account: Path
) -> None:
    replica = ReportingReplica(account, "ext-authz-7c9-x", pod_uid="1-2-3")
    replica.start()
    replica.tell()
    try:
        await until_reported(replica, "ext-authz-7c9-x")
        report = (await reports(replica))["ext-authz-7c9-x"]
        assert report["metadata"]["ownerReferences"] == [
            {"apiVersion": "v1", "kind": "Pod", "name": "ext-authz-7c9-x", "uid": "1-2-3"}
        ]
        assert report["spec"]["service"] == "ext-authz"
        assert report["spec"]["version"] == "0123456789abcdef"
        api.kubectl("delete", "replicareport", "ext-authz-7c9-x", "-n", PLATFORM)
        await until_reported(replica, "ext-authz-7c9-x")
    finally:
        await replica.stop()
    assert api.get("replicareports", "-n", PLATFORM)["items"] == []


async def test_a_status_is_not_written_over_what_changed_meanwhile_nor_by_who_may_not(
    api: KubernetesApi, account: Path
) -> None:
    """Another controller's condition stays; a replica may change no object's spec."""
    api.apply(policy("orders"))
    other = {"status": {"conditions": [{"type": "Synced", "status": "True"}]}}
    words = ("patch", "accesspolicy", "orders", "-n", "shop", "--subresource=status")
    api.kubectl(*words, "--type=merge", "-p", json.dumps(other))
    async with reporting_replicas(account, "a") as (a,):
        a.tell(verdict(await item(a, "orders")))
        await until_status(a, "orders", "True", limit=20)
        found = await item(a, "orders")
        assert [each["type"] for each in found["status"]["conditions"]] == ["Synced", "Accepted"]
        path = f"/apis/{API_VERSION}/namespaces/shop/accesspolicies/orders"
        with pytest.raises(ApiFailure, match="403"):
            await a.client.call(
                "PATCH", path, body={"spec": {}}, content_type="application/merge-patch+json"
            )
        elsewhere = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/meshwarden-ext-authz"
        with pytest.raises(ApiFailure, match="403"):
            await a.client.call("GET", elsewhere)


def test_a_service_tells_what_became_of_a_policy(api: KubernetesApi, account: Path) -> None:
    """As a user sees it: a right policy, then a wrong one; its report goes with the service."""
    rule = {"name": "all"}
    good = policy("orders", hosts=["shop.example.com"], identify=[{"apiKey": {}}], rules=[rule])
    api.apply(good)

    def has(status: str, reason: str) -> bool:
        found = api.get("accesspolicy", "orders", "-n", "shop").get("status", {})
        said = [(each["status"], each["reason"]) for each in found.get("conditions", ())]
        return said == [(status, reason)]

    with watching_service("ext_authz", *watching(account)) as service:
        wait_until(lambda: has("True", "Accepted"), "it is accepted", limit_seconds=20)
        api.apply(good | {"spec": good["spec"] | {"rules": [rule | {"roles": ["nobody"]}]}})
        started = time.monotonic()
        wait_until(lambda: has("False", "Refused"), "it is refused", limit_seconds=20)
        measured(f"a faulty policy has its status {time.monotonic() - started:.1f} s after apply")
        condition = api.get("accesspolicy", "orders", "-n", "shop")["status"]["conditions"][0]
        assert "there is no AccessRole 'nobody'" in condition["message"]
        assert service.metric("kubernetes_is_leader") == 1
        assert len(api.get("replicareports", "-n", PLATFORM)["items"]) == 1
    assert api.get("replicareports", "-n", PLATFORM)["items"] == []
    assert not api.get("lease", "meshwarden-ext-authz", "-n", PLATFORM)["spec"].get(
        "holderIdentity"
    )


def _list(items: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
