"""Everything in `istio/`, held against what will read it: a real Kubernetes API server that refuses
unknown fields, Istio's own `validate` and `analyze`, and kustomize.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ext_authz.core.compile import Options, compile_policies
from meshwarden.adapters.istio import IstioOptions, files
from meshwarden.cli.mesh_facts import policy_facts
from meshwarden.core.snapshot import Bundle
from tests.support.istio_mesh import namespace
from tests.support.kubernetes_api import APPLY, KubernetesApi, running_kubernetes, tool
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(180)
ISTIO = CHECKOUT / "istio"
OVERLAYS = ("base", "overlays/demo", "overlays/production")
STANDING_SENTENCE = "exposes internal implementation details that may change at any time"
"""What Istio says of every EnvoyFilter."""
OURS = "meshwarden.io/"


@pytest.fixture(scope="module")
def api() -> Iterator[KubernetesApi]:
    """With the CRDs of Istio, of the Gateway API and our own, and the namespaces that are there
    before us.
    """
    with running_kubernetes() as api:
        for name in ("istio", "gateway-api"):
            api.kubectl(*APPLY, "-f", tool(f"crds/{name}"))
        api.kubectl(*APPLY, "-k", ISTIO / "crds")
        api.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
        api.apply(namespace("istio-system"))
        yield api


def built(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder."""
    words = [str(tool("bin/kubectl")), "kustomize", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def component(folder: Path, name: str) -> list[dict[str, Any]]:
    """What a component adds to nothing."""
    folder.mkdir()
    kustomization = {
        "kind": "Kustomization",
        "components": [os.path.relpath(ISTIO / "components" / name, folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return built(folder)


def applied(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without our own kinds where their CRDs are not there."""
    if (ISTIO / "crds").exists():
        return documents
    return [one for one in documents if not one["apiVersion"].startswith(OURS)]


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def istioctl(*words: str | Path, kubeconfig: Path | None = None) -> list[str]:
    """The lines that it writes, without the standing sentence; fails where it finds an error."""
    done = subprocess.run(
        [str(tool("bin/istioctl")), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.strip() and STANDING_SENTENCE not in line]


@pytest.mark.parametrize("place", OVERLAYS)
def test_the_api_server_takes_every_field(api: KubernetesApi, place: str):
    documents = applied(built(ISTIO / place))
    spaces = [one for one in documents if one["kind"] == "Namespace"]
    api.apply(*spaces)
    api.kubectl(*APPLY, "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(documents))


@pytest.mark.parametrize("name", ["ingress", "gateway-api"])
def test_and_every_component(api: KubernetesApi, tmp_path: Path, name: str):
    documents = component(tmp_path / "alone", name)
    api.kubectl(*APPLY, "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(documents))


def test_a_field_that_is_misspelt_is_refused(api: KubernetesApi):
    """So the tests above can fail."""
    rule = named(built(ISTIO / "base"), "DestinationRule", "ext-authz")
    rule["spec"]["trafficPolicy"]["outlierDetection"]["baseEjectTime"] = "1s"
    text = yaml.safe_dump(rule)
    done = api.try_kubectl(*APPLY, "--dry-run=server", "-f", "-", stdin=text)
    assert "baseEjectTime" in done.stderr


@pytest.mark.parametrize("place", [*OVERLAYS, "components/gateway-api", "components/ingress"])
def test_istio_finds_nothing_to_say(place: str, tmp_path: Path):
    folder = ISTIO / place
    documents = (
        component(tmp_path / "alone", folder.name) if "components" in place else built(folder)
    )
    file = tmp_path / "documents.yaml"
    file.write_text(yaml.safe_dump_all(applied(documents)))
    said = istioctl("validate", "-f", file)
    assert [line for line in said if not line.endswith(("is valid", "has warnings: "))] == []


@pytest.mark.parametrize("overlay", ["demo", "production"])
def test_istio_finds_nothing_to_say_where_everything_is_applied(overlay: str, api: KubernetesApi):
    values = yaml.safe_load((ISTIO / "install/istiod-values.yaml").read_text())
    mesh = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": yaml.safe_dump(values["meshConfig"])},
    }
    documents = applied(built(ISTIO / "overlays" / overlay))
    api.apply(*(one for one in documents if one["kind"] == "Namespace"))
    asking = {"meshwarden.io/authorize": "sidecar", "meshwarden.io/limit": "sidecar"}
    pods = [
        pod("istio-ingressgateway", "istio-system", IstioOptions().gateway_labels),
        pod("asking", "meshwarden-demo" if overlay == "demo" else "istio-system", asking),
        *(
            pod(name, one["metadata"]["namespace"], one["spec"]["template"]["metadata"]["labels"])
            for one in documents
            if one["kind"] == "Deployment"
            for name in [one["metadata"]["name"]]
        ),
    ]
    api.apply(mesh, gateway_service(), *pods, *documents)
    said = istioctl(
        "analyze",
        "--all-namespaces",
        "--suppress=IST0102=Namespace default",  # It is Kubernetes', and empty.
        kubeconfig=api.kubeconfig,
    )
    assert said == []


def pod(name: str, place: str, labels: dict[str, str]) -> dict[str, Any]:
    """A Pod with a sidecar, which no kubelet will ever start."""
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "istio-proxy", "image": "none", "securityContext": restricted}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": place, "labels": labels},
        "spec": {"containers": [container]},
    }


def gateway_service() -> dict[str, Any]:
    """As Istio's chart `gateway` makes it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "istio-ingressgateway", "namespace": "istio-system"},
        "spec": {
            "selector": IstioOptions().gateway_labels,
            "ports": [
                {"name": "http2", "port": 80, "targetPort": 80},
                {"name": "https", "port": 443, "targetPort": 443},
            ],
        },
    }


def test_the_profile_for_istioctl_installs_what_the_rest_assumes():
    manifest = subprocess.run(
        [
            str(tool("bin/istioctl")),
            "manifest",
            "generate",
            "-f",
            ISTIO / "install/istio-operator.yaml",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert manifest.returncode == 0, manifest.stderr
    documents = [one for one in yaml.safe_load_all(manifest.stdout) if one]
    mesh = yaml.safe_load(named(documents, "ConfigMap", "istio")["data"]["mesh"])
    wanted = yaml.safe_load((ISTIO / "install/istiod-values.yaml").read_text())["meshConfig"]
    assert mesh["extensionProviders"] == wanted["extensionProviders"]
    assert mesh["pathNormalization"] == {"normalization": "DECODE_AND_MERGE_SLASHES"}
    named(documents, "DaemonSet", "istio-cni-node")
    gateway = named(documents, "Deployment", "istio-ingressgateway")["spec"]["template"]
    labels = IstioOptions().gateway_labels
    assert labels.items() <= gateway["metadata"]["labels"].items()
    assert gateway["spec"]["serviceAccountName"] == IstioOptions().gateway_service_account


@pytest.mark.parametrize("overlay", ["demo", "production"])
def test_an_overlay_is_one_apply_and_its_policies_are_in_force_as_it_runs_them(
    overlay: str, api: KubernetesApi
):
    """Nothing is left for a second apply, and nothing needs the development issuer where its keys
    are not given: a policy that does would never be good, and deny everything.
    """
    folder = ISTIO / "overlays" / overlay
    api.kubectl("apply", "--server-side", "-k", folder)
    documents = built(folder)
    environment = str(named(documents, "Deployment", "ext-authz"))
    has_development_keys = "EXT_AUTHZ_KEYS__DEVELOPMENT_JWKS" in environment
    assert has_development_keys == (overlay == "demo")
    objects = [one for one in documents if one["apiVersion"].startswith(OURS)]
    bundle = Bundle({"objects.yaml": yaml.safe_dump_all(objects).encode()})
    options = Options(assumes_development_keys=has_development_keys)
    assert compile_policies(bundle, options).policies.identity_headers
    assert [one for one in documents if one["kind"] == "Gateway"]


def test_demo_keeps_counters_in_one_replica_and_production_in_redis():
    demo, production = built(ISTIO / "overlays/demo"), built(ISTIO / "overlays/production")
    environment = {}
    for name, documents in (("demo", demo), ("production", production)):
        deployment = named(documents, "Deployment", "ratelimit")["spec"]
        container = deployment["template"]["spec"]["containers"][0]
        environment[name] = {one["name"]: one.get("value") for one in container["env"]}
        assert deployment["replicas"] == (1 if name == "demo" else 3)
    assert environment["demo"]["RATELIMIT_STORE__KIND"] == "memory"
    assert "RATELIMIT_REDIS__URL" not in environment["demo"]
    assert environment["production"]["RATELIMIT_STORE__KIND"] == "redis"
    assert "RATELIMIT_REDIS__URL" in environment["production"]
    assert environment["production"]["RATELIMIT_STORE__REPLICAS"] == "3"
    assert not [one for one in demo if one["kind"] == "PodDisruptionBudget"]


@pytest.mark.parametrize(
    "settings",
    [
        {"istio_versions": "1.29,1.30,1.31", "gateway_tls_secret": "shop-tls"},
        {"guarded_namespaces": "shop,web", "caller_namespaces": "jobs"},
        {"ratelimit_failure_mode": "deny", "unguarded_hosts": "status.example.com"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_options_are_taken_too(api: KubernetesApi, tmp_path: Path, settings: dict[str, str]):
    options = IstioOptions.model_validate(settings)
    facts = policy_facts(CHECKOUT / "examples/partner_api")
    owners = {one["metadata"].get("namespace") for one in facts.resources} - {None}
    places = {"meshwarden-system", *options.guarded_namespaces, *owners}
    api.apply(*map(namespace, sorted(places)))
    for name, text in files(options, facts).items():
        if "kustomization" in name or "install" in name:
            continue
        file = tmp_path / Path(name).name
        documents = applied(list(yaml.safe_load_all(text)))
        file.write_text(yaml.safe_dump_all(documents))
        if documents:
            api.kubectl(*APPLY, "--dry-run=server", "-f", file)
            assert istioctl("validate", "-f", file)[0].endswith(("is valid", "has warnings: "))


def test_the_two_forms_of_the_control_planes_settings_say_the_same():
    values = yaml.safe_load((ISTIO / "install/istiod-values.yaml").read_text())
    operator = yaml.safe_load((ISTIO / "install/istio-operator.yaml").read_text())
    assert json.dumps(values["meshConfig"]) == json.dumps(operator["spec"]["meshConfig"])
