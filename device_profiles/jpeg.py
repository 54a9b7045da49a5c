"""A JPEG's header, read without decoding the picture: what it claims before it costs anything."""

from __future__ import annotations

import struct
from typing import NamedTuple

from device_profiles.errors import Reason, Rejected

MAX_SIDE = 16_384
"""Longest side of a picture we decode, pixels; a header may claim 65,535."""

MAX_PIXELS = 64_000_000
"""Most pixels of a picture we decode: a decoded 64-megapixel picture takes 192 MB."""

END, SCAN = b"\xff\xd9", b"\xff\xda"

_LOOKAHEAD = b"\xff\x00" * 8
"""libjpeg reads up to 8 bytes ahead of what it decodes, and refuses a picture whose data end before
that. Eight bytes of ones are no code word: out of them come at most the last few blocks."""

_FRAME_STARTS = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAME_STARTS = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


class JpegHeader(NamedTuple):
    """What a JPEG says of itself.

    Attributes:
        width: Pixels.
        height: Pixels.
        components: 1 grey, 3 colour, 4 CMYK.
        progressive: Whether it has to be decoded in several passes.
    """

    width: int
    height: int
    components: int
    progressive: bool


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Read what a JPEG claims to be, and refuse what we would not decode.

    Args:
        data: The picture's bytes.

    Returns:
        Its header.

    Raises:
        Rejected: Not a JPEG (`syntax`), cut off before its dimensions (`incomplete`), or of
            dimensions beyond the limits (`too_large`).
    """
    if data[:2] != b"\xff\xd8":
        raise Rejected(Reason.SYNTAX, f"not a JPEG: it begins with {data[:4].hex() or 'nothing'}")
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise Rejected(Reason.SYNTAX, "a JPEG marker was expected", at)
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _BARE:
            at += 2
            continue
        if marker in (0xD9, 0xDA):
            raise Rejected(Reason.SYNTAX, "a JPEG without dimensions before its data", at)
        if marker in _OTHER_FRAME_STARTS:
            raise Rejected(Reason.TYPE, "a lossless or arithmetic JPEG", at)
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2:
            raise Rejected(Reason.SYNTAX, "a JPEG segment of impossible length", at)
        if marker in _FRAME_STARTS:
            if at + 10 > len(data):
                break
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return _checked(JpegHeader(width, height, components, marker == 0xC2), precision, at)
        at += 2 + length
    raise Rejected(Reason.INCOMPLETE, f"a JPEG of {len(data)} bytes ends before its dimensions")


def readable(data: bytes) -> bytes:
    """Make a JPEG that lacks its end marker, as some cameras send them, one that can be decoded.

    With an end marker put behind it libjpeg would decode anything and fill what is missing with
    grey; this way a picture that lacks more than a few blocks in its last corner stays refused. A
    progressive one cannot be told from one that lacks scans, and stays refused, too.

    Args:
        data: A JPEG.

    Returns:
        It, or with a few bytes more at its end.
    """
    return data if data.endswith(END) else data + _LOOKAHEAD


def without_end(data: bytes, header: JpegHeader) -> bytes | None:
    """Take the end marker off a JPEG, to find out whether its data fill the picture.

    Args:
        data: A JPEG that could be decoded.
        header: Its header.

    Returns:
        Its bytes up to the end of its scan, to be decoded in its place: that fails if more than a
        few blocks are missing. None for one of several scans, of which this cannot be told.
    """
    # A preview in the header has scan and end of its own, before the picture's.
    scan = data.rfind(SCAN)
    if scan < 0 or header.progressive or data[scan + 4 : scan + 5] != bytes([header.components]):
        return None
    end = data.find(END, scan)
    return data[: end if end >= 0 else len(data)] + _LOOKAHEAD


def _checked(header: JpegHeader, precision: int, at: int) -> JpegHeader:
    size = f"{header.width} × {header.height}"
    if header.width == 0 or header.height == 0:
        raise Rejected(Reason.SYNTAX, f"a JPEG of {size} pixels", at)
    if max(header.width, header.height) > MAX_SIDE or header.width * header.height > MAX_PIXELS:
        raise Rejected(
            Reason.TOO_LARGE,
            f"a JPEG that claims {size} pixels, at most {MAX_SIDE} a side and {MAX_PIXELS} in all",
            at,
        )
    if precision != 8 or header.components not in (1, 3, 4):
        raise Rejected(
            Reason.TYPE, f"a JPEG of {precision} bits and {header.components} components", at
        )
    return header
