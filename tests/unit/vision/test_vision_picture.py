"""Pictures: decoded no larger than needed, fitted into the model's input, and back."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.vision.picture import Image, Letterbox, decode, fit, place, reduction_for
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
    for bad in (data[:30], b"\xff\xd8" + bytes(50), data[:2] + b"\xff\xd9"):
        with pytest.raises(Rejected) as caught:
            decode(bad, header, 32)
        assert caught.value.reason is Reason.SYNTAX
    with pytest.raises(Rejected):
        decode(b"", header, 32)


sizes = st.one_of(st.integers(1, 40), st.integers(1, 2_000))
WAYS: list[Letterbox] = ["top-left", "centre", "stretch"]


@given(sizes, sizes, st.sampled_from(WAYS), st.sampled_from([None, 32]))
@settings(max_examples=150, deadline=None)
def test_the_input_holds_the_whole_picture_in_its_proportions(
    width: int, height: int, how: Letterbox, multiple_of: int | None
) -> None:
    side = 96
    placement = place(width, height, side, side, how=how, multiple_of=multiple_of)
    inner = fit(plain(width, height), placement)
    assert inner.shape == (placement.inner_height, placement.inner_width, 3)
    assert placement.top + placement.inner_height <= placement.height <= side
    assert placement.left + placement.inner_width <= placement.width <= side
    if how == "stretch":
        assert inner.shape[:2] == (side, side)
        return
    scale = side / max(width, height)
    assert max(inner.shape) == side
    assert abs(placement.inner_width - max(1, width * scale)) <= 0.5
    assert abs(placement.inner_height - max(1, height * scale)) <= 0.5
    before, after = placement.top, placement.height - placement.top - placement.inner_height
    assert before == 0 if how == "top-left" else abs(before - after) <= 1
    if multiple_of is None:
        assert (placement.height, placement.width) == (side, side)
    else:
        # No more padding than up to the next step.
        assert placement.height % 32 == placement.width % 32 == 0
        assert placement.height - placement.inner_height < 32
        assert placement.width - placement.inner_width < 32


@given(sizes, sizes, st.sampled_from(WAYS), st.data())
@settings(max_examples=150, deadline=None)
def test_boxes_come_back_to_where_they_were(
    width: int, height: int, how: Letterbox, data: st.DataObject
) -> None:
    placement = place(width, height, 96, 64, how=how)
    x1, x2 = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    y1, y2 = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    across, down = placement.inner_width / width, placement.inner_height / height
    there = np.array(
        [
            [
                x1 * across + placement.left,
                y1 * down + placement.top,
                x2 * across + placement.left,
                y2 * down + placement.top,
            ]
        ],
        np.float32,
    )
    back = placement.restore(there)[0]
    np.testing.assert_allclose(back, [x1, y1, x2, y2], atol=2e-5 * max(width, height) + 1e-4)


def test_boxes_beyond_the_picture_are_cut_at_its_edge() -> None:
    placement = place(200, 100, 100, 100)
    boxes = np.array([[-10, -10, 300, 300], [20, 60, 40, 80]], np.float32)
    assert placement.restore(boxes).tolist() == [[0, 0, 200, 100], [40, 100, 80, 100]]


@given(st.integers(1, 8_000), st.integers(1, 8_000), st.sampled_from(WAYS))
@settings(max_examples=200, deadline=None)
def test_what_is_decoded_is_never_smaller_than_what_is_needed(
    width: int, height: int, how: Letterbox
) -> None:
    placement = place(width, height, 416, 416, how=how, multiple_of=32)
    factor = reduction_for(JpegHeader(width, height, 3, False), placement.side)
    assert factor == 1 or width / factor >= placement.inner_width - 0.5
    assert factor == 1 or height / factor >= placement.inner_height - 0.5
    # And never twice as large in both directions where libjpeg could have halved it.
    halved = min(width / placement.inner_width, height / placement.inner_height) / factor
    assert factor == 8 or halved < 2 + 1e-9


@pytest.mark.parametrize(("width", "height"), [(640, 360), (360, 640), (1_920, 1_080), (200, 200)])
@pytest.mark.parametrize("where", [(0.1, 0.2), (0.5, 0.5), (0.8, 0.7)])
@pytest.mark.parametrize("how", WAYS)
def test_a_place_in_the_input_leads_back_to_the_original(
    width: int, height: int, where: tuple[float, float], how: Letterbox
) -> None:
    image = plain(width, height, 0)
    left, top = int(where[0] * width), int(where[1] * height)
    right, bottom = left + width // 8, top + height // 8
    image[top:bottom, left:right] = 255
    data = jpeg(image)
    header = read_jpeg_header(data)
    placement = place(header.width, header.height, 160, 160, how=how)
    lit = fit(decode(data, header, placement.side), placement)[..., 1] > 128
    ys, xs = np.nonzero(lit)
    found = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    found += [placement.left, placement.top] * 2
    # One pixel of the input is this many of the original.
    pixel = max(width / placement.inner_width, height / placement.inner_height)
    np.testing.assert_allclose(
        placement.restore(found)[0], [left, top, right, bottom], atol=1.1 * pixel
    )
