"""A real Kubernetes API server on loopback: kube-apiserver, with kine (SQLite) as its store.

Nothing else of a cluster: no kubelet, scheduler or controllers, so that Pods stay as they are
posted and nobody fills EndpointSlices. What a test changes goes by `kubectl`, as a user's would.
`make test-istio` builds the binaries (`tests/istio/install-tools.sh`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.ports import free_ports, is_listening
from tests.support.processes import wait_until

ADMIN = "admin"
_ADMIN_TOKEN = "admin-of-the-tests"
START_SECONDS = 90.0
KUBECTL_SECONDS = 60.0


def tool(name: str) -> Path:
    """Where `make test-istio` put a binary, or a folder of CRDs. Fails, saying so, where it
    didn't.
    """
    folder = Path(os.environ.get("ISTIO_TOOLS") or "/nowhere")
    found = folder / name
    assert found.exists(), f"no {name} in {folder}: run `make test-istio`"
    return found


class KubernetesApi:
    """One API server and its store; it can be killed, paused and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store_port, self.port = free_ports(2)
        self.url = f"https://127.0.0.1:{self.port}"
        self.authority = folder / "certificates" / "apiserver.crt"
        self._store: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        _write_signing_key(folder)
        (folder / "tokens.csv").write_text(f'{_ADMIN_TOKEN},{ADMIN},{ADMIN},"system:masters"\n')
        self.kubeconfig = self._kubeconfig(ADMIN, _ADMIN_TOKEN)

    def start(self) -> None:
        """Run both, and return once the API server is ready."""
        if self._store is None:
            self._store = self._run("kine", *self._store_options())
            wait_until(lambda: is_listening(self._store_port), "kine listens")
        self._server = self._run("kube-apiserver", *self._server_options())
        wait_until(self._is_ready, "the API server is ready", limit_seconds=START_SECONDS)

    def kill(self) -> None:
        """End the API server at once; its store keeps what it has."""
        self._server = _killed(self._server)

    def pause(self) -> None:
        """Let it answer nothing while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End both. The API server first: without a store it hangs on SIGTERM."""
        self.kill()
        self._store = _killed(self._store)

    def kubectl(self, *words: str | Path, stdin: str = "", user: Path | None = None) -> str:
        """What `kubectl WORDS` writes; fails, with its errors, where it does."""
        done = self.try_kubectl(*words, stdin=stdin, user=user)
        assert done.returncode == 0, f"kubectl {words}: {done.stderr}"
        return done.stdout

    def try_kubectl(
        self, *words: str | Path, stdin: str = "", user: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same, however it ends. `user` is a kubeconfig of `account`."""
        return subprocess.run(
            [str(tool("bin/kubectl")), *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=KUBECTL_SECONDS,
            check=False,
            env={
                **os.environ,
                "KUBECONFIG": str(user or self.kubeconfig),
                "KUBECACHEDIR": str(self._folder / "kubectl-cache"),
            },
        )

    def apply(self, *documents: dict[str, Any]) -> None:
        """Server-side apply with strict validation: an unknown field fails."""
        self.kubectl(*APPLY, "-f", "-", stdin=yaml.safe_dump_all(documents))

    def get(self, *words: str) -> Any:
        """An object, or a list, as JSON."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def account(self, namespace: str, name: str) -> Path:
        """The kubeconfig of a ServiceAccount, which must exist, with a token of its own."""
        token = self.token(namespace, name)
        return self._kubeconfig(f"{namespace}.{name}", token)

    def token(self, namespace: str, name: str, *, audience: str = "") -> str:
        """A token of a ServiceAccount, as a Pod of it would be given."""
        words = ["create", "token", name, "--namespace", namespace, "--duration", "2h"]
        return self.kubectl(*words, *(["--audience", audience] if audience else [])).strip()

    @property
    def log(self) -> str:
        return (self._folder / "kube-apiserver.log").read_text(errors="replace")

    def _is_ready(self) -> bool:
        if self._server is None or self._server.poll() is not None:
            raise AssertionError(f"the API server ended:\n{self.log[-3000:]}")
        if not self.authority.exists():
            return False
        try:
            answer = httpx2.get(
                f"{self.url}/readyz",
                headers={"authorization": f"Bearer {_ADMIN_TOKEN}"},
                verify=False,  # Only whether it is there: kubectl verifies.
                timeout=2,
            )
        except httpx2.TransportError:
            return False
        return answer.status_code == 200

    def _store_options(self) -> list[str]:
        pragmas = "_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate"
        return [
            f"--endpoint=sqlite://{self._folder / 'kine.db'}?{pragmas}",
            f"--listen-address=http://127.0.0.1:{self._store_port}",
            "--metrics-bind-address=0",
        ]

    def _server_options(self) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{self._store_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}",
            f"--cert-dir={self.authority.parent}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self._folder / 'signing.pub'}",
            f"--service-account-signing-key-file={self._folder / 'signing.key'}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            # Pods may be posted without a ServiceAccount controller.
            "--disable-admission-plugins=ServiceAccount",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
        ]

    def _run(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [str(tool(f"bin/{name}")), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._server is not None and self._server.poll() is None:
            os.kill(self._server.pid, number)

    def _kubeconfig(self, user: str, token: str) -> Path:
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        path = self._folder / f"{user}.kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
            "current-context": "tests",
        }
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)
        return path


APPLY = ("apply", "--server-side", "--force-conflicts", "--validate=strict")


@contextmanager
def running_kubernetes() -> Iterator[KubernetesApi]:
    """An empty API server for the length of the block."""
    with TemporaryDirectory(prefix="meshwarden-test-") as folder:
        api = KubernetesApi(Path(folder))
        try:
            api.start()
            yield api
        finally:
            api.stop()


def _killed(child: subprocess.Popen[bytes] | None) -> None:
    if child is not None:
        child.kill()
        child.wait()


def _write_signing_key(folder: Path) -> None:
    """The key pair with which the API server signs ServiceAccounts' tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = folder / "signing.key"
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "signing.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
