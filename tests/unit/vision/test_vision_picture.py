"""Pictures: decoded no larger than needed, fitted into the model's square, and back."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.vision.picture import PAD, Image, decode, letterbox, reduction_for
from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import JpegHeader, read_jpeg_header


def jpeg(picture: Image) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def plain(width: int, height: int, level: int = 200) -> Image:
    return np.full((height, width, 3), level, np.uint8)


@given(st.integers(1, 16_384), st.integers(1, 16_384), st.sampled_from([160, 416]))
@settings(deadline=None)
def test_a_picture_is_shrunk_as_far_as_it_stays_large_enough(
    width: int, height: int, side: int
) -> None:
    factor = reduction_for(JpegHeader(width, height, 3, False), side)
    assert factor in (1, 2, 4, 8)
    assert factor == 1 or max(width, height) >= side * factor
    assert factor == 8 or max(width, height) < side * factor * 2


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (64, 48), (1_300, 700), (70, 900)])
def test_decoding_keeps_the_colour_and_the_proportions(width: int, height: int, grey: bool) -> None:
    data = jpeg(plain(width, height))
    header = read_jpeg_header(data)
    image = decode(data, header, 80, grey=grey)
    factor = reduction_for(header, 80)
    assert image.shape[:2] == (-(-height // factor), -(-width // factor))
    assert image.ndim == (2 if grey else 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - 200).max() <= 3


def test_what_cannot_be_decoded_is_rejected() -> None:
    data = jpeg(plain(32, 32))
    header = read_jpeg_header(data)
    for bad in (data[:30], b"", b"\xff\xd8" + bytes(50), data[:2] + b"\xff\xd9"):
        with pytest.raises(Rejected) as caught:
            decode(bad, header, 32)
        assert caught.value.reason is Reason.SYNTAX


sizes = st.one_of(st.integers(1, 40), st.integers(1, 2_000))


@given(sizes, sizes)
@settings(max_examples=80, deadline=None)
def test_the_square_holds_the_whole_picture_in_its_proportions(width: int, height: int) -> None:
    side = 96
    tensor, scale = letterbox(plain(width, height, 250), side, width, height)
    assert tensor.shape == (1, 3, side, side)
    assert tensor.dtype == np.float32
    assert scale == pytest.approx(side / max(width, height))
    painted = tensor[0, 0] == 250
    rows, columns = int(painted.any(1).sum()), int(painted.any(0).sum())
    # At the upper left, without holes, and the rest is padding.
    assert painted[:rows, :columns].all()
    assert (tensor[0, :, rows:] == PAD).all()
    assert (tensor[0, :, :, columns:] == PAD).all()
    assert max(rows, columns) == side
    assert abs(columns - max(1, width * scale)) <= 0.5
    assert abs(rows - max(1, height * scale)) <= 0.5


@pytest.mark.parametrize(("width", "height"), [(640, 360), (360, 640), (1_920, 1_080), (200, 200)])
@pytest.mark.parametrize("place", [(0.1, 0.2), (0.5, 0.5), (0.8, 0.7)])
def test_a_place_in_the_square_leads_back_to_the_original(
    width: int, height: int, place: tuple[float, float]
) -> None:
    image = plain(width, height, 0)
    left, top = int(place[0] * width), int(place[1] * height)
    right, bottom = left + width // 8, top + height // 8
    image[top:bottom, left:right] = 255
    data = jpeg(image)
    header = read_jpeg_header(data)
    tensor, scale = letterbox(decode(data, header, 160), 160, header.width, header.height)
    lit = tensor[0, 1, : round(height * scale), : round(width * scale)] > 128
    ys, xs = np.nonzero(lit)
    found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / scale
    # One pixel of the square is this many of the original.
    np.testing.assert_allclose(found, [left, top, right, bottom], atol=1.1 / scale)


def test_the_square_is_blue_green_red() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0], image[..., 2] = 10, 30
    tensor, _ = letterbox(image, 32, 8, 8)
    assert tensor[0, :, 0, 0].tolist() == [10, 0, 30]
