"""From the socket to the acknowledgement: gathers, has written, and only then acknowledges.

Messages wait in the order they came until there are enough of them or the first has waited long
enough; then they are written in one transaction while the next ones gather. Nothing is
acknowledged that is not committed. While the database or the disk is away the same messages are
tried again; how much may gather meanwhile is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ingest import metrics
from ingest.errors import Unavailable
from ingest.mqtt.codec import Batch
from ingest.mqtt.connection import Connection, Options, Phase, State
from ingest.pipeline import Arrivals
from ingest.segments import Flag

log = logging.getLogger(__name__)

Write: TypeAlias = Callable[[Arrivals], Awaitable[None]]

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0

_FLAGS = tuple(
    (Flag.DUP if first & 8 else 0) | (first >> 1 & 0b11) | (Flag.RETAIN if first & 1 else 0)
    for first in range(256)
)
"""From a PUBLISH's first byte to `Flag`."""


MESSAGE_BYTES = 200
"""What a message costs in memory beside its topic and payload."""

FLUSH_BYTES = 4 * 1024 * 1024
"""A flush is written when it holds so much, however few its messages."""


@dataclass(frozen=True, slots=True)
class Flushing:
    """When to write.

    Attributes:
        messages: As soon as so many wait.
        after_s: Or when the first has waited so long.
        most_bytes: When so much waits, reading the socket stops until some of it is written.
    """

    messages: int
    after_s: float
    most_bytes: int


@dataclass(slots=True)
class _Chunk:
    """Messages that will be written together.

    Attributes:
        arrivals: They.
        packet_ids: Theirs, by the connection they came on.
        first_at: Monotonic time at which the first came, seconds.
        bytes: What they take in memory.
    """

    first_at: float
    arrivals: Arrivals = field(default_factory=Arrivals)
    packet_ids: dict[int, list[int]] = field(default_factory=dict)
    bytes: int = 0


class Consumer:
    """One MQTT session and the writer behind it.

    Attributes:
        connection: The session.
    """

    def __init__(self, role: str, options: Options, flushing: Flushing, write: Write) -> None:
        """Wire a session to a writer.

        Args:
            role: For metrics and logs.
            options: The session.
            flushing: When to write.
            write: Writes messages wholly and durably, or raises `Unavailable` to be called again
                with the same ones.
        """
        self.connection = Connection(options, self._take, self._state)
        self._role = role
        self._flushing = flushing
        self._write = write
        self._chunks: deque[_Chunk] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._messages = metrics.MESSAGES.labels(role)
        self._redeliveries = metrics.REDELIVERIES.labels(role)
        self._pending = metrics.PENDING.labels(role)
        self._commit_seconds = metrics.COMMIT_SECONDS.labels(role)
        self._usable = metrics.DATABASE_USABLE.labels(role)
        metrics.BROKER_CONNECTED.labels(role).set(0)
        self._usable.set(1)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until told to stop; what was read by then is written and acknowledged.

        Args:
            stop: Set from outside.

        Raises:
            Misconfigured: Broker or worker name refuse us; a person has to help.
        """
        link_stop = asyncio.Event()
        session = asyncio.create_task(self.connection.run(link_stop), name=f"{self._role} session")
        flushing = asyncio.create_task(self._flush_for_ever(stop), name=f"{self._role} flushing")
        try:
            await asyncio.wait((session, flushing), return_when=asyncio.FIRST_COMPLETED)
            if flushing.done():
                flushing.result()
            link_stop.set()
            await session
        finally:
            for task in (session, flushing):
                task.cancel()
            await asyncio.gather(session, flushing, return_exceptions=True)

    def _state(self, state: State) -> None:
        metrics.BROKER_CONNECTED.labels(self._role).set(state.phase is Phase.READY)
        if state.phase is Phase.READY:
            log.info("%s: hearing what %s has", self._role, self.connection.endpoint)

    def _take(self, batch: Batch) -> None:
        """Take in what one read of the socket held."""
        count = len(batch)
        if not count:
            return
        chunk = self._open_chunk()
        arrivals = chunk.arrivals
        start = len(arrivals)
        arrivals.topics += batch.topics
        arrivals.payloads += batch.payloads
        arrivals.flags += [_FLAGS[first] for first in batch.flags]
        arrivals.received_us += [time.time_ns() // 1_000] * count
        for index, large in batch.oversize.items():
            arrivals.oversized[start + index] = (large.payload_bytes, large.sha256)
            arrivals.flags[start + index] |= Flag.TRUNCATED
        chunk.packet_ids.setdefault(batch.generation, []).extend(batch.packet_ids)
        size = sum(map(len, batch.topics)) + sum(map(len, batch.payloads)) + MESSAGE_BYTES * count
        chunk.bytes += size
        self._bytes += size
        self._messages.inc(count)
        self._arrived.set()
        if self._is_full(self._chunks[0]):
            self._enough.set()
        if self._bytes > self._flushing.most_bytes:
            self.connection.pause_reading()

    def _open_chunk(self) -> _Chunk:
        """The chunk that takes messages in."""
        if not self._chunks or self._is_full(self._chunks[-1]):
            self._chunks.append(_Chunk(time.monotonic()))
        return self._chunks[-1]

    def _is_full(self, chunk: _Chunk) -> bool:
        return len(chunk.arrivals) >= self._flushing.messages or chunk.bytes >= FLUSH_BYTES

    async def _flush_for_ever(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            while True:
                if not self._chunks:
                    arrived = asyncio.ensure_future(self._arrived.wait())
                    await asyncio.wait((arrived, stopping), return_when="FIRST_COMPLETED")
                    arrived.cancel()
                    if not self._chunks:
                        return
                left_s = self._chunks[0].first_at + self._flushing.after_s - time.monotonic()
                if left_s > 0 and not stop.is_set() and not self._enough.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._enough.wait(), left_s)
                if stop.is_set():
                    self.connection.pause_reading()
                if not await self._flush(stopping):
                    return
        finally:
            stopping.cancel()

    async def _flush(self, stopping: asyncio.Task[Literal[True]]) -> bool:
        """Write what waits and acknowledge it; false if told to stop while that cannot be done."""
        chunk = self._chunks.popleft()
        if not self._chunks:
            self._arrived.clear()
        if not self._chunks or not self._is_full(self._chunks[0]):
            self._enough.clear()
        self._pending.set(len(chunk.arrivals) + self._waiting())
        if not await self._write_until_done(chunk.arrivals, stopping):
            return False
        for generation, ids in chunk.packet_ids.items():
            self.connection.acknowledge(generation, ids)
        self._bytes -= chunk.bytes
        self._commit_seconds.observe(time.monotonic() - chunk.first_at)
        self._redeliveries.inc(sum(1 for flag in chunk.arrivals.flags if flag & Flag.DUP))
        self._pending.set(self._waiting())
        if not stopping.done() and self._bytes <= self._flushing.most_bytes:
            self.connection.resume_reading()
        return True

    def _waiting(self) -> int:
        return sum(len(chunk.arrivals) for chunk in self._chunks)

    async def _write_until_done(
        self, arrivals: Arrivals, stopping: asyncio.Task[Literal[True]]
    ) -> bool:
        delay_s = FIRST_DELAY_S
        while True:
            try:
                await self._write(arrivals)
            except Unavailable as fault:
                self._usable.set(0)
                log.warning(
                    "%s: %s; %d messages wait unacknowledged, trying again in %.1f s",
                    self._role,
                    fault,
                    len(arrivals) + self._waiting(),
                    delay_s,
                )
                if stopping.done():
                    return False
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                await asyncio.wait((stopping,), timeout=delay_s * jitter)
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
            else:
                self._usable.set(1)
                return True
