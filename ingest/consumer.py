"""From an MQTT session to the acknowledgement: nothing is acknowledged that is not committed."""

from __future__ import annotations

import asyncio
import logging
import time

from ingest import metrics
from ingest.flushing import Flusher, Flushing, Write
from ingest.mqtt.codec import Batch
from ingest.mqtt.connection import Connection, Options, Phase, State
from ingest.segments import Flag

log = logging.getLogger(__name__)

_FLAGS = tuple(
    (Flag.DUP if first & 8 else 0) | (first >> 1 & 0b11) | (Flag.RETAIN if first & 1 else 0)
    for first in range(256)
)
"""From a PUBLISH's first byte to `Flag`."""


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
        self._flusher: Flusher[dict[int, list[int]]] = Flusher(
            role,
            flushing,
            write,
            dict,
            self._acknowledge,
            pause=self.connection.pause_reading,
            resume=self.connection.resume_reading,
        )
        metrics.BROKER_CONNECTED.labels(role).set(0)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until told to stop; what was read by then is written and acknowledged.

        Args:
            stop: Set from outside.

        Raises:
            Misconfigured: Broker or worker name refuse us; a person has to help.
        """
        link_stop = asyncio.Event()
        session = asyncio.create_task(self.connection.run(link_stop), name=f"{self._role} session")
        flushing = asyncio.create_task(self._flusher.run(stop), name=f"{self._role} flushing")
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
        if state.phase is Phase.SUBSCRIBING:  # once on each connection
            metrics.BROKER_CONNECTIONS.labels(self._role).inc()
            metrics.SESSIONS_LOST.labels(self._role).inc(state.session_lost)
        if state.phase is Phase.READY:
            log.info("%s: hearing what %s has", self._role, self.connection.endpoint)

    def _take(self, batch: Batch) -> None:
        """Take in what one read of the socket held."""
        count = len(batch)
        if not count:
            return
        chunk = self._flusher.chunk()
        arrivals = chunk.arrivals
        start = len(arrivals)
        arrivals.topics += batch.topics
        arrivals.payloads += batch.payloads
        arrivals.flags += [_FLAGS[first] for first in batch.flags]
        arrivals.received_us += [time.time_ns() // 1_000] * count
        for index, large in batch.oversize.items():
            arrivals.oversized[start + index] = (large.payload_bytes, large.sha256)
            arrivals.flags[start + index] |= Flag.TRUNCATED
        # By connection: packet ids are worth nothing on another one.
        chunk.receipts.setdefault(batch.generation, []).extend(batch.packet_ids)
        size = sum(map(len, batch.topics)) + sum(map(len, batch.payloads))
        self._flusher.added(chunk, count, size)

    def _acknowledge(self, receipts: dict[int, list[int]]) -> None:
        for generation, packet_ids in receipts.items():
            self.connection.acknowledge(generation, packet_ids)
