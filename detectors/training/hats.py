"""Headgear drawn onto heads: caps, flat caps, knit hats, hoods; and other colours.

The collections show next to no caps and knit hats, and every model learns from them that whatever
is worn on a head in a bright colour is a helmet. So colour must not decide, and cloth must be
seen: bare heads get hats of any colour and stay heads, helmets get any colour and stay helmets.

All that draws takes a square crop around a head and the head's box in it, and draws in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from detectors.training.dataset import Pixels

Floats = npt.NDArray[np.float32]

# Hue (OpenCV, 0 to 179) of hard hats: red, orange, yellow, green, blue; and of none.
HAT_HUES = (0, 8, 14, 22, 26, 30, 60, 105, 112, 118)


def with_cap(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a cap: a smooth or seamed dome to the brow, with a visor to a side or the front."""
    dome = _Dome(random, box, tall=(0.36, 0.52), wide=(0.42, 0.54))
    _paint(random, crop, dome.mask(crop.shape[0]), _cloth(random, crop, dome))
    if random.random() < 0.85:
        way = random.choice((-1, 0, 0, 1))
        reach = dome.half * random.uniform(0.5, 1.0)
        centre = (
            dome.x + way * (dome.half * 0.75 + reach * 0.4),
            dome.brow - dome.half * random.uniform(-0.02, 0.12),
        )
        across = reach * random.uniform(0.7, 1.0) if way else dome.half * random.uniform(0.75, 1.0)
        axes = (across, dome.half * random.uniform(0.12, 0.3))
        visor = _ellipse(crop.shape[0], centre, axes, way * random.uniform(0, 18))
        shade = random.uniform(0.5, 1.05)
        colour = dome.colour if random.random() < 0.65 else headgear_colour(random)
        _paint(random, crop, visor, np.broadcast_to(colour * shade, crop.shape))


def with_flat_cap(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a flat cap or beret: low, wider than the head, woven."""
    dome = _Dome(random, box, tall=(0.24, 0.36), wide=(0.5, 0.64))
    slope = random.uniform(-14, 14)
    centre = (dome.x, (dome.top + dome.brow) / 2)
    mask = _ellipse(crop.shape[0], centre, (dome.half, (dome.brow - dome.top) / 2 + 1), slope)
    _paint(random, crop, mask, _cloth(random, crop, dome))


def with_knit_hat(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a knit hat: ribbed, over brow and ears, perhaps turned up, perhaps with a bobble."""
    dome = _Dome(random, box, tall=(0.42, 0.58), wide=(0.46, 0.58))
    cloth = knit(random, crop)
    _paint(random, crop, dome.mask(crop.shape[0]), cloth)
    if random.random() < 0.5:  # turned up
        deep = (dome.brow - dome.top) * random.uniform(0.2, 0.4)
        band = dome.mask(crop.shape[0])
        band[: max(0, int(dome.brow - deep))] = 0
        _paint(random, crop, band, np.clip(cloth * random.uniform(0.6, 1.2), 0, 255))
    if random.random() < 0.25:
        size = dome.half * random.uniform(0.2, 0.35)
        bobble = _ellipse(crop.shape[0], (dome.x, dome.top), (size, size), 0)
        _paint(random, crop, bobble, knit(random, crop))


def with_hood(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a hood or scarf: cloth all around, the face left open."""
    height, width = box[3] - box[1], box[2] - box[0]
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    outer = _ellipse(
        crop.shape[0],
        (x, y),
        (width * random.uniform(0.55, 0.68), height * random.uniform(0.55, 0.66)),
        0,
    )
    face = _ellipse(
        crop.shape[0],
        (x + width * random.uniform(-0.15, 0.15), y + height * random.uniform(0.08, 0.2)),
        (width * random.uniform(0.28, 0.38), height * random.uniform(0.3, 0.42)),
        0,
    )
    dome = _Dome(random, box, tall=(0.4, 0.5), wide=(0.5, 0.6))
    _paint(random, crop, outer * (1 - face), _cloth(random, crop, dome))


def in_another_colour(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Gives what is on the head, hair or helmet, another colour."""
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    upper = crop[max(0, y1) : y1 + max(4, round((y2 - y1) * 0.62)), max(0, x1) : x2]
    if min(upper.shape[:2]) < 4:
        return
    alpha = cap_mask(upper.shape[0], upper.shape[1])
    upper[:] = (upper + (recoloured(random, upper) - upper) * alpha).clip(0, 255).astype(np.uint8)


Hat: TypeAlias = Callable[[np.random.Generator, Pixels, Floats], None]

HATS: dict[str, Hat] = {
    "cap": with_cap,
    "flat_cap": with_flat_cap,
    "knit_hat": with_knit_hat,
    "hood": with_hood,
    "coloured_hair": in_another_colour,
}


def transplant(
    random: np.random.Generator, crop: Pixels, box: Floats, other: Pixels, worn: Floats
) -> None:
    """Puts what another head wears on this one.

    Args:
        random: what decides how.
        crop: the head that gets it.
        box: of that head.
        other: a crop of a head in a hat.
        worn: box of that head.
    """
    side = crop.shape[0]
    scale = (box[2:] - box[:2]) / (worn[2:] - worn[:2]) * np.exp(random.uniform(-0.1, 0.15, 2))
    mirrored = random.random() < 0.5
    place = (box[:2] + box[2:]) / 2 + (box[2:] - box[:2]) * random.uniform(-0.05, 0.05, 2)
    middle = (worn[:2] + worn[2:]) / 2
    if mirrored:
        other, middle = other[:, ::-1], np.array([other.shape[1] - middle[0], middle[1]])
    move = np.array(
        [
            [scale[0], 0.0, place[0] - scale[0] * middle[0]],
            [0.0, scale[1], place[1] - scale[1] * middle[1]],
        ]
    )
    moved = cv2.warpAffine(other, move, (side, side), borderMode=cv2.BORDER_REPLICATE)
    hat = np.asarray(moved, np.float32)
    if random.random() < 0.4:
        hat = recoloured(random, hat.clip(0, 255).astype(np.uint8))
    width, height = box[2] - box[0], box[3] - box[1]
    # Down to the brow, or the ears; as wide as a brim may be.
    brow = float(box[1] + height * random.uniform(0.4, 0.62))
    centre = (float(place[0]), brow)
    axes = (float(width) * random.uniform(0.46, 0.6), brow - float(box[1]) + float(height) * 0.08)
    mask = _ellipse(side, centre, axes, random.uniform(-6, 6))
    rows = np.arange(side, dtype=np.float32)[:, None]
    _paint(random, crop, np.asarray(mask * np.clip(brow + 1 - rows, 0, 1), np.float32), hat)


def with_spot(random: np.random.Generator, crop: Pixels, box: Floats) -> None:
    """Draws a piece of cloth beside the head: that something is drawn must not tell anything."""
    side = crop.shape[0]
    x, below = random.uniform(0.1, 0.9) * side, float(box[3]) + side / 20
    axes = (side * random.uniform(0.05, 0.25), side * random.uniform(0.04, 0.17))
    spot = _ellipse(side, (x, below + axes[1]), axes, random.uniform(0, 180))
    _paint(random, crop, spot, _cloth(random, crop, _Dome(random, box, (0.4, 0.5), (0.5, 0.6))))


def put_on(random: np.random.Generator, image: Pixels, box: Floats, hat: Hat) -> None:
    """Draws a hat onto a head in a picture, in place and in the picture's own resolution.

    Args:
        random: what decides how.
        image: [H, W, 3], BGR.
        box: of the head, x1, y1, x2, y2 in pixels.
        hat: one of `HATS`.
    """
    longer = float(max(box[2] - box[0], box[3] - box[1]))
    side = round(2 * longer)
    x0 = round(float(box[0] + box[2]) / 2 - longer)
    y0 = round(float(box[1] + box[3]) / 2 - longer)
    height, width = image.shape[:2]
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x0 + side), min(height, y0 + side)
    crop = np.full((side, side, 3), 114, np.uint8)
    inside = crop[top - y0 : bottom - y0, left - x0 : right - x0]
    inside[:] = image[top:bottom, left:right]
    hat(random, crop, np.asarray(box - np.array([x0, y0] * 2), np.float32))
    image[top:bottom, left:right] = inside


def dress(random: np.random.Generator, image: Pixels, box: Floats) -> None:
    """Draws any hat onto a head in a picture; see `put_on`."""
    put_on(random, image, box, HATS[str(random.choice(list(HATS)))])


class _Dome:
    """Where a hat's dome lies on a head, and its colour."""

    def __init__(
        self,
        random: np.random.Generator,
        box: Floats,
        tall: tuple[float, float],
        wide: tuple[float, float],
    ) -> None:
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        self.x = float(box[0] + box[2]) / 2 + width * random.uniform(-0.05, 0.05)
        self.half = width * random.uniform(*wide)
        self.top = float(box[1]) - height * random.uniform(-0.03, 0.1)
        self.brow = float(box[1]) + height * random.uniform(*tall)
        self.slope = random.uniform(-8, 8)
        self.colour = headgear_colour(random)

    def mask(self, side: int) -> Floats:
        """Upper half of an ellipse, soft at its edge, [side, side]."""
        whole = _ellipse(side, (self.x, self.brow), (self.half, self.brow - self.top), self.slope)
        y = np.arange(side, dtype=np.float32)[:, None]
        return np.asarray(whole * np.clip(self.brow + 1 - y, 0, 1), np.float32)


def _ellipse(
    side: int, centre: tuple[float, float], axes: tuple[float, float], slope: float
) -> Floats:
    drawn = np.zeros((side, side), np.uint8)
    fine = 4  # bits of a pixel's fraction
    cv2.ellipse(
        drawn,
        (round(centre[0] * 2**fine), round(centre[1] * 2**fine)),
        (max(1, round(axes[0] * 2**fine)), max(1, round(axes[1] * 2**fine))),
        slope,
        0,
        360,
        255,
        -1,
        cv2.LINE_AA,
        fine,
    )
    return np.asarray(drawn / np.float32(255), np.float32)


def _cloth(random: np.random.Generator, crop: Pixels, dome: _Dome) -> Floats:
    """Cloth in the light of what it covers, with folds, seams or a weave: never a shell's gloss."""
    side = crop.shape[0]
    grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.float32)
    even = np.asarray(cv2.GaussianBlur(grey, (0, 0), dome.half * 0.6), np.float32)
    light = 0.55 + 0.45 * even / max(20.0, float(even.mean()))
    x = np.arange(side, dtype=np.float32)[None] - dome.x
    light = light * (1 + random.uniform(-0.35, 0.35) * x / dome.half)
    folds = random.normal(0, 1, (8, 8)).astype(np.float32)
    light = light * (1 + random.uniform(0, 0.16) * cv2.resize(folds, (side, side)))
    light = light + random.normal(0, random.uniform(0.01, 0.07), (side, side))
    if random.random() < 0.3:  # panels
        for offset in random.uniform(-0.7, 0.7, 3):
            light[:, max(0, min(side - 1, round(dome.x + offset * dome.half)))] *= 0.75
    if random.random() < 0.15:  # checks
        period = random.uniform(3, 8)
        y = np.arange(side, dtype=np.float32)[:, None]
        light = light * (1 + 0.2 * np.sin(x * 6.28 / period) * np.sin(y * 6.28 / period))
    cloth = dome.colour * light[:, :, None]
    if random.random() < 0.25:  # a sign on the front
        centre = (dome.x, dome.brow - (dome.brow - dome.top) * 0.45)
        sign = _ellipse(side, centre, (dome.half * 0.25, dome.half * 0.18), 0)[:, :, None]
        cloth = cloth * (1 - sign) + headgear_colour(random) * sign
    return np.asarray(cloth, np.float32)


def _paint(random: np.random.Generator, crop: Pixels, mask: Floats, colour: Floats) -> None:
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), random.uniform(0.4, 1.2)), np.float32)
    crop[:] = (crop + (colour - crop) * soft[:, :, None]).clip(0, 255).astype(np.uint8)


def cap_mask(height: int, width: int) -> npt.NDArray[np.float32]:
    """Soft upper half of an ellipse, [H, W, 1]."""
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width
    radius = np.hypot((x - 0.5) / 0.47, (y - 0.95) / 0.95)
    side = np.clip((1.0 - radius) * 5.0, 0.0, 1.0)
    lower = np.clip((1.0 - y) * 5.0, 0.0, 1.0)
    return (side * lower)[:, :, None].astype(np.float32)


def headgear_colour(random: np.random.Generator) -> npt.NDArray[np.float32]:
    """A colour of headgear, BGR."""
    kind = random.random()
    if kind < 0.3:
        return np.full(3, random.uniform(15, 245), np.float32)
    hue = int(random.choice(HAT_HUES)) if kind < 0.8 else int(random.integers(0, 180))
    hsv = np.array([[[hue, random.integers(90, 240), random.integers(60, 250)]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.float32).reshape(3)


def recoloured(random: np.random.Generator, pixels: Pixels) -> npt.NDArray[np.float32]:
    """The same light and texture in another colour."""
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.float32)[:, :, None]
    colour = headgear_colour(random)
    middle = max(20.0, float(np.median(grey)))
    return np.asarray(colour * (grey / middle) ** random.uniform(0.6, 1.0), np.float32)


def knit(random: np.random.Generator, pixels: Pixels) -> npt.NDArray[np.float32]:
    """A ribbed, noisy surface that keeps the light of what it covers."""
    height, width = pixels.shape[:2]
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.float32)
    light = np.asarray(cv2.GaussianBlur(grey, (0, 0), max(1.5, width / 5)), np.float32)
    light = 0.5 + 0.5 * light / max(20.0, float(light.mean()))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    period = random.uniform(3.0, max(3.5, width / 6))
    ribs = np.sin(2 * np.pi * (x + random.uniform(-0.2, 0.2) * y) / period)
    rows = np.sin(2 * np.pi * y / random.uniform(3.0, max(3.5, height / 4)))
    texture = 1.0 + random.uniform(0.08, 0.3) * ribs + random.uniform(0.0, 0.2) * rows
    texture = texture + random.normal(0.0, 0.06, (height, width))
    cloth = headgear_colour(random) * (light * texture)[:, :, None]
    if random.random() < 0.3:  # a brim turned up, or a stripe, in another colour
        band = slice(int(height * random.uniform(0.5, 0.7)), None)
        cloth[band] = headgear_colour(random) * (light * texture)[band, :, None]
    return np.asarray(cloth, np.float32)
