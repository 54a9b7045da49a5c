"""A fleet that goes on publishing, whatever happens to whoever listens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options
from ingest.mqtt.publisher import Publisher
from tests.faults.ledger import Key, Ledger
from tests.faults.waiting import until

TURN_S = 0.02
MOST_AT_ONCE = 400


@dataclass
class Load:
    """Publishers on several connections; what is not acknowledged is sent again.

    Attributes:
        url: Of the broker.
        ledger: Makes the readings, and remembers which were acknowledged.
        per_s: Messages a second, all together.
        connections: Over how many.
        pad_every: Each so manieth message of a connection is padded; 0: none.
        padding: To so many bytes.
    """

    url: str
    ledger: Ledger
    per_s: float = 1_000.0
    connections: int = 4
    pad_every: int = 0
    padding: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._publish(number), name=f"load {number}")
            for number in range(self.connections)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def acknowledged(self) -> int:
        """Readings that the broker answered for."""
        return len(self.ledger.acked_at)

    async def until_more(self, count: int) -> None:
        """Wait until so many more are acknowledged."""
        bound = self.acknowledged + count
        await until(lambda: self.acknowledged >= bound, f"{count} more are published")

    async def finish(self) -> None:
        """Stop, and return when everything is acknowledged."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        assert self.ledger.acked_at.keys() == self.ledger.sent.keys()

    async def publish_one(self) -> Key:
        """Publish one more reading after all others; it is acknowledged."""
        key = self.ledger.draw(0)
        async with Publisher(self._options(self.connections)) as publisher:
            await publisher.publish([self.ledger.topics[0]], [self.ledger.payload(key)])
        self.ledger.acknowledge([key])
        return key

    def _options(self, number: int) -> Options:
        return Options(
            url=self.url,
            client_id=f"fleet-{self.ledger.seed}-{number}",
            version=Version.V3_1_1,
            clean=True,
        )

    async def _publish(self, number: int) -> None:
        devices = range(number, len(self.ledger.topics), self.connections)
        async with Publisher(self._options(number)) as publisher:
            started = time.monotonic()
            made = 0
            while not self._stop.is_set():
                due = int((time.monotonic() - started) * self.per_s / self.connections) - made
                keys = [
                    self._draw(devices[place % len(devices)], place)
                    for place in range(made, made + min(due, MOST_AT_ONCE))
                ]
                # What could not be said while the broker was away is not made up for.
                made += due
                await publisher.publish(
                    [self.ledger.topics[key.device] for key in keys],
                    [self.ledger.payload(key) for key in keys],
                )
                self.ledger.acknowledge(keys)
                await asyncio.sleep(TURN_S)

    def _draw(self, device: int, place: int) -> Key:
        padded = self.pad_every and place % self.pad_every == 0
        return self.ledger.draw(device, self.padding if padded else 0)
