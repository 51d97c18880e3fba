"""What all sessions of libnghttp2 in this process share: its callbacks, its options, our headers.

The library calls back while it reads or writes; the peer that was given to the `Session` is told. A
callback that fails ends the session, and its error is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from meshwarden.adapters import nghttp2_library as h2
from meshwarden.adapters.logs import logger

CONTINUATIONS_AT_MOST = 8
RESETS_AT_ONCE, RESETS_PER_SECOND = 10_000, 1000
"""The library's own bounds: above those of `nghttp2_patience`, which knows what was answered."""
UNREAD_ANSWERS_AT_MOST = 1000
"""Answers to PING and SETTINGS that a peer asks for and does not take."""
SETTINGS_AT_MOST = 32


HEADER_OVERHEAD = 32
"""What a header weighs besides its text (RFC 9113, 6.5.2)."""

Headers = list[tuple[bytes, bytes]]


class Peer(Protocol):
    """Who is told what a session reads; each method returns 0, or an error of the library."""

    headers: Headers
    """Where the headers go that are read."""
    room: int
    """What the headers of the block that is being read may still weigh."""

    def on_begin_frame(self, kind: int, flags: int) -> int:
        """The head was read of a frame that belongs to no other: DATA and CONTINUATION do."""

    def on_header_beyond(self) -> int:
        """A header came for which `room` is too small; it is not kept."""

    def on_frame(self, kind: int, flags: int, stream_id: int) -> int:
        """A valid frame was read; of DATA after its `on_body`."""

    def on_body(self, stream_id: int, data: bytes) -> int:
        """Bytes of a call's message."""

    def on_stream_close(self, stream_id: int, error: int) -> int:
        """Nothing comes or goes any more on a stream."""

    def next_bytes(self, stream_id: int, at_most: int) -> tuple[bytes, int]:
        """The next bytes of an answer, and the library's flags: whether they are the last, and
        whether trailers follow.
        """


class Http2:
    """The library with our callbacks, options and headers; one a process."""

    def __init__(self, library: h2.Library) -> None:
        self.library = library
        self.ffi, self.lib = library.ffi, library.lib
        self._kept: list[Any] = []
        self.response = self.headers((b":status", b"200"), (b"content-type", b"application/grpc"))
        self.no_grpc = self.headers((b":status", b"415"), (b"content-type", b"text/plain"))
        self.trailers = self.headers((b"grpc-status", b"0"))
        self._callbacks = self._new("nghttp2_session_callbacks_new")
        self._option = self._new("nghttp2_option_new")
        self.provider = self.ffi.new("nghttp2_data_provider *")
        self.place = self.ffi.new("const uint8_t **")
        """Where the library says what is to be sent."""
        self._set_callbacks()
        self._set_options()

    def headers(self, *pairs: tuple[bytes, bytes]) -> Any:
        """Headers that are sent often, kept for ever, as the library takes them."""
        array = self.borrowed(pairs)
        self._kept.append((array, pairs))
        return array

    def borrowed(self, pairs: Sequence[tuple[bytes, bytes]]) -> Any:
        """Headers as the library takes them, which it copies; `pairs` must outlive the call."""
        array = self.ffi.new("nghttp2_nv[]", len(pairs))
        for place, (name, value) in zip(array, pairs, strict=True):
            place.name, place.namelen = self.ffi.from_buffer(name), len(name)
            place.value, place.valuelen = self.ffi.from_buffer(value), len(value)
        return array

    def opened(self, handle: Any) -> Any:
        """The library's session itself, which calls back with `handle`."""
        session = self.ffi.new("void **")
        error = self.lib.nghttp2_session_server_new2(session, self._callbacks, handle, self._option)
        if error != 0:
            raise MemoryError("libnghttp2 opened no session")
        return session[0]

    def _new(self, function: str) -> Any:
        made = self.ffi.new("void **")
        getattr(self.lib, function)(made)
        return made[0]

    def _set_options(self) -> None:
        options: list[tuple[str, tuple[int, ...]]] = [
            ("no_auto_window_update", (1,)),
            ("max_outbound_ack", (UNREAD_ANSWERS_AT_MOST,)),
            ("max_settings", (SETTINGS_AT_MOST,)),
            ("stream_reset_rate_limit", (RESETS_AT_ONCE, RESETS_PER_SECOND)),
            ("max_continuations", (CONTINUATIONS_AT_MOST,)),
            ("glitch_rate_limit", (RESETS_AT_ONCE, RESETS_PER_SECOND)),
        ]
        for name, values in options:
            function = f"nghttp2_option_set_{name}"
            if self.library.has(function):
                getattr(self.lib, function)(self._option, *values)

    def _set_callbacks(self) -> None:
        ffi, bytes_at = self.ffi, self.ffi.buffer
        peer_of: Callable[[Any], Peer] = ffi.from_handle
        submit_trailer, trailers = self.lib.nghttp2_submit_trailer, self.trailers
        parts = frozenset({h2.DATA, h2.CONTINUATION})

        def on_begin_frame(_session: Any, frame: Any, peer: Any) -> int:
            kind = frame.type
            return 0 if kind in parts else peer_of(peer).on_begin_frame(kind, frame.flags)

        def on_frame(_session: Any, frame: Any, peer: Any) -> int:
            return peer_of(peer).on_frame(frame.type, frame.flags, frame.stream_id)

        def on_header(
            _session: Any, _frame: Any, name: Any, name_length: int, value: Any,
            value_length: int, _flags: int, handle: Any,
        ) -> int:  # fmt: skip
            peer = peer_of(handle)
            peer.room -= name_length + value_length + HEADER_OVERHEAD
            if peer.room < 0:
                return peer.on_header_beyond()
            peer.headers.append((bytes_at(name, name_length)[:], bytes_at(value, value_length)[:]))
            return 0

        def on_body(
            _session: Any, _flags: int, stream_id: int, data: Any, length: int, peer: Any
        ) -> int:
            return peer_of(peer).on_body(stream_id, bytes_at(data, length)[:])

        def on_stream_close(_session: Any, stream_id: int, error: int, peer: Any) -> int:
            return peer_of(peer).on_stream_close(stream_id, error)

        def read_answer(
            session: Any, stream_id: int, place: Any, at_most: int, flags: Any, _source: Any,
            peer: Any,
        ) -> int:  # fmt: skip
            chunk, flags[0] = peer_of(peer).next_bytes(stream_id, at_most)
            ffi.memmove(place, chunk, len(chunk))
            if flags[0] & h2.DATA_FLAG_NO_END_STREAM:
                submit_trailer(session, stream_id, trailers, 1)
            return len(chunk)

        kinds = {
            "on_begin_frame": ("on_frame", on_begin_frame),
            "on_frame_recv": ("on_frame", on_frame),
            "on_header": ("on_header", on_header),
            "on_data_chunk_recv": ("on_data_chunk", on_body),
            "on_stream_close": ("on_stream_close", on_stream_close),
        }
        for name, (kind, function) in kinds.items():
            made = self._callback(kind, function)
            setter = f"nghttp2_session_callbacks_set_{name}_callback"
            getattr(self.lib, setter)(self._callbacks, made)
        self.provider.read_callback = self._callback(
            "nghttp2_data_source_read_callback", read_answer
        )

    def _callback(self, kind: str, function: Any) -> Any:
        made = self.ffi.callback(
            kind, function, error=h2.ERR_CALLBACK_FAILURE, onerror=_log_failure
        )
        self._kept.append(made)
        return made


class Session:
    """One session: bytes in, calls back, bytes out. After `close` it may not be used."""

    def __init__(self, http2: Http2, peer: Peer) -> None:
        self._http2, self._lib, self._ffi = http2, http2.lib, http2.ffi
        self._handle = http2.ffi.new_handle(peer)
        self._session = http2.opened(self._handle)

    def greet(self, *, streams_at_most: int, window: int, header_bytes: int) -> None:
        """State what we take: streams at once, bytes that are not handed on yet, headers."""
        entries = self._ffi.new("nghttp2_settings_entry[]", 3)
        entries[0] = (h2.SETTINGS_MAX_CONCURRENT_STREAMS, streams_at_most)
        entries[1] = (h2.SETTINGS_INITIAL_WINDOW_SIZE, window)
        entries[2] = (h2.SETTINGS_MAX_HEADER_LIST_SIZE, header_bytes)
        self._lib.nghttp2_submit_settings(self._session, 0, entries, 3)
        self._lib.nghttp2_session_set_local_window_size(self._session, 0, 0, window)

    def read(self, data: bytes) -> bool:
        """Take bytes of the peer; whether the session can go on."""
        return bool(self._lib.nghttp2_session_mem_recv(self._session, data, len(data)) >= 0)

    def unsent(self) -> bytes:
        """Everything that can be sent now."""
        send, session, place = self._lib.nghttp2_session_mem_send, self._session, self._http2.place
        bytes_at = self._ffi.buffer
        chunks = []
        while (length := send(session, place)) > 0:
            chunks.append(bytes_at(place[0], length)[:])
        return b"".join(chunks)

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be read or sent any more."""
        lib, session = self._lib, self._session
        return not (
            lib.nghttp2_session_want_read(session) or lib.nghttp2_session_want_write(session)
        )

    def respond(self, stream_id: int, *, is_grpc: bool = True) -> None:
        """Answer; `next_bytes` will be asked for the message, or the words for what is no gRPC."""
        http2 = self._http2
        headers = http2.response if is_grpc else http2.no_grpc
        self._lib.nghttp2_submit_response(self._session, stream_id, headers, 2, http2.provider)

    def refuse(self, stream_id: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Answer a call with headers alone."""
        made = self._http2.borrowed(headers)
        self._lib.nghttp2_submit_response(
            self._session, stream_id, made, len(headers), self._ffi.NULL
        )

    def reset(self, stream_id: int) -> None:
        """Take no more of a call that has its answer."""
        self._lib.nghttp2_submit_rst_stream(self._session, 0, stream_id, h2.NO_ERROR)

    def give_back(self, size: int) -> None:
        """Let the peer send so many bytes more."""
        self._lib.nghttp2_session_consume_connection(self._session, size)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._lib.nghttp2_submit_ping(self._session, 0, self._ffi.NULL)

    def announce_goodbye(self) -> None:
        """Tell the peer to go elsewhere; what it sends meanwhile is taken."""
        self._lib.nghttp2_submit_shutdown_notice(self._session)

    def say_goodbye(self, error: int, words: str = "") -> None:
        """Take no call that did not arrive yet, and say why."""
        last = self._lib.nghttp2_session_get_last_proc_stream_id(self._session)
        text = words.encode()
        self._lib.nghttp2_submit_goaway(self._session, 0, last, error, text, len(text))

    def close(self) -> None:
        """Free it."""
        self._lib.nghttp2_session_del(self._session)


def _log_failure(kind: Any, error: BaseException, _traceback: Any) -> None:
    logger().error("transport_callback_failed", error=kind.__name__, exc_info=error)


@cache
def http2() -> Http2:
    """The one of this process. Raises `nghttp2_library.Unusable`."""
    return Http2(h2.load())
