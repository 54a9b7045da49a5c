"""How much is read ahead of the writes: little while they succeed, more while they cannot."""

from __future__ import annotations

import asyncio

from ingest.errors import DatabaseUnavailable
from ingest.flushing import READ_AHEAD_BYTES, Flusher, Flushing
from ingest.pipeline import Arrivals

MOST = 3 * READ_AHEAD_BYTES
PIECE = 1024 * 1024


class Source:
    """A source of messages of one MiB, which stops and goes on as it is told."""

    def __init__(self, most_bytes: int = MOST) -> None:
        self.reading = asyncio.Event()
        self.reading.set()
        self.receipts: list[int] = []
        self.written: list[int] = []
        self.tried = asyncio.Event()
        self.able = asyncio.Event()
        self.away = False
        self.flusher: Flusher[list[int]] = Flusher(
            "test",
            Flushing(1_000, 0.0, most_bytes),
            self.write,
            list,
            self.receipts.extend,
            pause=self.reading.clear,
            resume=self.reading.set,
        )

    async def write(self, arrivals: Arrivals) -> None:
        self.tried.set()
        if self.away:
            raise DatabaseUnavailable("away")
        await self.able.wait()
        self.written.append(len(arrivals))

    def pour(self, most: int = 1_000) -> int:
        """Messages taken in until reading is paused."""
        taken = 0
        while self.reading.is_set() and taken < most:
            chunk = self.flusher.chunk()
            chunk.arrivals.topics.append(b"t")
            chunk.arrivals.payloads.append(b"")
            chunk.arrivals.flags.append(0)
            chunk.arrivals.received_us.append(0)
            chunk.receipts.append(taken)
            self.flusher.added(chunk, 1, PIECE)
            taken += 1
        return taken


async def test_little_is_read_ahead_while_writes_succeed() -> None:
    source = Source()
    assert source.pour() == READ_AHEAD_BYTES // PIECE
    assert not source.reading.is_set()
    source.able.set()
    stop = asyncio.Event()
    running = asyncio.create_task(source.flusher.run(stop))
    await source.reading.wait()
    stop.set()
    await running
    assert sum(source.written) == len(source.receipts) == READ_AHEAD_BYTES // PIECE


async def test_an_outage_is_read_through_up_to_the_limit_and_no_further() -> None:
    source = Source()
    source.away = True
    taken = source.pour()
    assert not source.reading.is_set()
    stop = asyncio.Event()
    running = asyncio.create_task(source.flusher.run(stop))
    await source.reading.wait()
    taken += source.pour()
    assert MOST <= taken * PIECE <= MOST + PIECE
    assert not source.reading.is_set()
    assert source.receipts == []
    source.away = False
    source.able.set()
    await source.reading.wait()
    stop.set()
    await running
    assert sum(source.written) == len(source.receipts) == taken
    source.reading.set()
    assert source.pour() == READ_AHEAD_BYTES // PIECE


async def test_who_may_hold_little_holds_no_more_in_an_outage() -> None:
    source = Source(most_bytes=4 * PIECE)
    source.away = True
    assert source.pour() == 4
    stop = asyncio.Event()
    running = asyncio.create_task(source.flusher.run(stop))
    for _ in range(2):  # by the second attempt the first is known to have failed
        source.tried.clear()
        await source.tried.wait()
    assert not source.reading.is_set()
    stop.set()
    await running
    assert source.receipts == []
