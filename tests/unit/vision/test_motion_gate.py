"""The motion gate: what is still costs no look, what moves is seen."""

import gc
import hashlib
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pytest

from detectors.vision.motion import GREY_SIDE, LONGEST_STILL, MotionGate, grey_of
from detectors.vision.picture import Image
from device_profiles.errors import Rejected
from device_profiles.readings import Box

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
BOXES = (Box("head", 0.9, (1.0, 2.0, 3.0, 4.0)),)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def scene(width: int = 640, height: int = 360, noise: float = 0) -> Image:
    """A yard: a gradient, and the camera's noise."""
    picture = np.tile(np.linspace(60, 180, width), (height, 1))
    picture = picture + np.random.default_rng(1).normal(0, noise, picture.shape)
    return np.repeat(picture.clip(0, 255)[..., np.newaxis], 3, 2).astype(np.uint8)


def jpeg(picture: Image, quality: int = 80) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def with_worker(left: int, level: int = 20, size: tuple[int, int] = (60, 25)) -> Image:
    picture = scene()
    picture[200 : 200 + size[0], left : left + size[1]] = level
    return picture


@pytest.fixture
def gate() -> MotionGate:
    """A gate that has looked at the empty yard."""
    gate, data = MotionGate(), jpeg(scene())
    assert gate.still(data, at(0), sha256(data)) is None
    gate.looked(at(0), BOXES)
    return gate


def test_the_first_picture_has_to_be_looked_at() -> None:
    assert MotionGate().still(jpeg(scene()), at(0)) is None


def test_the_same_scene_shows_the_same(gate: MotionGate) -> None:
    assert gate.still(jpeg(scene()), at(1)) == BOXES
    assert gate.still(jpeg(scene(), quality=40), at(2)) == BOXES
    assert gate.still(jpeg(scene(noise=4)), at(3)) == BOXES


def test_a_still_scene_without_boxes_is_still() -> None:
    gate = MotionGate()
    gate.still(jpeg(scene()), at(0))
    gate.looked(at(0), ())
    assert gate.still(jpeg(scene()), at(1)) == ()


def test_who_walks_in_is_seen(gate: MotionGate) -> None:
    assert gate.still(jpeg(with_worker(100)), at(1)) is None


@pytest.mark.parametrize("size", [(320, 240), (480, 360), (640, 480), (1280, 720)])
def test_who_walks_in_far_away_is_seen_wherever_he_does(size: tuple[int, int]) -> None:
    width, height = size
    empty = scene(*size, noise=5)
    gate = MotionGate()
    gate.still(jpeg(empty), at(0))
    gate.looked(at(0), BOXES)
    tall, wide = height * 12 // 100, height * 5 // 100
    for top in range(0, height - tall, height // 4):
        for left in range(0, width - wide, width // 3):
            picture = empty.copy()
            picture[top : top + tall, left : left + wide] = 20
            assert gate.still(jpeg(picture), at(1)) is None, (top, left)
    assert gate.still(jpeg(empty, quality=40), at(1)) == BOXES


@pytest.mark.parametrize("width", [200, 640, 768, 1280])
def test_fitness_is_measured_on_as_large_a_picture_as_ever(width: int) -> None:
    data = jpeg(scene(width, width * 9 // 16))
    gate = MotionGate()
    assert gate.grey is None
    assert gate.still(data, at(0)) is None
    assert gate.grey is not None
    assert np.array_equal(gate.grey, grey_of(data))
    assert max(gate.grey.shape) == GREY_SIDE


def test_what_stands_there_is_still_once_looked_at(gate: MotionGate) -> None:
    assert gate.still(jpeg(with_worker(100)), at(1)) is None
    gate.looked(at(1), ())
    assert gate.still(jpeg(with_worker(100)), at(2)) == ()
    assert gate.still(jpeg(with_worker(140)), at(3)) is None


def test_a_picture_is_compared_with_the_last_one_looked_at(gate: MotionGate) -> None:
    assert gate.still(jpeg(with_worker(100)), at(1)) is None
    # Nobody looked: the worker is news until somebody does.
    assert gate.still(jpeg(with_worker(100)), at(2)) is None
    assert gate.still(jpeg(scene()), at(3)) == BOXES


def test_slow_change_adds_up(gate: MotionGate) -> None:
    verdicts = [
        gate.still(jpeg(scene() + np.uint8(step)), at(step / 10)) for step in range(0, 31, 3)
    ]
    assert verdicts[1] == BOXES
    assert verdicts[-1] is None


def test_a_small_thing_is_no_motion(gate: MotionGate) -> None:
    assert gate.still(jpeg(with_worker(100, size=(4, 4))), at(1)) == BOXES


def test_however_still_it_is_looked_at_again(gate: MotionGate) -> None:
    last = LONGEST_STILL.total_seconds()
    assert gate.still(jpeg(scene()), at(last - 0.001)) == BOXES
    assert gate.still(jpeg(scene()), at(last)) is None


def test_a_clock_set_back_is_no_excuse(gate: MotionGate) -> None:
    assert gate.still(jpeg(scene()), at(-1)) is None


@pytest.mark.parametrize("size", [(320, 180), (639, 360), (360, 640), (640, 480), (1, 1)])
def test_a_picture_of_another_size_is_looked_at(gate: MotionGate, size: tuple[int, int]) -> None:
    # Boxes are in pixels: those of the picture before would be somewhere else.
    assert gate.still(jpeg(scene(*size)), at(1)) is None


def test_each_camera_has_a_gate_of_its_own(gate: MotionGate) -> None:
    assert MotionGate().still(jpeg(scene()), at(1)) is None
    assert gate.still(jpeg(scene()), at(1)) == BOXES


def test_what_is_no_picture_is_rejected_and_changes_nothing(gate: MotionGate) -> None:
    for data in (b"", b"hello", jpeg(scene())[:100]):
        with pytest.raises(Rejected):
            gate.still(data, at(1))
    assert gate.still(jpeg(scene()), at(2)) == BOXES


def test_the_very_same_bytes_are_still_without_a_look_at_them(
    gate: MotionGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "detectors.vision.motion.decode", lambda *_, **_named: pytest.fail("decoded")
    )
    data = jpeg(scene())
    assert gate.still(data, at(1), sha256(data)) == BOXES
    assert gate.grey is not None
    for seconds, name in ((2, None), (LONGEST_STILL.total_seconds(), sha256(data))):
        with pytest.raises(pytest.fail.Exception):
            gate.still(data, at(seconds), name)


def test_a_gate_holds_no_picture_as_it_came(gate: MotionGate) -> None:
    data = jpeg(scene())
    gate.still(data, at(1), sha256(data))
    gate.looked(at(1), BOXES)
    assert not any(referent is data for referent in gc.get_referents(vars(gate)))


def test_the_same_bytes_count_only_as_those_looked_at(gate: MotionGate) -> None:
    # Nobody looked at the worker: showing him again changes nothing.
    data = jpeg(with_worker(100))
    for seconds in (1, 2):
        assert gate.still(data, at(seconds), sha256(data)) is None


@pytest.mark.parametrize("size", [(1280, 720), (640, 360), (500, 900), (1, 1), (3, 2_000)])
def test_the_grey_picture_is_small(size: tuple[int, int]) -> None:
    grey = grey_of(jpeg(scene(*size)))
    assert grey.ndim == 2
    assert 1 <= min(grey.shape) <= max(grey.shape) <= 160
