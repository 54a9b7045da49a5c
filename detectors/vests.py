"""`vest.missing`: a person without a hi-vis vest in a zone that demands one.

Whether a person wears a vest is said by the best box of the classes vest and no_vest whose middle
lies on the person's torso; a vest on a fence is nobody's. A person of whom neither is seen is not
judged in that look. In a look that shows no person at all, torsos without a vest stand for
themselves, their feet where a standing person's would be.

How it is confirmed and lasts: `detectors.confirming`.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from detectors.confirming import ConfirmingDetector, Seen, Words, best_first, fits
from detectors.rules import VestRule
from detectors.tracks import Corners, Episode, Reach, Sighting
from detectors.vision.zones import Plan, centre_of, feet_of
from device_profiles.readings import Detections, Unfit

RULE = "vest.missing"

PERSON = "person"
VEST = "vest"
NO_VEST = "no_vest"

_TORSO = (0.1, 0.75)
"""From where to where the middle of a torso may lie, in heights of a person's box."""

_LEGS = 1.3
"""A standing person's feet are so many heights of the torso below it."""


class VestDetector(ConfirmingDetector):
    """Judges one camera that has zones where a vest is demanded."""

    RULE = RULE
    KIND = "vest"
    # A person is some 1.7 m tall, a torso 0.6 m, a walk 1.4 m/s.
    REACH: ClassVar[Reach] = Reach(0.6, 1.2, 2.0)
    MENDED = Words("已穿反光衣或离开该区域", "a vest was put on, or the zone was left")
    HEEDLESS = frozenset({Unfit.SMALL_HEADS})

    def __init__(
        self, site: str, device: str, rule: VestRule, since: datetime | None, plan: Plan
    ) -> None:
        """Start with no track.

        Args:
            site: Site id.
            device: Device id of the camera.
            rule: The settings.
            since: From when on all readings are handed in; None: from the first one.
            plan: Of the camera.
        """
        self._zones = {zone.name: zone for zone in plan.vest}
        super().__init__(site, device, rule, since, plan, self._zones)

    def _see(self, lane: str, reading: Detections) -> Seen:
        boxes = [box for box in reading.boxes if fits(box, reading)]
        least = self._settings.min_score
        persons = best_first(boxes, PERSON, 1e-9)
        torsos = sorted(
            (-score, label == NO_VEST, corners)
            for label in (VEST, NO_VEST)
            for corners, score in best_first(boxes, label, least)
        )
        seen = Seen([], [])
        for corners, score in persons:
            if score < least:
                seen.hints.append(Sighting(reading, False, score, corners, PERSON))
                continue
            verdict = next(
                (torso for torso in torsos if _on_torso(torso[2], corners)), (0.0, None, corners)
            )
            self._add(seen, lane, reading, corners, feet_of(corners), verdict[1], -verdict[0])
        if not persons:
            for negative_score, bare, corners in torsos:
                middle, bottom = feet_of(corners)
                feet = (middle, bottom + _LEGS * (corners[3] - corners[1]))
                self._add(seen, lane, reading, corners, feet, bare, -negative_score)
        return seen

    def _add(
        self,
        seen: Seen,
        lane: str,
        reading: Detections,
        corners: Corners,
        feet: tuple[float, float],
        bare: bool | None,
        score: float,
    ) -> None:
        size = reading.width, reading.height
        if not self._plan.counts(*centre_of(corners), *size):
            return
        if not self._plan.stands_in(self._zones[lane], feet, *size):
            # To be elsewhere contradicts nothing that was seen here: it has no weight.
            seen.sightings.append(Sighting(reading, False, 0.0, corners, PERSON))
        elif bare is None:
            seen.hints.append(Sighting(reading, False, 0.0, corners, PERSON))
        else:
            label = NO_VEST if bare else VEST
            seen.sightings.append(Sighting(reading, bare, score, corners, label))

    def _wrong(self, episode: Episode) -> Words:
        return Words(
            f"有人在“{episode.lane}”未穿反光衣",
            f"somebody without a hi-vis vest in {episode.lane!r}",
        )


def _on_torso(torso: Corners, person: Corners) -> bool:
    x, y = centre_of(torso)
    left, top, right, bottom = person
    height = bottom - top
    return left <= x <= right and top + _TORSO[0] * height <= y <= top + _TORSO[1] * height
