"""What the tests of the codec share: bytes by hand, ways to cut them, paho on a wire of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from ingest.mqtt.codec import Batch, Event, Oversize, Reader, Version

VERSIONS = [Version.V3_1_1, Version.V5]
LIMIT = 1_000
"""The payload limit of most tests."""

WELCOME = {Version.V3_1_1: b"\x20\x02\x00\x00", Version.V5: b"\x20\x03\x00\x00\x00"}
"""A CONNACK that lets us in."""


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(2, "big") + raw


def packet(first: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while rest > 127:
        length += bytes([rest & 127 | 128])
        rest >>= 7
    return bytes([first]) + length + bytes([rest]) + body


def publish(
    version: Version,
    topic: bytes = b"site/a/dust/b/telemetry",
    payload: bytes = b"{}",
    packet_id: int = 1,
    first: int = 0x32,
    properties: bytes = b"\0",
) -> bytes:
    body = string(topic)
    if first & 6:
        body += packet_id.to_bytes(2, "big")
    if version is Version.V5:
        body += properties
    return packet(first, body + payload)


def reader(version: Version, limit: int = LIMIT) -> Reader:
    """One that has had its CONNACK."""
    fresh = Reader(version, max_payload_bytes=limit)
    fresh.feed(WELCOME[version])
    return fresh


@dataclass
class Read:
    """All that some feeding brought."""

    messages: list[tuple[bytes, bytes, int, int, Oversize | None]]
    acked: list[int]
    events: list[Event]


def feed(taker: Reader, parts: Iterable[bytes], most_held: int = 1 << 30) -> Read:
    """Feed part by part, and gather what came; watch what is held."""
    read = Read([], [], [])
    for part in parts:
        batch = taker.feed(part)
        assert_parallel(batch)
        read.messages += [
            (topic, payload, packet_id, flags & 15, batch.oversize.get(index))
            for index, (topic, payload, packet_id, flags) in enumerate(
                zip(batch.topics, batch.payloads, batch.packet_ids, batch.flags, strict=True)
            )
        ]
        read.acked += batch.acked
        read.events += batch.events
        assert taker.held_bytes <= most_held
    return read


def assert_parallel(batch: Batch) -> None:
    columns = (batch.topics, batch.payloads, batch.packet_ids, batch.flags)
    assert len({len(column) for column in columns}) == 1
    assert len(batch) == len(batch.topics)
    assert all(index < len(batch) for index in batch.oversize)


def bytewise(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


class _Wire:
    """Stands where paho has its socket."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.waiting = bytearray()

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def recv(self, count: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError
        part = bytes(self.waiting[:count])
        del self.waiting[:count]
        return part

    def close(self) -> None:
        pass


class Paho:
    """paho-mqtt's own encoder and decoder, without a network."""

    def __init__(self, version: Version, client_id: str = "oracle", clean: bool = True) -> None:
        five = version is Version.V5
        self.client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if five else clean,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
        )
        self.wire = _Wire()
        self.client._sock = cast("Any", self.wire)

    def written(self, write: Callable[[Client], object]) -> bytes:
        """What a method of the client puts on the wire."""
        self.wire.sent.clear()
        write(self.client)
        return bytes(self.wire.sent)

    def publish(
        self,
        topic: bytes,
        payload: bytes,
        packet_id: int,
        *,
        retain: bool,
        dup: bool,
        properties: Properties | None = None,
    ) -> bytes:
        return self.written(
            lambda client: client._send_publish(
                packet_id,
                topic,
                payload,
                int(packet_id > 0),
                retain,
                dup,
                MQTTMessageInfo(packet_id),
                properties,
            )
        )

    def read_publishes(self, data: bytes) -> list[MQTTMessage]:
        """What it makes of whole packets.

        Raises:
            ValueError: They are none.
        """
        messages: list[MQTTMessage] = []
        self.client.on_message = lambda _client, _userdata, message: messages.append(message)
        self.wire.waiting += data
        while self.wire.waiting:
            code = self.client._packet_read()
            if code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise ValueError(code.name)
        return messages
