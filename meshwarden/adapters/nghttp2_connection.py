"""One HTTP/2 connection of the main gRPC port, on libnghttp2. The life of one call:

    bytes -> data_received -> nghttp2_session_mem_recv     the library's: frames, HPACK, windows
               on_begin_frame   what brings no work is paid for; who can't pay is let go
               on_header        the session's: kept; what headers weigh together is bounded
               on_frame         HEADERS: a call, in flight; a refused one needs no message
               on_body          its message grows to the length that it states, which is bounded
             when the read is used up, for each call that has what it needs:
               answered at once   _reply
               an awaitable       a task; then _reply or _fail, in whatever order they finish
             -> _flush: nghttp2_session_mem_send until there is no more, then one write
               next_bytes       the library sends the answer; the trailers follow
               on_stream_close  the call is over; a task that still runs for it is cancelled

Nothing is kept from call to call but the connection's own figures: to decode headers is the
library's. A connection holds at most a window's worth of messages that are not handed on. What a
peer does wrong ends its call or its connection. `look`, called about each second, ends what takes
too long.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import cast

from meshwarden.adapters import grpc_calls, nghttp2_lifetime
from meshwarden.adapters import grpc_refusals as refusals
from meshwarden.adapters import nghttp2_library as h2
from meshwarden.adapters.grpc_calls import GrpcFailure, Method, status_of
from meshwarden.adapters.grpc_framing import Message, framed
from meshwarden.adapters.grpc_refusals import Refusal
from meshwarden.adapters.nghttp2_call import Call
from meshwarden.adapters.nghttp2_lifetime import Lifetime
from meshwarden.adapters.nghttp2_patience import WINDOW_UPDATE_COST, Patience
from meshwarden.adapters.nghttp2_session import Headers, Session
from meshwarden.adapters.nghttp2_shared import Client, Shared

WINDOW_BESIDES_A_MESSAGE = 1 << 20


class Connection(asyncio.Protocol):
    def __init__(self, shared: Shared, *, lives_seconds: float) -> None:
        self._shared = shared
        self._calls: dict[int, Call] = {}
        self._ready: list[Call] = []
        self.headers: Headers = []
        self.room = 0
        now, settings = shared.clock(), shared.settings
        self._life = Lifetime(now, settings, lives_seconds=lives_seconds)
        self._patience = Patience(
            now,
            header_bytes=settings.metadata_bytes_at_most,
            ping_seconds=settings.ping_interval_at_least_seconds,
        )
        self._is_flush_due = self._is_block_open = False
        self._session: Session | None = None
        self._refusal: Refusal | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        session = self._session = Session(self._shared.http2, self)
        self._shared.remember(self)
        client = self._shared.judge(transport)
        if client is Client.SPEAKS_NO_HTTP2:
            self.abort("no_http2")
            return
        self._refusal = refusals.NOT_NAMED if client is Client.IS_NOT_NAMED else None
        settings = self._shared.settings
        session.greet(
            streams_at_most=settings.streams_at_most,
            window=settings.message_bytes_at_most + WINDOW_BESIDES_A_MESSAGE,
            header_bytes=settings.metadata_bytes_at_most,
        )
        self._flush()

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session is None or self._life.closing is not None:
            return
        self._life.heard = self._shared.clock()
        goes_on = session.read(data)
        ready, self._ready = self._ready, []
        for call in ready:
            if self._calls.get(call.stream_id) is call:
                self._take(call)
        if goes_on:
            self._flush()
        else:
            self.end(h2.ENHANCE_YOUR_CALM if self._patience.complaint else h2.PROTOCOL_ERROR)

    def pause_writing(self) -> None:
        self._life.stuck = self._shared.clock()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._life.stuck = None
        self._transport.resume_reading()
        self._flush()

    def connection_lost(self, _error: Exception | None) -> None:
        session, self._session = self._session, None
        for call in list(self._calls.values()):
            self._leave(call)
        self._calls.clear()
        if session is not None:
            session.close()
        self._shared.forget(self)

    # What the library calls.

    def on_begin_frame(self, kind: int, flags: int) -> int:
        if kind == h2.HEADERS:
            self.room = self._shared.settings.metadata_bytes_at_most
            # The library tells nothing of a block that it ignores, nor of a stream that it refuses.
            was_ignored, self._is_block_open = self._is_block_open, True
            return _or_end(was_ignored and self._patience.is_over(self._life.heard))
        if kind == h2.PING and not flags & h2.FLAG_ACK:
            return _or_end(self._patience.is_over_pings(self._life.heard))
        if kind == h2.PING:
            self._life.asked = None
            if self._life.draining is not None and self._session is not None:
                self._say_goodbye(self._session)
        elif kind == h2.SETTINGS:
            self._life.is_greeted = True
        cost = WINDOW_UPDATE_COST if kind == h2.WINDOW_UPDATE else 1.0
        return _or_end(self._patience.is_over(self._life.heard, cost))

    def on_header_beyond(self) -> int:
        return _or_end(self._patience.is_over_headers(-self.room))

    def on_frame(self, kind: int, flags: int, stream_id: int) -> int:
        if kind > h2.HEADERS:
            return 0
        call = self._calls.get(stream_id)
        if kind == h2.HEADERS:
            call = call or self._open(stream_id)
            self.headers, self._is_block_open = [], False
        if call is None:
            return 0
        if not flags & h2.FLAG_END_STREAM:
            is_work = kind == h2.HEADERS or call.has_brought_bytes()
            return 0 if is_work else _or_end(self._patience.is_over(self._life.heard))
        call.is_half_closed = True
        if not call.is_taken:
            self._hand_on(call, refusals.NO_MESSAGE)
        return 0

    def on_body(self, stream_id: int, data: bytes) -> int:
        call = self._calls.get(stream_id)
        if call is None or call.message is None or call.is_taken:
            self._give_back(len(data))
            return 0
        try:
            if call.message.add(data):
                self._hand_on(call)
        except GrpcFailure as failure:
            self._hand_on(call, (failure.code, str(failure)))
        return 0

    def on_stream_close(self, stream_id: int, error: int) -> int:
        call = self._calls.pop(stream_id, None)
        if call is not None:
            self._leave(call)
        return _or_end(error != h2.NO_ERROR and self._patience.is_over(self._life.heard))

    def next_bytes(self, stream_id: int, at_most: int) -> tuple[bytes, int]:
        return self._calls[stream_id].next_bytes(at_most)

    # The life of a call.

    def _open(self, stream_id: int) -> Call:
        """The call whose headers were read: in flight, or refused."""
        shared = self._shared
        call = Call(stream_id, self.headers, self._life.heard)
        self._calls[stream_id] = call
        is_heavy = self.room < 0
        refusal = self._refusal or (
            refusals.TOO_MUCH_METADATA if is_heavy else call.read_headers(shared.methods)
        )
        if refusal is not None or call.method is None:
            self._hand_on(call, refusal)
            return call
        call.began = shared.calls.begin()
        call.is_counted = True
        if shared.calls.are_too_many(call.method):
            call.counted_as = "OVERLOADED"
            self._hand_on(call, None if call.method.overloaded else refusals.TOO_MANY_CALLS)
        else:
            call.message = Message(shared.settings.message_bytes_at_most)
        return call

    def _hand_on(self, call: Call, refusal: Refusal | None = None) -> None:
        """The call has what it needs: it is answered when the read is used up."""
        call.is_taken = True
        call.refusal = refusal
        self._ready.append(call)

    def _take(self, call: Call) -> None:
        """Answer the call, or let its handler work on."""
        method, received = call.method, call.message
        if call.refusal is not None or method is None:
            self._fail(call, call.refusal or refusals.NO_SUCH_METHOD)
        elif received is not None:
            call.message = None
            self._give_back(received.size)
            self._handle(call, method, received)
        elif method.overloaded is not None:
            self._reply(call, method.overloaded())

    def _handle(self, call: Call, method: Method, received: Message) -> None:
        left = call.time_left(self._shared.clock())
        if left == 0:
            self._fail(call, refusals.OUT_OF_TIME)
            return
        try:
            message = received.taken(call.encoding)
            answer = self._shared.calls.answer(method, message, call.metadata)
        except Exception as error:
            self._fail(call, status_of(method, error))
            return
        if isinstance(answer, bytes):
            self._reply(call, answer)
            return
        call.task = asyncio.ensure_future(answer)
        call.task.add_done_callback(partial(self._finish, call, method))
        if left is not None:
            call.deadline = call.task.get_loop().call_later(left, self._end_late, call)

    def _finish(self, call: Call, method: Method, task: asyncio.Future[bytes]) -> None:
        error = None if task.cancelled() else task.exception()
        # Asked even where nobody waits any more: a fault of ours is logged.
        refusal = refusals.GIVEN_UP if error is None else status_of(method, error)
        if call.task is not task:
            return
        if error is not None or task.cancelled():
            self._fail(call, refusal)
        else:
            self._reply(call, task.result())
        self._flush_soon()

    def _end_late(self, call: Call) -> None:
        task = call.task
        self._fail(call, refusals.OUT_OF_TIME)
        self._flush_soon()
        _cancel(task)

    def _flush_soon(self) -> None:
        """Once for all that is answered in this turn of the loop."""
        if not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _reply(self, call: Call, message: bytes) -> None:
        session = self._settle(call, "OK")
        if session is not None:
            call.answer = framed(message)
            session.respond(call.stream_id)

    def _fail(self, call: Call, refusal: Refusal) -> None:
        """End the call with a status alone."""
        session = self._settle(call, refusal[0].name)
        if session is None:
            return
        if refusal is refusals.NO_GRPC:
            call.answer = refusals.WORDS_FOR_NO_GRPC
            session.respond(call.stream_id, is_grpc=False)
        else:
            session.refuse(call.stream_id, refusals.headers_of(refusal))

    def _settle(self, call: Call, code: str) -> Session | None:
        """Count the call as answered; where to, or None: nobody waits for it any more."""
        if self._calls.get(call.stream_id) is not call:
            return None
        if call.end(self._shared.calls, code):
            self._patience.answered()
        return self._session

    def _leave(self, call: Call) -> None:
        """The stream is closed, whether the call was answered or not."""
        if call.message is not None:
            self._give_back(call.message.size)
        task = call.task
        call.end(self._shared.calls, "CANCELLED")
        _cancel(task)

    def _give_back(self, size: int) -> None:
        if self._session is not None:
            self._session.give_back(size)

    # What goes out.

    def _flush(self) -> None:
        self._is_flush_due = False
        session = self._session
        if session is None or self._life.stuck is not None or self._life.closing is not None:
            return
        unsent = session.unsent()
        if unsent:
            self._transport.write(unsent)
        if session.is_over:
            self._close()

    def _close(self) -> None:
        """Say that nothing follows, and read on: unread bytes would cost us our last words."""
        if self._life.closing is not None:
            return
        self._life.closing = self._shared.clock()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def end(self, error: int) -> None:
        """Say why, and close."""
        if self._session is not None and self._life.closing is None:
            self._shared.cut.add(self._patience.complaint or "protocol_error")
            self._session.say_goodbye(error, self._patience.complaint)
            self._flush()
            self._close()

    def drain(self) -> None:
        """Ask the client to go elsewhere; its calls are answered."""
        if self._session is not None and self._life.draining is None:
            self._life.draining = self._shared.clock()
            self._session.announce_goodbye()
            self._ask(self._session)

    def abort(self, reason: str) -> None:
        """Close at once; `reason` is counted."""
        self._shared.cut.add(reason)
        self._transport.abort()

    def _ask(self, session: Session) -> None:
        """Ping; who still lives answers."""
        if self._life.asked is None:
            self._life.asked = self._shared.clock()
            session.ping()
        self._flush()

    def _say_goodbye(self, session: Session) -> None:
        """Every call that was sent before the announcement has arrived: no other is taken."""
        if not self._life.has_said_goodbye:
            self._life.has_said_goodbye = True
            session.say_goodbye(h2.NO_ERROR)

    # What takes too long.

    def look(self, now: float) -> None:
        """End what takes too long, ask who is silent, send away who is old."""
        session = self._session
        if session is None:
            return
        if self._life.is_overdue(now):
            self.abort("overdue")
            return
        if self._life.has_waited_for_end(now):
            self._transport.close()
            return
        for call in list(self._calls.values()):
            self._look_at(call, session, now)
        if self._patience.complaint:
            self.end(h2.ENHANCE_YOUR_CALM)
        elif now > self._life.ends:
            self.drain()
        elif self._life.is_silent(now):
            self._ask(session)
        if self._life.has_waited_for_goodbye(now):
            self._say_goodbye(session)
        self._flush()

    def _look_at(self, call: Call, session: Session, now: float) -> None:
        age = now - call.opened
        if not call.is_taken:
            if age > min(grpc_calls.MESSAGE_SECONDS_AT_MOST, call.timeout or math.inf):
                call.is_taken = True
                self._fail(call, refusals.NO_MESSAGE_IN_TIME)
        elif call.is_counted:
            return
        elif not call.is_sent:
            self._patience.is_over_waiting(age, nghttp2_lifetime.SEND_SECONDS_AT_MOST)
        elif not call.is_half_closed and age > 1:
            # It has its answer, and its client has not said that nothing follows.
            session.reset(call.stream_id)


def _cancel(task: asyncio.Future[bytes] | None) -> None:
    """After its first step, which is due before: a handler that never began would not let go of
    what it was made to wait for.
    """
    if task is not None:
        task.get_loop().call_soon(task.cancel)


def _or_end(is_over: bool) -> int:
    """What a callback returns: all is well, or the connection ends."""
    return h2.ERR_CALLBACK_FAILURE if is_over else 0
