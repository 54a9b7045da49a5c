"""Publishing fast at QoS 1, for benchmarks and for simulators of many devices.

What a device publishes alone is a matter for any MQTT library; this is for the load of a city on
one connection. What was not acknowledged when a connection ended is sent again on the next one, for
ever if it is what made the broker hang up (nats-server does so on a space in a topic, and on a
payload above its limit).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ingest.mqtt import codec
from ingest.mqtt.codec import Batch
from ingest.mqtt.connection import Connection, Options, Phase, State
from ingest.mqtt.errors import MessageRefused, ProtocolError
from ingest.mqtt.reasons import said


class Publisher:
    """A connection that publishes; use as an async context manager.

    Args:
        options: Where to; without filters.
        window: Most messages that wait for their PUBACK, at most 65,535; fewer if an MQTT 5 broker
            says so.

    Attributes:
        connection: The session beneath.
    """

    def __init__(self, options: Options, *, window: int = 1_000) -> None:
        if not 0 < window <= codec.MAX_PACKET_ID:
            raise ValueError(f"a window of {window} messages")
        self.connection = Connection(options, self._take, self._state)
        self._version = options.version
        self._window = window
        self._last_id = 0
        self._in_flight: dict[int, tuple[bytes, bytes]] = {}
        self._generation = 0
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._refusal: MessageRefused | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectRefused: The broker does not let us in.
        """
        self._running = asyncio.create_task(self.connection.run(self._stop), name="publisher")
        self._running.add_done_callback(lambda _done: self._changed.set())
        try:
            while not self._generation:
                await self._change()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave; what was published is acknowledged, unless `publish` was interrupted."""
        await self._leave()

    async def publish(self, topics: Sequence[bytes], payloads: Sequence[bytes]) -> None:
        """Publish messages in order, and return when the broker has acknowledged them all.

        Args:
            topics: One for each message.
            payloads: As many.

        Raises:
            MessageRefused: The broker did not take one; the others may be taken or not.
        """
        if len(topics) != len(payloads):
            raise ValueError(f"{len(topics)} topics for {len(payloads)} payloads")
        sent = 0
        while sent < len(topics) or self._in_flight:
            # As soon as there is room: a broker that does not set TCP_NODELAY (Mosquitto, as it
            # comes) holds back its other PUBACKs until it hears from us.
            room = min(self._window, self.connection.receive_maximum) - len(self._in_flight)
            if sent == len(topics) or room <= 0:
                await self._change()
                continue
            messages = list(
                zip(topics[sent : sent + room], payloads[sent : sent + room], strict=True)
            )
            sent += len(messages)
            self._require_small(messages)
            self._send(dict(zip(self._free_ids(len(messages)), messages, strict=True)))

    def _require_small(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """MQTT 5: a broker hangs up on what is larger than it said (3.2.2.3.6)."""
        largest = self.connection.maximum_packet_bytes
        for topic, payload in messages:
            # At most 5 bytes of fixed header, 2 of the topic's length, 2 of packet id, 1 of
            # properties.
            size = len(topic) + len(payload) + 10
            if size > largest:
                raise MessageRefused(
                    f"{self.connection.endpoint} takes packets of at most {largest} bytes; a"
                    f" message on {topic!r} makes one of {size}",
                    0x95,
                )

    def _free_ids(self, count: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < count:
            self._last_id = self._last_id % codec.MAX_PACKET_ID + 1
            if self._last_id not in self._in_flight:
                ids.append(self._last_id)
        return ids

    def _send(self, messages: dict[int, tuple[bytes, bytes]], *, again: bool = False) -> None:
        self._in_flight |= messages
        if not messages:
            return
        topics, payloads = zip(*messages.values(), strict=True)
        packets = codec.publish_many(self._version, topics, payloads, list(messages), dup=again)
        # If the connection has just ended, `_state` sends them on the next one.
        self.connection.publish(self._generation, packets)

    def _take(self, batch: Batch) -> None:
        for packet_id in batch.acked:
            self._settled(packet_id)
        for event in batch.events:
            if isinstance(event, codec.PublishRefused):
                topic = self._settled(event.packet_id)
                self._refusal = MessageRefused(
                    f"{self.connection.endpoint} does not take a message on {topic!r}"
                    f" (code {event.code:#x}{said(event.reason)})",
                    event.code,
                )
        self._changed.set()

    def _settled(self, packet_id: int) -> bytes:
        """Its topic."""
        message = self._in_flight.pop(packet_id, None)
        if message is None:
            raise ProtocolError(f"a PUBACK for {packet_id}, which we did not send")
        return message[0]

    def _state(self, state: State) -> None:
        if state.phase is Phase.READY:
            self._generation = state.generation
            self._send(self._in_flight, again=True)
            self._changed.set()

    async def _change(self) -> None:
        """Wait for an acknowledgement or a connection; raise what ended it all."""
        assert self._running is not None  # noqa: S101 - set on entering
        await self._changed.wait()
        self._changed.clear()
        if self._running.done():
            self._running.result()
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal

    async def _leave(self) -> None:
        assert self._running is not None  # noqa: S101 - set on entering
        self._stop.set()
        await asyncio.gather(self._running, return_exceptions=True)
