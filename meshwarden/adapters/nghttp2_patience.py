"""What a connection may ask of us without bringing work, and what its headers may weigh.

| attack | who ends the connection |
|---|---|
| rapid reset (CVE-2023-44487), MadeYouReset (CVE-2025-8671) | `Patience`: a reset stream costs |
| floods of SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA | `Patience`: each frame costs |
| HEADERS that libnghttp2 ignores or refuses | `Patience`: each but the last costs |
| PING flood | `Patience`: four too soon |
| CONTINUATION flood | libnghttp2: `max_continuations` |
| HPACK bomb | `Patience`: what headers weigh, unpacked |
| answers to PING or SETTINGS that are not read | libnghttp2: `max_outbound_ack` |
| answers that are not read, zero windows | `Connection.look`: a time limit |
| no preface, no sign of life | `Connection.look`: time limits |

A call that is answered gives 2 back, so that a client whose calls are mostly answered never runs
out, however many of them it cancels.
"""

from __future__ import annotations

from meshwarden.adapters.grpc_calls import PINGS_TOO_SOON_AT_MOST

AT_ONCE = 1000.0
A_SECOND = 100.0
AN_ANSWER = 2.0
WINDOW_UPDATE_COST = 0.1
"""Honest clients send some with each call, a thousand calls at once included."""
HEADERS_TIMES_AT_MOST = 8
"""More headers than the bound end a call, this many times as many the connection."""


class Patience:
    """Of one connection; each question tells whether it is at its end, and `complaint` why. Times
    are seconds of one clock.
    """

    def __init__(self, now: float, *, header_bytes: int, ping_seconds: float) -> None:
        self.complaint = ""
        self._left = AT_ONCE
        self._paid = now
        self._header_bytes = header_bytes
        self._ping_seconds = ping_seconds
        self._pinged = float("-inf")
        self._pings_too_soon = 0

    def answered(self) -> None:
        """A call got its answer."""
        self._left = min(AT_ONCE, self._left + AN_ANSWER)
        self._pings_too_soon = 0

    def is_over(self, now: float, cost: float = 1.0) -> bool:
        """After a frame that brings no work."""
        self._left = min(AT_ONCE, self._left + (now - self._paid) * A_SECOND) - cost
        self._paid = now
        return self._complain("too_many_frames_without_work", self._left < 0)

    def is_over_pings(self, now: float) -> bool:
        """After a PING."""
        since, self._pinged = now - self._pinged, now
        if since < self._ping_seconds:
            self._pings_too_soon += 1
        return self._complain("too_many_pings", self._pings_too_soon > PINGS_TOO_SOON_AT_MOST)

    def is_over_headers(self, excess: int) -> bool:
        """After a header that made its block weigh so much more than a call's may."""
        at_most = (HEADERS_TIMES_AT_MOST - 1) * self._header_bytes
        return self._complain("headers", excess > at_most)

    def is_over_waiting(self, seconds: float, at_most: float) -> bool:
        """After looking at an answer that waits to be taken."""
        return self._complain("answers_are_not_taken", seconds > at_most)

    def _complain(self, words: str, is_so: bool) -> bool:
        if is_so:
            self.complaint = words
        return is_so
