"""Large pictures in parts: where heads are small, tiles are looked at beside the whole.

The whole picture finds what is large; tiles that overlap find what is small. What a tile cuts
off at an inner edge is whole in its neighbour or in the whole picture, so boxes that touch an inner
edge are left out. What is left of all of them is merged: of boxes of one group (helmet and head
are one) that overlap, the best stays.

A picture costs one run of the model; in 2 × 2 tiles 5, in 3 × 2 tiles 7.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

import numpy as np

from detectors.vision.boxes import suppress
from detectors.vision.picture import Image, decode
from device_profiles.jpeg import JpegHeader
from device_profiles.readings import HEADS, Box

Ways = Literal["auto", "off", "2x2", "3x2"]

GRIDS: dict[str, tuple[int, int]] = {"2x2": (2, 2), "3x2": (3, 2)}

OVERLAP = 0.15
"""Share of a tile that it has in common with its neighbour: more than any head it is meant for."""

SMALL_HEAD_PX, LARGE_HEAD_PX = 20.0, 26.0
"""Heads with a median below, in pixels of the model's input, ask for tiles; above, they do not any
more; both as the whole picture shows them."""

LARGER = 1.5
"""A picture is worth tiles when its longer side is so much larger than the model's."""

PROBE = timedelta(minutes=1)
"""Heads too small to be seen at all cannot ask for tiles: a large picture of a camera that showed
none for so long is looked at in tiles all the same, and again after so long."""

HEADS_FOR = timedelta(hours=1)
"""Heads seen longer ago say nothing of those that are there now."""

_MOST_SIZES = 30
_LEAST_SIZES = 6
_EDGE_PX = 2.0
_MAX_OVERLAP = 0.5
_INSIDE = 0.85
_MAX_BOXES = 300


class Eye(Protocol):
    """What looks at a decoded picture: `detectors.vision.model.Model`."""

    def see(self, image: Image, least: float, *, every: bool = False) -> list[Box]:
        """Find what a picture shows, in its own pixels."""


class SizedEye(Eye, Protocol):
    """The same, and how large its input is."""

    @property
    def side(self) -> int:
        """The longer side of its input, pixels."""


class Tile(NamedTuple):
    """A part of a picture, pixels: left, top, right, bottom; right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@functools.lru_cache(maxsize=64)
def cut(width: int, height: int, across: int, down: int) -> tuple[Tile, ...]:
    """Cut a picture into tiles of one size that overlap.

    Args:
        width: Of the picture, pixels.
        height: Likewise.
        across: How many tiles side by side.
        down: How many on top of each other.

    Returns:
        The tiles, row by row; they cover the picture.
    """
    lefts, wide = _steps(width, across)
    tops, high = _steps(height, down)
    return tuple(Tile(left, top, left + wide, top + high) for top in tops for left in lefts)


def _steps(length: int, count: int) -> tuple[list[int], int]:
    """Where tiles begin along one side, and how long they are."""
    size = min(length, round(length / (count - (count - 1) * OVERLAP)))
    if count == 1:
        return [0], length
    return [round(place * (length - size) / (count - 1)) for place in range(count)], size


def nearer(width: int, height: int, grid: tuple[int, int]) -> float:
    """How much larger a tile shows what the whole picture shows.

    Args:
        width: Of the picture, pixels.
        height: Likewise.
        grid: Tiles across and down.

    Returns:
        The picture's longer side against the tiles'.
    """
    tile = cut(width, height, *grid)[0]
    return max(width, height) / max(tile.right - tile.left, tile.bottom - tile.top)


def look_closely(
    eye: SizedEye, data: bytes, header: JpegHeader, least: float, grid: tuple[int, int]
) -> list[Box]:
    """Decode a JPEG as large as its tiles are worth, and look at it and them.

    Args:
        eye: The model.
        data: The JPEG.
        header: Its header.
        least: Boxes with a lower score are left out.
        grid: Tiles across and down.

    Returns:
        As `look_in_tiles`.

    Raises:
        Rejected: It cannot be decoded.
    """
    longest = max(header.width, header.height)
    wanted = int(eye.side * nearer(header.width, header.height, grid))
    image = decode(data, header, min(longest, wanted))
    return look_in_tiles(eye, image, least, grid, longest / max(image.shape[:2]))


def look_in_tiles(
    eye: Eye, image: Image, least: float, grid: tuple[int, int], scale: float = 1.0
) -> list[Box]:
    """Find what a large picture shows.

    Args:
        eye: The model.
        image: Decoded, large enough for its tiles.
        least: Boxes with a lower score are left out.
        grid: Tiles across and down.
        scale: Pixels of the original for one of the picture, where it was shrunk in decoding.

    Returns:
        Boxes in pixels of the original, highest score first, rounded to 1e-3.
    """
    height, width = image.shape[:2]
    found = list(eye.see(image, least))
    for tile in cut(width, height, *grid):
        part = np.ascontiguousarray(image[tile.top : tile.bottom, tile.left : tile.right])
        found += [
            _moved(box, tile.left, tile.top)
            for box in eye.see(part, least)
            if not _is_cut(box, tile, width, height)
        ]
    return [_scaled(box, scale) for box in merge(found)]


def _is_cut(box: Box, tile: Tile, width: int, height: int) -> bool:
    """Whether a box ends at an edge of its tile that is none of the picture."""
    left, top, right, bottom = box.box
    return (
        (tile.left > 0 and left < _EDGE_PX)
        or (tile.top > 0 and top < _EDGE_PX)
        or (tile.right < width and right > tile.right - tile.left - _EDGE_PX)
        or (tile.bottom < height and bottom > tile.bottom - tile.top - _EDGE_PX)
    )


def _moved(box: Box, across: float, down: float) -> Box:
    left, top, right, bottom = box.box
    return Box(box.label, box.score, (left + across, top + down, right + across, bottom + down))


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = (round(side * scale, 3) for side in box.box)
    return Box(box.label, box.score, (left, top, right, bottom))


def merge(boxes: Sequence[Box]) -> list[Box]:
    """Keep the best of the boxes that show one thing.

    Args:
        boxes: Of the whole picture and its tiles, in pixels of the whole.

    Returns:
        What stays, highest score first.
    """
    if not boxes:
        return []
    corners = np.array([box.box for box in boxes], np.float32)
    scores = np.array([box.score for box in boxes], np.float32)
    names = ["head" if box.label in HEADS else box.label for box in boxes]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    groups = np.array([numbers[name] for name in names], np.int64)
    kept: list[Box] = []
    for place in suppress(corners, scores, groups, _MAX_OVERLAP, _MAX_BOXES):
        box = boxes[int(place)]
        # A head that is drawn larger in one tile than in the other is one head; a person before
        # another is two.
        if box.label not in HEADS or not any(
            other.label in HEADS and _lies_in(box, other) for other in kept
        ):
            kept.append(box)
    return kept


def _lies_in(box: Box, other: Box) -> bool:
    one, around = box.box, other.box
    width = min(one[2], around[2]) - max(one[0], around[0])
    height = min(one[3], around[3]) - max(one[1], around[1])
    if width <= 0 or height <= 0:
        return False
    return width * height > _INSIDE * (one[2] - one[0]) * (one[3] - one[1])


class Magnifier:
    """Decides whether one camera's pictures are looked at in tiles."""

    def __init__(self, way: Ways = "auto") -> None:
        """Start with a camera whose heads were not seen.

        Args:
            way: As in `device_profiles.sites.CameraSettings.tiles`.
        """
        self._way = way
        self._sizes: deque[tuple[datetime, float]] = deque(maxlen=_MOST_SIZES)
        self._on = False
        self._probed_at: datetime | None = None

    def grid(self, width: int, height: int, side: int, at: datetime) -> tuple[int, int] | None:
        """Decide on the next picture.

        Args:
            width: Of the picture, pixels.
            height: Likewise.
            side: The longer side of the model's input.
            at: The picture's time; aware.

        Returns:
            Tiles across and down (turned for a picture that is higher than wide); None: whole.
        """
        if self._way == "off" or max(width, height) < LARGER * side:
            return None
        if self._way != "auto":
            return _turned(GRIDS[self._way], width, height)
        if not self._on and not self._to_probe(at):
            return None
        return _turned(GRIDS["3x2" if max(width, height) >= 3 * side else "2x2"], width, height)

    def _to_probe(self, at: datetime) -> bool:
        if self._sizes and abs(at - self._sizes[-1][0]) < PROBE:
            return False
        if self._probed_at is None or not timedelta(0) <= at - self._probed_at < PROBE:
            self._probed_at = at
            return True
        return False

    def saw(self, sizes: Iterable[float], at: datetime) -> None:
        """Take note of the heads that were seen, in tiles or without.

        Args:
            sizes: Their longer sides, in pixels of the model's input for the whole picture.
            at: The picture's time; aware.
        """
        while self._sizes and at - self._sizes[0][0] > HEADS_FOR:
            self._sizes.popleft()
        self._sizes.extend((at, size) for size in sizes)
        if len(self._sizes) >= _LEAST_SIZES:
            usual = float(np.median([size for _, size in self._sizes]))
            self._on = usual < (LARGE_HEAD_PX if self._on else SMALL_HEAD_PX)


def _turned(grid: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    return grid if width >= height else (grid[1], grid[0])
