"""A broker that lies: each lie is the declared error and a new connection, in bounded memory."""

from __future__ import annotations

import logging
import random
import tracemalloc
from dataclasses import replace

import pytest

from ingest.errors import Unavailable
from ingest.mqtt import codec, connection, link
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options, Phase
from ingest.mqtt.errors import (
    BrokerMisconfigured,
    BrokerUnavailable,
    FilterRefused,
    MessageRefused,
    ProtocolError,
)
from ingest.mqtt.publisher import Publisher
from tests.integration.mqtt.scripted_broker import (
    CONNACK,
    PINGRESP,
    SESSION_PRESENT,
    V3,
    V5,
    Client,
    Peer,
    Script,
    ScriptedBroker,
    adds,
    grants,
    hang_up,
    honest,
    honest_5,
    message,
    says,
    stay,
)


async def endless_header(peer: Peer) -> None:
    await peer.welcome()
    await peer.say(b"\x32" + b"\xff" * 200_000)
    await stay(peer)


async def pings_without_end(peer: Peer) -> None:
    await peer.welcome()
    await peer.say(b"\xc0\x00" * 100_000)
    await stay(peer)


async def answers_without_end(peer: Peer) -> None:
    await peer.welcome()
    await peer.say(PINGRESP * 100_000)
    await stay(peer)


@pytest.mark.parametrize(
    ("lie", "error", "words"),
    [
        # The greeting.
        (hang_up, BrokerUnavailable, "hung up|was lost"),
        (says(b"", hang_up), BrokerUnavailable, "hung up"),
        (says(b"\x20\x02\x00", hang_up), BrokerUnavailable, "hung up"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ProtocolError, "first packet is PUBACK"),
        (says(b"\x15\x03\x01\x00\x02\x02\x46"), ProtocolError, "first packet is CONNECT"),
        (says(message(1)), ProtocolError, "first packet is PUBLISH"),
        (says(PINGRESP), ProtocolError, "first packet is PINGRESP"),
        (says(b"\x20\x02\x00\x03"), BrokerUnavailable, "let client 'tester' in now: code 0x3"),
        (says(b"\x20\x02\x00\x09"), ProtocolError, "reserved code 9"),
        (says(b"\x20\x02\x01\x04"), ProtocolError, "yet finds a session"),
        (says(b"\x20\x02\xff\x00"), ProtocolError, "reserved flags"),
        (says(b"\x20\xff\xff\xff\x7f"), ProtocolError, "CONNACK of 268435455 bytes"),
        (says(CONNACK[V3] * 2), ProtocolError, "second CONNACK"),
        # What is granted.
        (grants(b""), ProtocolError, "0 codes for 1 filters"),
        (grants(b"\x01\x01"), ProtocolError, "2 codes for 1 filters"),
        (grants(b"\x07"), ProtocolError, "SUBACK with code 7"),
        (grants(b"\x01", b"\x00\x09"), ProtocolError, "SUBACK nobody asked for"),
        (adds(b"\x90\x03\x00\x01\x01"), ProtocolError, "SUBACK nobody asked for"),
        (adds(b"\xb0\x02\x00\x02"), ProtocolError, "UNSUBACK nobody asked for"),
        # Packets that are no packets.
        (adds(b"\x32\x80\x80\x80\x80\x01"), ProtocolError, "remaining length"),
        (adds(b"\x32\x83\x00\x00\x01t"), ProtocolError, "padded"),
        (adds(message(1) + b"\xd0\xff\xff\xff\x7f"), ProtocolError, "PINGRESP of 268435455"),
        (endless_header, ProtocolError, "remaining length"),
        (adds(message(7)[:-1], hang_up), BrokerUnavailable, "hung up"),
        # Packets of the wrong kind.
        (adds(b"\x10\x02\x00\x00"), ProtocolError, "CONNECT"),
        (adds(b"\x62\x02\x00\x01"), ProtocolError, "PUBREL"),
        (adds(b"\x50\x02\x00\x01"), ProtocolError, "PUBREC"),
        (adds(b"\x82\x06\x00\x01\x00\x01a\x00"), ProtocolError, "SUBSCRIBE"),
        (adds(b"\xf0\x00"), ProtocolError, "AUTH"),
        (adds(b"\xe0\x00"), ProtocolError, "DISCONNECT"),
        # Messages that are none.
        (adds(b"\x32\x05\x00\x01t\x00\x00"), ProtocolError, "packet id 0"),
        (adds(b"\x34\x05\x00\x01t\x00\x01"), ProtocolError, "QoS 2"),
        (adds(b"\x36\x05\x00\x01t\x00\x01"), ProtocolError, "QoS 3"),
        (adds(b"\x32\x05\x00\x01#\x00\x01"), ProtocolError, "holds '#'"),
        (adds(b"\x32\x06\x00\x02a\xff\x00\x01"), ProtocolError, "not UTF-8"),
        (adds(b"\x32\x06\x00\x02a\x00\x00\x01"), ProtocolError, "holds"),
        (adds(b"\x32\x04\x00\x09tt"), ProtocolError, "ends within its topic"),
        # Answers to nothing.
        (adds(b"\x40\x02\x00\x01"), ProtocolError, "PUBACK for what we did not send"),
        (adds(message(1) + b"\x40\x02\x00\x01"), ProtocolError, "PUBACK for what we did"),
        (adds(PINGRESP), ProtocolError, "PINGRESP nobody asked for"),
        (pings_without_end, ProtocolError, "PINGREQ"),
        (answers_without_end, ProtocolError, "PINGRESP nobody asked for"),
    ],
)
async def test_a_lie_is_an_error_and_a_new_connection(
    lie: Script, error: type[Exception], words: str
) -> None:
    async with ScriptedBroker(lie, honest) as broker, Client(broker.url) as client:
        await require_one_fault(client, error, words)
    assert broker.connections == 2


@pytest.mark.parametrize(
    ("lie", "error", "words"),
    [
        (says(b"\x20\x02\x00\x00"), ProtocolError, "before its properties"),
        (says(b"\x20\x06\x00\x00\x03\x21\x00\x00"), ProtocolError, "RECEIVE_MAXIMUM"),
        (says(b"\x20\x08\x00\x00\x05\x12\x00\x02me"), ProtocolError, "renames the client, 'me'"),
        (says(b"\x20\x03\x00\x9f\x00"), BrokerUnavailable, "now: code 0x9f"),
        (adds(b"\xf0\x02\x00\x00", version=V5), ProtocolError, "AUTH"),
        (adds(b"\x40\x03\x00\x01\x87", version=V5), ProtocolError, "PUBACK for what we did not"),
        (adds(b"\x32\x06\x00\x01t\x00\x01\x05", version=V5), ProtocolError, "its properties"),
        (
            adds(b"\x32\x09\x00\x01t\x00\x01\x03\x23\x00\x01", version=V5),
            ProtocolError,
            "topic alias",
        ),
        (
            adds(b"\x32\x08\x00\x00\x00\x01\x03\x23\x00\x01", version=V5),
            ProtocolError,
            "topic alias",
        ),
        (adds(b"\xe0\x01\x93", version=V5), BrokerUnavailable, "receive maximum exceeded"),
        (adds(b"\xe0\x01\xee", version=V5), BrokerUnavailable, "unknown reason .code 0xee"),
    ],
)
async def test_a_lie_in_mqtt_5(lie: Script, error: type[Exception], words: str) -> None:
    async with (
        ScriptedBroker(lie, honest_5) as broker,
        Client(broker.url, version=V5) as client,
    ):
        await require_one_fault(client, error, words)
    assert broker.connections == 2


async def require_one_fault(client: Client, error: type[Exception], words: str) -> None:
    await client.until(lambda: client.connection.state.generation == 2)
    await client.until(lambda: client.connection.state.phase is Phase.READY)
    assert [type(fault) for fault in client.errors] == [error]
    with pytest.raises(error, match=words):
        raise client.errors[0]
    assert isinstance(client.errors[0], Unavailable) == (error is BrokerUnavailable)


@pytest.mark.parametrize("version", [V3, V5])
async def test_a_session_where_none_was_wanted(version: Version) -> None:
    async with (
        ScriptedBroker(
            says(SESSION_PRESENT[version]), honest if version is V3 else honest_5
        ) as broker,
        Client(broker.url, version=version, clean=True) as client,
    ):
        await require_one_fault(client, ProtocolError, "where none was wanted")


async def test_in_mqtt_5_a_session_that_is_not_there_is_not_believed() -> None:
    """A broker that came back from an old snapshot says "present", and has no subscription."""

    async def forgets(peer: Peer) -> None:
        await peer.welcome(V5, present=True, codes=None)
        await peer.grant(V5)
        await peer.say(message(1, version=V5))  # only now does it know what to send
        await stay(peer)

    async def once(peer: Peer) -> None:
        await peer.welcome(V5)

    async with (
        ScriptedBroker(once, forgets) as broker,
        Client(broker.url, version=V5) as client,
    ):
        await client.until(lambda: client.payloads == [b"x"])


async def test_a_second_unsuback_is_a_lie() -> None:
    async def repeats(peer: Peer) -> None:
        await peer.welcome()
        await peer.expect(0xA2)
        await peer.say(b"\xb0\x02\x00\x02")
        await peer.say(b"\xb0\x02\x00\x02")
        await stay(peer)

    async with (
        ScriptedBroker(repeats, honest) as broker,
        Client(broker.url, retired_filters=("old/#",)) as client,
    ):
        await require_one_fault(client, ProtocolError, "UNSUBACK nobody asked for")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\xb0\x04\x00\x02\x00\x87", r"does not end 1 of 1 subscriptions: 'old/#' .code 0x87"),
        (b"\xb0\x09\x00\x02\x05\x1f\x00\x02no\x83", "0x83.*'no'"),
    ],
)
async def test_a_subscription_that_is_not_ended_refuses_to_start(answer: bytes, words: str) -> None:
    async def keeps(peer: Peer) -> None:
        await peer.welcome(V5, codes=None)
        await peer.expect(0xA2)
        await peer.say(answer)
        await peer.gone()

    options = {"version": V5, "filters": (), "retired_filters": ("old/#",)}
    async with ScriptedBroker(keeps) as broker, Client(broker.url, **options) as client:
        with pytest.raises(FilterRefused, match=words):
            await client.ended()


async def test_an_unsuback_with_too_many_codes() -> None:
    async def adds_one(peer: Peer) -> None:
        await peer.welcome(V5, codes=None)
        await peer.expect(0xA2)
        await peer.say(b"\xb0\x05\x00\x02\x00\x00\x00")
        await stay(peer)

    async def ends(peer: Peer) -> None:
        await peer.welcome(V5, codes=None)
        await peer.expect(0xA2)
        await peer.say(b"\xb0\x04\x00\x02\x00\x11")
        await stay(peer)

    options = {"version": V5, "filters": (), "retired_filters": ("old/#",)}
    async with ScriptedBroker(adds_one, ends) as broker, Client(broker.url, **options) as client:
        await require_one_fault(client, ProtocolError, "2 codes for 1 filters")


async def test_a_connack_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "OPEN_TIMEOUT_S", 0.2)

    async def drips(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(b"\x20")  # bytes alone are no answer
        left = await peer.gone()
        assert left == b""

    async with ScriptedBroker(drips, honest) as broker, Client(broker.url) as client:
        await require_one_fault(client, BrokerUnavailable, "did not answer CONNECT")


async def test_the_publisher_takes_no_puback_for_what_it_did_not_send() -> None:
    async def lies(peer: Peer) -> None:
        await peer.welcome(codes=None)
        body = await peer.expect(0x32)
        await peer.say(b"\x40\x02\x77\x77" + b"\x40\x02" + body[3:5])
        await peer.gone()

    async def takes(peer: Peer) -> None:
        await peer.welcome(present=True, codes=None)
        body = await peer.expect(0x3A)
        await peer.say(b"\x40\x02" + body[3:5])
        await stay(peer)

    async with ScriptedBroker(lies, takes) as broker:
        options = Options(url=broker.url, client_id="publisher")
        async with Publisher(options) as publisher:
            await publisher.publish([b"t"], [b"x"])
    assert broker.connections == 2


# Back-off.


async def test_who_always_lies_is_tried_again_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session that was ready for a while has forgotten earlier failures, a shorter one not."""
    async with (
        ScriptedBroker(adds(b"\xc0\x00")) as broker,
        Client(broker.url) as client,
    ):
        await client.until(lambda: client.connection.state.failures >= 5)
        failures = [state.failures for state in client.states if state.phase is Phase.WAITING]
        assert failures == list(range(1, len(failures) + 1))
        client.connection._dice = random.Random(1)
        for count in (1, 5, 100):
            client.connection.state = replace(client.connection.state, failures=count)
            longest = min(connection.LONGEST_DELAY_S, 0.1 * 2 ** (count - 1))
            assert longest / 2 <= client.connection._delay_s() <= longest
    monkeypatch.setattr(connection, "STABLE_S", 1e-9)

    async def lies_later(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1))
        await peer.expect(0x40)
        await peer.say(b"\xc0\x00")
        await peer.gone()

    def acknowledge(batch: codec.Batch) -> None:
        client.connection.acknowledge(batch.generation, batch.packet_ids)

    script = [says(b"\x20\x02\x00\x03"), says(b"", hang_up), lies_later]
    async with ScriptedBroker(*script) as broker, Client(broker.url) as client:
        client.on_batch = acknowledge
        await client.until(lambda: len(client.errors) >= 4)
        failures = [state.failures for state in client.states if state.phase is Phase.WAITING]
        assert failures[:4] == [1, 2, 1, 1]


# Its words.


LONG = b"\x1f\x75\x30" + b"no\x1b[2J\n" * 4_285 + b"tail!"


async def test_its_words_are_shown_bounded_and_printable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A reason string may have 64 KiB, and control characters that forge lines of a log."""
    assert len(LONG) == 30_003
    length = codec.wire.variable_integer(len(LONG))

    def packet(first: int, head: bytes, tail: bytes = b"") -> bytes:
        body = head + length + LONG + tail
        return bytes([first]) + codec.wire.variable_integer(len(body)) + body

    async def busy(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(packet(0x20, b"\x00\x89"))
        await peer.gone()

    async def grants_nothing(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(CONNACK[V5])
        await peer.expect(0x82)
        await peer.say(packet(0x90, b"\x00\x01", b"\x87"))
        await peer.gone()

    script = [adds(packet(0xE0, b"\x8b"), version=V5), busy, grants_nothing, honest_5]
    caplog.set_level(logging.DEBUG)
    async with ScriptedBroker(*script) as broker, Client(broker.url, version=V5) as client:
        await client.ready(2)
        assert len(client.errors) == 3
        for error in client.errors:
            text = str(error)
            assert r"no\x1b[2J\nno" in text
            assert "tail!" not in text
            assert len(text) < 500
            assert text.isprintable()


@pytest.mark.parametrize(
    ("connack", "filters", "words"),
    [
        (b"\x20\x05\x00\x00\x02\x2a\x00", "$share/g/site/#", "'.share/g/site/#': it has no shared"),
        (b"\x20\x05\x00\x00\x02\x28\x00", "site/#", "'site/#': it has no wildcard"),
    ],
)
async def test_what_a_broker_says_it_has_not_is_not_asked_for(
    connack: bytes, filters: str, words: str
) -> None:
    async def meagre(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(connack)
        assert await peer.gone() == b""

    options = {"version": V5, "filters": ((filters, 1), ("other", 1))}
    async with ScriptedBroker(meagre) as broker, Client(broker.url, **options) as client:
        with pytest.raises(FilterRefused, match=words):
            await client.ended()


async def test_a_packet_larger_than_it_takes_is_not_sent() -> None:
    async def small(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(b"\x20\x08\x00\x00\x05\x27\x00\x00\x00\x0a")
        assert await peer.gone() == b""

    async with ScriptedBroker(small) as broker, Client(broker.url, version=V5) as client:
        with pytest.raises(BrokerMisconfigured, match="at most 10 bytes, and SUBSCRIBE has 14"):
            await client.ended()


async def test_the_publisher_sends_nothing_larger_than_the_broker_takes() -> None:
    async def small(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(b"\x20\x08\x00\x00\x05\x27\x00\x00\x00\x40")
        body = await peer.expect(0x32)
        assert body[6:] == b"fits"
        await peer.say(b"\x40\x02" + body[3:5])
        await peer.expect(0xE0)

    async with ScriptedBroker(small) as broker:
        options = Options(url=broker.url, client_id="publisher", version=V5)
        async with Publisher(options) as publisher:
            await publisher.publish([b"t"], [b"fits"])
            with pytest.raises(MessageRefused, match="at most 64 bytes"):
                await publisher.publish([b"t"], [bytes(64)])


async def test_hung_up_for_good_at_the_start_refuses_to_start() -> None:
    async def refuses(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(CONNACK[V5])
        await peer.expect(0x82)
        await peer.say(b"\xe0\x01\x9e")
        await peer.gone()

    async with ScriptedBroker(refuses) as broker, Client(broker.url, version=V5) as client:
        with pytest.raises(BrokerMisconfigured, match="it has no shared subscriptions"):
            await client.ended()


async def test_a_session_kept_for_less_than_was_asked_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def forgetful(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(b"\x20\x08\x00\x00\x05\x11\x00\x00\x00\x3c")
        await peer.grant(V5)
        await stay(peer)

    async with ScriptedBroker(forgetful) as broker, Client(broker.url, version=V5) as client:
        await client.ready()
    assert "keeps the session for 60 s while we are away, not for 604800 s" in caplog.text


# Memory.


async def test_memory_stays_bounded_whatever_is_sent() -> None:
    """The largest packet there is, and more topics and properties than anybody has."""
    block = bytes(1 << 18)

    async def floods(peer: Peer) -> None:
        await peer.welcome(V5)
        size = len(block) * 256
        await peer.say(b"\x32" + codec.wire.variable_integer(size + 6) + b"\x00\x01t\x00\x01\x00")
        for _ in range(256):
            await peer.say(block)
        for number in range(20_000):
            topic = b"%d/" % number + bytes([97 + number % 26]) * 240
            properties = b"\x26\x00\x05%05d\x00\x00" % number
            body = len(topic).to_bytes(2, "big") + topic + bytes([len(properties)]) + properties
            await peer.say(b"\x30" + codec.wire.variable_integer(len(body)) + body)
        await peer.say(message(2, b"last", V5))
        await stay(peer)

    async with (
        ScriptedBroker(floods) as broker,
        Client(broker.url, version=V5, max_payload_bytes=1_000) as client,
    ):

        def forget(batch: codec.Batch) -> None:
            last.extend(payload for payload in batch.payloads if payload == b"last")
            client.payloads.clear()

        last: list[bytes] = []
        client.on_batch = forget
        tracemalloc.start()
        try:
            await client.until(lambda: bool(last), seconds=120)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert client.connection.counters.bytes > 64 * 2**20
        assert client.connection.counters.oversize == 1
        assert peak < 24 * 2**20


async def test_what_hangs_within_a_packet_is_given_up() -> None:
    """Nothing more comes, not even the answer to a ping: then half a packet is no sign of life."""

    async def hangs(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1, bytes(50_000))[:-1])
        await peer.gone()

    async with (
        ScriptedBroker(hangs, honest) as broker,
        Client(broker.url, keepalive_s=1) as client,
    ):
        await require_one_fault(client, BrokerUnavailable, "has been silent")


async def test_lies_end_with_the_connection_they_were_told_on() -> None:
    """Half a packet, half a handshake and unanswered pings do not outlive it."""
    halves: list[Script] = [
        adds(message(1, bytes(5_000))[:-1], hang_up),
        says(b"\x20", hang_up),
        adds(b"\x32\xff\xff", hang_up),
    ]

    async def at_last(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1, b"whole"))
        await stay(peer)

    async with ScriptedBroker(*halves, at_last) as broker, Client(broker.url) as client:
        await client.until(lambda: client.payloads == [b"whole"])
        assert {type(error) for error in client.errors} == {BrokerUnavailable}
        assert client.acknowledge() == 1
