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


class MotionGate:
    """Remembers the last picture that was looked at, of one camera.

    A picture is compared with the last one *looked at*, not with the one before: slow change
    adds up and is seen.
    """

    def __init__(self) -> None:
        self._grey: Image | None = None
        self._candidate: Image | None = None
        self._looked_at: datetime | None = None
        self._boxes: tuple[Box, ...] = ()

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
        header = read_jpeg_header(data)
        grey = decode(data, header, GREY_SIDE, grey=True)
        side = max(grey.shape)
        if side > GREY_SIDE:
            size = (
                max(1, grey.shape[1] * GREY_SIDE // side),
                max(1, grey.shape[0] * GREY_SIDE // side),
            )
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        before, self._candidate = self._grey, grey
        if before is None or self._looked_at is None or before.shape != grey.shape:
            return None
        if not timedelta(0) <= at - self._looked_at < LONGEST_STILL:
            return None
        changed = np.count_nonzero(cv2.absdiff(before, grey) > CHANGED_LEVELS)
        return None if changed > CHANGED_SHARE * grey.size else self._boxes

    def looked(self, at: datetime, boxes: tuple[Box, ...]) -> None:
        """Remember what the picture last asked about showed.

        Args:
            at: Its time.
            boxes: What the model saw.
        """
        self._grey, self._looked_at, self._boxes = self._candidate, at, boxes
