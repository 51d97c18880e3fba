"""Sessions of raw HTTP/2 clients with the tested service: what is sent, in which order and pieces,
and what comes back, so that two transports can be told apart.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes, Settings

from tests.support.grpc_service import SERVICE

PATHS = [f"/{SERVICE}/MirrorA", f"/{SERVICE}/MirrorB", f"/{SERVICE}/MirrorLater"]
VALUES = ["a", "b" * 40, "rita", "x,y", "0", "v" * 300]
Metadata = list[tuple[str, bytes]]


@dataclass(frozen=True)
class SentCall:
    """A call; `pieces` are its message's DATA frames, none where no message is sent."""

    path: str
    metadata: Metadata
    pieces: list[bytes]

    def headers(self) -> list[tuple[str, str]]:
        shown = [
            (name, base64.b64encode(value).decode() if name.endswith("-bin") else value.decode())
            for name, value in self.metadata
        ]
        return [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", self.path),
            (":authority", "tested"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *shown,
        ]


@dataclass(frozen=True)
class Session:
    """What several clients send: each step is a client, a call of its own, and which of the call's
    frames; the bytes are cut at random.
    """

    calls: list[list[SentCall]]
    steps: list[tuple[int, int]]
    seed: int


@dataclass
class Answer:
    """What came back for a call."""

    status: str = ""
    code: str = ""
    body: bytes = b""
    is_over: bool = False


def session_of(seed: int) -> Session:
    """A session that the seed alone decides."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    calls = [
        [_call(chance) for _ in range(chance.randint(1, 4))] for _ in range(chance.randint(1, 3))
    ]
    steps = [
        (client, number)
        for client, own in enumerate(calls)
        for number, call in enumerate(own)
        for _ in range(1 + len(call.pieces))
    ]
    chance.shuffle(steps)
    return Session(calls, steps, seed)


def _call(chance: random.Random) -> SentCall:
    names = ["x-a", "x-b", "x-rather-long-name", "x-raw-bin", "x-a"]
    metadata = []
    for name in chance.sample(names, chance.randint(0, len(names))):
        is_raw = name.endswith("-bin")
        value = (
            chance.randbytes(chance.randint(0, 30)) if is_raw else chance.choice(VALUES).encode()
        )
        metadata.append((name, value))
    path = chance.choice([*PATHS, *PATHS, f"/{SERVICE}/None"])
    if chance.random() < 0.05:
        return SentCall(path, metadata, [])
    message = chance.randbytes(chance.choice([0, 1, 20, 1200, 20_000]))
    framed = b"\0" + len(message).to_bytes(4) + message
    cuts = sorted(chance.randint(0, len(framed)) for _ in range(chance.randint(0, 3)))
    bounds = [0, *cuts, len(framed)]
    pieces = [framed[a:b] for a, b in itertools.pairwise(bounds)]
    return SentCall(path, metadata, pieces)


def expected(call: SentCall) -> tuple[str, str, bytes]:
    """What the call's answer must be, said without any transport."""
    if call.path not in PATHS:
        return "200", "12", b""
    if not call.pieces:
        return "200", "3", b""
    message = b"".join(call.pieces)[5:]
    name = call.path.rpartition("/")[2]
    own = sorted(
        (key, value if key.endswith("-bin") else value.decode()) for key, value in call.metadata
    )
    answer = f"{name} {own} ".encode() + message
    return "200", "0", b"\0" + len(answer).to_bytes(4) + answer


class HttpClient:
    """One connection; what it is to send is made when its turn comes, so that its table of headers
    grows as the session goes. `window`: bytes that a stream may be sent before it is told more.
    """

    def __init__(self, calls: list[SentCall], *, window: int = 65_535) -> None:
        self.calls = calls
        self.connection = H2Connection(
            H2Configuration(
                client_side=True, header_encoding="utf-8", normalize_inbound_headers=False
            )
        )
        self.connection.local_settings = Settings(
            client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.streams: dict[int, int] = {}
        self.sent: defaultdict[int, int] = defaultdict(int)
        self.answers: dict[int, Answer] = {}
        self.writing = asyncio.Lock()

    def step(self, number: int) -> None:
        call = self.calls[number]
        if number not in self.streams:
            stream = self.streams[number] = self.connection.get_next_available_stream_id()
            self.answers[stream] = Answer()
            self.connection.send_headers(stream, call.headers(), end_stream=not call.pieces)
            return
        place = self.sent[number]
        self.sent[number] += 1
        stream = self.streams[number]
        if self.answers[stream].is_over:
            return
        is_last = place == len(call.pieces) - 1
        for start in range(0, max(1, len(call.pieces[place])), 16_000):
            chunk = call.pieces[place][start : start + 16_000]
            is_end = is_last and start + 16_000 >= len(call.pieces[place])
            self.connection.send_data(stream, chunk, end_stream=is_end)

    def read(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            answer = self.answers.get(getattr(event, "stream_id", 0))
            if answer is None:
                continue
            if isinstance(event, (ResponseReceived, TrailersReceived)):
                found = dict(event.headers)
                answer.status = found.get(":status", answer.status)
                answer.code = found.get("grpc-status", answer.code)
            elif isinstance(event, DataReceived):
                answer.body += event.data
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
            elif isinstance(event, (StreamEnded, StreamReset)):
                answer.is_over = True

    @property
    def is_done(self) -> bool:
        return len(self.answers) == len(self.calls) and all(
            answer.is_over for answer in self.answers.values()
        )


async def answers_to(session: Session, port: int) -> list[list[tuple[str, str, bytes]]]:
    """Per client and call: HTTP status, gRPC status, the bytes of the answer."""
    chance = random.Random(session.seed + 1)  # noqa: S311 - no secret
    clients = [HttpClient(calls) for calls in session.calls]
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in clients]
    readers = [
        asyncio.create_task(_read(client, reader, writer))
        for client, (reader, writer) in zip(clients, opened, strict=True)
    ]
    try:
        for client, (_, writer) in zip(clients, opened, strict=True):
            client.connection.initiate_connection()
            writer.write(client.connection.data_to_send())
        for number, call in session.steps:
            clients[number].step(call)
            await _send(clients[number], opened[number][1], chance)
        await asyncio.wait_for(asyncio.gather(*readers), 20)
    finally:
        for _, writer in opened:
            writer.close()
        for task in readers:
            task.cancel()
    return [
        [
            (answer.status, answer.code, answer.body)
            for answer in (client.answers[client.streams[n]] for n in range(len(client.calls)))
        ]
        for client in clients
    ]


async def require_right_answers(seeds: range, ports: Mapping[str, int]) -> None:
    """Fail at the first session that a server, of those at the ports, answers wrongly."""
    for seed in seeds:
        session = session_of(seed)
        wanted = [[expected(call) for call in calls] for calls in session.calls]
        for name, port in ports.items():
            assert await answers_to(session, port) == wanted, f"{name}, {seed}"


async def _send(client: HttpClient, writer: asyncio.StreamWriter, chance: random.Random) -> None:
    """What the client has to send, in pieces that need not end where a frame does."""
    async with client.writing:
        unsent = client.connection.data_to_send()
        while unsent:
            size = chance.choice([1, 7, 100, 5000, len(unsent)])
            writer.write(unsent[:size])
            unsent = unsent[size:]
            await asyncio.sleep(0)


async def _read(
    client: HttpClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while not client.is_done:
        received = await reader.read(65536)
        if not received:
            return
        client.read(received)
        async with client.writing:
            writer.write(client.connection.data_to_send())
