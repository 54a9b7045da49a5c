"""The connection against a broker that keeps to a script: handshake, keepalive, back-pressure."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from ingest.mqtt import codec, connection, link
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Phase
from ingest.mqtt.errors import BrokerUnavailable, ConnectRefused, FilterRefused
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
    hang_up,
    honest,
    message,
    says,
    stay,
)


@pytest.mark.parametrize("version", [V3, V5])
async def test_silence_instead_of_an_answer(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "OPEN_TIMEOUT_S", 0.4)

    async def says_nothing(peer: Peer) -> None:
        await peer.gone()

    async def grants_nothing(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(CONNACK[version])
        await peer.gone()

    async def at_last(peer: Peer) -> None:
        await peer.welcome(version)
        await stay(peer)

    async with (
        ScriptedBroker(says_nothing, grants_nothing, at_last) as broker,
        Client(broker.url, version=version) as client,
    ):
        await client.ready()
        assert [str(error).split(" did ")[1] for error in client.errors] == [
            "not answer CONNECT in 0 s",
            "not answer SUBSCRIBE in 0 s",
        ]


async def test_a_broker_that_falls_silent_is_given_up() -> None:
    async def falls_silent(peer: Peer) -> None:
        await peer.welcome()
        await peer.gone()

    async with (
        ScriptedBroker(falls_silent, honest) as broker,
        Client(broker.url, keepalive_s=1) as client,
    ):
        await client.ready(2)
        assert "has been silent" in str(client.errors[0])


async def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        async with Client(f"mqtt://127.0.0.1:{taken.getsockname()[1]}") as client:
            await client.until(lambda: len(client.errors) >= 3)
            assert {type(error) for error in client.errors} == {BrokerUnavailable}
            assert client.connection.state.failures >= 3


async def test_delays_double_up_to_a_limit_and_vary() -> None:
    async with Client("mqtt://127.0.0.1:1") as client:
        client.stop.set()
    client.connection._dice = random.Random(1)
    for failures, longest in ((1, 0.1), (2, 0.2), (5, 1.6), (9, 25.6), (10, 30.0), (5_000, 30.0)):
        client.connection.state = replace(client.connection.state, failures=failures)
        delays = [client.connection._delay_s() for _ in range(50)]
        assert longest / 2 <= min(delays) < max(delays) <= longest


# Refusals.


@pytest.mark.parametrize(
    ("version", "answer", "words", "code"),
    [
        (V3, b"\x20\x02\x00\x01", "does not speak this version", 1),
        (V3, b"\x20\x02\x00\x02", "client id", 2),
        (V3, b"\x20\x02\x00\x04", "user name or password is wrong", 4),
        (V3, b"\x20\x02\x00\x05", "not authorised", 5),
        (V5, b"\x20\x02\x00\x01", "does not speak this version", 1),
        (V5, b"\x20\x03\x00\x86\x00", "user name or password is wrong", 0x86),
        (V5, b"\x20\x09\x00\x87\x06\x1f\x00\x03why", "not authorised .code 0x87, 'why'", 0x87),
    ],
)
async def test_refused_at_the_start(
    version: Version, answer: bytes, words: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedBroker(says(answer, hang_up)) as broker:
        url = broker.url.replace("//", "//hidden:hidden@")
        async with Client(url, version=version) as client:
            with pytest.raises(ConnectRefused, match=words) as refusal:
                await client.ended()
            assert refusal.value.code == code
            assert client.connection.state.phase is Phase.STOPPED
            assert "hidden" not in f"{caplog.text}{refusal.value!r}{client.states}"
    assert broker.connections == 1


@pytest.mark.parametrize(
    ("version", "codes", "words", "refused"),
    [
        (V3, b"\x01\x80", "1 of 2 filters: 'b/#': refused; see its access rules", {"b/#": 0x80}),
        (V3, b"\x00\x01", "'a/#': granted with QoS 0, which may lose", {"a/#": 0}),
        (V5, b"\x87\x9e", "'a/#': not authorised .code 0x87.; 'b/#': it has no shared", None),
    ],
)
async def test_a_refused_filter_refuses_to_start(
    version: Version, codes: bytes, words: str, refused: dict[str, int] | None
) -> None:
    async def refuses(peer: Peer) -> None:
        await peer.welcome(version, codes=codes)
        await peer.gone()

    filters = (("a/#", 1), ("b/#", 1))
    async with (
        ScriptedBroker(refuses) as broker,
        Client(broker.url, version=version, filters=filters) as client,
    ):
        with pytest.raises(FilterRefused, match=words) as refusal:
            await client.ended()
        assert refusal.value.refused == (refused or {"a/#": 0x87, "b/#": 0x9E})
    assert broker.connections == 1


async def test_what_is_refused_after_it_was_granted_is_tried_again() -> None:
    """A broker that recovers may refuse for a while; and what it refused is asked for again."""

    async def lets_go(peer: Peer) -> None:
        await peer.welcome()

    async def forgets_and_refuses(peer: Peer) -> None:
        await peer.welcome(codes=b"\x80")
        await peer.gone()

    async def remembers_the_session(peer: Peer) -> None:
        await peer.welcome(present=True)
        await stay(peer)

    async with (
        ScriptedBroker(
            lets_go,
            says(b"\x20\x02\x00\x05", hang_up),
            forgets_and_refuses,
            remembers_the_session,
        ) as broker,
        Client(broker.url) as client,
    ):
        await client.ready(2)
        assert [type(error) for error in client.errors] == [
            BrokerUnavailable,
            ConnectRefused,
            FilterRefused,
        ]


# Sessions.


@pytest.mark.parametrize("version", [V3, V5])
async def test_subscribes_at_first_and_when_the_session_is_gone(version: Version) -> None:
    subscribed: list[int] = []

    def script(*, present: bool, subscribes: bool) -> Script:
        async def play(peer: Peer) -> None:
            await peer.expect(0x10)
            await peer.say((SESSION_PRESENT if present else CONNACK)[version])
            if subscribes or version is V5:
                body = await peer.grant(version)
                subscribed.append(body[-1])
            # The next packet is none of a handshake.
            await peer.say(codec.publish(version, b"site/a", b"x", packet_id=5))
            assert await peer.expect(0x40) == b"\x00\x05"

        return play

    def acknowledge(batch: codec.Batch) -> None:
        client.connection.acknowledge(batch.generation, batch.packet_ids)

    async with (
        ScriptedBroker(
            script(present=True, subscribes=True),
            script(present=True, subscribes=False),
            script(present=False, subscribes=True),
            script(present=True, subscribes=False),
            stay,
        ) as broker,
        Client(broker.url, version=version) as client,
    ):
        client.on_batch = acknowledge
        await client.until(lambda: client.connection.state.generation == 5)
        assert client.connection.counters.acknowledged == 4
    # MQTT 5: of a session that is there, retained messages are not wanted again, so that asking
    # costs nothing; and a broker that only says that the session is there does no harm.
    assert subscribed == ([1, 1] if version is V3 else [0x11, 0x11, 1, 0x11])
    lost = [state.session_lost for state in client.states if state.phase is Phase.SUBSCRIBING]
    assert lost == [False, False, True, False]


async def test_filters_of_an_earlier_configuration_are_unsubscribed_once() -> None:
    bodies: list[bytes] = []

    async def first(peer: Peer) -> None:
        await peer.welcome(present=True)
        bodies.append(await peer.expect(0xA2))
        await peer.say(b"\xb0\x02\x00\x02")

    async def second(peer: Peer) -> None:
        await peer.welcome(present=True, codes=None)
        await stay(peer)

    async with (
        ScriptedBroker(first, second) as broker,
        Client(broker.url, retired_filters=("old/#", "older")) as client,
    ):
        await client.ready(2)
    assert bodies == [b"\x00\x02\x00\x05old/#\x00\x05older"]


async def test_connect_says_what_was_asked_for() -> None:
    bodies: list[bytes] = []

    async def listen(peer: Peer) -> None:
        bodies.append(await peer.expect(0x10))
        await peer.say(CONNACK[V5])
        await peer.grant(V5)
        bodies.append(await peer.expect(0xE0))

    options = {
        "version": V5,
        "username": "me",
        "password": "mine",
        "keepalive_s": 77,
        "session_expiry_s": 3_600,
        "receive_maximum": 500,
        "will": codec.Will("gone", b"bye"),
    }
    async with ScriptedBroker(listen) as broker, Client(broker.url, **options) as client:
        await client.ready()
    connect, disconnect = bodies
    assert connect == (
        b"\x00\x04MQTT\x05\xcc\x00\x4d\x08\x11\x00\x00\x0e\x10\x21\x01\xf4"
        b"\x00\x06tester\x00\x00\x04gone\x00\x03bye\x00\x02me\x00\x04mine"
    )
    assert disconnect == b"\x00\x00"


async def test_the_brokers_own_keepalive_counts() -> None:
    """A broker of MQTT 5 that says 1 s is pinged in time, though we had asked for a minute."""
    pinged = asyncio.Event()

    async def listen(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(b"\x20\x06\x00\x00\x03\x13\x00\x01")
        await peer.grant(V5)
        assert (await peer.packet())[0] == 0xC0
        pinged.set()
        await peer.say(PINGRESP)
        await stay(peer)

    async with (
        ScriptedBroker(listen) as broker,
        Client(broker.url, version=V5, keepalive_s=60) as client,
    ):
        await client.ready()
        async with asyncio.timeout(30):
            await pinged.wait()


async def test_a_reason_for_hanging_up_is_told() -> None:
    async def taken_over(peer: Peer) -> None:
        await peer.welcome(V5)
        await peer.say(b"\xe0\x01\x8e")

    async def says_why(peer: Peer) -> None:
        await peer.welcome(V5)
        await peer.say(b"\xe0\x08\x8b\x06\x1f\x00\x03why")

    async def last(peer: Peer) -> None:
        await peer.welcome(V5)
        await stay(peer)

    async with (
        ScriptedBroker(taken_over, says_why, last) as broker,
        Client(broker.url, version=V5) as client,
    ):
        await client.ready(3)
        assert "another client has connected with our client id" in str(client.errors[0])
        assert "shutting down (code 0x8b, 'why')" in str(client.errors[1])


# Messages and their acknowledgement.


async def test_one_callback_a_read_and_one_write_for_all_acknowledgements() -> None:
    written = asyncio.Event()

    async def flood(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(b"".join(message(number) for number in range(1, 1_001)))
        await written.wait()
        assert await peer.packet() == (0x40, b"\x00\x01")
        for number in range(2, 1_001):
            assert await peer.packet() == (0x40, number.to_bytes(2, "big"))
        await stay(peer)

    async with ScriptedBroker(flood) as broker, Client(broker.url) as client:
        await client.until(lambda: len(client.payloads) == 1_000)
        assert client.batches < 100
        assert client.connection.unacknowledged == 1_000
        assert client.acknowledge() == 1_000
        assert client.connection.unacknowledged == 0
        written.set()
        counters = client.connection.counters
        assert (counters.messages, counters.acknowledged) == (1_000, 1_000)
        assert counters.bytes > 1_000 * len(message(1))


async def test_an_acknowledgement_never_outlives_its_connection() -> None:
    """Else it would be taken for the message that has the id now."""
    old_is_here, may_end, new_is_here = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1, b"old") + message(2, b"old"))
        await may_end.wait()

    async def second(peer: Peer) -> None:
        await peer.welcome(present=True, codes=None)
        await peer.say(message(1, b"new"))
        await new_is_here.wait()
        assert await peer.expect(0x40) == b"\x00\x01"
        await stay(peer)

    async with ScriptedBroker(first, second) as broker, Client(broker.url) as client:
        await client.until(lambda: client.payloads == [b"old", b"old"])
        old_is_here.set()
        may_end.set()
        await client.until(lambda: client.payloads[2:] == [b"new"])
        assert client.acknowledge(2) == 0
        assert client.connection.unacknowledged == 1
        assert client.connection.counters.outdated == 2
        assert client.acknowledge() == 1
        new_is_here.set()
    assert client.connection.acknowledge(2, [1]) == 0


async def test_copies_of_what_is_held_are_counted_and_not_handed_on() -> None:
    async def repeats(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1, b"a") + message(2, b"b"))
        for _ in range(3):
            await peer.say(message(1, b"a", dup=True) + message(2, b"b", dup=True))
        await peer.say(message(3, b"c"))
        await stay(peer)

    async with ScriptedBroker(repeats) as broker, Client(broker.url) as client:
        await client.until(lambda: b"c" in client.payloads)
        assert client.payloads == [b"a", b"b", b"c"]
        counters = client.connection.counters
        assert (counters.messages, counters.redelivered, counters.held_back) == (9, 6, 6)
        assert client.acknowledge() == 3


async def test_a_message_above_the_limit_is_told_of_and_the_next_is_served() -> None:
    batches: list[codec.Batch] = []

    async def sends(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1, b"L" * 300_000) + message(2, b"s"))
        assert await peer.expect(0x40) == b"\x00\x01"
        assert await peer.expect(0x40) == b"\x00\x02"
        await stay(peer)

    async with (
        ScriptedBroker(sends) as broker,
        Client(broker.url, max_payload_bytes=1_000) as client,
    ):
        client.on_batch = batches.append
        await client.until(lambda: len(client.payloads) == 2)
        (large,) = [large for batch in batches for large in batch.oversize.values()]
        assert large.payload_bytes == 300_000
        assert client.connection.counters.oversize == 1
        assert client.acknowledge() == 2


async def test_a_message_of_a_session_may_come_before_the_suback() -> None:
    async def floods_first(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(SESSION_PRESENT[V3] + message(1))
        await peer.expect(0x82)
        await asyncio.wait_for(seen.wait(), 30)
        await peer.say(b"\x90\x03\x00\x01\x01")
        await stay(peer)

    seen = asyncio.Event()
    async with ScriptedBroker(floods_first) as broker, Client(broker.url) as client:
        client.on_batch = lambda _batch: seen.set()
        await client.ready()
        assert client.phases[:3] == [Phase.CONNECTING, Phase.SUBSCRIBING, Phase.READY]


async def test_a_bug_of_the_consumer_stops_it() -> None:
    async def sends(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1))
        await stay(peer)

    def stumble(_batch: codec.Batch) -> None:
        raise KeyError("bug")

    async with ScriptedBroker(sends) as broker, Client(broker.url) as client:
        client.on_batch = stumble
        with pytest.raises(KeyError, match="bug"):
            await client.ended()


async def test_a_rest_after_small_reads_makes_them_fewer() -> None:
    async def drips(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1))
        await asyncio.wait_for(first.wait(), 30)
        for number in range(2, 51):
            await peer.say(message(number))
        await stay(peer)

    first = asyncio.Event()
    async with ScriptedBroker(drips) as broker, Client(broker.url, rest_s=0.2) as client:
        client.on_batch = lambda _batch: first.set()
        await client.until(lambda: len(client.payloads) == 50)
        assert client.batches < 25


# Back-pressure.


async def test_paused_it_reads_nothing_pings_on_and_stays_connected() -> None:
    pings = 0
    paused = asyncio.Event()
    enough = asyncio.Event()

    async def floods(peer: Peer) -> None:
        nonlocal pings
        await peer.welcome()
        await peer.say(message(1))
        await paused.wait()
        for number in range(2, 101):
            await peer.say(message(number))
        while pings < 5:  # unanswered, for more than one and a half keepalives
            assert (await peer.packet())[0] == 0xC0
            pings += 1
        enough.set()
        await stay(peer)

    def pause(_batch: codec.Batch) -> None:
        if not paused.is_set():
            client.connection.pause_reading()
            paused.set()

    async with ScriptedBroker(floods) as broker, Client(broker.url, keepalive_s=1) as client:
        client.on_batch = pause
        async with asyncio.timeout(30):
            await enough.wait()
        assert client.payloads == [b"x"]
        assert client.connection.paused
        assert client.acknowledge() == 1
        client.connection.resume_reading()
        await client.until(lambda: len(client.payloads) == 100)
        assert client.errors == []
    assert broker.connections == 1


@pytest.mark.parametrize("rest_s", [0.0, 0.05])
async def test_a_rest_and_a_pause_do_not_undo_each_other(rest_s: float) -> None:
    async def sends(peer: Peer) -> None:
        await peer.welcome()
        for number in range(1, 11):
            await peer.say(message(number))
            await asyncio.wait_for(taken.get(), 30)
        await stay(peer)

    def pause(_batch: codec.Batch) -> None:
        client.connection.pause_reading()
        asyncio.get_running_loop().call_later(0.02, client.connection.resume_reading)
        taken.put_nowait(None)

    taken: asyncio.Queue[None] = asyncio.Queue()
    async with ScriptedBroker(sends) as broker, Client(broker.url, rest_s=rest_s) as client:
        client.on_batch = pause
        await client.until(lambda: len(client.payloads) == 10)


async def test_lost_while_paused_it_waits_for_the_consumer() -> None:
    async def leaves(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1))
        await paused.wait()

    paused = asyncio.Event()

    def pause(_batch: codec.Batch) -> None:
        client.connection.pause_reading()
        paused.set()

    async with (
        ScriptedBroker(leaves, honest) as broker,
        Client(broker.url, keepalive_s=1) as client,
    ):
        client.on_batch = pause
        # What is not read shows no end of file; the next ping but one does.
        await client.until(lambda: client.connection.state.phase is Phase.WAITING)
        with pytest.raises(TimeoutError):
            await client.until(lambda: broker.connections > 1, seconds=0.3)
        client.connection.resume_reading()
        await client.ready(2)


async def test_paused_during_the_handshake_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "OPEN_TIMEOUT_S", 0.3)
    resumed = asyncio.Event()

    async def floods_first(peer: Peer) -> None:
        await peer.expect(0x10)
        await peer.say(SESSION_PRESENT[V3] + message(1))
        await peer.grant()
        await resumed.wait()
        await stay(peer)

    def pause(_batch: codec.Batch) -> None:
        client.connection.pause_reading()
        asyncio.get_running_loop().call_later(0.8, resume)

    def resume() -> None:
        client.connection.resume_reading()
        resumed.set()

    async with ScriptedBroker(floods_first) as broker, Client(broker.url) as client:
        client.on_batch = pause
        await client.ready()
        assert client.errors == []


# The end.


async def test_told_to_stop_it_says_goodbye() -> None:
    said: list[bytes] = []

    async def listen(peer: Peer) -> None:
        await peer.welcome()
        said.append(await peer.gone())

    async with ScriptedBroker(listen) as broker:
        async with Client(broker.url) as client:
            await client.ready()
        assert client.phases[-1] is Phase.STOPPED
        async with Client(broker.url):
            pass
    assert said[0] == b"\xe0\x00"


async def test_told_to_stop_it_stops_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def says_nothing(peer: Peer) -> None:
        await peer.gone()

    async with ScriptedBroker(says_nothing) as broker:
        async with Client(broker.url) as client:
            await client.until(lambda: client.connection.state.phase is Phase.CONNECTING)
        monkeypatch.setattr(connection, "FIRST_DELAY_S", 3_600.0)
        monkeypatch.setattr(connection, "LONGEST_DELAY_S", 3_600.0)
    async with Client(broker.url) as client:
        client.connection._dice = random.Random(1)
        await client.until(lambda: len(client.errors) == 1)
    assert client.phases[-1] is Phase.STOPPED


async def test_cancelled_it_leaves_no_connection() -> None:
    welcomed, ended = asyncio.Event(), asyncio.Event()

    async def listen(peer: Peer) -> None:
        await peer.welcome(present=True, codes=None)
        welcomed.set()
        await peer.gone()
        ended.set()

    async with ScriptedBroker(honest, listen) as broker:
        client = Client(broker.url)
        async with client:
            await client.ready()
        running = asyncio.create_task(client.connection.run(asyncio.Event()))
        await welcomed.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(30):
            await ended.wait()


def test_the_timeout_of_tcp_is_set_where_there_is_one() -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("this system has no TCP_USER_TIMEOUT")

    found: list[int] = []

    async def look() -> None:
        async with ScriptedBroker(honest) as broker, Client(broker.url, keepalive_s=7) as client:
            await client.ready()
            link = client.connection._link
            assert link is not None
            assert link._transport is not None
            raw: Callable[[int, int], int] = link._transport.get_extra_info("socket").getsockopt
            found.append(raw(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    asyncio.run(look())
    assert found == [14_000]
