"""Where in a camera's picture things count: areas, masks, zones and their hours. Pure.

All polygons are in shares of the picture's width and height, so they hold whatever size the camera
sends. A point on an edge belongs to one of two polygons that share the edge, never to both
(even-odd rule, half-open).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from device_profiles.sites import CameraSettings, Point, Zone

Corners: TypeAlias = tuple[float, float, float, float]


def inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Whether a point lies in a polygon.

    Args:
        point: In the units of the polygon.
        polygon: At least three corners; it may cross itself: then even-odd decides.

    Returns:
        Whether it does.
    """
    x, y = point
    odd = False
    before_x, before_y = polygon[-1]
    for corner_x, corner_y in polygon:
        if (corner_y > y) != (before_y > y):
            crossing = corner_x + (y - corner_y) / (before_y - corner_y) * (before_x - corner_x)
            if x < crossing:
                odd = not odd
        before_x, before_y = corner_x, corner_y
    return odd


class Span(NamedTuple):
    """Hours of a day, by the clock on the wall; over midnight where the end lies before the start.

    Attributes:
        start: First minute.
        end: Exclusive.
    """

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read "22:00-06:00".

        Args:
            text: As `Zone.no_entry_hours` holds it.

        Returns:
            The span.
        """
        start, _, end = text.partition("-")
        return cls(time.fromisoformat(start), time.fromisoformat(end))

    def holds(self, wall: time) -> bool:
        """Whether a time of day lies in it."""
        if self.start < self.end:
            return self.start <= wall < self.end
        return wall >= self.start or wall < self.end


class Plan:
    """A camera's areas, masks and zones, ready to be asked.

    Attributes:
        min_head_px: Smaller heads are left out, pixels of the picture.
        bound: Whether what counts depends on where the camera looks: a lens that moved then lets
            nothing be said of it.
        vest: Zones where a vest has to be worn.
        entry: Zones where nobody may be, always or at hours.
    """

    def __init__(self, settings: CameraSettings | None = None, timezone: str = "UTC") -> None:
        """Make a plan.

        Args:
            settings: Of the camera; None: the whole picture counts, nothing is demanded.
            timezone: IANA name of the site's zone.
        """
        settings = settings or CameraSettings()
        self._areas, self._masks = settings.areas, settings.masks
        self._timezone = ZoneInfo(timezone)
        self._hours = {
            zone.name: tuple(Span.parse(text) for text in zone.no_entry_hours)
            for zone in settings.zone
        }
        self.min_head_px = settings.min_head_px
        self.bound = bool(settings.areas or settings.masks or settings.zone)
        self.vest = tuple(zone for zone in settings.zone if zone.vest)
        self.entry = tuple(zone for zone in settings.zone if zone.no_entry or zone.no_entry_hours)

    def counts(self, x: float, y: float, width: int, height: int) -> bool:
        """Whether what is seen at a point counts.

        Args:
            x: Pixels of the picture, from the left.
            y: From the top.
            width: Of the picture, pixels.
            height: Likewise.

        Returns:
            True in an area, or anywhere where there are none, and in no mask.
        """
        if not self._areas and not self._masks:
            return True
        point = _within(x / width), _within(y / height)
        if self._areas and not any(inside(point, area) for area in self._areas):
            return False
        return not any(inside(point, mask) for mask in self._masks)

    @staticmethod
    def stands_in(zone: Zone, feet: Point, width: int, height: int) -> bool:
        """Whether somebody whose feet are at a point stands in a zone.

        Args:
            zone: One of this plan's.
            feet: Pixels of the picture.
            width: Of the picture, pixels.
            height: Likewise.

        Returns:
            Whether they do.
        """
        return inside((_within(feet[0] / width), _within(feet[1] / height)), zone.polygon)

    def forbids(self, zone: Zone, at: datetime) -> bool:
        """Whether a zone may not be entered at an instant.

        Args:
            zone: One of this plan's.
            at: Aware.

        Returns:
            True where it may never be, or not at this hour of the site's own day.
        """
        if zone.no_entry:
            return True
        wall = at.astimezone(self._timezone).time()
        return any(span.holds(wall) for span in self._hours[zone.name])


_EDGE = 1e-6


def _within(share: float) -> float:
    """Boxes may end on the picture's very edge, or stick out of it."""
    return min(max(share, _EDGE), 1 - _EDGE)


def feet_of(box: Corners) -> Point:
    """Where somebody stands.

    Args:
        box: Of the whole person.

    Returns:
        The middle of its lower edge.
    """
    return (box[0] + box[2]) / 2, box[3]


def centre_of(box: Corners) -> Point:
    """The middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
