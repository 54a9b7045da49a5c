"""Heads cut out of a picture, as the second look takes them; the same in training and at work."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

SIDE = 96
"""Of a crop, pixels."""

WIDER = 1.5
"""A crop's side against the longer side of the head's box: shoulders, brim and sky tell as well."""

_PAD = 114


def head_crop(
    image: Image, box: tuple[float, float, float, float], wider: float = WIDER, side: int = SIDE
) -> Image:
    """Cut a head out of a picture, with what is around it.

    Args:
        image: Height × width × 3, blue, green, red.
        box: Of the head: x1, y1, x2, y2 in its pixels.
        wider: The crop's side against the box's longer side.
        side: Of the crop, pixels.

    Returns:
        Side × side × 3, with the box in the middle; grey where there is no picture.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    half = max(1.0, wider * max(x2 - x1, y2 - y1) / 2)
    # No head is larger than the picture: a crop never costs more memory than twice its size.
    half = min(half, float(max(height, width)))
    across, down = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = round(across - half), round(down - half)
    length = max(1, round(2 * half))
    inner = image[max(0, top) : max(0, top + length), max(0, left) : max(0, left + length)]
    scale = side / length
    square = np.full((side, side, 3), _PAD, np.uint8)
    if not inner.size:
        return square
    place_y, place_x = round((max(0, top) - top) * scale), round((max(0, left) - left) * scale)
    tall = min(max(1, round(inner.shape[0] * scale)), side - place_y)
    broad = min(max(1, round(inner.shape[1] * scale)), side - place_x)
    if tall < 1 or broad < 1:
        return square
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square[place_y : place_y + tall, place_x : place_x + broad] = cv2.resize(
        inner, (broad, tall), interpolation=method
    )
    return square
