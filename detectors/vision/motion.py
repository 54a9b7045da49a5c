"""The motion gate: a scene that has not changed costs a small grey decode and no model."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import cv2
import numpy as np

from detectors.vision.picture import Image, decode, reduction_for
from device_profiles.jpeg import JpegHeader, read_jpeg_header
from device_profiles.readings import Box

GREY_SIDE = 160
"""Longest side of the grey picture a camera's fitness is measured on, pixels."""

GATE_SIDE = 80
"""Longest side of the one motion is sought in: from 640 on, of each block only its mean is read. An
eighth of a smaller one would lose who is far away and stands out little from what is behind."""

CHANGED_LEVELS = 10
"""A pixel has changed when its brightness differs by more, of 255: above JPEG and sensor noise."""

CHANGED_SHARE = 0.002
"""A scene has changed when more than this share of its pixels has: 8 of 80 × 45."""

LONGEST_STILL = timedelta(seconds=10)
"""However still a scene, it is looked at again after this."""


def grey_of(data: bytes) -> Image:
    """Decode the small grey picture a camera's fitness is measured on.

    Args:
        data: A JPEG.

    Returns:
        Height × width, the longer side at most `GREY_SIDE`.

    Raises:
        Rejected: The picture cannot be decoded.
    """
    return _shrunk(decode(data, read_jpeg_header(data), GREY_SIDE, grey=True), GREY_SIDE)


def _shrunk(grey: Image, longest: int) -> Image:
    side = max(grey.shape)
    if side <= longest:
        return grey
    size = (max(1, grey.shape[1] * longest // side), max(1, grey.shape[0] * longest // side))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


class _Shown(NamedTuple):
    """What is remembered of a picture.

    Attributes:
        size: Width and height of the original, pixels: boxes are in them.
        small: One pixel a block, or less.
        sha256: Hash of its bytes, where it is known.
    """

    size: tuple[int, int]
    small: Image
    sha256: bytes | None


class MotionGate:
    """Remembers the last picture that was looked at, of one camera.

    A picture is compared with the last one *looked at*, not with the one before: slow change
    adds up and is seen.
    """

    def __init__(self) -> None:
        self._last: _Shown | None = None
        self._candidate: _Shown | None = None
        self._looked_at: datetime | None = None
        self._boxes: tuple[Box, ...] = ()
        self._grey: Image | None = None

    @property
    def grey(self) -> Image | None:
        """The last picture that was not still, to measure fitness on: see `grey_of`."""
        return self._grey

    def still(
        self,
        data: bytes,
        at: datetime,
        sha256: bytes | None = None,
        header: JpegHeader | None = None,
    ) -> tuple[Box, ...] | None:
        """Ask whether a picture shows what the last one looked at showed.

        Args:
            data: A JPEG.
            at: Its time.
            sha256: Hash of its bytes; None: not known, and it is decoded in any case.
            header: Its header, where it was read already.

        Returns:
            The boxes of the picture last looked at, if nothing has changed; None if it has to
            be looked at; then `looked` has to be told.

        Raises:
            Rejected: The picture cannot be decoded.
        """
        last = self._last if self._fresh(at) else None
        if last is not None and sha256 is not None and sha256 == last.sha256:
            # The very same bytes, as of a camera that is stuck, or one of a drawn scene.
            self._candidate = last
            return self._boxes
        header = header or read_jpeg_header(data)
        decoded = decode(data, header, GATE_SIDE, grey=True)
        seen = _Shown((header.width, header.height), _shrunk(decoded, GATE_SIDE), sha256)
        if last is not None and not _changed(last, seen):
            self._candidate = seen
            return self._boxes
        enough = reduction_for(header, GREY_SIDE) == reduction_for(header, GATE_SIDE)
        grey = _shrunk(decoded, GREY_SIDE) if enough else grey_of(data)
        self._candidate, self._grey = seen, grey
        return None

    def _fresh(self, at: datetime) -> bool:
        return self._looked_at is not None and timedelta(0) <= at - self._looked_at < LONGEST_STILL

    def looked(self, at: datetime, boxes: tuple[Box, ...]) -> None:
        """Remember what the picture last asked about showed.

        Args:
            at: Its time.
            boxes: What the model saw.
        """
        self._last, self._looked_at, self._boxes = self._candidate, at, boxes


def _changed(before: _Shown, after: _Shown) -> bool:
    if before.size != after.size:
        return True
    changed = np.count_nonzero(cv2.absdiff(before.small, after.small) > CHANGED_LEVELS)
    return bool(changed > CHANGED_SHARE * after.small.size)
