"""Each packet whole, byte by byte, and with others behind it; each fault by name."""

from __future__ import annotations

import hashlib

import pytest

from ingest.mqtt.codec import (
    DUP,
    HEAD_BYTES,
    QOS_1,
    RETAIN,
    ConnAck,
    Disconnect,
    Event,
    Oversize,
    PingResp,
    Property,
    PublishRefused,
    Reader,
    SubAck,
    UnsubAck,
    Version,
)
from ingest.mqtt.errors import ProtocolError
from tests.unit.mqtt.mqtt_wire import (
    LIMIT,
    VERSIONS,
    Read,
    bytewise,
    feed,
    packet,
    publish,
    reader,
    string,
)

V3, V5 = VERSIONS

PINGRESP = b"\xd0\x00"

EVENTS: list[tuple[Version, bytes, Event]] = [
    (V3, packet(0x90, b"\x00\x01\x01\x80"), SubAck(1, (1, 0x80))),
    (V5, packet(0x90, b"\x01\x00\x00\x00\x01\x02\x87"), SubAck(256, (0, 1, 2, 0x87))),
    (V5, packet(0x90, b"\x00\x01\x04\x1f\x00\x01x\x01"), SubAck(1, (1,), "x")),
    (V3, packet(0xB0, b"\x00\x02"), UnsubAck(2, ())),
    (V5, packet(0xB0, b"\x00\x02\x00\x00\x11"), UnsubAck(2, (0, 0x11))),
    (V3, PINGRESP, PingResp()),
    (V5, PINGRESP, PingResp()),
    (V5, packet(0x40, b"\x00\x07\x87"), PublishRefused(7, 0x87)),
    (V5, packet(0x40, b"\x00\x07\x87\x05\x1f\x00\x02no"), PublishRefused(7, 0x87, "no")),
    (V5, packet(0xB0, b"\x00\x02\x05\x1f\x00\x02no\x80"), UnsubAck(2, (0x80,), "no")),
    (V5, packet(0x40, b"\x00\x07\x97\x09\x26\x00\x01k\x00\x03val"), PublishRefused(7, 0x97)),
    (V5, packet(0xE0, b""), Disconnect(0, "")),
    (V5, packet(0xE0, b"\x8e"), Disconnect(0x8E, "")),
    (V5, packet(0xE0, b"\x9d\x0c\x1f\x00\x03why\x1c\x00\x03who"), Disconnect(0x9D, "why who")),
]


@pytest.mark.parametrize(("version", "data", "event"), EVENTS)
def test_rare_packets(version: Version, data: bytes, event: Event) -> None:
    behind = PINGRESP + publish(version)
    message = (b"site/a/dust/b/telemetry", b"{}", 1, QOS_1, None)
    assert feed(reader(version), [data]) == Read([], [], [event])
    assert feed(reader(version), bytewise(data)) == Read([], [], [event])
    both = Read([message], [], [event, PingResp()])
    assert feed(reader(version), [data + behind]) == both
    assert feed(reader(version), bytewise(data + behind)) == both
    assert feed(reader(version), [data + behind[:-1], behind[-1:]]) == both


@pytest.mark.parametrize(
    ("version", "data", "event"),
    [
        (V3, b"\x20\x02\x00\x00", ConnAck(0, False, {})),
        (V3, b"\x20\x02\x01\x00", ConnAck(0, True, {})),
        (V3, b"\x20\x02\x00\x05", ConnAck(5, False, {})),
        (V5, b"\x20\x03\x01\x00\x00", ConnAck(0, True, {})),
        # What a broker of 3.1.1 alone says to MQTT 5.
        (V5, b"\x20\x02\x00\x01", ConnAck(1, False, {})),
        (
            V5,
            packet(
                0x20,
                b"\x00\x00\x0f" + b"\x1f\x00\x02no" + b"\x13\x00\x3c" + b"\x21\x00\x14"
                b"\x24\x01" + b"\x2a\x00",
            ),
            ConnAck(
                0,
                False,
                {
                    Property.REASON_STRING: "no",
                    Property.SERVER_KEEP_ALIVE: 60,
                    Property.RECEIVE_MAXIMUM: 20,
                    Property.MAXIMUM_QOS: 1,
                    Property.SHARED_AVAILABLE: 0,
                },
            ),
        ),
    ],
)
def test_connack(version: Version, data: bytes, event: ConnAck) -> None:
    for parts in ([data], list(bytewise(data))):
        assert feed(Reader(version, max_payload_bytes=1), parts) == Read([], [], [event])


PUBLISHES = [
    (publish(V3), (b"site/a/dust/b/telemetry", b"{}", 1, QOS_1)),
    (publish(V3, b"t", b"", 65_535, 0x3B), (b"t", b"", 65_535, DUP | QOS_1 | RETAIN)),
    (publish(V3, b"t", b"", first=0x30), (b"t", b"", 0, 0)),
    (publish(V3, b"t", b"x", first=0x31), (b"t", b"x", 0, RETAIN)),
    (publish(V3, "工地/塔机".encode(), b"\0" * 120, 9), ("工地/塔机".encode(), b"\0" * 120, 9, 2)),
    (publish(V3, b"a" * 5_000, b"y" * LIMIT), (b"a" * 5_000, b"y" * LIMIT, 1, QOS_1)),
    (publish(V5), (b"site/a/dust/b/telemetry", b"{}", 1, QOS_1)),
    (publish(V5, properties=b"\x02\x01\x01"), (b"site/a/dust/b/telemetry", b"{}", 1, QOS_1)),
    (
        publish(V5, b"t", b"pay", properties=b"\xcf\x01\x26\x00\x05state" + string("v" * 197)),
        (b"t", b"pay", 1, QOS_1),
    ),
    (publish(V5, b"t", b"", first=0x30), (b"t", b"", 0, 0)),
]


@pytest.mark.parametrize(("data", "message"), PUBLISHES)
def test_publish(data: bytes, message: tuple[bytes, bytes, int, int]) -> None:
    version = V5 if (data, message) in PUBLISHES[6:] else V3
    expected = [(*message, None)]
    assert feed(reader(version), [data]).messages == expected
    assert feed(reader(version), bytewise(data)).messages == expected
    taker = reader(version)
    # The second time the topic is known: the other way through the code.
    assert feed(taker, [data, data, data + data]).messages == expected * 4
    assert feed(taker, bytewise(data + data)).messages == expected * 2
    for cut in range(1, len(data), max(1, len(data) // 50)):
        parts = [data[:cut], data[cut:] + data + data[:cut], data[cut:]]
        assert feed(taker, parts).messages == expected * 3
    assert taker.held_bytes == 0


def test_many_in_one_read_and_cut_anywhere() -> None:
    data = b"".join(
        publish(V3, b"t/%d" % (i % 7), b"v" * (i % 300), i + 1, 0x3A if i % 5 else 0x32)
        for i in range(500)
    )
    expected = [
        (b"t/%d" % (i % 7), b"v" * (i % 300), i + 1, (DUP if i % 5 else 0) | QOS_1, None)
        for i in range(500)
    ]
    for size in (1, 2, 3, 127, 1_460, len(data)):
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        assert feed(reader(V3), parts, most_held=400).messages == expected


def test_equal_topics_are_one_object() -> None:
    batch = reader(V3).feed(publish(V3) * 3)
    assert len({id(topic) for topic in batch.topics}) == 1


def test_topics_beyond_what_is_remembered_are_read_all_the_same() -> None:
    taker = reader(V3)
    topics = [b"frame/%d" % number for number in range(70_000)]
    data = b"".join(publish(V3, topic, b"") for topic in topics)
    assert taker.feed(data).topics == topics
    assert taker.feed(data).topics == topics


def test_pubacks_are_packet_ids() -> None:
    data = b"\x40\x02\x00\x01\x40\x02\xff\xff"
    assert feed(reader(V3), bytewise(data)).acked == [1, 65_535]
    assert feed(reader(V5), [data + b"\x40\x03\x00\x02\x10"]).acked == [1, 65_535, 2]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [LIMIT + 1, HEAD_BYTES, HEAD_BYTES + 1, 300_000])
@pytest.mark.parametrize("step", [1, 700, 1 << 20])
def test_oversize_is_skipped_in_constant_memory(version: Version, size: int, step: int) -> None:
    if step == 1:
        size = min(size, HEAD_BYTES + 1)
    payload = bytes(number % 251 for number in range(size))
    data = publish(version, b"big", payload, 7, 0x3B) + publish(version, b"small", b"x", 8)
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    large = Oversize(size, hashlib.sha256(payload).digest())
    assert feed(reader(version), parts, most_held=HEAD_BYTES + LIMIT).messages == [
        (b"big", payload[:HEAD_BYTES], 7, DUP | QOS_1 | RETAIN, large),
        (b"small", b"x", 8, QOS_1, None),
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_is_of_the_payload_alone(version: Version, over: int) -> None:
    payload = b"p" * (LIMIT + over)
    properties = b"\xac\x02\x26" + string(b"k" * 100) + string(b"v" * 195)
    data = publish(version, b"t" * 2_000, payload, properties=properties)
    for parts in ([data], list(bytewise(data))):
        (message,) = feed(reader(version), parts).messages
        assert (message[4] is not None) == bool(over)
        assert message[1] == payload


def test_the_largest_packet_there_is_passes_by() -> None:
    taker = reader(V3)
    taker.feed(b"\x32\xff\xff\xff\x7f" + string("t") + b"\x00\x01")
    left = 268_435_455 - 5
    block = bytes(1 << 20)
    while left > len(block):
        assert not len(taker.feed(block))
        assert taker.held_bytes <= HEAD_BYTES
        left -= len(block)
    batch = taker.feed(bytes(left) + PINGRESP)
    assert batch.oversize[0].payload_bytes == 268_435_455 - 5
    assert batch.events == [PingResp()]


FAULTS: list[tuple[Version, bytes, str]] = [
    (V3, b"\x32\x80\x80\x80\x80", "remaining length of PUBLISH has more than four"),
    (V3, b"\xd0\x80\x80\x80\x80\x01", "remaining length of PINGRESP has more than four"),
    (V3, b"\xd0\x80\x00", "padded"),
    (V3, b"\x32\x85\x00\x00\x01t\x00\x01", "padded"),
    (V3, b"\x32\x00", "without a topic"),
    (V3, b"\x30\x01\x00", "without a topic"),
    (V3, b"\x32\x04\x00\x03ab", "ends within its topic"),
    (V3, b"\x32\x04\x00\x01tt", "ends within its topic or packet id"),
    (V3, publish(V3, b""), "empty topic"),
    (V3, publish(V3, b"a/\xff"), "not UTF-8"),
    (V3, publish(V3, b"a/\xed\xa0\x80"), "not UTF-8"),
    (V3, publish(V3, b"a/\0"), "holds '.x00'"),
    (V3, publish(V3, b"a/+"), "holds '.'"),
    (V3, publish(V3, b"#"), "holds '#'"),
    (V3, publish(V3, b"a/+", b"p" * 2 * LIMIT), "holds '.'"),
    (V3, publish(V3, packet_id=0), "packet id 0"),
    (V3, publish(V3, first=0x34), "QoS 2"),
    (V3, publish(V3, first=0x36), "QoS 3"),
    (V3, publish(V3, first=0x38), "marked as sent before"),
    (V5, publish(V5, b""), "empty topic"),
    (V5, publish(V5, b"", properties=b"\x03\x23\x00\x01"), "a topic alias"),
    (V5, publish(V5, b"t", properties=b"\x03\x23\x00\x01"), "a topic alias"),
    (V5, publish(V5, properties=b"\x05\x01\x01\x23\x00\x01"), "a topic alias"),
    (V5, publish(V5, properties=b"\x01\x01"), "ends its properties within one"),
    (V5, publish(V5, properties=b"\x04\x02\x00\x00\x00"), "ends its properties within one"),
    (V5, publish(V5, properties=b"\x02\x08\x00"), "ends its properties within one"),
    (V5, publish(V5, properties=b"\x04\x09\x00\x02x"), "ends its properties within one"),
    (V5, publish(V5, properties=b"\x05\x26\x00\x00\x00\x01"), "ends its properties within"),
    (V5, publish(V5, properties=b"\x02\x0b\x80"), "ends its properties within one"),
    (
        V5,
        publish(V5, properties=b"\x05\x0b\xff\xff\xff\xff"),
        "subscription id of PUBLISH has more",
    ),
    (V5, publish(V5, properties=b"\x03\x13\x00\x01"), "PUBLISH has a property 0x13"),
    (V5, b"\x32\x05\x00\x01t\x00\x01", "before its properties"),
    (V5, b"\x32\x06\x00\x01t\x00\x01\x80", "before its properties"),
    (V5, b"\x32\x06\x00\x01t\x00\x01\x05", "within its properties"),
    (V5, publish(V5, properties=b"\x80\x80\x80\x80"), "more than four bytes"),
    (V5, publish(V5, properties=b"\x82\x00\x01\x01"), "padded"),
    (V5, publish(V5, properties=b"\xc0\xc3\x07" + bytes(123_328)), "bytes of properties"),
    *[
        (version, bytes([first, 2, 0, 1]), "which no broker may send us")
        for version in VERSIONS
        for first in (0x00, 0x10, 0x41, 0x50, 0x62, 0x70, 0x82, 0x92, 0xA2, 0xC0, 0xD1, 0xF0)
    ],
    (V3, b"\xe0\x00", "DISCONNECT with flags 0"),
    (V3, b"\x20\x02\x00\x00", "second CONNACK"),
    (V3, b"\x40\x02\x00\x00", "packet id 0"),
    (V3, b"\x40\x03\x00\x01\x00", "too many"),
    (V3, b"\x40\x01\x00", "too early"),
    (V3, b"\xd0\x01\x00", "too many"),
    (V3, packet(0x90, b"\x00\x01\x03"), "SUBACK with code 3"),
    (V3, packet(0x90, b"\x00\x01" + b"\x01" * 70_000), "SUBACK of 70002 bytes"),
    (V3, packet(0xB0, b"\x00\x02\x00"), "too many"),
    (V3, packet(0xB0, b"\x00\x00"), "packet id 0"),
    (V5, packet(0x90, b"\x00\x01"), "before its properties"),
    (V5, packet(0x90, b"\x00\x01\x02\x1f"), "too early"),
    (V5, packet(0x90, b"\x00\x01\x02\x7f\x00"), "property 0x7F"),
    (V5, packet(0x90, b"\x00\x01\x03\x13\x00\x01"), "SERVER_KEEP_ALIVE too many"),
    (V5, packet(0x90, b"\x00\x01\x06\x1f\x00\x00\x1f\x00\x00"), "REASON_STRING too many"),
    (V5, packet(0x90, b"\x00\x01\x04\x1f\x00\x01\xff"), "not UTF-8"),
    (V5, packet(0x90, b"\x00\x01\x04\x1f\x00\x01\x00"), "holds NUL"),
    (V5, packet(0xE0, b"\x00\x05\x11\x00\x00\x00\x00"), "SESSION_EXPIRY too many"),
]


@pytest.mark.parametrize(("version", "data", "fault"), FAULTS)
def test_faults(version: Version, data: bytes, fault: str) -> None:
    with pytest.raises(ProtocolError, match=fault):
        reader(version).feed(data)
    with pytest.raises(ProtocolError, match=fault):
        reader(version).feed(publish(version) + data + publish(version))
    taker = reader(version)
    taker.feed(publish(version))
    with pytest.raises(ProtocolError, match=fault):
        feed(taker, bytewise(data), most_held=70_000)


@pytest.mark.parametrize(
    ("version", "data", "fault"),
    [
        (V3, publish(V3), "first packet is PUBLISH, not CONNACK"),
        (V5, PINGRESP, "first packet is PINGRESP"),
        (V3, b"HTTP/1.1 400 Bad Request", "first packet is PUBACK"),
        (V3, b"SSH-2.0-OpenSSH", "first packet is PUBREC"),
        (V3, b"\x20\x02\x02\x00", "reserved flags 2"),
        (V3, b"\x20\x02\x01\x05", "finds a session"),
        (V3, b"\x20\x01\x00", "too early"),
        (V3, b"\x20\x03\x00\x00\x00", "too many"),
        (V3, b"\x21\x02\x00\x00", "CONNACK with flags 1"),
        (V5, b"\x20\x02\x00\x00", "before its properties"),
        (V5, b"\x20\x05\x00\x00\x02\x24\x02", "MAXIMUM_QOS of CONNACK is 2"),
        (V5, b"\x20\x06\x00\x00\x03\x21\x00\x00", "RECEIVE_MAXIMUM of CONNACK is 0"),
    ],
)
def test_faults_at_the_start(version: Version, data: bytes, fault: str) -> None:
    with pytest.raises(ProtocolError, match=fault):
        Reader(version, max_payload_bytes=LIMIT).feed(data)


def test_a_fault_is_known_before_its_packet_is_complete() -> None:
    """A broker that announces the endless is not waited for."""
    for version, data in (
        (V3, b"\xd0\xff\xff\xff\x7f"),
        (V3, b"\x90\xff\xff\xff\x7f"),
        (V3, b"\x34\xff\xff\xff\x7f"),
        (V3, b"\x32\xff\xff\xff\x7f\x00\x01\xff\x00\x01"),
        (V3, b"\x32\xff\xff\xff\x7f\x00\x01t\x00\x00"),
        (V5, b"\x32\xff\xff\xff\x7f\x00\x01t\x00\x01\xff\xff\xff\x0f"),
        (V5, b"\x60"),
    ):
        with pytest.raises(ProtocolError):
            feed(reader(version), bytewise(data))
