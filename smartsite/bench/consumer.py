"""What hearing a message costs: the codec alone, and with the connection around it.

CPU time of this process (user and system), per QoS 1 message; nothing is decoded or stored.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import tempfile
import time
from pathlib import Path

from ingest.mqtt import codec
from ingest.mqtt.codec import Batch, Reader, Version
from ingest.mqtt.connection import Connection, Options, Phase, State
from ingest.mqtt.publisher import Publisher
from smartsite.embedded.broker import EmbeddedBroker

DEVICES = 1_000
ACKNOWLEDGED_AT_ONCE = 2_000
ROUNDS = 15


def codec_us_per_message(version: Version = Version.V3_1_1, payload_bytes: int = 200) -> float:
    """Reading PUBLISHes and writing their PUBACKs, 1,000 a read.

    Args:
        version: Of MQTT.
        payload_bytes: Of each message.

    Returns:
        Microseconds of CPU a message, median of 15 rounds.
    """
    count = 1_000
    packet_ids = list(range(1, count + 1))
    data = codec.publish_many(version, _topics(count), [bytes(payload_bytes)] * count, packet_ids)
    reader = Reader(version, max_payload_bytes=1 << 20)
    reader.feed(b"\x20\x03\0\0\0" if version is Version.V5 else b"\x20\x02\0\0")
    rounds: list[float] = []
    for _ in range(ROUNDS + 1):
        began = time.process_time()
        for _ in range(20):
            batch = reader.feed(data)
            codec.pubacks(batch.packet_ids)
        rounds.append((time.process_time() - began) / (20 * count))
    return statistics.median(rounds[1:]) * 1e6


async def connection_us_per_message(
    url: str,
    *,
    messages: int = 100_000,
    payload_bytes: int = 200,
    version: Version = Version.V3_1_1,
    rest_s: float = 0.0,
) -> float:
    """Draining a queue that waits at a broker, acknowledging 2,000 at once.

    Args:
        url: The broker's.
        messages: How many wait.
        payload_bytes: Of each.
        version: Of MQTT.
        rest_s: As in `Options`.

    Returns:
        Microseconds of CPU a message, from CONNECT to the last message.

    Raises:
        ingest.errors.IngestError: The broker does not let us in, or is not there.
    """
    name = f"bench-{secrets.token_hex(4)}"
    options = Options(
        url=url, client_id=name, filters=((f"{name}/#", 1),), version=version, rest_s=rest_s
    )
    await _consume(options, 0)
    topics = [name.encode() + b"/" + topic for topic in _topics(messages)]
    sender = Options(url=url, client_id=f"{name}-publisher", version=version, clean=True)
    async with Publisher(sender) as publisher:
        await publisher.publish(topics, [bytes(payload_bytes)] * messages)
    began = time.process_time()
    await _consume(options, messages)
    used = time.process_time() - began
    forgetting = Options(url=url, client_id=name, version=version, clean=True)
    await _consume(forgetting, 0)
    return used / messages * 1e6


def measure() -> dict[str, float]:
    """Measure codec and connection, on an embedded broker of its own.

    Returns:
        Microseconds of CPU a message of 200 bytes, by what was measured.
    """
    with (
        tempfile.TemporaryDirectory(prefix="smartsite-bench-") as folder,
        EmbeddedBroker(Path(folder) / "broker", max_ack_pending=16_000) as broker,
    ):
        url = broker.url
        return {
            "codec_3_1_1": codec_us_per_message(Version.V3_1_1),
            "codec_5": codec_us_per_message(Version.V5),
            "connection": asyncio.run(connection_us_per_message(url)),
            "connection_rested": asyncio.run(connection_us_per_message(url, rest_s=0.02)),
        }


def _topics(count: int) -> list[bytes]:
    return [b"site/s%03d/dust/d%03d/telemetry" % (i % 100, i % DEVICES) for i in range(count)]


async def _consume(options: Options, messages: int) -> None:
    """Connect, take so many messages and acknowledge them, leave."""
    stop = asyncio.Event()
    waiting: list[int] = []
    missing = messages

    def take(batch: Batch) -> None:
        nonlocal missing
        waiting.extend(batch.packet_ids)
        missing -= len(batch)
        if len(waiting) >= ACKNOWLEDGED_AT_ONCE or missing <= 0:
            connection.acknowledge(batch.generation, waiting)
            waiting.clear()
        if missing <= 0:
            stop.set()

    def leave_if_empty(state: State) -> None:
        if state.phase is Phase.READY and not messages:
            stop.set()

    connection = Connection(options, take, leave_if_empty)
    await connection.run(stop)
