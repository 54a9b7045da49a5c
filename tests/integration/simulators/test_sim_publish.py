"""Publishing: on time, in order, until acknowledged, and honest about what may be doubled."""

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt
import pytest

from device_profiles.native import decode_status
from device_profiles.recording import Message, write_recording
from simulators.errors import BrokerRefused, Misconfigured
from simulators.publish import QUEUE_MESSAGES, Broker, Counts, Identity, publish, run_site
from simulators.replay import replay
from simulators.site import SimulatedSite

if TYPE_CHECKING:
    from tests.integration.simulators.conftest import Published, Relay, ScriptedBroker

START = datetime(2026, 11, 21, 1, 30, tzinfo=UTC)
ME = Identity("one-device")


def numbered(count: int, every_ms: int = 0) -> list[Message]:
    return [
        Message(
            START + timedelta(milliseconds=number * every_ms),
            "site/s/dust/d1/telemetry",
            b'{"ts":%d,"values":{"pm10_ug_m3":1}}' % number,
        )
        for number in range(count)
    ]


def payloads_of(published: list["Published"]) -> list[bytes]:
    return [one.payload for one in published]


async def say(broker: "ScriptedBroker", messages: list[Message], counts: Counts) -> Counts:
    return await publish(messages, broker.url, lambda _: ME, speed=math.inf, counts=counts)


async def test_says_everything_once_and_in_order(scripted_broker: "ScriptedBroker") -> None:
    counts = await say(scripted_broker, numbered(50), Counts())
    assert payloads_of(scripted_broker.published) == [one.payload for one in numbered(50)]
    assert counts.readings == {"dust": 50, "crane": 0}
    assert not counts.resent + counts.unconfirmed + counts.unsent + counts.refused
    assert counts.reconnects == 0
    assert scripted_broker.left == ["one-device"]


async def test_says_again_the_same_only_what_was_not_acknowledged(
    scripted_broker: "ScriptedBroker",
) -> None:
    async def lose_two(published: "Published") -> bool:
        return published.number not in (3, 7)

    scripted_broker.answer = lose_two
    counts = await say(scripted_broker, numbered(10), Counts())
    # Message 3 came as number 3 and 4, so number 7 is message 6.
    expected = [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9]
    assert payloads_of(scripted_broker.published) == [numbered(10)[n].payload for n in expected]
    assert counts.published == {"dust": 10}
    assert counts.resent == {"dust": 2}
    assert counts.reconnects == 2


async def test_a_slow_acknowledgement_is_not_waited_for_for_ever(
    scripted_broker: "ScriptedBroker", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulators.publish.ACK_TIMEOUT_S", 0.1)
    never = asyncio.Event()

    async def swallow_one(published: "Published") -> bool:
        if published.number == 1:
            await never.wait()
        return True

    scripted_broker.answer = swallow_one
    counts = await say(scripted_broker, numbered(3), Counts())
    never.set()
    sent = [numbered(3)[n].payload for n in (0, 1, 1, 2)]
    assert payloads_of(scripted_broker.published) == sent
    assert (counts.published["dust"], counts.resent["dust"]) == (3, 1)


async def test_gives_up_what_the_broker_cannot_bear(scripted_broker: "ScriptedBroker") -> None:
    async def choke(published: "Published") -> bool:
        return b'"ts":1,' not in published.payload

    scripted_broker.answer = choke
    counts = await say(scripted_broker, numbered(3), Counts())
    assert (counts.published["dust"], counts.refused["dust"]) == (2, 1)
    assert scripted_broker.published[-1].payload == numbered(3)[2].payload


async def test_a_topic_no_broker_takes_stops_nobody(scripted_broker: "ScriptedBroker") -> None:
    bad = [Message(START, topic, b"x") for topic in ("a/#/b", "", "+")]
    counts = await say(scripted_broker, [*bad, *numbered(2)], Counts())
    assert counts.published == {"dust": 2}
    assert counts.refused == {"unreadable": 3}
    assert counts.reconnects == 0


async def test_cancelled_it_says_what_may_have_been_taken(
    scripted_broker: "ScriptedBroker", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulators.publish.STOP_GRACE_S", 0.05)
    stuck = asyncio.Event()
    forever = asyncio.Event()

    async def stop_at_five(published: "Published") -> bool:
        if published.number == 5:
            stuck.set()
            await forever.wait()
        return True

    scripted_broker.answer = stop_at_five
    counts = Counts()
    run = asyncio.create_task(say(scripted_broker, numbered(20), counts))
    await stuck.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    forever.set()
    assert counts.published == {"dust": 5}
    assert counts.unconfirmed == {"dust": 1}
    assert counts.unsent == {"dust": 14}
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("device ")]


async def test_cancelled_it_waits_for_what_is_under_way_and_says_goodbye(
    scripted_broker: "ScriptedBroker",
) -> None:
    seen = asyncio.Event()
    go_on = asyncio.Event()

    async def pause_at_five(published: "Published") -> bool:
        if published.number == 5:
            seen.set()
            await go_on.wait()
        return True

    scripted_broker.answer = pause_at_five
    status = "site/s/dust/d1/status"
    goodbye = Message(START, status, b'{"online":false}', retain=True)
    me = Identity("one-device", goodbye=goodbye)
    counts = Counts()
    run = asyncio.create_task(
        publish(numbered(20), scripted_broker.url, lambda _: me, speed=math.inf, counts=counts)
    )
    await seen.wait()
    run.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert counts.published == {"dust": 6, "status": 1}
    assert not counts.unconfirmed
    assert counts.unsent == {"dust": 14}
    last = scripted_broker.published[-1]
    assert (last.topic, last.payload, last.retain) == (status, goodbye.payload, True)
    assert scripted_broker.left == ["one-device"]


async def test_without_a_broker_it_ends_after_its_grace() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    counts = await publish(
        numbered(5), f"mqtt://127.0.0.1:{port}", lambda _: ME, speed=math.inf, grace_s=0.05
    )
    assert counts.unsent == {"dust": 5}
    assert not counts.published + counts.unconfirmed


async def test_refused_at_the_door_it_says_who(scripted_broker: "ScriptedBroker") -> None:
    scripted_broker.connack = 5
    with pytest.raises(BrokerRefused, match="one-device"):
        await say(scripted_broker, numbered(QUEUE_MESSAGES + 10), Counts())


async def test_a_slow_broker_holds_the_schedule_not_the_memory(
    scripted_broker: "ScriptedBroker",
) -> None:
    generated = 0
    held = asyncio.Event()
    release = asyncio.Event()

    def watched() -> Iterator[Message]:
        nonlocal generated
        for one in numbered(QUEUE_MESSAGES * 3):
            generated += 1
            yield one

    async def hold_first(_: "Published") -> bool:
        held.set()
        await release.wait()
        return True

    scripted_broker.answer = hold_first
    run = asyncio.create_task(publish(watched(), scripted_broker.url, lambda _: ME, speed=math.inf))
    await held.wait()
    assert generated <= QUEUE_MESSAGES + 2
    release.set()
    counts = await run
    assert counts.published["dust"] == generated == QUEUE_MESSAGES * 3


async def test_keeps_to_its_schedule_without_drift(scripted_broker: "ScriptedBroker") -> None:
    loop = asyncio.get_running_loop()
    came: list[float] = []

    async def note(_: "Published") -> bool:
        came.append(loop.time())
        await asyncio.sleep(0.01)  # a broker that takes half of the interval
        return True

    scripted_broker.answer = note
    messages = numbered(20, every_ms=200)
    began = loop.time()
    await publish(messages, scripted_broker.url, lambda _: ME, speed=10.0)
    # Never early; how late is the machine's affair.
    due = [began + number * 0.02 for number in range(20)]
    assert all(at >= then for at, then in zip(came, due, strict=True))


async def test_wrong_speed_is_refused() -> None:
    for speed in (0.0, -1.0, math.nan):
        with pytest.raises(Misconfigured, match="speed"):
            await publish([], Broker("127.0.0.1", 1), lambda _: ME, speed=speed)


async def test_each_device_connects_with_its_own_will(scripted_broker: "ScriptedBroker") -> None:
    site = SimulatedSite()
    seen: list[tuple[Message, datetime]] = []
    counts = await run_site(
        site,
        scripted_broker.url,
        seconds=3.0,
        start=START,
        speed=math.inf,
        on_published=lambda message, at: seen.append((message, at)),
    )
    devices = {device.id for device in site.devices()}
    assert {topic.split("/")[-2] for topic, _ in scripted_broker.wills} == devices
    assert not any(decode_status(payload).online for _, payload in scripted_broker.wills)
    assert len({one.client_id for one in scripted_broker.published}) == len(devices)
    assert counts.readings == {"dust": 6, "crane": 6}
    assert counts.frames == 6
    assert counts.status == 2 * len(devices)  # hello and goodbye
    said = Counter(message.topic for message, _ in seen)
    assert said == Counter(one.topic for one in scripted_broker.published)


class Listener:
    """Collects what a real broker delivers below a prefix."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self.heard: list[aiomqtt.Message] = []

    async def until_silent(self) -> list[aiomqtt.Message]:
        """All that was published before now: a mark is published and waited for."""
        await self._client.publish("mark/end", b"", qos=1)
        async for message in self._client.messages:
            if message.topic.value == "mark/end":
                return self.heard
            self.heard.append(message)
        raise AssertionError("the listener's connection ended")


async def test_a_real_broker_delivers_what_was_published(broker_url: str, mqtt_prefix: str) -> None:
    site = SimulatedSite(district=mqtt_prefix)
    broker = Broker.parse(broker_url)
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await client.subscribe([(f"{mqtt_prefix}/#", 1), ("mark/end", 1)])
        counts = await run_site(site, broker, seconds=20.0, start=START, speed=math.inf)
        heard = await Listener(client).until_silent()
    expected = Counter(
        (message.topic, message.payload)
        for message in site.messages(START, 0, 20.0)
        if not message.retain
    )
    got = Counter(
        (message.topic.value, message.payload)
        for message in heard
        if not message.topic.value.endswith("/status")
    )
    assert got == expected
    assert counts.readings == {"dust": 40, "crane": 40}
    assert counts.frames == 40
    assert not counts.resent + counts.unconfirmed + counts.unsent + counts.refused
    # Whoever comes later finds every device switched off, not lost.
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await client.subscribe([(f"{mqtt_prefix}/#", 1), ("mark/end", 1)])
        kept = await Listener(client).until_silent()
    assert len(kept) == len(site.devices())
    for message in kept:
        assert isinstance(message.payload, bytes)
        assert decode_status(message.payload).detail == "switched off"


async def test_cut_connections_lose_nothing(relay: "Relay", mqtt_prefix: str) -> None:
    site = SimulatedSite(district=mqtt_prefix)
    published = 0

    def cut_sometimes(message: Message, at: datetime) -> None:
        nonlocal published
        published += 1
        if published in (20, 60, 100):
            relay.cut()

    broker = Broker("127.0.0.1", relay._target[1])
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await client.subscribe([(f"{mqtt_prefix}/#", 1), ("mark/end", 1)])
        counts = await run_site(
            site, relay.url, seconds=25.0, start=START, speed=math.inf, on_published=cut_sometimes
        )
        heard = await Listener(client).until_silent()
    expected = {
        message.payload
        for message in site.messages(START, 0, 25.0)
        if message.topic.endswith("/telemetry")
    }
    telemetry = [m.payload for m in heard if m.topic.value.endswith("/telemetry")]
    assert relay.cuts == 3
    assert counts.reconnects >= 3
    assert set(telemetry) == expected
    readings = sum(counts.readings.values())
    assert readings == len(set(telemetry)) == 100
    resent = counts.resent["dust"] + counts.resent["crane"]
    assert readings <= len(telemetry) <= readings + resent
    # The broker said the last wills, and the devices put them right.
    words = [
        decode_status(m.payload)
        for m in heard
        if m.topic.value.endswith("dust-1/status") and isinstance(m.payload, bytes)
    ]
    details = [word.detail for word in words]
    assert "connection lost" in details
    assert words[details.index("connection lost") + 1].online


async def test_a_recording_is_replayed_byte_for_byte(
    broker_url: str, mqtt_prefix: str, tmp_path: Path
) -> None:
    site = SimulatedSite(district=mqtt_prefix)
    path = tmp_path / "run.jsonl.zst"
    write_recording(path, site.messages(START, 2, 10.0))
    broker = Broker.parse(broker_url)
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await client.subscribe([(f"{mqtt_prefix}/#", 1), ("mark/end", 1)])
        counts = await replay(path, broker, speed=math.inf, connections=3)
        heard = await Listener(client).until_silent()
    messages = list(site.messages(START, 2, 10.0))
    assert Counter((m.topic.value, m.payload) for m in heard) == Counter(
        (message.topic, message.payload) for message in messages
    )
    assert sum(counts.published.values()) == len(messages)
    of_one = [m.payload for m in heard if m.topic.value.endswith("crane-1/telemetry")]
    assert of_one == [m.payload for m in messages if m.topic.endswith("crane-1/telemetry")]


async def test_a_recording_is_replayed_as_if_now(
    scripted_broker: "ScriptedBroker", tmp_path: Path
) -> None:
    path = tmp_path / "run.jsonl"
    write_recording(path, SimulatedSite().messages(START, 2, 2.0))
    before = datetime.now(UTC)
    await replay(path, scripted_broker.url, speed=math.inf, shift_to_now=True)
    frames = [one.topic for one in scripted_broker.published if "/frame/" in one.topic]
    first_ms = int(frames[0].rpartition("/")[2])
    begins = before.timestamp() * 1_000 + 200  # the camera speaks 0.2 s into each second
    assert first_ms >= begins - 1
    assert [int(topic.rpartition("/")[2]) - first_ms for topic in frames] == [0, 500, 1_000, 1_500]
