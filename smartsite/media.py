"""What a file holds, and how it is opened: pictures and videos that come from anywhere.

A file is what its first bytes say, whatever its name. Nothing that is no regular file is waited
for, and no decoder learns a name, which it might take for an address.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from detectors.vision.picture import Image
from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import MAX_PIXELS, MAX_SIDE

MAX_BYTES = 64 * 2**20
"""Largest picture file."""

FORMATS = ("mov", "avi", "matroska", "mpeg", "mpegts", "mpegvideo")
"""The containers of videos as FFmpeg calls them."""

STREAMS = ("mpeg", "mpegts")
"""Those that say nothing of their end, and whose frames are estimated from length and rate. A bare
stream's, ``mpegvideo``, are guessed."""

MAX_PARTS = 1_000_000
"""Parts of a container that are gone through: a fragmented MP4 of days has two a second."""

CAPTURE_OPTIONS = f"format_whitelist;{','.join(FORMATS)}"
"""FFmpeg is asked for no other format, whatever it takes a file for: playlists and descriptions of
streams name other files and addresses, and FFmpeg goes there."""

_PHOTOGRAPHS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_PHOTOGRAPHS |= {b"avif", b"avis"}


def no_file(path: Path) -> str | None:
    """Why a path is not that of a file, a symbolic link's included; None where it is."""
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else "is no file"
    except OSError as fault:
        gone = fault.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return "is not there" if gone else fault.strerror or str(fault)


def opened(path: Path) -> BinaryIO:
    """Open a file; a pipe or device that took its name is not waited for.

    Raises:
        OSError: It cannot be opened, or is no file.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "is no file")
    return os.fdopen(number, "rb")


def require_small(data: bytes) -> None:
    """Refuse a picture that is no JPEG for what its header claims.

    Raises:
        Rejected: It is none that is read, is cut, or claims too many pixels.
    """
    width, height = _dimensions(data)
    if width < 1 or height < 1:
        raise Rejected(Reason.SYNTAX, f"a picture of {width} × {height} pixels")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Rejected(
            Reason.TOO_LARGE,
            f"a picture that claims {width} × {height} pixels, at most {MAX_SIDE} a side and"
            f" {MAX_PIXELS} in all",
        )


def _dimensions(data: bytes) -> tuple[int, int]:
    """Width and height as a header claims them, of what is no JPEG."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
            return _two(data, ">II", 16)
        if data[:2] == b"BM":
            (size,) = struct.unpack_from("<I", data, 14)
            width, height = _two(data, "<HH", 18) if size == 12 else _two(data, "<ii", 18)
            return width, abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_dimensions(data)
        if data[4:8] == b"ftyp" and data[8:12] in _PHOTOGRAPHS:
            raise Rejected(
                Reason.TYPE,
                "a photograph in HEIC or AVIF, which is not read: make it a JPEG or PNG",
            )
    except struct.error:
        raise Rejected(Reason.INCOMPLETE, "a picture that ends within its header") from None
    raise Rejected(Reason.TYPE, "neither a picture (JPEG, PNG, BMP, WebP) nor a video")


def _webp_dimensions(data: bytes) -> tuple[int, int]:
    """By the container's specification: developers.google.com/speed/webp/docs/riff_container."""
    match data[12:16]:
        case b"VP8X":
            low, high, more_low, more_high = struct.unpack_from("<HBHB", data, 24)
            return low + (high << 16) + 1, more_low + (more_high << 16) + 1
        case b"VP8L":
            (packed,) = struct.unpack_from("<I", data, 21)
            return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        case _:
            width, height = _two(data, "<HH", 26)
            return width & 0x3FFF, height & 0x3FFF


def _two(data: bytes, form: str, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, at)
    return int(first), int(second)


def decode_other(data: bytes) -> Image:
    """Decode a picture that is no JPEG, after `require_small`.

    Raises:
        Rejected: It cannot be decoded.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as fault:
        raise Rejected(Reason.SYNTAX, f"the picture cannot be decoded: {fault.err}") from None
    if image is None:
        raise Rejected(Reason.SYNTAX, "the picture cannot be decoded")
    return image.astype(np.uint8, copy=False)


def container_of(start: bytes) -> str | None:
    """Which of `FORMATS` a file begins like; None for what is no video."""
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return None if start[8:12] in _PHOTOGRAPHS else "mov"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "avi"
    if start[:3] == b"\x00\x00\x01":
        return {0xBA: "mpeg", 0xB3: "mpegvideo"}.get(start[3])
    if len(start) > 188 and start[0] == start[188] == 0x47:
        return "mpegts"
    return "matroska" if start[:4] == b"\x1aE\xdf\xa3" else None


@contextlib.contextmanager
def capture_of(stream: BinaryIO) -> Iterator[cv2.VideoCapture]:
    """Let OpenCV read an open file; without its name, which FFmpeg may take for an address."""
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", CAPTURE_OPTIONS)
    number = stream.fileno()
    os.lseek(number, 0, os.SEEK_SET)  # outside Linux the two share their place in the file
    capture = cv2.VideoCapture(f"/dev/fd/{number}", cv2.CAP_FFMPEG)
    try:
        yield capture
    finally:
        capture.release()


def length_of(stream: BinaryIO) -> int:
    """The bytes of an open file."""
    return os.fstat(stream.fileno()).st_size


def frames_end(stream: BinaryIO, container: str) -> int | None:
    """Where a video ends, or at least the part of it that holds its frames, by its own words.

    Frames cannot tell whether a file was cut: of sound ones fewer come than they claim where some
    were dropped, an edit hides them, or the sound goes on for longer.

    Args:
        stream: Open.
        container: Of `FORMATS`.

    Returns:
        Bytes from the beginning on, beyond the file's end where it was cut; None where it does not
        say, as what was written to a pipe.
    """
    match container:
        case "avi":
            return _end_of_avi(stream)
        case "mov":
            return _end_of_mov(stream)
        case "matroska":
            return _end_of_matroska(stream)
    return None


def _end_of_avi(stream: BinaryIO) -> int | None:
    """By Microsoft's "AVI RIFF File Reference", and OpenDML's: further RIFF chunks may follow."""
    end, at = None, 0
    for _ in range(MAX_PARTS):
        if len(head := _at(stream, at, 12)) < 12:
            break
        size = int.from_bytes(head[4:8], "little")
        if head[:4] == b"RIFF":
            at += 12
            continue
        if head[:4] == b"LIST" and head[8:] == b"movi":
            if size in (0, 2**32 - 1):
                return None
            end = at + 8 + size
        at += 8 + size + size % 2
    return end


def _end_of_mov(stream: BinaryIO) -> int | None:
    """By ISO/IEC 14496-12, 4.2; what follows the last box need not be one."""
    end, at = None, 0
    for _ in range(MAX_PARTS):
        if len(head := _at(stream, at, 16)) < 8:
            break
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:  # 0: up to the file's end
            break
        at += size
        if head[4:8] in (b"mdat", b"moof", b"moov"):
            end = at
    return end


def _end_of_matroska(stream: BinaryIO) -> int | None:
    """By RFC 8794: a number's length is that of the zeros it begins with; all ones are unknown."""
    at = 0
    for _ in range(MAX_PARTS):
        if not (head := _at(stream, at, 16)):
            break
        name = 9 - head[0].bit_length()
        if name > 4 or len(head) <= name:
            break
        size = 9 - head[name].bit_length()
        if size > 8 or len(head) < name + size:
            break
        most = 2 ** (7 * size) - 1
        value = int.from_bytes(head[name : name + size], "big") & most
        if head[:name] == b"\x18\x53\x80\x67":
            return None if value == most else at + name + size + value
        at += name + size + value
    return None


def _at(stream: BinaryIO, at: int, count: int) -> bytes:
    if at > length_of(stream):  # however far; not every place can be gone to
        return b""
    stream.seek(at)
    return stream.read(count)


def much_is_missing(number: int, claimed: float, reached: float) -> bool:
    """Whether a video that was not cut is spoilt for the most part.

    Args:
        number: How many frames came.
        claimed: How many were to come.
        reached: The time of the last, in frames. Where a video's rate changes its frames are fewer
            than its length says, and the last one's time is near its end all the same.

    Returns:
        Whether less than half came.
    """
    return max(number, reached) < claimed / 2
