"""JPEGs as they should not be: each is looked at or refused with a declared error, none crashes."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.vision import picture
from detectors.vision.motion import grey_of
from detectors.vision.picture import Image, decode
from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import read_jpeg_header, without_end


def scene(width: int = 96, height: int = 64) -> Image:
    dice = np.random.default_rng(1)
    small = dice.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.resize(small, (width, height)).astype(np.uint8)


def jpeg(image: Image, *options: int) -> bytes:
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def whole(data: bytes, side: float = 10_000) -> Image:
    return decode(data, read_jpeg_header(data), side)


def refusal(data: bytes) -> Rejected:
    with pytest.raises(Rejected) as caught:
        whole(data)
    return caught.value


PLAIN = jpeg(scene())
PROGRESSIVE = jpeg(scene(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = data.index(b"\xff\xc2" if read_jpeg_header(data).progressive else b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def cmyk() -> bytes:
    """A CMYK JPEG: the luma blocks of a grey one, four times over, as four components.

    OpenCV writes none. One scan for each component, all with the tables of the first.
    """
    grey = cv2.imencode(".jpg", scene()[..., 0])[1].tobytes()
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    (frame_length,) = struct.unpack_from(">H", grey, frame + 2)
    (scan_length,) = struct.unpack_from(">H", grey, scan + 2)
    body = grey[scan + 2 + scan_length : -2]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3, 4))
    header = grey[frame + 4 : frame + 9] + bytes([4]) + components
    new_frame = b"\xff\xc0" + struct.pack(">H", len(header) + 2) + header
    scans = b"".join(
        b"\xff\xda" + struct.pack(">H", 8) + bytes([1, number, 0x00, 0, 63, 0]) + body
        for number in (1, 2, 3, 4)
    )
    adobe = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)
    (jfif_length,) = struct.unpack_from(">H", grey, 4)
    quantisation = grey[4 + jfif_length : frame]
    huffman = grey[frame + 2 + frame_length : scan]
    # Without JFIF's marker, which is for grey and YCbCr.
    return b"\xff\xd8" + adobe + quantisation + new_frame + huffman + scans + b"\xff\xd9"


def test_cmyk_is_decoded_to_colours() -> None:
    data = cmyk()
    assert read_jpeg_header(data).components == 4
    assert whole(data).shape == (64, 96, 3)
    assert whole(data, 30).shape == (32, 48, 3)
    assert grey_of(data).shape == (64, 96)


def test_progressive_is_decoded_like_any_other() -> None:
    assert read_jpeg_header(PROGRESSIVE).progressive
    for side in (10_000, 48, 24, 12):
        difference = np.abs(whole(PROGRESSIVE, side).astype(int) - whole(PLAIN, side).astype(int))
        assert difference.max() <= 2


def test_grey_becomes_colours() -> None:
    grey = scene()[..., 0]
    image = whole(jpeg(grey))
    assert image.shape == (64, 96, 3)
    assert (image[..., 0] == image[..., 2]).all()


def test_one_pixel() -> None:
    image = whole(jpeg(np.full((1, 1, 3), 200, np.uint8)))
    assert image.shape == (1, 1, 3)
    assert abs(int(image[0, 0, 1]) - 200) <= 3


@pytest.mark.parametrize("data", [PLAIN, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.55, 0.7, 0.9, 0.99])
def test_cut_off_within_its_data(data: bytes, share: float) -> None:
    fault = refusal(data[: int(len(data) * share)])
    assert fault.reason is Reason.INCOMPLETE
    assert "cut off" in fault.detail


def test_cut_off_although_a_preview_in_the_header_has_an_end() -> None:
    preview = jpeg(scene(16, 16))
    app = b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview
    data = PLAIN[:2] + app + PLAIN[2:]
    assert whole(data).shape == (64, 96, 3)
    assert refusal(data[:-200]).reason is Reason.INCOMPLETE


@pytest.mark.parametrize("side", [10_000, 48, 12])
@pytest.mark.parametrize("end", [b"", b"\xff"])
def test_a_picture_that_lacks_its_end_marker_alone_is_whole(side: float, end: bytes) -> None:
    assert (whole(PLAIN[:-2] + end, side) == whole(PLAIN, side)).all()
    fault = refusal(PROGRESSIVE[:-2] + end)  # it might lack scans as well
    assert fault.reason is Reason.INCOMPLETE


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("share", [0.55, 0.7, 0.9])
def test_an_end_marker_before_its_time_hides_nothing(
    share: float, grey: bool, upright: bool
) -> None:
    data = PLAIN[: int(len(PLAIN) * share)] + b"\xff\xd9"
    header = read_jpeg_header(data)
    for side in (10_000, 12):
        with pytest.raises(Rejected, match="do not fill the picture") as caught:
            decode(data, header, side, grey=grey, upright=upright)
        assert caught.value.reason is Reason.INCOMPLETE


def test_a_picture_that_is_grey_in_its_last_corner_is_whole() -> None:
    image = scene()
    image[32:] = 128
    for data in (jpeg(image), jpeg(image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), jpeg(image)[:-2]):
        assert (whole(data)[-1] == 128).all()


def test_of_a_picture_of_several_scans_nobody_can_tell_what_it_lacks() -> None:
    for data in (cmyk(), PROGRESSIVE):
        assert without_end(data, read_jpeg_header(data)) is None
    assert without_end(PLAIN, read_jpeg_header(PLAIN)) is not None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.SYNTAX),
        (b"GIF89a" + bytes(100), Reason.SYNTAX),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Reason.SYNTAX),
        (b"\xff\xd8", Reason.INCOMPLETE),
        (PLAIN[:100], Reason.INCOMPLETE),
        (b"\xff\xd8\xff\xd9" + bytes(9), Reason.SYNTAX),
        (claiming(PLAIN, 0, 64), Reason.SYNTAX),
        (claiming(PLAIN, 65_535, 65_535), Reason.TOO_LARGE),
        (claiming(PLAIN, 16_385, 1), Reason.TOO_LARGE),
        (claiming(PLAIN, 8_001, 8_000), Reason.TOO_LARGE),
    ],
)
def test_what_its_first_bytes_give_away(data: bytes, reason: Reason) -> None:
    assert refusal(data).reason is reason


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    bomb = claiming(PLAIN, 8_000, 8_000)
    assert len(bomb) * picture.MAX_PIXELS_A_BYTE < 8_000 * 8_000
    fault = refusal(bomb)
    assert fault.reason is Reason.TOO_LARGE
    assert f"8000 × 8000 pixels in {len(bomb)} bytes" in fault.detail
    large = claiming(PROGRESSIVE, 5_000, 5_000) + bytes(100_000)
    assert "progressive JPEG of 5000 × 5000" in refusal(large).detail
    scans = PROGRESSIVE[:-2] + b"\xff\xda" * 100 + b"\xff\xd9"
    assert "110 scans" in refusal(scans).detail


def test_the_evenest_picture_is_no_bomb() -> None:
    even = jpeg(np.full((2_000, 3_000), 114, np.uint8), cv2.IMWRITE_JPEG_OPTIMIZE, 1)
    assert whole(even).shape == (2_000, 3_000, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shape", [(3_000, 4_000), (3_000, 4_000, 3)])
def test_an_even_picture_stays_within_what_a_byte_can_hold(
    shape: tuple[int, ...], progressive: bool
) -> None:
    even = np.full(shape, 114, np.uint8)
    for quality in (1, 95):
        data = jpeg(
            even,
            cv2.IMWRITE_JPEG_OPTIMIZE,
            1,
            cv2.IMWRITE_JPEG_PROGRESSIVE,
            int(progressive),
            cv2.IMWRITE_JPEG_QUALITY,
            quality,
        )
        assert whole(data, 500).shape == (375, 500, 3)


@pytest.mark.parametrize(
    ("data", "most"),
    [
        (PLAIN, picture.MAX_PIXELS_A_BYTE),
        (PROGRESSIVE, picture.MAX_PIXELS_A_PROGRESSIVE_BYTE),
    ],
    ids=["baseline", "progressive"],
)
def test_a_claim_beyond_what_a_byte_can_hold_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch, data: bytes, most: int
) -> None:
    width, height = 4_000, 3_000
    claim = claiming(data, width, height)
    claim += bytes((width * height - 1) // most - len(claim))
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    assert refusal(claim).reason is Reason.TOO_LARGE


def test_a_small_file_is_no_picture_of_48_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = claiming(PLAIN, 8_000, 6_000)
    claim += bytes(50_000 - len(claim))
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    assert "8000 × 6000 pixels in 50000 bytes" in refusal(claim).detail


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_it_decodes_or_raises_the_declared_error(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([PLAIN, PROGRESSIVE]))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        bad[data.draw(st.integers(2, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad = bad[: data.draw(st.integers(2, len(bad)))]
    try:
        image = whole(bytes(bad), 48)
    except Rejected:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
