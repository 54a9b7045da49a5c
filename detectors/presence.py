"""`zone.entry`: a person's feet in a zone where nobody may be, always or at this hour.

The feet are the middle of the lower edge of a person's box: of somebody whose legs are hidden they
are seen too high, so a zone's near edge is better drawn generously.

How it is confirmed and lasts: `detectors.confirming`.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from detectors.confirming import ConfirmingDetector, Seen, Words, best_first, fits
from detectors.rules import PresenceRule
from detectors.tracks import Episode, Reach, Sighting
from detectors.vision.zones import Plan, centre_of, feet_of
from device_profiles.readings import Detections, Unfit

RULE = "zone.entry"

PERSON = "person"


class PresenceDetector(ConfirmingDetector):
    """Judges one camera that has zones nobody may enter, always or at hours."""

    RULE = RULE
    KIND = "presence"
    # A person is some 1.7 m tall, a walk 1.4 m/s.
    REACH: ClassVar[Reach] = Reach(0.6, 1.2, 2.0)
    MENDED = Words("已离开或已到允许时段", "the zone was left, or entry is allowed again")
    HEEDLESS = frozenset({Unfit.SMALL_HEADS})

    def __init__(
        self, site: str, device: str, rule: PresenceRule, since: datetime | None, plan: Plan
    ) -> None:
        """Start with no track.

        Args:
            site: Site id.
            device: Device id of the camera.
            rule: The settings.
            since: From when on all readings are handed in; None: from the first one.
            plan: Of the camera.
        """
        self._zones = {zone.name: zone for zone in plan.entry}
        super().__init__(site, device, rule, since, plan, self._zones)

    def _see(self, lane: str, reading: Detections) -> Seen:
        zone, plan = self._zones[lane], self._plan
        size = reading.width, reading.height
        forbidden = plan.forbids(zone, reading.observed_at)
        seen = Seen([], [])
        boxes = [box for box in reading.boxes if fits(box, reading)]
        for corners, score in best_first(boxes, PERSON, 1e-9):
            if not plan.counts(*centre_of(corners), *size):
                continue
            if score < self._settings.min_score:
                seen.hints.append(Sighting(reading, False, score, corners, PERSON))
            elif forbidden and plan.stands_in(zone, feet_of(corners), *size):
                seen.sightings.append(Sighting(reading, True, score, corners, PERSON))
            else:
                # To be elsewhere contradicts nothing that was seen here: it has no weight.
                seen.sightings.append(Sighting(reading, False, 0.0, corners, PERSON))
        return seen

    def _wrong(self, episode: Episode) -> Words:
        name = episode.lane
        if self._zones[name].no_entry:
            return Words(f"有人进入禁区“{name}”", f"somebody in the no-entry zone {name!r}")
        return Words(
            f"有人在禁入时段进入“{name}”", f"somebody in {name!r} at hours when nobody may be"
        )
