"""The connection and the publisher on real brokers, some of them killed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.mqtt import codec
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options, Phase
from ingest.mqtt.errors import ConnectRefused, FilterRefused, MessageRefused
from ingest.mqtt.publisher import Publisher
from smartsite.embedded.broker import EmbeddedBroker
from tests.integration.mqtt.real_brokers import Mosquitto, RealBroker
from tests.integration.mqtt.scripted_broker import (
    CONNACK,
    V3,
    V5,
    Client,
    Peer,
    ScriptedBroker,
    eventually,
)


def numbered(first: int, end: int) -> list[bytes]:
    """Payloads of about 200 bytes, no two equal."""
    return [b'{"seq": %d, "padding": "%s"}' % (number, b"x" * 170) for number in range(first, end)]


def topics(count: int, prefix: str = "site") -> list[bytes]:
    return [b"%s/s%d/dust/d%d/telemetry" % (prefix.encode(), i % 7, i % 31) for i in range(count)]


async def publish(
    url: str, payloads: list[bytes], prefix: str = "site", version: Version = V3
) -> None:
    options = Options(url=url, client_id="publisher-2", clean=True, version=version)
    async with Publisher(options) as publisher:
        await publisher.publish(topics(len(payloads), prefix), payloads)


async def test_a_broker_that_dies_under_load_costs_no_message(real_broker: RealBroker) -> None:
    """What was not acknowledged comes again, and what was taken is settled."""
    version = real_broker.version
    first, second = numbered(0, 2_500), numbered(2_500, 5_000)
    async with Client(real_broker.url, client_id="consumer", version=version) as client:
        await client.ready()
        options = Options(url=real_broker.url, client_id="publisher", version=version)
        async with Publisher(options) as publisher:
            publishing = asyncio.create_task(publisher.publish(topics(2_500), first))
            await client.until(lambda: len(client.payloads) >= 1_000)
            assert client.acknowledge(500) == 500
            await publishing
            await client.until(lambda: len(client.payloads) >= 1_500)
            assert client.acknowledge(500) == 500
            before = len(client.payloads)
            held = client.packet_ids[:]

            await asyncio.to_thread(real_broker.end)
            await client.until(lambda: client.connection.state.phase is not Phase.READY)
            publishing = asyncio.create_task(publisher.publish(topics(2_500), second))
            await asyncio.to_thread(real_broker.start)
            await client.ready(2)
            assert client.connection.state.session_present
            assert not any(state.session_lost for state in client.states)
            # The commit that was under way when the broker died.
            assert client.acknowledge(len(held)) == 0
            assert client.connection.counters.outdated == len(held)

            async def settle() -> None:
                # What was handed on and not acknowledged comes again; after kill -9 nats-server
                # does not even mark it so.
                due = {*client.payloads[1_000:before], *second}
                while not due <= set(client.payloads[before:]):
                    have = len(client.payloads)
                    client.acknowledge()
                    await client.until(lambda: len(client.payloads) > have)  # noqa: B023

            await asyncio.gather(settle(), publishing)
        assert client.acknowledge() >= 0
        assert client.connection.unacknowledged == 0
        assert set(client.payloads) == {*first, *second}

    # All is settled: the session has nothing more to say but what is new.
    async with Client(real_broker.url, client_id="consumer", version=version) as client:
        await client.ready()
        await publish(real_broker.url, [b"last"], "site/other", version)
        await client.until(lambda: b"last" in client.payloads)
        assert client.payloads == [b"last"]
        assert client.acknowledge() == 1


async def test_on_nats_unacknowledged_copies_are_held_back(service_dir: Path) -> None:
    """It sends everything again as often as `ack_wait` passes; the consumer sees each once."""
    with EmbeddedBroker(service_dir, ack_wait_seconds=0.3) as broker:
        async with Client(broker.url) as client:
            await client.ready()
            payloads = numbered(0, 500)
            await publish(broker.url, payloads)
            counters = client.connection.counters
            await eventually(lambda: counters.held_back >= 1_000)
            assert sorted(client.payloads) == sorted(payloads)
            assert client.connection.unacknowledged == 500
            assert client.acknowledge() == 500
            # The next message comes alone: the others are settled.
            await publish(broker.url, [b"next"])
            await client.until(lambda: b"next" in client.payloads)
            assert len(client.payloads) == 501


@pytest.mark.parametrize("version", [V3, V5])
async def test_on_mosquitto_a_pause_leaves_the_backlog_there(
    start_mosquitto: Callable[[], Mosquitto], version: Version
) -> None:
    """It floods a session that returns; not reading is what bounds the consumer's memory."""
    broker = start_mosquitto()
    options = {"client_id": "consumer", "version": version, "keepalive_s": 1}
    async with Client(broker.url, **options) as client:
        await client.ready()
    payloads = [b"x" * 2_000 + b"%d" % number for number in range(10_000)]
    await publish(broker.url, payloads)
    async with Client(broker.url, **options) as client:
        client.on_batch = lambda _batch: client.connection.pause_reading()
        await client.until(lambda: bool(client.payloads))
        link = client.connection._link
        assert link is not None
        paused_at = link._wrote_at
        await eventually(lambda: link._wrote_at > paused_at + 2.0)  # two keepalives of pings
        assert len(client.payloads) < 1_000
        assert client.connection.counters.connections == 1
        client.on_batch = lambda _batch: None
        client.connection.resume_reading()
        while len(client.payloads) < 10_000:
            have = len(client.payloads)
            client.acknowledge()
            await client.until(lambda: len(client.payloads) > have)  # noqa: B023
        assert client.acknowledge() > 0
        assert sorted(client.payloads) == sorted(payloads)
        assert client.errors == []


async def test_a_payload_above_the_limit_does_not_come_again(real_broker: RealBroker) -> None:
    batches: list[codec.Batch] = []
    large = bytes(range(256)) * 4_000
    async with Client(
        real_broker.url, max_payload_bytes=1_000, version=real_broker.version
    ) as client:
        client.on_batch = batches.append
        await client.ready()
        await publish(real_broker.url, [large, b"small"])
        await client.until(lambda: len(client.payloads) == 2)
        (told,) = [told for batch in batches for told in batch.oversize.values()]
        assert (told.payload_bytes, told.sha256) == (
            len(large),
            hashlib.sha256(large).digest(),
        )
        assert client.acknowledge() == 2
    async with Client(real_broker.url, version=real_broker.version) as client:
        await client.ready()
        await publish(real_broker.url, [b"next"])
        await client.until(lambda: bool(client.payloads))
        assert client.payloads == [b"next"]


async def test_retained_messages_come_with_their_flag(real_broker: RealBroker) -> None:
    retained = codec.publish(
        real_broker.version, b"site/a/status", b"online", packet_id=1, retain=True
    )
    async with Client(
        real_broker.url, client_id="device", filters=(), version=real_broker.version
    ) as device:
        await device.ready()
        acked: list[int] = []
        device.on_batch = lambda batch: acked.extend(batch.acked)
        assert device.connection.publish(1, retained)
        await device.until(lambda: acked == [1])
    async with Client(real_broker.url, version=real_broker.version) as client:
        await client.until(lambda: client.payloads == [b"online"])
        assert client.flags[0] & codec.RETAIN


async def test_credentials(service_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedBroker(service_dir, users={"me": "p@ss hidden"}) as broker:
        async with Client(broker.url_of("me")) as client:
            await client.ready()
        for wrong in ({}, {"username": "me", "password": "hidden"}):
            async with Client(broker.url, **wrong) as client:
                with pytest.raises(ConnectRefused, match="not authorised"):
                    await client.ended()
        assert "hidden" not in caplog.text


async def test_a_broker_without_mqtt_5_says_so(broker_url: str) -> None:
    async with Client(broker_url, version=V5) as client:
        with pytest.raises(ConnectRefused, match="does not speak this version"):
            await client.ended()


async def test_nats_refuses_filters_beyond_what_a_session_may_have_pending(
    service_dir: Path,
) -> None:
    """The sum of max_ack_pending over the filters, those with # counted twice."""
    with EmbeddedBroker(service_dir, max_ack_pending=25_000) as broker:
        filters = (("a/#", 1), ("b/+", 1))
        async with Client(broker.url, filters=filters) as client:
            with pytest.raises(FilterRefused, match=r"'b/\+'.*max_ack_pending") as refusal:
                await client.ended()
        assert refusal.value.refused == {"b/+": 0x80}


async def test_mosquitto_shares_a_subscription(start_mosquitto: Callable[[], Mosquitto]) -> None:
    broker = start_mosquitto()
    filters = (("$share/group/site/#", 1),)
    async with (
        Client(broker.url, client_id="one", version=V5, filters=filters) as one,
        Client(broker.url, client_id="two", version=V5, filters=filters) as two,
    ):
        await asyncio.gather(one.ready(), two.ready())
        payloads = numbered(0, 400)
        await publish(broker.url, payloads)
        await eventually(lambda: len(one.payloads) + len(two.payloads) == 400)
        assert sorted(one.payloads + two.payloads) == sorted(payloads)
        assert one.payloads
        assert two.payloads
        assert one.acknowledge() + two.acknowledge() == 400


async def test_the_publisher_keeps_to_the_brokers_window() -> None:
    """MQTT 5: above it a broker hangs up (3.3.4); Mosquitto's is 20 unless it is told otherwise."""

    async def counts(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(b"\x20\x06\x00\x00\x03\x21\x00\x02")
        for _ in range(10):
            bodies = [await peer.expect(0x32), await peer.expect(0x32)]
            # Nothing more comes before one of the two is acknowledged: it would be read here.
            assert {body[:3] for body in bodies} == {b"\x00\x01t"}
            for body in bodies:
                await peer.say(b"\x40\x02" + body[3:5])
        await peer.expect(0xE0)

    async with ScriptedBroker(counts) as broker:
        options = Options(url=broker.url, client_id="publisher", version=V5)
        async with Publisher(options) as publisher:
            await publisher.publish([b"t"] * 20, numbered(0, 20))
            assert publisher.connection.receive_maximum == 2


async def test_the_publisher_says_what_is_not_taken() -> None:
    async def refuses(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(CONNACK[V5])
        body = await peer.expect(0x32)
        await peer.say(b"\x40\x03" + body[3:5] + b"\x87")
        await peer.expect(0xE0)

    async with ScriptedBroker(refuses) as broker:
        options = Options(url=broker.url, client_id="publisher", version=V5)
        async with Publisher(options) as publisher:
            with pytest.raises(MessageRefused, match=r"on b't' \(code 0x87\)"):
                await publisher.publish([b"t"], [b"x"])
            with pytest.raises(ValueError, match="1 topics for 2"):
                await publisher.publish([b"t"], [b"x", b"y"])


async def test_the_publisher_is_refused_at_the_door() -> None:
    async def refuses(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(b"\x20\x02\x00\x05")

    async with ScriptedBroker(refuses) as broker:
        with pytest.raises(ConnectRefused, match="not authorised"):
            async with Publisher(Options(url=broker.url, client_id="publisher")):
                pass
