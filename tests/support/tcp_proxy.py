"""A way to a server that a test can delay, hold up or cut; it runs in the test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BYTES_AT_ONCE = 64 << 10


class TcpProxy:
    """Passes bytes on between its own port and the server's."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.answer_delay_seconds = 0.0
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None] | None] = set()
        self._passes = asyncio.Event()
        self._passes.set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def hold(self) -> None:
        """Pass nothing on, though connections stay open and new ones are taken."""
        self._passes.clear()

    def release(self) -> None:
        """Pass on again, what was held first."""
        self._passes.set()

    def cut(self) -> None:
        """Close every connection; new ones are taken."""
        for writer in self._writers:
            writer.close()

    async def refuse(self) -> None:
        """Close every connection, and take no new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def end(self) -> None:
        """Refuse, and return when nothing is passed on any more."""
        self.release()
        await self.refuse()
        await asyncio.gather(*filter(None, self._serving), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        self._writers.add(writer)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers.add(to_server)
        try:
            await asyncio.gather(
                self._pass(reader, to_server, is_answer=False),
                self._pass(from_server, writer, is_answer=True),
            )
        finally:
            for end in (writer, to_server):
                self._writers.discard(end)
                end.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            while block := await reader.read(BYTES_AT_ONCE):
                await self._passes.wait()
                if is_answer and self.answer_delay_seconds:
                    later = loop.create_future()
                    loop.call_later(self.answer_delay_seconds, later.set_result, None)
                    await later
                writer.write(block)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running_proxy(port: int) -> AsyncIterator[TcpProxy]:
    """A proxy before the server at `port`, for the length of the block."""
    proxy = TcpProxy(port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.end()
