"""Decoding JPEGs, never larger than needed, and fitting them into the model's input."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from detectors.vision.means import block_means
from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import END, SCAN, JpegHeader, readable, without_end

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PAD = 114
"""Grey of the letterbox, as in YOLOX's training."""

MAX_PIXELS_A_BYTE = 256
"""Most pixels a byte of a sound JPEG holds: each block of 64 takes at least 2 bits, a code for its
mean and one for its end. libjpeg-turbo's files of one even colour, 12 megapixels, have at most 255
in grey, 170 in colour (4:2:0) and 85 (4:4:4), at any quality from 1 to 100; 85, 64 and 37 unless it
optimises its codes."""

MAX_PIXELS_A_PROGRESSIVE_BYTE = 512
"""Likewise of a progressive one, where one code ends thousands of blocks: 1 bit each. The script
that libjpeg-turbo has for them refines the mean by a bit a block: 254 in grey, 169 in colour."""

MAX_PROGRESSIVE_PIXELS = 24_000_000
"""A progressive JPEG is held whole, 6 bytes a pixel, before its first row comes out."""

MAX_SCANS = 64
"""Each scan of a progressive JPEG passes over all of it; the usual script has ten."""

Letterbox = Literal["top-left", "centre", "stretch"]

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


def reduction_for(header: JpegHeader, side: float) -> int:
    """How far libjpeg may shrink a picture while decoding it.

    Args:
        header: The picture's own size.
        side: The longest side that is wanted, pixels.

    Returns:
        1, 2, 4 or 8: the largest factor that leaves the longer side at least `side`.
    """
    longest = max(header.width, header.height)
    return next((factor for factor in (8, 4, 2) if longest >= factor * side), 1)


def decode(
    data: bytes, header: JpegHeader, side: float, *, grey: bool = False, upright: bool = False
) -> Image:
    """Decode a picture, shrunk by a power of two while decoding where that is enough.

    Args:
        data: The JPEG.
        header: From `read_jpeg_header`, which has refused what is too large.
        side: The longest side wanted, pixels.
        grey: Whether brightness is enough.
        upright: Turn it as its orientation tag says. A site camera's is ignored: boxes are in
            pixels of the picture as it came.

    Returns:
        Height × width × 3 (blue, green, red), or height × width for grey; 0 to 255.

    Raises:
        Rejected: The data is cut off (`incomplete`), would cost far more memory or time than its
            bytes can be worth (`too_large`), or cannot be decoded (`syntax`).
    """
    _require_worth(data, header)
    factor = reduction_for(header, side)
    if grey and factor == 8 and not upright and (means := block_means(data)) is not None:
        return means
    flags = (_GREY if grey else _COLOUR)[factor]
    if not upright:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = _decoded(readable(data), flags)
    if image is None:
        # A preview in the header has an end of its own, before the picture's data begin.
        if data.rfind(END) < data.rfind(SCAN):
            raise Rejected(Reason.INCOMPLETE, f"the JPEG is cut off after {len(data)} bytes")
        raise Rejected(Reason.SYNTAX, "the JPEG cannot be decoded")
    # An end marker before its time: libjpeg fills up with grey, and OpenCV does not tell.
    if _may_lack_blocks(image, upright=upright):
        bare = without_end(data, header)
        if bare is not None and _decoded(bare, flags) is None:
            raise Rejected(
                Reason.INCOMPLETE, f"the JPEG is cut off: {len(data)} bytes do not fill the picture"
            )
    return image


def _decoded(data: bytes, flags: int) -> Image | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as fault:
        raise Rejected(Reason.SYNTAX, f"the JPEG cannot be decoded: {fault.err}") from None
    return None if image is None else image.astype(np.uint8, copy=False)


def _may_lack_blocks(image: Image, *, upright: bool) -> bool:
    """Whether the last corner, or where it may be, is the grey that missing blocks become."""
    ends = (0, -1) if upright else (-1,)
    return any(not image[y, x].tobytes().strip(b"\x80") for y in ends for x in ends)


def _require_worth(data: bytes, header: JpegHeader) -> None:
    pixels = header.width * header.height
    size = f"{header.width} × {header.height}"
    most = MAX_PIXELS_A_PROGRESSIVE_BYTE if header.progressive else MAX_PIXELS_A_BYTE
    if pixels > most * len(data):
        raise Rejected(
            Reason.TOO_LARGE, f"a JPEG that claims {size} pixels in {len(data)} bytes of data"
        )
    if header.progressive:
        if pixels > MAX_PROGRESSIVE_PIXELS:
            raise Rejected(
                Reason.TOO_LARGE,
                f"a progressive JPEG of {size} pixels, at most {MAX_PROGRESSIVE_PIXELS}",
            )
        if (scans := data.count(SCAN)) > MAX_SCANS:
            raise Rejected(
                Reason.TOO_LARGE, f"a progressive JPEG of {scans} scans, at most {MAX_SCANS}"
            )


class Placement(NamedTuple):
    """Where a picture lies in the model's input.

    Attributes:
        height: Of the input, pixels.
        width: Likewise.
        inner_height: Of the picture in it, pixels.
        inner_width: Likewise.
        top: Rows of padding above it.
        left: Columns of padding before it.
        original_height: Of the picture as it came, pixels.
        original_width: Likewise.
    """

    height: int
    width: int
    inner_height: int
    inner_width: int
    top: int
    left: int
    original_height: int
    original_width: int

    @property
    def side(self) -> float:
        """The longest side a picture must be decoded to, so that nothing has to be enlarged."""
        shrinking = min(
            self.original_width / self.inner_width, self.original_height / self.inner_height
        )
        return max(self.original_width, self.original_height) / shrinking

    def restore(self, boxes: Floats) -> Floats:
        """Turn boxes in the input into boxes in the original.

        Args:
            boxes: m × 4: x1, y1, x2, y2 in pixels of the input.

        Returns:
            m × 4 in pixels of the original, inside it.
        """
        offset = np.array([self.left, self.top] * 2, np.float32)
        limit = np.array([self.original_width, self.original_height] * 2, np.float32)
        inner = np.array([self.inner_width, self.inner_height] * 2, np.float32)
        return np.clip((boxes - offset) * (limit / inner), 0, limit)


def place(
    original_width: int,
    original_height: int,
    width: int,
    height: int,
    *,
    how: Letterbox = "top-left",
    multiple_of: int | None = None,
) -> Placement:
    """Decide where a picture goes.

    Args:
        original_width: Of the picture as it came, pixels.
        original_height: Likewise.
        width: Of the model's input, pixels.
        height: Likewise.
        how: At the upper left or in the middle, keeping its proportions, or stretched.
        multiple_of: Where the model takes smaller inputs: what their sides are multiples of.
            Padding that fills none of such a step is left out.

    Returns:
        The place.
    """
    if how == "stretch":
        return Placement(height, width, height, width, 0, 0, original_height, original_width)
    scale = min(width / original_width, height / original_height)
    inner_width = max(1, min(width, round(original_width * scale)))
    inner_height = max(1, min(height, round(original_height * scale)))
    if multiple_of is not None:
        width = min(width, -(-inner_width // multiple_of) * multiple_of)
        height = min(height, -(-inner_height // multiple_of) * multiple_of)
    top, left = 0, 0
    if how == "centre":
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return Placement(
        height, width, inner_height, inner_width, top, left, original_height, original_width
    )


def fit(image: Image, placement: Placement) -> Image:
    """Scale a picture to its size in the input.

    Args:
        image: Decoded, possibly shrunk.
        placement: Where it goes.

    Returns:
        Inner height × inner width × 3.
    """
    width, height = placement.inner_width, placement.inner_height
    if (image.shape[1], image.shape[0]) == (width, height):
        return image
    return cv2.resize(
        image, (width, height), interpolation=_interpolation(image.shape[1] / width)
    ).astype(np.uint8, copy=False)


def _interpolation(shrinking: float) -> int:
    # Below half the size a bilinear sample would miss pixels. Above it averaging areas takes seven
    # times as long (0.9 ms against 0.13 from 640 × 360) and gains nothing: AP50 on the val set is
    # equal within 0.2 points.
    return cv2.INTER_AREA if shrinking >= 2 else cv2.INTER_LINEAR
