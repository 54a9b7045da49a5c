"""Large pictures in parts: tiles, what they cut off, what is merged, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

import simulators
from detectors.vision.model import Model
from detectors.vision.picture import Image
from detectors.vision.tiles import OVERLAP, Magnifier, cut, look_in_tiles, merge
from device_profiles.readings import Box

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "grid"), [((1920, 1080), (2, 2)), ((1920, 1080), (3, 2)), ((5, 3), (3, 2))]
)
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int], grid: tuple[int, int]) -> None:
    width, height = size
    covered = np.zeros((height, width), int)
    tiles = cut(width, height, *grid)
    for tile in tiles:
        covered[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert covered.min() >= 1
    assert len({(tile.right - tile.left, tile.bottom - tile.top) for tile in tiles}) == 1
    one, other = tiles[0], tiles[1]
    shared, wide = one.right - other.left, one.right - one.left
    assert abs(shared - OVERLAP * wide) <= 2


class Spotter:
    """Finds white squares, whole or cut off, wherever they are larger than a share of the side."""

    def __init__(self, least_share: float) -> None:
        self._least_share = least_share
        self.pictures = 0

    def see(self, image: Image, least: float, *, every: bool = False) -> list[Box]:
        self.pictures += 1
        count, _, stats, _ = cv2.connectedComponentsWithStats(
            (image[..., 0] > 128).astype(np.uint8)
        )
        found = []
        for left, top, width, height, _ in stats[1:count]:
            if max(width, height) >= self._least_share * max(image.shape):
                corners = (float(left), float(top), float(left + width), float(top + height))
                found.append(Box("head", 0.9, corners))
        return found


def scene(*squares: tuple[int, int, int]) -> Image:
    picture = np.zeros((1080, 1920, 3), np.uint8)
    for left, top, size in squares:
        picture[top : top + size, left : left + size] = 255
    return picture


def corners(boxes: list[Box]) -> list[tuple[float, ...]]:
    return sorted(box.box for box in boxes)


def test_what_is_small_is_found_in_tiles_once_and_whole() -> None:
    # In the open, where two tiles overlap, where four do, and across an inner edge.
    squares = [(100, 100, 40), (930, 200, 40), (940, 520, 40), (1005, 800, 40)]
    eye = Spotter(0.03)
    found = look_in_tiles(eye, scene(*squares), 0.3, (2, 2))
    assert eye.pictures == 5
    assert corners(found) == sorted(
        (float(left), float(top), float(left + size), float(top + size))
        for left, top, size in squares
    )


def test_what_is_larger_than_the_overlap_is_found_in_the_whole() -> None:
    found = look_in_tiles(Spotter(0.03), scene((700, 300, 500)), 0.3, (2, 2))
    assert corners(found) == [(700, 300, 1200, 800)]


def test_boxes_are_in_pixels_of_the_original() -> None:
    found = look_in_tiles(Spotter(0.03), scene((100, 100, 40)), 0.3, (2, 2), scale=2.0)
    assert corners(found) == [(200, 200, 280, 280)]


def test_of_boxes_over_one_thing_the_best_stays() -> None:
    head = Box("head", 0.8, (100, 100, 140, 140))
    helmet = Box("helmet", 0.9, (102, 101, 141, 142))
    smaller = Box("head", 0.7, (105, 105, 125, 125))
    person = Box("person", 0.9, (80, 90, 160, 340))
    behind = Box("person", 0.8, (90, 100, 120, 200))
    assert merge([head, helmet, smaller, person, behind]) == [helmet, person, behind]
    assert merge([]) == []


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def test_small_heads_ask_for_tiles_and_large_ones_end_them() -> None:
    magnifier = Magnifier()
    magnifier.saw([30.0], at(0))
    assert magnifier.grid(1920, 1080, 416, at(0)) is None
    magnifier.saw([12.0] * 30, at(1))
    assert magnifier.grid(1920, 1080, 416, at(1)) == (3, 2)
    assert magnifier.grid(1080, 1920, 416, at(1)) == (2, 3)
    assert magnifier.grid(1000, 600, 416, at(1)) == (2, 2)
    # A picture hardly larger than the model's gains nothing.
    assert magnifier.grid(600, 400, 416, at(1)) is None
    magnifier.saw([23.0] * 30, at(2))
    assert magnifier.grid(1920, 1080, 416, at(2)) == (3, 2)
    magnifier.saw([28.0] * 30, at(3))
    assert magnifier.grid(1920, 1080, 416, at(3)) is None


def test_heads_too_small_to_be_seen_are_looked_for_now_and_then() -> None:
    magnifier = Magnifier()
    asked = [magnifier.grid(1920, 1080, 416, at(second)) for second in range(180)]
    assert sum(grid is not None for grid in asked) == 3


def test_one_near_head_does_not_end_looking_for_those_too_small_to_be_seen() -> None:
    magnifier = Magnifier()
    magnifier.saw([40.0], at(0))
    asked = [magnifier.grid(3840, 2160, 416, at(minute * 60)) for minute in range(24 * 60)]
    assert asked[0] is None
    assert all(asked[1:])


def test_while_heads_are_seen_nobody_looks_for_smaller_ones() -> None:
    magnifier = Magnifier()
    for second in range(0, 600, 30):
        magnifier.saw([40.0], at(second))
        assert magnifier.grid(3840, 2160, 416, at(second + 29)) is None
    # Nor does a clock that was set back stop the looking.
    assert magnifier.grid(3840, 2160, 416, at(-3_600)) is not None


def test_heads_of_an_hour_ago_do_not_decide() -> None:
    magnifier = Magnifier()
    magnifier.saw([40.0] * 20, at(0))
    magnifier.saw([12.0] * 8, at(3_599))
    assert magnifier.grid(1920, 1080, 416, at(3_600)) is None
    magnifier.saw([12.0], at(3_601))
    assert magnifier.grid(1920, 1080, 416, at(3_602)) == (3, 2)


@pytest.mark.parametrize(("way", "grid"), [("off", None), ("2x2", (2, 2)), ("3x2", (3, 2))])
def test_a_cameras_settings_decide_where_they_do(way: str, grid: tuple[int, int] | None) -> None:
    magnifier = Magnifier(way)  # type: ignore[arg-type]
    assert magnifier.grid(1920, 1080, 416, at(0)) == grid


def test_tiles_find_helmets_the_whole_picture_is_too_small_for() -> None:
    """Twenty-five small copies of a worker with a helmet in one large picture."""
    file = sorted((Path(simulators.__file__).parent / "clips" / "worker-zone").glob("*.jpg"))[6]
    worker = cv2.imread(str(file))
    assert worker is not None
    part = cv2.resize(worker, (384, 216), interpolation=cv2.INTER_AREA)
    picture = np.ascontiguousarray(np.tile(part, (5, 5, 1)), np.uint8)
    model = Model(tested=False)

    def helmets(boxes: list[Box]) -> int:
        return sum(box.label == "helmet" and box.score >= 0.4 for box in boxes)

    whole, tiled = model.see(picture, 0.3), look_in_tiles(model, picture, 0.3, (3, 2))
    assert helmets(whole) < 10
    assert helmets(tiled) > 20
