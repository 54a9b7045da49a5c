"""One connection of a monitor that speaks HJ 212: bytes into frames, and how long it is borne with.

It knows nothing of devices and of the database: whose frames they are, and what becomes of them, is
the matter of whoever holds the connections (`ingest.gateway`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import dataclass
from typing import Protocol, cast

from device_profiles.hj212.frames import Event, Tolerance
from device_profiles.hj212.reader import Reader
from ingest import metrics

log = logging.getLogger(__name__)

SAMPLE_BYTES = 1_024
"""How much is kept of what nobody could read, for each connection."""

BURST_S = 10.0
"""A connection that was quiet may use its limits of so many seconds at once."""

WRITE_BYTES = 64 * 1024
"""From so many bytes of answers that a device does not take, it is not read any more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gateway takes.

    Attributes:
        connections: Most at once.
        connections_an_address: Most at once of one address; carriers put many devices behind one.
        frames_per_s: Of each connection; who sends more is read more slowly.
        bytes_per_s: Likewise.
        idle_s: A connection without a frame for so long is closed.
        first_frame_s: One that has not yet brought a frame of a known device, after so long.
        frame_s: How long one frame may take to come.
        slow_s: How long a device may leave its answers where they are.
        faults: So many faults in a row close a connection.
        strangers_a_minute: Messages kept of strangers, all together; more are counted.
    """

    connections: int = 2_000
    connections_an_address: int = 256
    frames_per_s: float = 50.0
    bytes_per_s: float = 50_000.0
    idle_s: float = 3_600.0
    first_frame_s: float = 60.0
    frame_s: float = 30.0
    slow_s: float = 30.0
    faults: int = 20
    strangers_a_minute: int = 300


class Host(Protocol):
    """Who holds the connections."""

    limits: Limits
    buffer: memoryview
    is_paused: bool

    def welcome(self, link: Link) -> bool:
        """Take in a connection, or do not."""

    def leave(self, link: Link) -> None:
        """Forget one that is gone."""

    def take(self, link: Link, events: list[Event], now: float) -> None:
        """Take what was read from it."""


class Link(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        address: Of the peer.
        reader: Its bytes into frames.
        mns: Whose connection it is.
        faults: Faults in a row.
        all_faults: Faults in all that nobody could be blamed for.
        sample: The beginning of what nobody could read.
        unanswered: Answers that wait for their commit.
        heard_at: Monotonic time of the last frame of a known device, or of the beginning.
        partial_since: When the frame that is incomplete began; None: there is none.
        stuck_since: Since when the peer takes no answers; None: it does.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._busy_until = 0.0
        self._throttled: asyncio.TimerHandle | None = None
        self._ended = False
        self.is_closing = False
        self.address = ""
        self.reader = Reader(Tolerance)
        self.mns: set[str] = set()
        self.faults = 0
        self.all_faults = 0
        self.sample = b""
        self.unanswered = 0
        self.heard_at = self.began_at = time.monotonic()
        self.partial_since: float | None = None
        self.stuck_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A device, or anybody, is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BYTES)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # The kernel's share of what a device does not take.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BYTES)
        if not self._host.welcome(self):
            self.is_closing = True
            self._transport.abort()
            return
        self.look_at_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: one buffer for all, for they are read at once."""
        return self._host.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what came."""
        if self.is_closing:
            return
        data = bytes(self._host.buffer[:nbytes])
        reader = self.reader
        skipped = reader.skipped_bytes
        events = reader.feed(data)
        if reader.skipped_bytes > skipped:
            metrics.GATEWAY_SKIPPED.inc(reader.skipped_bytes - skipped)
            self.keep_sample(data)
        now = time.monotonic()
        if not reader.held_bytes:
            self.partial_since = None
        elif events or self.partial_since is None:
            self.partial_since = now
        limits = self._host.limits
        cost_s = max(len(data) / limits.bytes_per_s, len(events) / limits.frames_per_s)
        self._busy_until = max(self._busy_until, now - BURST_S) + cost_s
        if events:
            self._host.take(self, events, now)
        if reader.skipped_bytes > limits.faults * SAMPLE_BYTES and not self.mns:
            self.close("faults")
        if self._busy_until > now and self._throttled is None and not self.is_closing:
            loop = asyncio.get_running_loop()
            self._throttled = loop.call_later(self._busy_until - now, self._go_on)
            self.look_at_reading()

    def _go_on(self) -> None:
        self._throttled = None
        self.be_patient()
        self.look_at_reading()

    def eof_received(self) -> bool:
        """It sends no more, and may still want its answers."""
        if self.is_closing:
            return False
        self._finish()
        self._ended = True
        return self.unanswered > 0

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._throttled is not None:
            self._throttled.cancel()
        if not self.is_closing:
            self._finish()
        self._host.leave(self)

    def pause_writing(self) -> None:
        """It does not take its answers."""
        self.stuck_since = time.monotonic()
        self.look_at_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self.stuck_since = None
        self.be_patient()
        self.look_at_reading()

    def _finish(self) -> None:
        """The last bytes, if they were none of a whole frame."""
        events = self.reader.finish()
        if events:
            self._host.take(self, events, time.monotonic())

    def keep_sample(self, data: bytes) -> None:
        """Keep the beginning of what cannot be read."""
        if len(self.sample) < SAMPLE_BYTES:
            self.sample += data[: SAMPLE_BYTES - len(self.sample)]

    def look_at_reading(self) -> None:
        """Read, or do not."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        wanted = not self._host.is_paused and self._throttled is None and self.stuck_since is None
        if wanted and not transport.is_reading():
            transport.resume_reading()
        elif not wanted and transport.is_reading():
            transport.pause_reading()

    def be_patient(self) -> None:
        """It was not read for a while: what it did not say meanwhile is not its fault."""
        now = time.monotonic()
        self.heard_at = now
        if self.partial_since is not None:
            self.partial_since = now

    def why_end(self, now: float) -> str | None:
        """Whether it has to go, and why."""
        limits = self._host.limits
        if self.stuck_since is not None:
            return "slow" if now - self.stuck_since > limits.slow_s else None
        if self._host.is_paused or self._throttled is not None:
            return None
        if self.partial_since is not None and now - self.partial_since > limits.frame_s:
            return "idle"
        idle_s = limits.idle_s if self.mns else limits.first_frame_s
        return "idle" if now - self.heard_at > idle_s else None

    def answered(self, answers: list[bytes]) -> None:
        """Send what waited for the commit."""
        self.unanswered -= len(answers)
        self.write(b"".join(answers))
        if self._ended and self.unanswered <= 0 and self._transport is not None:
            self._transport.close()

    def write(self, data: bytes) -> None:
        """Send, if anybody is there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self, why: str) -> None:
        """End it; what was sent to it still goes out, unless it is stuck."""
        if self.is_closing or self._transport is None:
            return
        self.is_closing = True
        self._finish()
        metrics.GATEWAY_ENDED.labels(why).inc()
        log.info("gateway: %s (%s): closed: %s", self.address, ", ".join(self.mns) or "?", why)
        if self.stuck_since is None:
            self._transport.close()
        else:
            self._transport.abort()
