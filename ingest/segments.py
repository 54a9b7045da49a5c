"""Raw segments: the messages of one flush exactly as they were received.

A segment's body is a Zstandard frame around one MessagePack array::

    [1, [received_us …], [topic …], [payload …], [flags …]]

Columns rather than records: they pack in one call and compress better. What the database
keeps beside it is the SHA-256 of the body, so whoever holds a body can check it unopened.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from enum import IntFlag

import msgspec
import zstandard

VERSION = 1
MAX_UNPACKED_BYTES = 1 << 30
"""No segment we wrote unpacks to more; a body that claims more is not ours."""


class Flag(IntFlag):
    """What is to be known of a message beside its bytes."""

    QOS = 0b0000_0011
    RETAIN = 0b0000_0100
    DUP = 0b0000_1000
    TRUNCATED = 0b0001_0000
    """The payload was larger than the limit; these are its first bytes."""
    FRAME = 0b0010_0000
    """The payload lies in the frame store; these 32 bytes are its SHA-256."""
    RETRIED = 0b0100_0000
    """Came back from quarantine: the message itself lies in an earlier segment too."""
    TCP = 0b1000_0000
    """Came over TCP to the gateway, not by MQTT."""
    EVENT = 0b1_0000_0000
    """Came by the role frames and is no picture: the payload is here."""


class Segment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The messages of one flush.

    Attributes:
        version: Of this format.
        received_us: When each came, microseconds since 1970 UTC.
        topics: Where each came.
        payloads: What each held.
        flags: `Flag` of each.
    """

    version: int
    received_us: list[int]
    topics: list[bytes]
    payloads: list[bytes]
    flags: list[int]


class Packed(msgspec.Struct, frozen=True):
    """A segment ready to be stored.

    Attributes:
        body: The compressed bytes.
        sha256: Their hash, 32 bytes.
        raw_bytes: Sum of the payloads' lengths.
    """

    body: bytes
    sha256: bytes
    raw_bytes: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Segment)


class _OfThread(threading.local):
    """The compressor and decompressor of one thread: two at once in one of them crash."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_ZSTD = _OfThread()


def pack(
    received_us: Sequence[int],
    topics: Sequence[bytes],
    payloads: Sequence[bytes],
    flags: Sequence[int],
) -> Packed:
    """Pack the messages of one flush.

    Args:
        received_us: When each came, microseconds since 1970 UTC.
        topics: Where each came.
        payloads: What each held.
        flags: `Flag` of each.

    Returns:
        The packed segment. The same messages always give the same bytes with one version of
        the Zstandard library; what is certified is the stored body, never a repacking.
    """
    body = _ZSTD.compressor.compress(
        _ENCODER.encode((VERSION, received_us, topics, payloads, flags))
    )
    return Packed(body, hashlib.sha256(body).digest(), sum(map(len, payloads)))


def unpack(body: bytes) -> Segment:
    """Open a segment.

    Args:
        body: The stored bytes.

    Returns:
        The messages.

    Raises:
        ValueError: The bytes are not a segment of a version we read.
    """
    try:
        # The decompressor believes what a header claims before it looks at the limit.
        if zstandard.frame_content_size(body) > MAX_UNPACKED_BYTES:
            raise ValueError(f"not a raw segment: it claims above {MAX_UNPACKED_BYTES} bytes")
        raw = _ZSTD.decompressor.decompress(
            body, max_output_size=MAX_UNPACKED_BYTES, allow_extra_data=False
        )
        segment = _DECODER.decode(raw)
    except (zstandard.ZstdError, msgspec.MsgspecError) as fault:
        raise ValueError(f"not a raw segment: {fault}") from None
    if segment.version != VERSION:
        raise ValueError(f"a raw segment of version {segment.version}, we read {VERSION}")
    if (
        len(
            {len(c) for c in (segment.received_us, segment.topics, segment.payloads, segment.flags)}
        )
        > 1
    ):
        raise ValueError("not a raw segment: its columns differ in length")
    return segment
