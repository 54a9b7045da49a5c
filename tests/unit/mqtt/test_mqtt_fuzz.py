"""It parses, or raises `ProtocolError`, never anything else; and holds no more than it may."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.mqtt.codec import HEAD_BYTES, Reader, Version
from ingest.mqtt.errors import ProtocolError
from tests.unit.mqtt.mqtt_wire import LIMIT, VERSIONS, WELCOME, Read, feed, packet, publish, string

MOST_HELD = HEAD_BYTES + 2 * 65_536 + LIMIT
"""A head, or a packet with the largest topic and properties, whichever."""


def some_packet(dice: random.Random, version: Version) -> bytes:
    match dice.randrange(8):
        case 0:
            return dice.randbytes(dice.randrange(12))
        case 1:
            first = dice.choice((0x20, 0x40, 0x90, 0xB0, 0xD0, 0xE0, dice.randrange(256)))
            return packet(first, dice.randbytes(dice.randrange(8)))
        case 2:
            properties = b"".join(
                dice.choice((b"\x1f" + string("why"), b"\x26" + string("k") + string("v"), b"\x13"))
                for _ in range(dice.randrange(3))
            )
            body = b"\x00\x01" + bytes([len(properties)]) + properties + b"\x01"
            return packet(dice.choice((0x90, 0xB0, 0x40, 0xE0, 0x20)), body)
        case 3:
            return b"\x32" + dice.randbytes(dice.randrange(1, 5))
    sizes = (0, 1, 50, 130, LIMIT, LIMIT + 1, 3 * LIMIT, 70_000)
    weights = (8, 8, 8, 8, 2, 2, 2, 1)
    (size,) = dice.choices(sizes, weights)
    first = dice.choice((0x30, 0x31, 0x32, 0x32, 0x32, 0x33, 0x3A))
    properties = b"\0" if dice.randrange(3) else b"\x07\x26" + string("a") + string("b")
    topic = dice.choice((b"t", b"site/a/dust/b/telemetry", b"x" * 200, b"y" * 20_000))
    return publish(version, topic, dice.randbytes(size), 1 + dice.randrange(9), first, properties)


def some_stream(dice: random.Random, version: Version) -> bytes:
    parts = [WELCOME[version]] if dice.randrange(20) else []
    parts += [some_packet(dice, version) for _ in range(dice.randrange(1, 8))]
    data = bytearray(b"".join(parts))
    for _ in range(dice.choice((0, 0, 0, 1, 1, 3))):
        if data:
            data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data[: len(data) - dice.choice((0, 0, 1, 5))])


def cut(dice: random.Random, data: bytes) -> list[bytes]:
    most = dice.choice((1, 3, 100, 5_000, 100_000))
    if most < 100:
        most = max(most, len(data) // 3_000)
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        size = dice.randint(1, most)
        parts.append(data[at : at + size])
        at += size
    return parts


def outcome(version: Version, parts: list[bytes], most_held: int) -> Read | None:
    try:
        return feed(Reader(version, max_payload_bytes=LIMIT), parts, most_held)
    except ProtocolError:
        return None


@pytest.mark.parametrize(
    "count",
    [
        1_500,
        pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(1_200)]),
    ],
    ids=["some", "many"],
)
def test_fuzz(count: int) -> None:
    parsed = 0
    first_seed = random.randrange(1 << 32)
    for seed in range(first_seed, first_seed + count):
        dice = random.Random(seed)
        version = dice.choice(VERSIONS)
        data = some_stream(dice, version)
        # However the bytes are cut, the outcome is one.
        whole = outcome(version, [data], MOST_HELD)
        parts = outcome(version, cut(dice, data), MOST_HELD)
        assert whole == parts, f"seed {seed}"
        parsed += whole is not None
    # Neither half of the sentence goes untested.
    assert count / 10 < parsed < count * 9 / 10


packets = st.one_of(
    st.binary(max_size=20),
    st.builds(
        packet,
        st.sampled_from([0x20, 0x40, 0x90, 0xB0, 0xD0, 0xE0]) | st.integers(0, 255),
        st.binary(max_size=12),
    ),
    st.builds(
        publish,
        st.sampled_from(VERSIONS),
        st.sampled_from([b"t", b"", b"a/\xff", b"site/a/dust/b/telemetry"]) | st.binary(max_size=9),
        st.binary(max_size=200),
        st.integers(0, 3),
        st.sampled_from([0x30, 0x32, 0x32, 0x33, 0x3A, 0x34, 0x38]),
        st.sampled_from([b"\0", b"\x02\x01\x01", b"\x03\x23\x00\x01"]) | st.binary(max_size=6),
    ),
)


@settings(max_examples=400)
@given(
    st.sampled_from(VERSIONS),
    st.booleans(),
    st.lists(packets, max_size=6),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
    st.integers(0, 4),
    st.integers(1, 64),
)
def test_whatever_hypothesis_thinks_of(
    version: Version,
    greeted: bool,
    several: list[bytes],
    edits: list[tuple[int, int]],
    short: int,
    step: int,
) -> None:
    data = bytearray(WELCOME[version] * greeted + b"".join(several))
    for place, byte in edits:
        if data:
            data[place % len(data)] = byte
    whole = bytes(data[: max(0, len(data) - short)])
    parts = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert outcome(version, [whole], MOST_HELD) == outcome(version, parts, MOST_HELD)
