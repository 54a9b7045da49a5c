"""Between a source of messages and the store: gathers, has written, and only then says so.

Messages wait in the order they came until there are enough of them or the first has waited long
enough; then they are written in one transaction while the next ones gather. What the source has
to say once they are committed (acknowledgements, answers) travels with them as receipts. While
the database or the disk is away the same messages are tried again; how much may gather meanwhile
is bounded: the source is told to read no more.
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
from typing import Generic, Literal, TypeAlias, TypeVar

from ingest import metrics
from ingest.errors import Unavailable
from ingest.pipeline import Arrivals
from ingest.segments import Flag

log = logging.getLogger(__name__)

Write: TypeAlias = Callable[[Arrivals], Awaitable[None]]
"""Writes messages wholly and durably, or raises `Unavailable` to be called again with the same."""

Receipts = TypeVar("Receipts")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0

SLOW_S = 5.0
"""A write that takes longer is said, again and again: a server that hangs raises nothing."""

MESSAGE_BYTES = 200
"""What a message costs in memory beside its topic and payload."""

FLUSH_BYTES = 2 * 1024 * 1024
"""A flush is written when it holds so much, however few its messages."""

READ_AHEAD_BYTES = 32 * 1024 * 1024
"""While writes succeed no more than this is read ahead of them: it would only wait."""


@dataclass(frozen=True, slots=True)
class Flushing:
    """When to write.

    Attributes:
        messages: As soon as so many wait.
        after_s: Or when the first has waited so long.
        most_bytes: When so much waits while nothing can be written, reading the socket stops until
            some of it is.
    """

    messages: int
    after_s: float
    most_bytes: int


@dataclass(slots=True)
class Chunk(Generic[Receipts]):
    """Messages that will be written together.

    Attributes:
        first_at: Monotonic time at which the first came, seconds.
        receipts: What the source says once they are committed.
        arrivals: They.
        bytes: What they take in memory.
    """

    first_at: float
    receipts: Receipts
    arrivals: Arrivals = field(default_factory=Arrivals)
    bytes: int = 0


class Flusher(Generic[Receipts]):
    """Writes what one source takes in."""

    def __init__(
        self,
        role: str,
        flushing: Flushing,
        write: Write,
        receipts: Callable[[], Receipts],
        committed: Callable[[Receipts], None],
        *,
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        """Wire a source to a writer.

        Args:
            role: For metrics and logs.
            flushing: When to write.
            write: See `Write`.
            receipts: Makes an empty collection of receipts, for one transaction.
            committed: Called with the receipts of each transaction after its commit, in order.
            pause: Called when too much waits: nothing more is to be read.
            resume: Called when there is room again.
        """
        self._role = role
        self._flushing = flushing
        self._write = write
        self._receipts = receipts
        self._committed = committed
        self._pause = pause
        self._resume = resume
        self._chunks: deque[Chunk[Receipts]] = deque()
        self._bytes = 0
        self._ahead = min(READ_AHEAD_BYTES, flushing.most_bytes)
        self._room = self._ahead
        self._stop = asyncio.Event()
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._messages = metrics.MESSAGES.labels(role)
        self._redeliveries = metrics.REDELIVERIES.labels(role)
        self._pending = metrics.PENDING.labels(role)
        self._commit_seconds = metrics.COMMIT_SECONDS.labels(role)
        self._usable = metrics.DATABASE_USABLE.labels(role)
        self._usable.set(1)

    @property
    def is_over(self) -> bool:
        """Whether so much waits that nothing more is to be read."""
        return self._bytes > self._room

    def chunk(self) -> Chunk[Receipts]:
        """The chunk that takes messages in: add them to it, then call `added`."""
        if not self._chunks or self._is_full(self._chunks[-1]):
            self._chunks.append(Chunk(time.monotonic(), self._receipts()))
        return self._chunks[-1]

    def added(self, chunk: Chunk[Receipts], count: int, payload_bytes: int) -> None:
        """Count what was added to a chunk.

        Args:
            chunk: As `chunk` returned it.
            count: How many messages.
            payload_bytes: Of their topics and payloads.
        """
        size = payload_bytes + MESSAGE_BYTES * count
        chunk.bytes += size
        self._bytes += size
        self._messages.inc(count)
        self._arrived.set()
        if self._is_full(self._chunks[0]):
            self._enough.set()
        if self.is_over:
            self._pause()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until told to stop; what was taken in by then is written.

        Args:
            stop: Set from outside.
        """
        self._stop = stop
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
                    self._pause()
                if not await self._flush(stopping):
                    return
        finally:
            stopping.cancel()

    def _is_full(self, chunk: Chunk[Receipts]) -> bool:
        return len(chunk.arrivals) >= self._flushing.messages or chunk.bytes >= FLUSH_BYTES

    async def _flush(self, stopping: asyncio.Task[Literal[True]]) -> bool:
        """Write what waits and say so; false if told to stop while that cannot be done."""
        chunk = self._chunks.popleft()
        if not self._chunks:
            self._arrived.clear()
        if not self._chunks or not self._is_full(self._chunks[0]):
            self._enough.clear()
        self._pending.set(len(chunk.arrivals) + self._waiting())
        if not await self._write_until_done(chunk.arrivals, stopping):
            return False
        self._committed(chunk.receipts)
        self._bytes -= chunk.bytes
        self._commit_seconds.observe(time.monotonic() - chunk.first_at)
        self._redeliveries.inc(sum(1 for flag in chunk.arrivals.flags if flag & Flag.DUP))
        self._pending.set(self._waiting())
        if not stopping.done() and not self.is_over:
            self._resume()
        return True

    def _waiting(self) -> int:
        return sum(len(chunk.arrivals) for chunk in self._chunks)

    async def _write_until_done(
        self, arrivals: Arrivals, stopping: asyncio.Task[Literal[True]]
    ) -> bool:
        delay_s = FIRST_DELAY_S
        while True:
            try:
                await self._write_watched(arrivals)
            except Unavailable as fault:
                waiting = self._say_unusable(len(arrivals))
                log.warning(
                    "%s: %s; %d messages wait unacknowledged, trying again in %.1f s",
                    self._role,
                    fault,
                    waiting,
                    delay_s,
                )
                if stopping.done():
                    return False
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                await asyncio.wait((stopping,), timeout=delay_s * jitter)
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
            else:
                self._usable.set(1)
                self._room = self._ahead
                return True

    async def _write_watched(self, arrivals: Arrivals) -> None:
        watch = asyncio.create_task(self._watch(len(arrivals)))
        try:
            await self._write(arrivals)
        finally:
            watch.cancel()

    async def _watch(self, writing: int) -> None:
        """Say it while a write does not come to its end."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(SLOW_S)
            log.warning(
                "%s: no commit for %.0f s; %d messages wait unacknowledged",
                self._role,
                time.monotonic() - began,
                self._say_unusable(writing),
            )

    def _say_unusable(self, writing: int) -> int:
        """Tell the metrics that nothing is committed; how many messages wait for that."""
        waiting = writing + self._waiting()
        self._usable.set(0)
        # nats-server cuts off who does not read for some seconds: where the settings say so, an
        # outage is read through up to what the broker may leave unacknowledged.
        self._room = self._flushing.most_bytes
        if not self.is_over and not self._stop.is_set():
            self._resume()
        self._pending.set(waiting)
        return waiting
