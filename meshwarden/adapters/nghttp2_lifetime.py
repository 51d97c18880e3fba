"""How long a connection may take for what, and how far it is. Times are seconds of one clock."""

from __future__ import annotations

from meshwarden.adapters.grpc_calls import PING_SECONDS_AT_MOST
from meshwarden.adapters.settings import GrpcSettings

PREFACE_SECONDS_AT_MOST = 10.0
SEND_SECONDS_AT_MOST = 10.0
"""A peer that lets its answers wait for longer is let go."""
GOODBYE_SECONDS = 1.0
"""Who does not answer the ping of a goodbye, or does not close, is waited for so long."""


class Lifetime:
    """Of one connection: since when it does what, None where it does not."""

    def __init__(self, now: float, settings: GrpcSettings, *, lives_seconds: float) -> None:
        self._settings = settings
        self._opened = now
        self.ends = now + lives_seconds
        self.heard = now
        """When bytes came last."""
        self.is_greeted = False
        """Whether the peer's SETTINGS came."""
        self.asked: float | None = None
        """A ping is not answered."""
        self.stuck: float | None = None
        """The peer takes nothing."""
        self.draining: float | None = None
        self.has_said_goodbye = False
        self.closing: float | None = None

    def is_silent(self, now: float) -> bool:
        """Whether it is time to ask for a sign of life."""
        return now - self.heard > self._settings.keepalive_interval_seconds

    def has_waited_for_goodbye(self, now: float) -> bool:
        """Whether no call that was sent before the goodbye can still be under way."""
        return self.draining is not None and now - self.draining > GOODBYE_SECONDS

    def has_waited_for_end(self, now: float) -> bool:
        """Whether a peer that was told that nothing follows had its time to close."""
        return self.closing is not None and now - self.closing > GOODBYE_SECONDS

    def is_overdue(self, now: float) -> bool:
        """Whether the connection is beyond talking to."""
        limits = (
            (None if self.is_greeted else self._opened, PREFACE_SECONDS_AT_MOST),
            (self.asked, PING_SECONDS_AT_MOST),
            (self.stuck, SEND_SECONDS_AT_MOST),
            (self.closing, SEND_SECONDS_AT_MOST),
            (self.ends, self._settings.connection_age_grace_seconds),
        )
        return any(since is not None and now - since > at_most for since, at_most in limits)
