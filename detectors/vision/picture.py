"""Decoding JPEGs, never larger than needed, and fitting them into the model's square."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import JpegHeader

Image = npt.NDArray[np.uint8]

PAD = 114
"""Grey of the letterbox, as in YOLOX's training."""

_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_GREY = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def reduction_for(header: JpegHeader, side: int) -> int:
    """How far libjpeg may shrink a picture while decoding it.

    Args:
        header: The picture's own size.
        side: The longest side that is wanted, pixels.

    Returns:
        1, 2, 4 or 8: the largest factor that leaves the longer side at least `side`.
    """
    longest = max(header.width, header.height)
    return next((factor for factor in (8, 4, 2) if longest >= factor * side), 1)


def decode(data: bytes, header: JpegHeader, side: int, *, grey: bool = False) -> Image:
    """Decode a picture, shrunk by a power of two while decoding where that is enough.

    The camera's orientation tag is ignored: boxes are in pixels of the picture as it came.

    Args:
        data: The JPEG.
        header: From `read_jpeg_header`, which has refused what is too large.
        side: The longest side wanted, pixels.
        grey: Whether brightness is enough.

    Returns:
        Height × width × 3 (blue, green, red), or height × width for grey; 0 to 255.

    Raises:
        Rejected: The data cannot be decoded.
    """
    flags = (_GREY if grey else _COLOUR)[reduction_for(header, side)]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as fault:
        raise Rejected(Reason.SYNTAX, f"the JPEG cannot be decoded: {fault.err}") from None
    if image is None:
        raise Rejected(Reason.SYNTAX, "the JPEG cannot be decoded")
    return image.astype(np.uint8, copy=False)


class Letterboxed(NamedTuple):
    """A picture in the model's square.

    Attributes:
        tensor: 1 × 3 × side × side, float32, blue, green, red, 0 to 255.
        scale: Pixels of the square for one pixel of the original.
    """

    tensor: npt.NDArray[np.float32]
    scale: float


def letterbox(image: Image, side: int, original_width: int, original_height: int) -> Letterboxed:
    """Fit a picture into the top left of a grey square, keeping its proportions.

    Args:
        image: Decoded, possibly shrunk.
        side: Of the square, pixels.
        original_width: Of the picture as it came, pixels.
        original_height: Likewise.

    Returns:
        The square and its scale to the original.
    """
    scale = side / max(original_width, original_height)
    width = max(1, min(side, round(original_width * scale)))
    height = max(1, min(side, round(original_height * scale)))
    if (image.shape[1], image.shape[0]) != (width, height):
        shrinking = image.shape[1] > width
        image = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        ).astype(np.uint8, copy=False)
    square = np.full((side, side, 3), PAD, np.uint8)
    square[:height, :width] = image
    tensor = np.ascontiguousarray(square.transpose(2, 0, 1), np.float32)[np.newaxis]
    return Letterboxed(tensor, scale)
