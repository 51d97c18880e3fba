"""libnghttp2, the HTTP/2 library, through cffi's ABI mode: where it is, and what we call of it.

    pycurl's wheel carries a newer one beside it  ->  preferred
    the system's libnghttp2.so.14 (Debian's libnghttp2-14)
    neither, or of a version that was not tested   ->  `Unusable`, which says so

The declarations are those of nghttp2.h that both versions have. A library must bound CONTINUATION
(CVE-2024-28182) and resets (CVE-2023-44487) by itself, which Debian's 1.52 has been taught; what
came later is asked for by name (`has`), and `nghttp2_patience` does without.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

OLDEST = (1, 52)
NEWEST = (1, 70)
"""The versions that the tests ran with; a patch level more is taken, a minor one more is not."""

NEEDED = (
    "nghttp2_option_set_max_continuations",
    "nghttp2_option_set_stream_reset_rate_limit",
)
SYSTEM_NAME = "libnghttp2.so.14"

ERR_CALLBACK_FAILURE = -902
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 4, 6, 8, 9
FLAG_END_STREAM = FLAG_ACK = 1
DATA_FLAG_EOF, DATA_FLAG_NO_END_STREAM = 1, 2
SETTINGS_MAX_CONCURRENT_STREAMS, SETTINGS_INITIAL_WINDOW_SIZE = 3, 4
SETTINGS_MAX_HEADER_LIST_SIZE = 6
NO_ERROR, PROTOCOL_ERROR, ENHANCE_YOUR_CALM = 0, 1, 11

_DECLARATIONS = """
typedef struct { int age; int version_num; const char *version_str; const char *proto_str; }
    nghttp2_info;
typedef struct { uint8_t *name; uint8_t *value; size_t namelen; size_t valuelen; uint8_t flags; }
    nghttp2_nv;
typedef struct { size_t length; int32_t stream_id; uint8_t type; uint8_t flags; uint8_t reserved;
    } nghttp2_frame_hd;
typedef struct { int32_t settings_id; uint32_t value; } nghttp2_settings_entry;
typedef union { int fd; void *ptr; } nghttp2_data_source;
typedef ssize_t (*nghttp2_data_source_read_callback)(void *session, int32_t stream_id, uint8_t
    *buf, size_t length, uint32_t *data_flags, nghttp2_data_source *source, void *user_data);
typedef struct { nghttp2_data_source source; nghttp2_data_source_read_callback read_callback; }
    nghttp2_data_provider;
typedef int (*on_frame)(void *session, const nghttp2_frame_hd *frame, void *user_data);
typedef int (*on_header)(void *session, const nghttp2_frame_hd *frame, const uint8_t *name, size_t
    namelen, const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data);
typedef int (*on_data_chunk)(void *session, uint8_t flags, int32_t stream_id, const uint8_t *data,
    size_t len, void *user_data);
typedef int (*on_stream_close)(void *session, int32_t stream_id, uint32_t error_code, void
    *user_data);
nghttp2_info *nghttp2_version(int least_version);
int nghttp2_session_callbacks_new(void **callbacks);
void nghttp2_session_callbacks_set_on_begin_frame_callback(void *callbacks, on_frame callback);
void nghttp2_session_callbacks_set_on_frame_recv_callback(void *callbacks, on_frame callback);
void nghttp2_session_callbacks_set_on_header_callback(void *callbacks, on_header callback);
void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(void *callbacks, on_data_chunk
    callback);
void nghttp2_session_callbacks_set_on_stream_close_callback(void *callbacks, on_stream_close
    callback);
int nghttp2_option_new(void **option);
void nghttp2_option_set_no_auto_window_update(void *option, int val);
void nghttp2_option_set_max_outbound_ack(void *option, size_t val);
void nghttp2_option_set_max_settings(void *option, size_t val);
void nghttp2_option_set_stream_reset_rate_limit(void *option, uint64_t burst, uint64_t rate);
void nghttp2_option_set_max_continuations(void *option, size_t val);
void nghttp2_option_set_glitch_rate_limit(void *option, uint64_t burst, uint64_t rate);
int nghttp2_session_server_new2(void **session, void *callbacks, void *user_data, void *option);
void nghttp2_session_del(void *session);
ssize_t nghttp2_session_mem_recv(void *session, const uint8_t *in, size_t inlen);
ssize_t nghttp2_session_mem_send(void *session, const uint8_t **data);
int nghttp2_session_want_read(void *session);
int nghttp2_session_want_write(void *session);
int nghttp2_session_consume_connection(void *session, size_t size);
int nghttp2_session_set_local_window_size(void *session, uint8_t flags, int32_t stream_id, int32_t
    size);
int32_t nghttp2_session_get_last_proc_stream_id(void *session);
int nghttp2_submit_settings(void *session, uint8_t flags, const nghttp2_settings_entry *iv, size_t
    niv);
int nghttp2_submit_response(void *session, int32_t stream_id, const nghttp2_nv *nva, size_t nvlen,
    const nghttp2_data_provider *data_prd);
int nghttp2_submit_trailer(void *session, int32_t stream_id, const nghttp2_nv *nva, size_t nvlen);
int nghttp2_submit_rst_stream(void *session, uint8_t flags, int32_t stream_id, uint32_t
    error_code);
int nghttp2_submit_ping(void *session, uint8_t flags, const uint8_t *opaque_data);
int nghttp2_submit_shutdown_notice(void *session);
int nghttp2_submit_goaway(void *session, uint8_t flags, int32_t last_stream_id, uint32_t
    error_code, const uint8_t *opaque_data, size_t opaque_data_len);
"""


class Unusable(Exception):
    """No library that we could use; says why."""


@dataclass(frozen=True)
class Library:
    """The library that was found: `ffi` and `lib` as cffi gives them."""

    ffi: Any
    lib: Any
    version: str
    path: str

    def has(self, name: str) -> bool:
        """Whether this version has the function."""
        try:
            getattr(self.lib, name)
        except AttributeError:
            return False
        return True


@cache
def load() -> Library:
    """The first library of `candidates` that was tested. Raises `Unusable`."""
    refusals = []
    for path in candidates():
        try:
            return opened(path)
        except Unusable as refusal:
            refusals.append(str(refusal))
    raise Unusable("; ".join(refusals) + "; install libnghttp2-14, or meshwarden[nghttp2]")


def candidates() -> Iterator[str]:
    """Where to look, in this order; the file in pycurl's wheel has a new name in each build."""
    found = importlib.util.find_spec("pycurl")
    if found is not None and found.origin is not None:
        beside = Path(found.origin).parents[1] / "pycurl.libs"
        yield from sorted(str(file) for file in beside.glob("libnghttp2-*.so*"))
    yield SYSTEM_NAME


def opened(path: str) -> Library:
    """The library at `path`. Raises `Unusable`."""
    try:
        import cffi
    except ImportError as error:
        raise Unusable(f"cffi is not installed: {error}") from None
    ffi: Any = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    try:
        lib = ffi.dlopen(path)
        version = ffi.string(lib.nghttp2_version(0).version_str).decode()
    except (OSError, AttributeError) as error:
        raise Unusable(str(error)) from None
    if not OLDEST <= _minor(version) <= NEWEST:
        wanted = f"{_dotted(OLDEST)} to {_dotted(NEWEST)} were tested"
        raise Unusable(f"{path} is libnghttp2 {version}; {wanted}")
    library = Library(ffi, lib, version, path)
    lacks = [name for name in NEEDED if not library.has(name)]
    if lacks:
        raise Unusable(f"{path} is libnghttp2 {version} without {', '.join(lacks)}; update it")
    return library


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:2])


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
