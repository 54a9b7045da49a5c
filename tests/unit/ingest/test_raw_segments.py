"""Raw segments: what was received comes out again, and nothing else passes for one."""

import hashlib
import struct

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.segments import MAX_UNPACKED_BYTES, VERSION, Flag, pack, unpack

received = st.integers(0, 2**63 - 1)
message = st.tuples(
    received, st.binary(max_size=20), st.binary(max_size=60), st.integers(0, max(Flag) * 2 - 1)
)


@given(st.lists(message, max_size=20))
@settings(max_examples=100, deadline=None)
def test_messages_come_out_as_they_went_in(messages: list[tuple[int, bytes, bytes, int]]) -> None:
    received_us, topics, payloads, flags = zip(*messages, strict=True) if messages else ((),) * 4
    packed = pack(received_us, topics, payloads, flags)
    assert packed.sha256 == hashlib.sha256(packed.body).digest()
    assert packed.raw_bytes == sum(len(payload) for payload in payloads)
    segment = unpack(packed.body)
    assert segment.version == VERSION
    assert segment.received_us == list(received_us)
    assert segment.topics == list(topics)
    assert segment.payloads == list(payloads)
    assert segment.flags == list(flags)
    assert pack(received_us, topics, payloads, flags) == packed


def compressed(content: object) -> bytes:
    return zstandard.compress(msgspec.msgpack.encode(content))


GOOD = pack([1, 2], [b"a", b"b"], [b"x" * 300, b"y"], [1, 1]).body

FOREIGN = {
    "nothing": b"",
    "text": b"hello",
    "a zstandard magic alone": GOOD[:4],
    "not MessagePack": zstandard.compress(b"\xc1"),
    "not an array": compressed({"version": 1}),
    "too short": compressed([1, [], [], []]),
    "another version": compressed([2, [], [], [], []]),
    "columns of different length": compressed([1, [1], [b"a"], [b"b"], []]),
    "texts for bytes": compressed([1, ["now"], [b"a"], [b"b"], [0]]),
    "no payload": compressed([1, [1], [b"a"], [None], [0]]),
    "followed by more": GOOD + b"more",
    "two of them": GOOD + GOOD,
    "of unknown size": zstandard.ZstdCompressor(write_content_size=False).compress(b"\xc1"),
    # A frame that claims 2**45 bytes: magic, descriptor with an 8-byte size, one empty block.
    "a claim of terabytes": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**45) + b"\x01\0\0",
}


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_bytes_are_no_segment(body: bytes) -> None:
    with pytest.raises(ValueError, match="raw segment"):
        unpack(body)


def test_a_claim_just_above_the_limit_is_refused() -> None:
    claim = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", MAX_UNPACKED_BYTES + 1) + b"\x01\0\0"
    with pytest.raises(ValueError, match=str(MAX_UNPACKED_BYTES)):
        unpack(claim)


def test_a_segment_cut_anywhere_is_refused() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(ValueError, match="raw segment"):
            unpack(GOOD[:length])


@given(st.binary(max_size=60), st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_segment_or_refused(body: bytes, inside: bytes) -> None:
    for data in (body, zstandard.compress(inside)):
        try:
            segment = unpack(data)
        except ValueError:
            continue
        assert len(segment.topics) == len(segment.payloads)
