"""The gateway on real sockets, in front of a writer that a test holds in its hand."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

import ingest.gateway
from device_profiles.errors import Reason
from device_profiles.hj212.asking import State
from device_profiles.hj212.commands import Command, ExeRtn, QnRtn, period, request_answer
from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import Frame, Tolerance
from device_profiles.hj212.reader import read_frames
from device_profiles.hj212.topics import refused_topic, stranger_topic
from ingest.gateway import Asks, NotConnected, Station
from ingest.link import SAMPLE_BYTES, Limits
from simulators.hj212 import Monitor
from tests.integration.gateway.stage import (
    HOST,
    MN,
    OTHER_MN,
    OTHER_TOPIC,
    PATIENCE_S,
    PW,
    TOPIC,
    Hand,
    carries,
    factors,
    full_second,
    gateway_on,
    monitor,
    qns,
    sent_by,
    until,
)
from tests.unit.hj212.hj212_wire import MINUTE, USUAL, wire

NARROW = {MN: Station(1, TOPIC, "yard/dust-1", password=PW)}


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.gateway, "LOOK_EVERY_S", 0.02)


def usual(count: int, device: Monitor) -> list[bytes]:
    """Frames of real-time data, a second apart."""
    end = full_second()
    return [
        frame
        for place in range(count)
        for frame in device.data(end - timedelta(seconds=count - place), factors(50.0 + place))
    ]


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"smartsite_gateway_{name}", labels) or 0.0


async def until_ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side hangs up."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read(-1)
        except ConnectionResetError:
            return b""


async def test_nothing_is_answered_before_its_commit_and_then_in_order() -> None:
    hand = Hand()
    hand.open.clear()
    async with gateway_on(hand) as gateway, monitor(gateway.port) as device:
        frames = usual(5, device)
        device.send(b"".join(frames[:3]))
        await until(lambda: hand.calls == 1, "they are being written")
        device.send(device.notice(Command.HEARTBEAT) + b"".join(frames[3:]))
        await until(lambda: gateway._flusher._waiting() >= 3, "more wait")
        assert device.heard == []
        hand.open.set()
        await until(lambda: len(device.heard) == 6, "all are answered")
    assert [frame.cn for frame in device.heard] == ["9014"] * 3 + ["9013"] + ["9014"] * 2
    answered = [frame.qn for frame in device.heard if frame.cn == "9014"]
    assert answered == qns(frames)
    for answer in device.heard:
        assert (answer.st, answer.mn, answer.pw, answer.version) == ("91", MN, PW, 1)
        assert not answer.answer_wanted
    assert [payload + b"\r\n" for payload in hand.of(TOPIC) if b"CN=2011" in payload] == frames


async def test_a_database_that_is_away_holds_the_answers_and_loses_none() -> None:
    hand = Hand()
    hand.failures = 3
    async with gateway_on(hand) as gateway, monitor(gateway.port) as device:
        frames = usual(20, device)
        said = [asyncio.create_task(device.say(frame)) for frame in frames]
        assert all(await asyncio.gather(*said))
    assert len(hand.of(TOPIC)) == 20


async def test_while_the_database_is_away_memory_is_bounded_by_not_reading() -> None:
    hand = Hand()
    hand.open.clear()
    limits = Limits(frames_per_s=1e6, bytes_per_s=1e9)
    async with gateway_on(hand, limits, most_bytes=50_000) as gateway:
        async with monitor(gateway.port) as device:
            frames = usual(5_000, device)
            device.send(b"".join(frames))
            await until(lambda: gateway.is_paused, "nothing more is read")
            waiting = gateway._flusher._waiting()
            assert waiting < 500
            hand.open.set()
            await until(lambda: len(device.answered) == 5_000, "all are answered")
        assert not gateway.is_paused


@pytest.mark.parametrize("kind", list(Checksum))
async def test_an_answer_has_the_devices_own_checksum_and_version(kind: Checksum) -> None:
    tolerated = frozenset(Tolerance)
    stations = {MN: Station(1, TOPIC, "yard/dust-1", tolerated)}
    hand = Hand()
    async with (
        gateway_on(hand, stations=stations) as gateway,
        monitor(gateway.port, checksum=kind, version=0) as device,
    ):
        # One in 256 is the same turned round: what the device's own is was seen before.
        for either_way in (False, True, True, False):
            assert await device.say(sent_by(device, either_way=either_way))
    assert len(device.heard) == 4
    for answer in device.heard:
        assert carries(answer, kind)
        assert answer.version == 0


async def test_a_tolerance_that_is_not_the_devices_puts_its_frames_aside_unanswered() -> None:
    hand = Hand()
    async with (
        gateway_on(hand) as gateway,
        monitor(gateway.port, checksum=Checksum.MODBUS) as wrong,
        monitor(gateway.port, OTHER_MN) as right,
    ):
        (frame,) = usual(1, wrong)
        wrong.send(frame)
        await until(lambda: len(hand.of(TOPIC)) == 1, "it is filed")
        assert await right.say(usual(1, right)[0])
    assert wrong.heard == []
    # What is filed is what the pipeline refuses.
    (event,) = read_frames(hand.of(TOPIC)[0])
    assert not isinstance(event, Frame)
    assert event.reason is Reason.CRC


async def test_a_damaged_frame_is_filed_under_its_device_and_not_answered() -> None:
    hand = Hand()
    damaged = wire(USUAL, crc="0000")
    async with gateway_on(hand) as gateway, monitor(gateway.port) as device:
        device.send(damaged)
        assert await device.say(usual(1, device)[0])
    assert hand.of(TOPIC)[0] + b"\r\n" == damaged
    assert len(device.heard) == 1


async def test_strangers_are_filed_by_their_mn_within_limits_and_not_answered() -> None:
    hand = Hand()
    dropped = counted("dropped_total")
    limits = Limits(strangers_a_minute=4, faults=10)
    async with gateway_on(hand, limits) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL.replace(MN, "NOBODY/1")) * 10)
        assert await until_ended(reader) == b""
        writer.close()
    topic = stranger_topic("NOBODY/1")
    assert topic == b"hj212/NOBODY%2F1"
    assert 4 <= len(hand.of(topic)) <= 5
    assert counted("dropped_total") - dropped == 10 - len(hand.of(topic))


async def test_a_registered_password_is_asked_for() -> None:
    hand = Hand()
    async with gateway_on(hand, stations=NARROW) as gateway:
        async with (
            monitor(gateway.port, pw="000000") as wrong,
            monitor(gateway.port) as right,
        ):
            wrong.send(usual(1, wrong)[0])
            await until(lambda: len(hand.of(refused_topic(MN))) == 1, "it is put aside")
            assert await right.say(usual(1, right)[0])
            # Without a password of its own a fault is blamed on nobody.
            wrong.send(wire(USUAL.replace(f"PW={PW};", ""), crc="0000"))
            assert await right.say(usual(1, right)[0])
        assert wrong.heard == []
    assert len(hand.of(TOPIC)) == 2


async def test_a_password_that_cannot_be_read_is_nobodys() -> None:
    hand = Hand()
    stations = {MN: Station(1, TOPIC, "yard/dust-1", password="")}
    async with gateway_on(hand, stations=stations) as gateway, monitor(gateway.port, pw="") as one:
        one.send(usual(1, one)[0])
        await until(lambda: len(hand.of(refused_topic(MN))) == 1, "it is put aside")
    assert one.heard == []


async def test_several_devices_share_a_connection() -> None:
    hand = Hand()
    async with gateway_on(hand) as gateway, monitor(gateway.port) as logger:
        other = Monitor(OTHER_MN, pw=PW)
        frames = [usual(1, one)[0] for one in (logger, other, logger, other)]
        logger.send(b"".join(frames))
        await until(lambda: len(logger.heard) == 4, "all are answered")
        assert sorted(gateway.connected) == [MN, OTHER_MN]
    assert [frame.mn for frame in logger.heard] == [MN, OTHER_MN, MN, OTHER_MN]
    assert len(hand.of(TOPIC)) == len(hand.of(OTHER_TOPIC)) == 2


async def test_a_frame_without_mn_is_its_connections_alone() -> None:
    hand = Hand()
    async with gateway_on(hand) as gateway, monitor(gateway.port) as device:
        assert await device.say(usual(1, device)[0])
        nameless = wire(USUAL.replace(f"MN={MN};", ""))
        device.send(nameless)
        await until(lambda: len(device.heard) == 2, "it is answered")
    assert nameless.rstrip() in hand.of(TOPIC)


async def test_the_newest_connection_of_a_device_wins() -> None:
    hand = Hand()
    async with gateway_on(hand) as gateway, monitor(gateway.port) as old:
        assert await old.say(usual(1, old)[0])
        async with monitor(gateway.port) as new:
            assert await new.say(usual(1, new)[0])
            await until(lambda: not old.is_connected, "the old one is closed")
            assert new.is_connected
            assert list(gateway.connected) == [MN]


async def test_who_sends_no_more_still_gets_its_answers() -> None:
    hand = Hand()
    hand.open.clear()
    async with gateway_on(hand) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL))
        writer.write_eof()
        await until(lambda: hand.calls == 1, "it is being written")
        hand.open.set()
        assert b";CN=9014;" in await until_ended(reader)
        writer.close()


async def test_who_does_not_take_answers_is_dropped_and_holds_up_nobody() -> None:
    hand = Hand()
    limits = Limits(frames_per_s=1e6, bytes_per_s=1e9, slow_s=0.2)
    async with gateway_on(hand, limits) as gateway, monitor(gateway.port, OTHER_MN) as other:
        slow = counted("connections_ended_total", why="slow")
        _, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL) * 60_000)
        await until(lambda: counted("connections_ended_total", why="slow") > slow, "it is dropped")
        assert await other.say(usual(1, other)[0])
        assert list(gateway.connected) == [OTHER_MN]
        writer.transport.abort()


async def test_connections_are_limited_in_all_and_by_address() -> None:
    refused = counted("connections_ended_total", why="refused")
    async with gateway_on(Hand(), Limits(connections_an_address=2)) as gateway:
        async with monitor(gateway.port), monitor(gateway.port, OTHER_MN):
            await until(lambda: counted("connections") == 2, "both are there")
            reader, writer = await asyncio.open_connection(HOST, gateway.port)
            assert await until_ended(reader) == b""
            writer.close()
        assert counted("connections_ended_total", why="refused") == refused + 1
        await until(lambda: counted("connections") == 0, "both are gone")
        async with monitor(gateway.port) as device:
            assert await device.say(usual(1, device)[0])


async def test_who_sends_too_much_is_read_more_slowly_and_alone() -> None:
    hand = Hand()
    async with (
        gateway_on(hand, Limits(frames_per_s=1)) as gateway,
        monitor(gateway.port) as eager,
        monitor(gateway.port, OTHER_MN) as other,
    ):
        eager.send(b"".join(usual(500, eager)))
        await until(lambda: len(eager.answered) >= 10, "some are answered")
        assert await other.say(usual(1, other)[0])
        assert len(hand.of(TOPIC)) < 200


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(first_frame_s=0.05), b""),
        (Limits(frame_s=0.05), b"##0151QN=2026"),
        (Limits(idle_s=0.05), wire(USUAL)),
    ],
    ids=["says nothing", "never ends a frame", "falls silent"],
)
async def test_who_keeps_a_connection_for_nothing_loses_it(limits: Limits, said: bytes) -> None:
    idle = counted("connections_ended_total", why="idle")
    async with gateway_on(Hand(), limits) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(said)
        await until_ended(reader)
        writer.close()
    assert counted("connections_ended_total", why="idle") == idle + 1


async def test_garbage_closes_the_connection_and_its_beginning_is_kept() -> None:
    hand = Hand()
    faults = counted("connections_ended_total", why="faults")
    garbage = b"GET / HTTP/1.1\r\n" + bytes(range(256)) * 400
    async with gateway_on(hand) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(garbage)
        await until_ended(reader)
        writer.close()
        await until(lambda: len(hand.messages) == 1, "its beginning is kept")
    ((topic, payload),) = hand.messages
    assert topic.startswith(b"hj212/unread/127.0.0.1/")
    assert garbage.startswith(payload)
    assert len(payload) == SAMPLE_BYTES
    assert counted("connections_ended_total", why="faults") == faults + 1


async def test_faults_in_a_row_close_the_connection_and_each_is_filed() -> None:
    hand = Hand()
    async with gateway_on(hand, Limits(faults=5)) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL, crc="0000") * 4 + wire(USUAL) + wire(USUAL, crc="0000") * 5)
        assert (await until_ended(reader)).count(b"CN=9014") <= 1
        writer.close()
        await until(lambda: len(hand.messages) == 10, "all are filed")
    assert len(hand.of(TOPIC)) == 10


async def test_a_half_frame_at_the_end_is_filed_under_its_device() -> None:
    hand = Hand()
    async with gateway_on(hand) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL) + wire(MINUTE)[:200])
        writer.write_eof()
        assert b";CN=9014;" in await until_ended(reader)
        writer.close()
    assert hand.of(TOPIC)[1] == wire(MINUTE)[:200]


async def test_a_device_that_asks_for_the_time_is_set() -> None:
    async with gateway_on(Hand()) as gateway, monitor(gateway.port, clock_off_s=-7_200) as device:
        assert await device.say(device.notice(Command.ASK_FOR_CLOCK))
        await until(lambda: abs(device.clock_off_s) < 30, "its clock is right")
    assert [frame.cn for frame in device.heard] == ["9013", "1012"]


@pytest.mark.parametrize(("off_s", "commands"), [(120.0, 1), (30.0, 0)])
async def test_a_clock_that_is_off_is_set_once_where_that_is_wanted(
    off_s: float, commands: int
) -> None:
    asks = Asks(set_clock_over_s=60)
    async with gateway_on(Hand(), asks=asks) as gateway, monitor(gateway.port) as device:
        device.clock_off_s = off_s
        frames = usual(3, device)
        assert all([await device.say(frame) for frame in frames])
        await until(
            lambda: sum(frame.cn == "1012" for frame in device.heard) == commands, "it is set"
        )
        device.clock_off_s = off_s
        assert await device.say(usual(1, device)[0])
    assert sum(frame.cn == "1012" for frame in device.heard) == commands


async def test_a_device_that_does_not_answer_is_asked_four_times() -> None:
    asks = Asks(timeout_s=0.02)
    async with gateway_on(Hand(), asks=asks) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL))
        await reader.readuntil(b"\r\n")
        asking = await gateway.ask(MN, Command.CLOCK, lambda: ())
        commands = [await reader.readuntil(b"\r\n") for _ in range(4)]
        writer.close()
    assert asking.state is State.UNANSWERED
    assert asking.sendings == 4
    assert len(set(commands)) == 1


async def test_a_device_may_refuse() -> None:
    async with gateway_on(Hand()) as gateway:
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL))
        await reader.readuntil(b"\r\n")
        under_way = asyncio.create_task(gateway.ask(MN, Command.CLOCK, lambda: ()))
        (command,) = read_frames(await reader.readuntil(b"\r\n"))
        assert isinstance(command, Frame)
        assert (command.mn, command.pw, command.st, command.answer_wanted) == (MN, PW, "39", True)
        writer.write(request_answer(command, QnRtn.BAD_PW))
        asking = await under_way
        writer.close()
    assert (asking.state, asking.request) == (State.REFUSED, QnRtn.BAD_PW)


async def test_a_connection_that_is_lost_ends_what_was_asked() -> None:
    async with gateway_on(Hand()) as gateway:
        with pytest.raises(NotConnected):
            await gateway.ask(MN, Command.CLOCK, lambda: ())
        reader, writer = await asyncio.open_connection(HOST, gateway.port)
        writer.write(wire(USUAL))
        await reader.readuntil(b"\r\n")
        under_way = asyncio.create_task(gateway.ask(MN, Command.CLOCK, lambda: ()))
        await reader.readuntil(b"\r\n")
        writer.transport.abort()
        with pytest.raises(NotConnected):
            await under_way


async def test_data_of_the_past_are_asked_for_and_each_frame_is_answered() -> None:
    hand = Hand()
    async with gateway_on(hand) as gateway, monitor(gateway.port) as device:
        assert await device.say(usual(1, device)[0])
        minute = full_second().replace(second=0)
        for place in range(5):
            device.data(minute - timedelta(minutes=place), factors(50.0), cn=Command.MINUTE_DATA)
        span = minute - timedelta(minutes=3), minute - timedelta(minutes=1)
        asking = await gateway.ask(
            MN, Command.MINUTE_DATA, lambda: period(Command.MINUTE_DATA, *span)
        )
        assert (asking.state, asking.result, asking.content) == (State.DONE, ExeRtn.DONE, 3)
        none = await gateway.ask(MN, Command.HOUR_DATA, lambda: period(Command.HOUR_DATA, *span))
        assert (none.state, none.result) == (State.FAILED, ExeRtn.NO_DATA)
    assert sum(b"CN=2051" in payload for payload in hand.of(TOPIC)) == 3
