"""`python -m ext_authz` run as a process on free ports, its files, and how to ask it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2

from ext_authz.adapters.envoy_check import CHECK
from ext_authz.core.api_keys import digest
from tests.support.check_requests import check_request, response_of
from tests.support.ports import free_ports
from tests.support.processes import Running, running
from tests.support.tokens import claims

PEPPER = b"0123456789abcdef0123456789abcdef"


class Service:
    """A running ext_authz and how to ask it."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder = folder
        self.grpc_port, self.streaming_port, self.http_port = ports
        self.process: Running
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        self._check = self.channel.unary_unary(CHECK)

    def send(self, message: bytes) -> bytes:
        """The answer to a message. Raises `grpc.RpcError`."""
        answer: bytes = self._check(message, timeout=10, wait_for_ready=True)
        return answer

    def begin(self, message: bytes) -> Any:
        """The call of a message, whose answer is not waited for."""
        return self._check.future(message, timeout=10, wait_for_ready=True)

    def ask(self, path: str = "/orders", *, token: str = "", key: str = "") -> str:
        """The reason of the verdict over one request."""
        return reason_of(self.send(request_of(path, token=token, key=key)))

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{self.http_port}{path}", trust_env=False)

    def configure(self, *resources: Any) -> None:
        """Replace the configuration, as `mv` does."""
        text = "\n---\n".join(json.dumps(resource) for resource in resources)
        replace(self.folder / "config" / "policy.yaml", text)

    def keys(self, *records: Mapping[str, Any]) -> None:
        """Replace the file of API keys."""
        replace(self.folder / "keys.json", json.dumps({"keys": records}))

    def wait_until_ready(self) -> None:
        self.process.wait_until(lambda: self.answers("/readyz"), "it is ready", limit_seconds=20)

    def answers(self, path: str, status: int = 200) -> bool:
        try:
            return self.get(path).status_code == status
        except httpx2.HTTPError:
            return False


def request_of(path: str, *, token: str = "", key: str = "") -> bytes:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return check_request(path, headers=headers | ({"x-api-key": key} if key else {}))


def reason_of(answer: bytes) -> str:
    return str(response_of(answer).dynamic_metadata.fields["reason"].string_value)


def replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}")
    new.write_text(text)
    new.replace(path)


def record(key: str, **changes: Any) -> dict[str, Any]:
    return {"id": "1", "name": "service", "digest": digest(key, PEPPER), **changes}


def live(**changes: Any) -> dict[str, Any]:
    """Claims that are right now."""
    return claims(**{"iat": time.time() - 1, "exp": time.time() + 600, **changes})


def command(service: Service, *options: str, keeps_keys: bool) -> list[str]:
    folder = service.folder
    return [
        *(sys.executable, "-m", "ext_authz"),
        *("--grpc.host", "127.0.0.1", "--http.host", "127.0.0.1"),
        *("--grpc.port", str(service.grpc_port), "--http.port", str(service.http_port)),
        *("--grpc.streaming-port", str(service.streaming_port)),
        *("--configuration.folder", str(folder / "config")),
        *("--keys.pepper-file", str(folder / "pepper")),
        *(("--keys.file", str(folder / "keys.json")) if keeps_keys else ()),
        *options,
    ]


@contextmanager
def serving(
    folder: Path,
    *resources: Any,
    options: tuple[str, ...] = (),
    files: Mapping[str, str] | None = None,
    keeps_keys: bool = True,
    is_ready: bool = True,
    is_measured: bool = True,
) -> Iterator[Service]:
    """The service over `resources` with `files` beside them, waited for unless `is_ready` is
    false; `keeps_keys`: API keys are in a file. `{http_port}` in an option is that port.
    `is_measured` as of `running`.
    """
    service = Service(folder, free_ports(3))
    options = tuple(text.replace("{http_port}", str(service.http_port)) for text in options)
    (folder / "config").mkdir()
    for name, text in (files or {}).items():
        (folder / "config" / name).write_text(text)
    (folder / "pepper").write_bytes(PEPPER)
    service.keys()
    service.configure(*resources)
    words = command(service, *options, keeps_keys=keeps_keys)
    with running(words, is_measured=is_measured) as process, service.channel:
        service.process = process
        if is_ready:
            service.wait_until_ready()
        yield service
