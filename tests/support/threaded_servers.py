"""Servers that tests run in threads of their own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from socketserver import BaseServer
from threading import Thread

import grpc

POLL_SECONDS = 0.02
"""How long the end of a server may take to be seen."""


@contextmanager
def serving_in_a_thread(server: BaseServer) -> Iterator[None]:
    """`server` answers for the length of the block, and is closed then."""
    with server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_SECONDS})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving_grpc(
    service: str,
    handlers: Mapping[str, grpc.RpcMethodHandler],
    *,
    threads: int = 4,
    options: Sequence[tuple[str, int]] = (),
    prepare: Callable[[grpc.Server], None] = lambda _server: None,
) -> Iterator[int]:
    """The methods of `service` on a free port, which is given, for the length of the block;
    `prepare` may add other services.
    """
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool, options=list(options))
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, dict(handlers))]
        )
        prepare(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()
