"""The motion gate: a scene that has not changed costs a small grey decode and no model."""

from __future__ import annotations

from datetime import datetime, timedelta

import cv2
import numpy as np

from detectors.vision.picture import Image, decode
from device_profiles.jpeg import read_jpeg_header
from device_profiles.readings import Box

GREY_SIDE = 160
"""Longest side of the picture motion is sought in, pixels."""

CHANGED_LEVELS = 16
"""A pixel has changed when its brightness differs by more, of 255: above JPEG and sensor noise."""

CHANGED_SHARE = 0.002
"""A scene has changed when more than this share of its pixels has: some 30 of 160 × 90."""

LONGEST_STILL = timedelta(seconds=10)
"""However still a scene, it is looked at again after this."""


def grey_of(data: bytes) -> Image:
    """Decode the small grey picture in which motion is sought.

    Args:
        data: A JPEG.

    Returns:
        Height × width, the longer side at most `GREY_SIDE`.

    Raises:
        Rejected: The picture cannot be decoded.
    """
    grey = decode(data, read_jpeg_header(data), GREY_SIDE, grey=True)
    side = max(grey.shape)
    if side <= GREY_SIDE:
        return grey
    size = (
        max(1, grey.shape[1] * GREY_SIDE // side),
        max(1, grey.shape[0] * GREY_SIDE // side),
    )
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


class MotionGate:
    """Remembers the last picture that was looked at, of one camera.

    A picture is compared with the last one *looked at*, not with the one before: slow change
    adds up and is seen.
    """

    def __init__(self) -> None:
        self._grey: Image | None = None
        self._candidate: Image | None = None
        self._looked_at: datetime | None = None
        self._data: bytes | None = None
        self._candidate_data: bytes | None = None
        self._boxes: tuple[Box, ...] = ()

    @property
    def grey(self) -> Image | None:
        """The small grey picture last asked about."""
        return self._candidate

    def still(self, data: bytes, at: datetime) -> tuple[Box, ...] | None:
        """Ask whether a picture shows what the last one looked at showed.

        Args:
            data: A JPEG.
            at: Its time.

        Returns:
            The boxes of the picture last looked at, if nothing has changed; None if it has to
            be looked at; then `looked` has to be told.

        Raises:
            Rejected: The picture cannot be decoded.
        """
        if data == self._data and self._fresh(at):
            # The very same bytes, as of a camera that is stuck, or one of a drawn scene.
            self._candidate, self._candidate_data = self._grey, data
            return self._boxes
        grey = grey_of(data)
        before, self._candidate, self._candidate_data = self._grey, grey, data
        if before is None or before.shape != grey.shape or not self._fresh(at):
            return None
        changed = np.count_nonzero(cv2.absdiff(before, grey) > CHANGED_LEVELS)
        return None if changed > CHANGED_SHARE * grey.size else self._boxes

    def _fresh(self, at: datetime) -> bool:
        return self._looked_at is not None and timedelta(0) <= at - self._looked_at < LONGEST_STILL

    def looked(self, at: datetime, boxes: tuple[Box, ...]) -> None:
        """Remember what the picture last asked about showed.

        Args:
            at: Its time.
            boxes: What the model saw.
        """
        self._grey, self._data = self._candidate, self._candidate_data
        self._looked_at, self._boxes = at, boxes
