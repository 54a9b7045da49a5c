"""JPEG headers: what real pictures claim, and what is refused before it costs anything."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import MAX_PIXELS, MAX_SIDE, JpegHeader, read_jpeg_header


def jpeg(width: int, height: int, *, grey: bool = False, progressive: bool = False) -> bytes:
    shape = (height, width) if grey else (height, width, 3)
    picture = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    encoded, data = cv2.imencode(".jpg", picture, flags)
    assert encoded
    return data.tobytes()


def start_of_frame(data: bytes, progressive: bool = False) -> int:
    return data.index(b"\xff\xc2" if progressive else b"\xff\xc0")


def claiming(width: int, height: int) -> bytes:
    """A real picture whose header claims another size."""
    data = jpeg(8, 8)
    at = start_of_frame(data) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def refusal(data: bytes) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read_jpeg_header(data)
    return caught.value


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (31, 7), (7, 31), (640, 360)])
def test_real_pictures(size: tuple[int, int], grey: bool, progressive: bool) -> None:
    header = read_jpeg_header(jpeg(*size, grey=grey, progressive=progressive))
    assert header == JpegHeader(*size, 1 if grey else 3, progressive)


def test_what_stands_before_the_dimensions_is_passed_over() -> None:
    data = jpeg(5, 4)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 6) + b"\xff\xc0\xff\xd9zz"
    fill_and_restart = b"\xff\xff\xff\xd0\xff\x01"
    header = read_jpeg_header(data[:2] + comment * 3 + fill_and_restart + data[2:])
    assert (header.width, header.height) == (5, 4)


def test_four_components_are_cmyk() -> None:
    data = jpeg(8, 8)
    at = start_of_frame(data) + 9
    assert read_jpeg_header(data[:at] + b"\x04" + data[at + 1 :]).components == 4


@pytest.mark.parametrize("progressive", [False, True])
def test_a_picture_cut_anywhere_before_its_dimensions_is_incomplete(progressive: bool) -> None:
    data = jpeg(9, 9, progressive=progressive)
    needed = start_of_frame(data, progressive) + 10
    for length in range(len(data)):
        if length >= needed:
            assert read_jpeg_header(data[:length]).width == 9
        else:
            wanted = Reason.SYNTAX if length < 2 else Reason.INCOMPLETE
            assert refusal(data[:length]).reason is wanted


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (60_000, 60_000),
        (65_535, 1),
        (1, 65_535),
        (MAX_SIDE + 1, 1),
        (MAX_SIDE, MAX_PIXELS // MAX_SIDE + 1),
    ],
)
def test_a_claim_beyond_the_limits_is_too_large(width: int, height: int) -> None:
    fault = refusal(claiming(width, height))
    assert fault.reason is Reason.TOO_LARGE
    assert f"{width} × {height}" in fault.detail
    assert fault.offset is not None


def test_the_limits_themselves_are_allowed() -> None:
    assert read_jpeg_header(claiming(MAX_SIDE, 1)).width == MAX_SIDE
    height = MAX_PIXELS // MAX_SIDE
    assert read_jpeg_header(claiming(MAX_SIDE, height)).height == height


@pytest.mark.parametrize(("width", "height"), [(0, 8), (8, 0), (0, 0)])
def test_no_pixels_are_no_picture(width: int, height: int) -> None:
    assert refusal(claiming(width, height)).reason is Reason.SYNTAX


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.SYNTAX),
        (b"\xff", Reason.SYNTAX),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), Reason.SYNTAX),
        (b'{"ts":1}', Reason.SYNTAX),
        (b"\xff\xd8", Reason.INCOMPLETE),
        (b"\xff\xd8" + b"\xff" * 50, Reason.INCOMPLETE),
        (b"\xff\xd8" + b"\xff\xd0" * 50, Reason.INCOMPLETE),
        (b"\xff\xd8hello", Reason.SYNTAX),
        (b"\xff\xd8\xff\xd9\x00\x00", Reason.SYNTAX),
        (b"\xff\xd8\xff\xda\x00\x08" + bytes(8), Reason.SYNTAX),
        (b"\xff\xd8\xff\xe0\x00\x00" + bytes(8), Reason.SYNTAX),
        (b"\xff\xd8\xff\xe0\x00\x01" + bytes(8), Reason.SYNTAX),
        (b"\xff\xd8\xff\xe0\xff\xff" + bytes(8), Reason.INCOMPLETE),
        (b"\xff\xd8\xff\xc3\x00\x0b\x08" + bytes(8), Reason.TYPE),
        (b"\xff\xd8\xff\xc9\x00\x0b\x08" + bytes(8), Reason.TYPE),
        (b"\xff\xd8\xff\xc0\x00\x0b\x0c\x00\x08\x00\x08\x03" + bytes(8), Reason.TYPE),
        (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x02" + bytes(8), Reason.TYPE),
    ],
)
def test_what_is_not_one_of_our_jpegs_says_why(data: bytes, reason: Reason) -> None:
    assert refusal(data).reason is reason


mutated = st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=4)).map(
    lambda change: (data := jpeg(8, 8))[: change[0]] + change[1] + data[change[0] + 1 :]
)


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(b"\xff\xd8".__add__), mutated))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_header_within_the_limits_or_rejected(data: bytes) -> None:
    try:
        header = read_jpeg_header(data)
    except Rejected:
        return
    assert 0 < header.width <= MAX_SIDE
    assert 0 < header.height <= MAX_SIDE
    assert header.width * header.height <= MAX_PIXELS
    assert header.components in (1, 3, 4)
