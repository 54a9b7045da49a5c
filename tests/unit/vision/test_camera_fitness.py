"""A camera's fitness: shipped clips, darkened, blurred, covered and shifted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

import simulators
from detectors.vision.fitness import (
    LOOKS,
    MOVED_FOR,
    RELEARN,
    Judge,
    gradients,
    measure,
    same_scene,
)
from detectors.vision.motion import GREY_SIDE
from detectors.vision.picture import Image
from device_profiles.readings import Unfit

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
CLIPS = Path(simulators.__file__).parent / "clips"
NAMES = ["one-by-one", "worker-zone"]

Change = Callable[[Image], Image]


@cache
def clip(name: str) -> tuple[Image, ...]:
    """A clip's pictures, grey, twice as large as they are measured."""
    files = sorted((CLIPS / name).glob("*.jpg"))
    pictures = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    return tuple(small(np.asarray(picture, np.uint8), 2 * GREY_SIDE) for picture in pictures)


def small(picture: Image, side: int = GREY_SIDE) -> Image:
    height, width = picture.shape
    size = side, side * height // width
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def noisy(picture: Image, factor: float, level: float = 0.0) -> Image:
    noise = np.random.default_rng(1).normal(0, 2, picture.shape)
    return (picture * factor + level + noise).clip(0, 255).astype(np.uint8)


def blurred(share: float) -> Change:
    """A blur whose standard deviation is a share of the picture's width."""
    return lambda picture: cv2.GaussianBlur(picture, (0, 0), share * picture.shape[1]).astype(
        np.uint8, copy=False
    )


def shifted(share: float) -> Change:
    """A lens turned by a share of the picture's width."""

    def shift(picture: Image) -> Image:
        height, width = picture.shape
        by = np.array([[1, 0, share * width], [0, 1, 0]], np.float32)
        moved = cv2.warpAffine(picture, by, (width, height), borderMode=cv2.BORDER_REFLECT)
        return moved.astype(np.uint8, copy=False)

    return shift


def shown(
    judge: Judge, pictures: Sequence[Image], start: float, every_s: float = 0.5
) -> list[Unfit | None]:
    return [
        judge.take(small(picture), T0 + timedelta(seconds=start + every_s * place)).unfit
        for place, picture in enumerate(pictures)
    ]


def learnt(name: str, **terms: bool) -> Judge:
    judge = Judge(**terms)
    assert set(shown(judge, clip(name) * 2, 0)) == {None}
    return judge


def of(name: str, count: int, change: Change = lambda picture: picture) -> list[Image]:
    pictures = clip(name)
    return [change(pictures[place % len(pictures)]) for place in range(count)]


CHANGES: list[tuple[str, Change, Unfit | None]] = [
    ("night", lambda picture: noisy(picture, 0.12), Unfit.DARK),
    ("glare", lambda picture: noisy(picture, 4.0, 180), Unfit.BRIGHT),
    ("dirt", blurred(4 / 1280), Unfit.BLURRED),
    ("fog on the lens", blurred(12 / 1280), Unfit.BLURRED),
    ("hand", lambda picture: noisy(picture, 0.0, 30), Unfit.BLOCKED),
    ("sheet", lambda picture: noisy(blurred(0.05)(picture), 0.3, 150), Unfit.BLOCKED),
    ("turned a little", shifted(0.04), Unfit.MOVED),
    ("turned far", shifted(0.3), Unfit.MOVED),
    ("trembling", shifted(0.003), None),
    ("cloud", lambda picture: noisy(picture, 0.6), None),
    ("sun", lambda picture: noisy(picture, 1.3), None),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "expected"),
    [pytest.param(change, expected, id=what) for what, change, expected in CHANGES],
)
def test_what_befalls_a_camera_is_named(name: str, change: Change, expected: Unfit | None) -> None:
    judge = learnt(name)
    said = shown(judge, of(name, 40, change), 60)
    assert said[-1] is expected
    assert set(said) == {None, expected}
    # And it is over when it is over.
    assert shown(judge, of(name, LOOKS + 2), 80)[-1] is None


@pytest.mark.parametrize("name", NAMES)
def test_people_walking_through_are_no_reason(name: str) -> None:
    assert set(shown(Judge(), clip(name) * 3, 0)) == {None}


def test_one_bad_picture_says_nothing() -> None:
    judge = learnt("worker-zone")
    dark = [noisy(picture, 0.1) for picture in of("worker-zone", LOOKS - 1)]
    assert set(shown(judge, [*dark, *of("worker-zone", 4), *dark], 60)) == {None}


def test_a_machine_in_the_way_for_a_moment_is_no_reason() -> None:
    judge = learnt("worker-zone")
    moment = int(MOVED_FOR.total_seconds() / 0.5) - 1
    assert set(shown(judge, of("worker-zone", moment, shifted(0.3)), 60)) == {None}


def test_an_unchanged_picture_counts_as_a_look() -> None:
    judge = learnt("worker-zone")
    at = T0 + timedelta(minutes=2)
    judge.take(small(noisy(clip("worker-zone")[0], 0.1)), at)
    for place in range(1, LOOKS):
        verdict = judge.again(at + timedelta(seconds=place))
    assert verdict.unfit is Unfit.DARK
    assert verdict.figures["light"] < 50


def test_a_camera_that_patrols_is_never_moved_and_never_short_of_detail() -> None:
    judge = Judge(fixed=False)
    patrol = (of("one-by-one", 20) + of("worker-zone", 20)) * 3
    assert set(shown(judge, patrol, 0)) == {None}
    assert shown(judge, of("worker-zone", 5, lambda one: noisy(one, 0.1)), 60)[-1] is Unfit.DARK


def test_a_new_scene_is_learnt_in_time_unless_something_is_drawn_on_the_old() -> None:
    long = int(RELEARN.total_seconds() / 10) + 10
    judge, drawn_on = learnt("worker-zone"), learnt("worker-zone", drawn_on=True)
    said = shown(judge, of("one-by-one", long), 60, every_s=10)
    assert said[5] is Unfit.MOVED
    assert said[-1] is None
    assert shown(drawn_on, of("one-by-one", long), 60, every_s=10)[-1] is Unfit.MOVED


def test_small_heads_are_a_reason_when_they_are_the_rule() -> None:
    judge = learnt("worker-zone")
    at = T0 + timedelta(minutes=1)
    judge.heads([6.0] * 9, at)
    assert set(shown(judge, of("worker-zone", 5), 60)) == {None}
    judge.heads([7.0], at)
    assert shown(judge, of("worker-zone", 5), 70)[-1] is Unfit.SMALL_HEADS
    assert judge.verdict.figures["head_px"] == 6
    judge.heads([20.0] * 20, at)
    assert shown(judge, of("worker-zone", 5), 80)[-1] is None
    # What was seen long ago is over.
    judge.heads([5.0] * 40, at)
    assert set(shown(judge, of("worker-zone", 5), 7_200)) == {None}


def test_what_was_learnt_outlives_a_restart() -> None:
    memory = learnt("worker-zone").remember()
    assert memory is not None
    assert len(memory) < 40_000
    judge = Judge()
    assert judge.recall(memory)
    assert shown(judge, of("worker-zone", 40, shifted(0.1)), 60)[-1] is Unfit.MOVED
    assert not Judge().recall(memory[:50])
    assert not Judge().recall(b"")
    assert Judge().remember() is None


def test_a_scene_without_detail_cannot_be_told_from_another() -> None:
    plain = np.full((90, 160), 120, np.uint8)
    assert same_scene(gradients(plain), gradients(plain)) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 160), (90, 1), (3, 5), (160, 90)])
def test_any_picture_can_be_measured(shape: tuple[int, int]) -> None:
    for level in (0, 255):
        fitness = measure(np.full(shape, level, np.uint8))
        assert fitness.light == level
        assert fitness.structure == 0
    judge = Judge()
    for second in range(20):
        judge.take(np.full(shape, 128, np.uint8), T0 + timedelta(seconds=second))


def test_a_camera_that_changes_its_size_begins_anew() -> None:
    judge = learnt("worker-zone")
    tall = [picture.T.copy() for picture in of("worker-zone", 4)]
    for place, picture in enumerate(tall):
        scaled = cv2.resize(picture, (90, 160)).astype(np.uint8, copy=False)
        assert judge.take(scaled, T0 + timedelta(seconds=60 + place)).unfit is None
