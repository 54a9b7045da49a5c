"""From pictures to training samples: mosaic, scale, colour, weather, and hats.

A sample carries, beside its boxes, a map of what is known where: a mosaic mixes sources that label
different classes, and a box cut off to a sliver is neither there nor not there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from detectors.training.dataset import Boxes, Picture, PixelCache, Pixels, resized
from detectors.training.hats import cap_mask, dress, knit, recoloured
from detectors.training.recipe import CLASSES, HEAD, HELMET, Part, Recipe

PADDING = 114
FINEST_STRIDE = 8
# A box cut at the edge stays a box while this part of it is left …
MIN_VISIBLE = 0.4
# … and while it is this long, in pixels of the sample.
MIN_SIDE = 3.0
# Heads less wide have no room for a drawn hat, pixels.
ROOM_FOR_A_HAT = 14.0


@dataclass
class Sample:
    """One training sample.

    Attributes:
        pixels: [S, S, 3], BGR.
        classes: [n].
        boxes: x1, y1, x2, y2 in pixels, [n, 4].
        exact: whether a box is exact, [n].
        known: [classes, S / 8, S / 8]: whether a location without a box is without an object.
    """

    pixels: Pixels
    classes: npt.NDArray[np.int64]
    boxes: Boxes
    exact: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]


class Sampler:
    """Draws samples; sample n of step s depends on the recipe's seed, s and n alone."""

    def __init__(self, recipe: Recipe, pictures: list[Picture], cache: PixelCache) -> None:
        self._recipe = recipe
        self._pictures = pictures
        self._cache = cache
        weights = dict(recipe.source_weights)
        drawn = np.array([weights.get(picture.source, 1.0) for picture in pictures])
        self._cumulated = np.cumsum(drawn / drawn.sum())

    def batch(self, step: int) -> list[Sample]:
        """The samples of a step."""
        random = np.random.default_rng((self._recipe.seed, step))
        part = self._recipe.part(step)
        size = part.sizes[0] if part.plain else int(random.choice(part.sizes))
        return [self._sample(random, size, part) for _ in range(self._recipe.batch)]

    def _sample(self, random: np.random.Generator, size: int, part: Part) -> Sample:
        whole = (0, 0, size, size)
        if not part.plain and random.random() < self._recipe.mosaic:
            sample = self._mosaic(random, size, part)
        else:
            sample = _blank(size)
            scale = random.uniform(0.8, 1.25) if part.plain else np.exp(random.uniform(-0.5, 0.6))
            self._place(random, sample, whole, float(scale), part)
        if not part.plain and random.random() < self._recipe.mixup:
            other = _blank(size)
            self._place(random, other, whole, float(random.uniform(0.7, 1.3)), part)
            sample = _mixed(sample, other, float(random.uniform(0.3, 0.5)))
        sample.pixels = weathered(random, sample.pixels)
        if random.random() < 0.5:
            _flip(sample)
        return sample

    def _mosaic(self, random: np.random.Generator, size: int, part: Part) -> Sample:
        sample = _blank(size)
        x, y = (int(part * size) for part in random.uniform(0.3, 0.7, 2))
        for area in ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)):
            scale = float(np.exp(random.uniform(np.log(0.4), np.log(1.25))))
            self._place(random, sample, area, scale, part)
        return sample

    def _place(
        self,
        random: np.random.Generator,
        sample: Sample,
        area: tuple[int, int, int, int],
        scale: float,
        part: Part,
    ) -> None:
        """Puts a picture, scaled against its letterbox in the sample, into an area of it."""
        number = int(np.searchsorted(self._cumulated, random.random()))
        picture = self._pictures[min(number, len(self._pictures) - 1)]
        pixels = self._cache[min(number, len(self._pictures) - 1)]
        height, width = pixels.shape[:2]
        size = sample.pixels.shape[0]
        stretch = float(np.exp(random.uniform(-0.1, 0.1)))
        zoom = scale * size / max(height, width)
        zoom_x, zoom_y = zoom * stretch, zoom / stretch
        left, top, right, bottom = area
        # Source window [u0, u1) and where its upper left corner lands.
        u0, u1, landing_x = _window(random, width, right - left, zoom_x)
        v0, v1, landing_y = _window(random, height, bottom - top, zoom_y)
        out_width = min(max(1, round((u1 - u0) * zoom_x)), right - left - landing_x)
        out_height = min(max(1, round((v1 - v0) * zoom_y)), bottom - top - landing_y)
        x0, y0 = left + landing_x, top + landing_y
        x1, y1 = x0 + out_width, y0 + out_height
        patch = resized(pixels[v0:v1, u0:u1], out_width, out_height)

        boxes = picture.boxes * np.array([width, height] * 2, np.float32)
        boxes = (boxes - np.array([u0, v0] * 2, np.float32)) * np.array(
            [out_width / (u1 - u0), out_height / (v1 - v0)] * 2, np.float32
        ) + np.array([x0, y0] * 2, np.float32)
        cut = boxes.clip(
            np.array([x0, y0] * 2, np.float32), np.array([x1, y1] * 2, np.float32)
        ).astype(np.float32)
        kept, doubtful = _still_visible(boxes, cut)

        # A cell across two tiles knows what both know.
        sample.known[:, _cells(y0, y1), _cells(x0, x1)] &= picture.known[:, None, None]
        for category, box in zip(picture.classes[doubtful], cut[doubtful], strict=True):
            sample.known[category, _cells(box[1], box[3]), _cells(box[0], box[2])] = False
        _dress_heads(
            random,
            patch,
            picture.classes[kept],
            cut[kept] - np.array([x0, y0] * 2, np.float32),
            part.hats,
        )
        sample.pixels[y0:y1, x0:x1] = patch
        sample.classes = np.concatenate((sample.classes, picture.classes[kept]))
        sample.boxes = np.concatenate((sample.boxes, cut[kept]))
        sample.exact = np.concatenate((sample.exact, picture.exact[picture.classes[kept]]))


def _blank(size: int) -> Sample:
    cells = size // FINEST_STRIDE
    return Sample(
        pixels=np.full((size, size, 3), PADDING, np.uint8),
        classes=np.zeros(0, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        exact=np.zeros(0, np.bool_),
        known=np.ones((len(CLASSES), cells, cells), np.bool_),
    )


def _window(
    random: np.random.Generator, length: int, room: int, zoom: float
) -> tuple[int, int, int]:
    """Part of an axis that is shown, and where in the room it begins."""
    shown = min(length, max(1, int(room / zoom)))
    start = int(random.integers(0, length - shown + 1))
    landing = int(random.integers(0, max(0, room - round(shown * zoom)) + 1))
    return start, start + shown, landing


def _still_visible(boxes: Boxes, cut: Boxes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which cut boxes are still boxes, and which leave something unclear behind."""
    whole = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    sides = cut[:, 2:] - cut[:, :2]
    left = np.prod(sides, 1)
    kept = (left >= MIN_VISIBLE * whole) & (sides.min(1, initial=np.inf) >= MIN_SIDE)
    return kept, ~kept & (left > 0.05 * whole)


def _cells(start: float, end: float) -> slice:
    return slice(int(start) // FINEST_STRIDE, -(-int(end) // FINEST_STRIDE))


def _mixed(below: Sample, above: Sample, share: float) -> Sample:
    return Sample(
        pixels=np.asarray(
            cv2.addWeighted(below.pixels, 1.0 - share, above.pixels, share, 0.0), np.uint8
        ),
        classes=np.concatenate((below.classes, above.classes)),
        boxes=np.concatenate((below.boxes, above.boxes)),
        exact=np.concatenate((below.exact, above.exact)),
        known=below.known & above.known,
    )


def _flip(sample: Sample) -> None:
    size = sample.pixels.shape[1]
    sample.pixels = np.ascontiguousarray(sample.pixels[:, ::-1])
    sample.known = sample.known[:, :, ::-1]
    sample.boxes[:, [0, 2]] = size - sample.boxes[:, [2, 0]]


def _dress_heads(
    random: np.random.Generator,
    patch: Pixels,
    classes: npt.NDArray[np.int64],
    boxes: Boxes,
    hats: float,
) -> None:
    """Gives heads and helmets other colours, and some heads a hat.

    Every public helmet model tried took caps for helmets. Colour must not decide: hair and caps
    get the colours of hard hats, hard hats those of hair and caps.
    """
    for category, box in zip(classes, boxes, strict=True):
        if category not in (HELMET, HEAD) or random.random() > 0.3:
            continue
        room = category == HEAD and box[2] - box[0] >= ROOM_FOR_A_HAT
        if hats and room and random.random() < hats:
            dress(random, patch, box)
            continue
        x0, y0 = (max(0, int(v)) for v in box[:2])
        x1, y1 = int(np.ceil(box[2])), int(np.ceil(box[3]))
        upper = patch[y0 : y0 + max(1, round((y1 - y0) * 0.62)), x0:x1]
        if min(upper.shape[:2]) < 4:
            continue
        if category == HEAD and upper.shape[1] >= 16 and random.random() < 0.3:
            dressed = knit(random, upper)
        else:
            dressed = recoloured(random, upper)
        alpha = cap_mask(upper.shape[0], upper.shape[1])
        upper[:] = (upper + (dressed - upper) * alpha).clip(0, 255).astype(np.uint8)


def weathered(random: np.random.Generator, pixels: Pixels) -> Pixels:
    """Colours, light, night, blur and compression of the whole sample."""
    hsv = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV), np.uint8)
    levels = np.arange(256, dtype=np.float32)
    shift = random.uniform(-9, 9)
    richer = random.uniform(0.45, 1.5)
    brighter = random.uniform(0.65, 1.4)
    gamma = np.exp(random.uniform(-0.25, 0.25))
    if random.random() < 0.06:
        richer = 0.0  # cameras see grey in infrared
    if random.random() < 0.08:
        brighter, gamma = random.uniform(0.25, 0.6), random.uniform(1.0, 1.6)
    tables = (
        np.mod(levels + shift, 180),
        levels * richer,
        255 * (levels / 255) ** gamma * brighter,
    )
    table = np.stack([t.clip(0, 255) for t in tables], 1).astype(np.uint8)[None]
    pixels = np.asarray(cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR), np.uint8)
    dice = random.random()
    if dice < 0.06:
        kernel = int(random.choice((3, 5)))
        pixels = np.asarray(cv2.GaussianBlur(pixels, (kernel, kernel), 0), np.uint8)
    elif dice < 0.12:
        quality = int(random.integers(20, 60))
        _, coded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))
        pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    elif dice < 0.17:
        noise = random.normal(0.0, random.uniform(3, 14), pixels.shape[:2]).astype(np.float32)
        pixels = (pixels + noise[:, :, None]).clip(0, 255).astype(np.uint8)
    elif dice < 0.22:
        small = resized(pixels, pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = resized(small, pixels.shape[1], pixels.shape[0])
    return pixels
