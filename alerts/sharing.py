"""Copies of evidence for sharing: what was found is marked, everybody else's head is unreadable.

A copy is derived from an original that stays as it came, and is kept beside it; what counts as
evidence is the original alone. Of the picture's metadata nothing is taken over. No copy is made of
a picture our model has not looked at: nobody knows whose heads are on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

import cv2
import numpy as np
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from alerts.concealing import Concealed, Image, Seen, conceal, strangers
from alerts.evidence import SQL, recipe_of
from device_profiles.errors import Reason, Rejected
from device_profiles.findings import Evidence, Finding
from device_profiles.jpeg import read_jpeg_header, readable

log = logging.getLogger(__name__)

QUALITY = 88
_RED = (40, 40, 230)
_WHITE = (255, 255, 255)


class Pictures(Protocol):
    """A store of pictures by hash: `ingest.frame_store.FrameStore`."""

    def get(self, sha256: bytes) -> bytes:
        """Fetch a picture."""

    def put(self, data: bytes) -> bytes:
        """Keep a picture; its hash."""


def annotate(
    data: bytes,
    drawn: Sequence[tuple[str, float, float, float, float, float]],
    concealed: Concealed,
    caption: str = "",
) -> bytes:
    """Make the copy of a picture.

    Args:
        data: The original, a JPEG.
        drawn: What is marked: label, score, x1, y1, x2, y2 in pixels of the original.
        concealed: What becomes of the heads on it.
        caption: A line at the lower edge; what is no ASCII is left out.

    Returns:
        A JPEG of the same size.

    Raises:
        Rejected: The original cannot be decoded.
    """
    header = read_jpeg_header(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(readable(data), np.uint8), flags)
    if decoded is None or decoded.shape[:2] != (header.height, header.width):
        raise Rejected(Reason.SYNTAX, "the JPEG cannot be decoded")
    image: Image = decoded.astype(np.uint8, copy=False)
    conceal(image, concealed)
    thick = max(1, round(max(image.shape) / 500))
    scale = max(0.4, max(image.shape) / 1_600)
    for label, score, x1, y1, x2, y2 in drawn:
        low, high = (round(x1), round(y1)), (round(x2), round(y2))
        cv2.rectangle(image, low, high, _RED, thick)
        _write(image, f"{label} {score:.2f}", (low[0], low[1] - 2 * thick), scale, thick)
    if caption:
        _write(image, caption, (4, image.shape[0] - 6), scale, thick)
    done, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done  # noqa: S101 - an image in memory can be encoded
    return bytes(jpeg.tobytes())


def _write(image: Image, text: str, place: tuple[int, int], scale: float, thick: int) -> None:
    plain = text.encode("ascii", "ignore").decode()
    at = (max(0, place[0]), max(round(24 * scale), place[1]))
    cv2.putText(image, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _RED, 3 * thick, cv2.LINE_AA)
    cv2.putText(image, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE, thick, cv2.LINE_AA)


def best_picture(evidence: Iterable[Evidence]) -> Evidence | None:
    """The entry whose picture shows best what was found.

    Args:
        evidence: Of a finding.

    Returns:
        Of those our model looked at and found something on, the one with the best score; None if
        there is none.
    """
    pictured = [
        entry
        for entry in evidence
        if entry.frame_sha256 is not None and entry.model_sha256 is not None and entry.boxes
    ]
    return max(pictured, key=lambda entry: max(box[1] for box in entry.boxes), default=None)


class Sharing:
    """Makes copies for sharing and keeps them."""

    def __init__(self, originals: Pictures, copies: Pictures) -> None:
        """Open both stores.

        Args:
            originals: Where the frames lie; they are only read.
            copies: Where the copies go.
        """
        self._originals = originals
        self._copies = copies

    async def share(
        self, connection: AsyncConnection[Any], findings: Iterable[Finding], now: datetime
    ) -> int:
        """Make a copy of the best picture of each finding that has one and none was made of yet.

        What is not there or cannot be read is left out: a finding needs no picture to be told.

        Args:
            connection: In a transaction, which the caller commits.
            findings: About to be booked.
            now: The present time; aware.

        Returns:
            How many copies were made.

        Raises:
            psycopg.Error: The database failed.
        """
        made = 0
        for finding in findings:
            entry = best_picture(finding.evidence)
            if entry is not None and await self.copy_of(connection, entry) is None:
                made += await self.make(connection, finding.site, entry, now) is not None
        return made

    async def copy_of(self, connection: AsyncConnection[Any], entry: Evidence) -> bytes | None:
        """Find the copy of an entry's picture.

        Args:
            connection: An open connection.
            entry: With boxes and a frame.

        Returns:
            Its hash; None if there is none.
        """
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(SQL["shared_pictures"], {"recipes": [recipe_of(entry)]})
            row = await cursor.fetchone()
        return None if row is None else bytes(row[1])

    async def make(
        self, connection: AsyncConnection[Any], site: str, entry: Evidence, now: datetime
    ) -> bytes | None:
        """Make the copy of an entry's picture and keep it.

        Args:
            connection: In a transaction, which the caller commits.
            site: Site id.
            entry: With boxes and a frame.
            now: The present time; aware.

        Returns:
            The copy; None where its picture is gone, or nobody knows whose heads are on it.

        Raises:
            psycopg.Error: The database failed.
        """
        if entry.frame_sha256 is None:
            return None
        frame = bytes.fromhex(entry.frame_sha256)
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(
                SQL["seen_on_frame"],
                {
                    "site": site,
                    "device": entry.device,
                    "observed_at": entry.observed_at,
                    "frame_sha256": frame,
                    "model_sha256": None
                    if entry.model_sha256 is None
                    else bytes.fromhex(entry.model_sha256),
                },
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            try:
                sha256, copy = await asyncio.to_thread(self._draw, frame, entry, row[0])
            except (OSError, ValueError, Rejected, cv2.error) as fault:
                log.warning("no copy for sharing of frame %s: %s", entry.frame_sha256, fault)
                return None
            await cursor.execute(
                SQL["put_shared_picture"],
                {
                    "recipe": recipe_of(entry),
                    "frame_sha256": frame,
                    "sha256": sha256,
                    "now": now,
                },
            )
        return copy

    def _draw(self, frame: bytes, entry: Evidence, seen: Seen) -> tuple[bytes, bytes]:
        data = self._originals.get(frame)
        caption = f"{entry.device} {entry.observed_at:%Y-%m-%d %H:%M:%S}Z  {frame.hex()[:16]}"
        copy = annotate(data, entry.boxes, strangers(entry.boxes, seen), caption)
        return self._copies.put(copy), copy
