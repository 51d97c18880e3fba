"""Tokens and access that a real Kubernetes API server is asked about, through the real service."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest

from meshwarden.adapters.istio.access import REVIEWS, Access, access
from tests.support.authz_service import Service, reason_of, request_of, serving
from tests.support.check_requests import access_policy, response_of
from tests.support.kubernetes_api import KubernetesApi, running_kubernetes
from tests.support.processes import wait_until

AUDIENCE = "shop.example.com"
OURS = "meshwarden-system"
BELIEVED_SECONDS, DENIED_SECONDS = 2.0, 1.0
API_SERVERS_OWN_SECONDS = 10.0
"""So long kube-apiserver itself remembers a token that it has authenticated."""
WAIT_SECONDS = 0.1
WAY = {"kubernetesToken": {"audiences": [AUDIENCE]}}
ACCESS = {
    **{"verb": "get", "group": "shop.example.com", "resource": "orders"},
    **{"namespace": "{team}", "name": "{order}", "trustDomains": ["cluster.local"]},
}
POLICY = access_policy(
    {"name": "web", "paths": ["/web"], "principals": ["kubernetes:system:serviceaccount:shop:web"]},
    {"name": "everyone-in-shop", "paths": ["/shop"], "groups": ["system:serviceaccounts:shop"]},
    {"name": "may-get", "paths": ["/{team}/orders/{order}"], "kubernetesAccess": ACCESS},
    identify=[WAY],
)


def object_of(
    kind: str, version: str, name: str, namespace: str = "", **rest: Any
) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def account(namespace: str, name: str) -> dict[str, Any]:
    return object_of("ServiceAccount", "v1", name, namespace)


def subject(namespace: str, name: str) -> list[dict[str, str]]:
    return [{"kind": "ServiceAccount", "namespace": namespace, "name": name}]


RBAC = "rbac.authorization.k8s.io/v1"
ROLES = "rbac.authorization.k8s.io"
BINDING = object_of(
    "RoleBinding", RBAC, "web-reads-order-7", "team-a",
    roleRef={"apiGroup": ROLES, "kind": "Role", "name": "reads-order-7"},
    subjects=subject("shop", "web"),
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[KubernetesApi]:
    """Two workloads, a Role for one order, and our own account, which may ask and nothing else."""
    with running_kubernetes() as api:
        api.apply(*(object_of("Namespace", "v1", name) for name in (OURS, "shop", "team-a")))
        api.apply(account(OURS, "ext-authz"), account("shop", "web"), account("shop", "batch"))
        rule = {
            **{"apiGroups": ["shop.example.com"], "resources": ["orders"]},
            **{"verbs": ["get"], "resourceNames": ["7"]},
        }
        (binding,) = (
            one
            for one in access(Access("ext-authz", installed_in=OURS, asks_reviews=True))
            if one["kind"] == "ClusterRoleBinding" and one["metadata"]["name"] == REVIEWS
        )
        api.apply(object_of("Role", RBAC, "reads-order-7", "team-a", rules=[rule]), binding)
        yield api


@pytest.fixture(scope="module")
def options(cluster: KubernetesApi) -> tuple[str, ...]:
    return (
        "--kubernetes-reviews.enabled",
        *("--kubernetes-reviews.kubeconfig", str(cluster.account(OURS, "ext-authz"))),
        *("--kubernetes-reviews.token-seconds", str(BELIEVED_SECONDS)),
        *("--kubernetes-reviews.refused-token-seconds", str(DENIED_SECONDS)),
        *("--kubernetes-reviews.allowed-seconds", str(BELIEVED_SECONDS)),
        *("--kubernetes-reviews.denied-seconds", str(DENIED_SECONDS)),
        *("--lookup-wait-seconds", str(WAIT_SECONDS)),
    )


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, options: tuple[str, ...]
) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("authz"), POLICY, options=options) as running:
        yield running


def status_of(service: Service, path: str, token: str) -> int:
    response = response_of(service.send(request_of(path, token=token)))
    return int(response.denied_response.status.code) or 200


def asked(service: Service, path: str, token: str) -> str:
    """The reason, or `fault` for the gRPC error by which a policy may tell one."""
    try:
        return service.ask(path, token=token)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return "fault"


def answered(service: Service, path: str, token: str) -> str:
    """The reason, once Kubernetes had the time to answer; a loaded machine may ask twice."""
    undecided = ("fault", "kubernetes_unavailable", "pending")
    wait_until(lambda: asked(service, path, token) not in undecided, "Kubernetes has answered")
    return asked(service, path, token)


def counted(text: str, pattern: str) -> float:
    """The sum of the metrics whose line matches."""
    return sum(float(line.rpartition(" ")[2]) for line in re.findall(pattern, text, re.MULTILINE))


# --- whose token it is


def test_a_workloads_own_token_says_who_it_is(cluster, service):
    web = cluster.token("shop", "web", audience=AUDIENCE)
    batch = cluster.token("shop", "batch", audience=AUDIENCE)
    assert answered(service, "/web", web) == "allowed"
    assert answered(service, "/shop", batch) == "allowed"
    assert answered(service, "/web", batch) == "no_rule_allows"
    answer = response_of(service.send(request_of("/web", token=web)))
    sent = {option.header.key: option.header.value for option in answer.ok_response.headers}
    assert sent["x-auth-principal"] == "kubernetes:system:serviceaccount:shop:web"
    assert "authorization" in answer.ok_response.headers_to_remove
    assert web not in service.process.output


def test_a_token_for_others_or_for_the_api_server_is_refused(cluster, service):
    for audience in ("others.example.com", ""):
        token = cluster.token("shop", "web", audience=audience)
        assert service.ask("/web", token=token) == "wrong_audience"


def test_a_forged_a_cut_and_an_expired_token_are_refused(cluster, service):
    token = cluster.token("shop", "web", audience=AUDIENCE)
    header, payload, signature = token.split(".")
    other = "A" if signature[0] != "A" else "B"
    assert (
        answered(service, "/web", f"{header}.{payload}.{other}{signature[1:]}") == "refused_token"
    )
    assert answered(service, "/web", f"{header}.{payload}") == "refused_token"
    unsigned = urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    assert answered(service, "/web", f"{unsigned}.{payload}.") == "refused_token"
    ended = urlsafe_b64encode(b'{"aud":["%s"],"exp":1}' % AUDIENCE.encode()).decode().rstrip("=")
    assert service.ask("/web", token=f"{header}.{ended}.{signature}") == "expired"


def test_a_deleted_accounts_token_is_refused_within_the_time_that_it_is_believed(cluster, service):
    cluster.apply(account("shop", "gone"))
    token = cluster.token("shop", "gone", audience=AUDIENCE)
    assert answered(service, "/shop", token) == "allowed"
    cluster.kubectl("delete", "serviceaccount", "gone", "--namespace", "shop")
    wait_until(
        lambda: service.ask("/shop", token=token) == "refused_token",
        "the token is refused",
        limit_seconds=API_SERVERS_OWN_SECONDS + BELIEVED_SECONDS + 2,
    )
    # A new account of that name is another one: its uid differs.
    cluster.apply(account("shop", "gone"))
    assert answered(service, "/shop", token) == "refused_token"


def test_a_thousand_requests_with_one_token_make_one_review(cluster, tmp_path, options):
    believed = (*options, "--kubernetes-reviews.token-seconds", "600")
    token = cluster.token("shop", "web", audience=AUDIENCE)
    ours = r"^kubernetes_reviews_total\{.*review=\"token\".*$"
    theirs = r"^apiserver_request_total\{.*resource=\"tokenreviews\".*$"
    before = counted(cluster.kubectl("get", "--raw", "/metrics"), theirs)
    with serving(tmp_path, POLICY, options=believed) as service:
        calls = [service.begin(request_of("/web", token=token)) for _ in range(100)]
        assert {reason_of(call.result()) for call in calls} == {"allowed"}
        assert {service.ask("/web", token=token) for _ in range(900)} == {"allowed"}
        assert counted(service.get("/metrics").text, ours) == 1
    assert counted(cluster.kubectl("get", "--raw", "/metrics"), theirs) - before == 1


# --- what it may


def test_a_rolebinding_grants_and_what_is_taken_away_ends_within_the_time(cluster, service):
    token = cluster.token("shop", "web", audience=AUDIENCE)
    workload = "/team-a/orders/7"
    assert answered(service, workload, token) == "no_rule_allows"
    cluster.apply(BINDING)
    wait_until(
        lambda: status_of(service, workload, token) == 200,
        "the binding grants",
        limit_seconds=DENIED_SECONDS + 2,
    )
    assert answered(service, "/team-a/orders/8", token) == "no_rule_allows"
    assert answered(service, "/shop/orders/7", token) == "no_rule_allows"
    cluster.kubectl("delete", "rolebinding", "web-reads-order-7", "--namespace", "team-a")
    wait_until(
        lambda: status_of(service, workload, token) == 403,
        "what was granted is taken away",
        limit_seconds=BELIEVED_SECONDS + 2,
    )


def test_a_path_of_the_api_server_is_reviewed_by_its_clusterroles(cluster, tmp_path, options):
    rule = {
        **{"name": "reports", "paths": ["/reports"]},
        "kubernetesAccess": {"verb": "get", "nonResourcePath": "/meshwarden/reports"},
    }
    token = cluster.token("shop", "web", audience=AUDIENCE)
    role = {"nonResourceURLs": ["/meshwarden/*"], "verbs": ["get"]}
    with serving(tmp_path, access_policy(rule, identify=[WAY]), options=options) as service:
        assert answered(service, "/reports", token) == "no_rule_allows"
        cluster.apply(object_of("ClusterRole", RBAC, "reads-reports", rules=[role]))
        cluster.kubectl(
            *("create", "clusterrolebinding", "web-reads-reports"),
            *("--clusterrole", "reads-reports", "--serviceaccount", "shop:web"),
        )
        wait_until(lambda: service.ask("/reports", token=token) == "allowed", "it is granted")


# --- when Kubernetes does not answer


def cut_by_killing(api: KubernetesApi) -> Callable[[], None]:
    api.kill()
    return api.start


def cut_by_pausing(api: KubernetesApi) -> Callable[[], None]:
    api.pause()
    return api.resume


def as_policy(way: str, access: str) -> Mapping[str, Any]:
    rule = {
        **{"name": "may-get", "paths": ["/{team}/orders/{order}"]},
        "kubernetesAccess": {**ACCESS, "onUnavailable": access},
    }
    return access_policy(
        rule, {"name": "open", "callers": "anyone", "paths": ["/open"]}, {"name": "any"},
        identify=[{**WAY, "onUnavailable": way}], hosts=["*"],
    )  # fmt: skip


@pytest.mark.parametrize("cut", [cut_by_killing, cut_by_pausing])
def test_an_api_server_that_is_away_is_told_in_time_and_all_is_well_when_it_is_back(
    cluster, tmp_path, options, cut
):
    """What is remembered serves on; what is not is a 503 within the request's wait."""
    known, new = (cluster.token("shop", name, audience=AUDIENCE) for name in ("web", "batch"))
    believed = (*options, "--kubernetes-reviews.token-seconds", "600")
    with serving(tmp_path, as_policy("deny", "deny"), options=believed) as service:
        assert answered(service, "/x", known) == "allowed"
        restore = cut(cluster)
        try:
            seconds = []
            for _ in range(20):
                began = time.monotonic()
                assert service.ask("/x", token=new) == "kubernetes_unavailable"
                seconds.append(time.monotonic() - began)
            assert status_of(service, "/x", new) == 503
            # The limit, and what a busy machine needs besides.
            assert max(seconds) < WAIT_SECONDS + 0.3, seconds
            assert service.ask("/x", token=known) == "allowed"
            assert service.ask("/open") == "allowed"
            assert service.ask("/open", token=new) == "allowed"
            told = service.get("/readyz?verbose").json()["kubernetes_reviews"]
            assert told["last_error"]
            assert service.answers("/readyz"), "one dependency of some policies takes nobody out"
        finally:
            restore()
        wait_until(lambda: service.ask("/x", token=new) == "allowed", "it is asked again")
        assert new not in service.process.output


def test_each_way_to_fail_is_as_the_policy_says(cluster, tmp_path, options):
    """A fault is a gRPC error, on which Envoy's own failure mode decides."""
    token = cluster.token("shop", "web", audience=AUDIENCE)
    believed = (*options, "--kubernetes-reviews.token-seconds", "600")
    with serving(tmp_path, as_policy("fault", "fault"), options=believed) as service:
        assert answered(service, "/x", token) == "allowed"
        fresh = cluster.token("shop", "batch", audience=AUDIENCE)
        cluster.pause()
        try:
            with pytest.raises(grpc.RpcError) as caught:
                service.ask("/x", token=fresh)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            # Here another rule allows without asking.
            assert service.ask("/team-a/orders/9", token=token) == "allowed"
            service.configure(as_policy("skip", "fault"))
            wait_until(
                lambda: asked(service, "/x", fresh) != "fault", "the new policy is in effect"
            )
            assert status_of(service, "/x", fresh) == 503
        finally:
            cluster.resume()
        wait_until(lambda: service.ask("/x", token=fresh) == "allowed", "it is asked again")


def test_a_service_that_may_not_ask_says_what_is_missing(cluster, tmp_path, options):
    cluster.apply(account(OURS, "powerless"))
    powerless = str(cluster.account(OURS, "powerless"))
    token = cluster.token("shop", "web", audience=AUDIENCE)
    own = (*options, "--kubernetes-reviews.kubeconfig", powerless)
    with serving(tmp_path, POLICY, options=own) as service:
        wait_until(
            lambda: (
                service.ask("/web", token=token) == "kubernetes_unavailable"
                and "auth-delegator" in service.process.output
            ),
            "the log says which ClusterRole is missing",
        )
        metrics = service.get("/metrics").text
        assert counted(metrics, r"^kubernetes_reviews_total\{.*outcome=\"failed\".*$") >= 1
