"""Who is who from look to look: a small tracker, and what a track was seen to do. Pure.

It is ByteTrack's idea (Zhang et al., ECCV 2022) without its Kalman filter, at the rates of site
cameras, one to four looks a second: boxes of a good score are tied to the tracks first, by
overlap and then by nearness; tracks left over may be tied to boxes of a low score, which tell where
somebody is but not what they do. So somebody half hidden for a look or two keeps their track,
while a weak box neither begins a track, nor counts as a sighting, nor keeps a track alive by
itself. A constant-velocity filter would need more looks than a walk through the picture gives.
An own one, because it has to give the same answer again from any calm instant on: the libraries
carry state without end (ids that count up, filters, galleries of appearances).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from device_profiles.readings import Detections

Corners: TypeAlias = tuple[float, float, float, float]

_SIZE_RATIO = 2.0
"""A box does not grow or shrink by more than this between two looks."""


class Reach(NamedTuple):
    """How far somebody may be from where they were last seen, in sizes of their box.

    Attributes:
        at_once: In no time: the box's own unrest.
        per_s: More for every second since.
        most: At most.
    """

    at_once: float
    per_s: float
    most: float


class Sighting(NamedTuple):
    """Somebody in one look.

    Attributes:
        reading: The look.
        wrong: Whether they are against the rule.
        score: Of the box that says so.
        box: That box, pixels of the picture.
        label: Its class.
        second_look: What the second look said of it; see `device_profiles.readings.Box`.
    """

    reading: Detections
    wrong: bool
    score: float
    box: Corners
    label: str
    second_look: float | None = None

    @property
    def at(self) -> datetime:
        """When."""
        return self.reading.observed_at


@dataclass(slots=True, eq=False)
class Track:
    """Somebody followed from look to look.

    Attributes:
        first: Their first sighting.
        last: Their last sighting.
        looks: What the last looks saw of them; None for those that did not.
        place: Where they were last, by a box of any score.
        placed_at: When.
        episode: The violation they are in.
    """

    first: Sighting
    last: Sighting
    looks: deque[Sighting | None]
    place: Corners
    placed_at: datetime
    episode: Episode | None = None


@dataclass(slots=True, eq=False)
class Episode:
    """A violation, confirmed.

    Attributes:
        subject: What its findings are about.
        lane: The tracker's name: a zone.
        confirmation: The sightings that opened it.
        track: Who carries it on.
        last: The last sighting against the rule.
        best_score: Of all of them.
        sightings: How many they were.
        mended: Whether the track was last seen to keep the rule.
    """

    subject: str
    lane: str
    confirmation: tuple[Sighting, ...]
    track: Track
    last: Sighting
    best_score: float
    sightings: int
    mended: bool = False

    @property
    def opened_at(self) -> datetime:
        """When its first sighting was."""
        return self.confirmation[0].at

    def carry_on(self, last: Sighting, sightings: int) -> None:
        """Take further sightings against the rule."""
        self.last = last
        self.mended = False
        self.sightings += sightings
        self.best_score = max(self.best_score, last.score)


class Tracker:
    """Follows what one camera sees.

    Attributes:
        tracks: Of all who were seen of late.
    """

    def __init__(self, looks: int, reach: Reach) -> None:
        """Start with nobody.

        Args:
            looks: How many of the last looks a track remembers.
            reach: How far people may get.
        """
        self._looks, self._reach = looks, reach
        self.tracks: list[Track] = []

    def forget(self, at: datetime, gone: timedelta) -> None:
        """Let tracks go whose last sighting is too old.

        Args:
            at: The time of the next look.
            gone: From this age on.
        """
        self.tracks = [track for track in self.tracks if at - track.last.at < gone]

    def follow(self, sightings: Sequence[Sighting], hints: Sequence[Sighting] = ()) -> list[Track]:
        """Tie the sightings of a look to the tracks, the nearest first.

        Args:
            sightings: What was seen well.
            hints: What was seen badly: it tells tracks without a sighting where they are.

        Returns:
            The tracks that have a sighting in this look, new ones included, by place.
        """
        tied = self._tie(list(enumerate(self.tracks)), sightings)
        lost = [(i, track) for i, track in enumerate(self.tracks) if i not in tied]
        for i, j in self._tie(lost, hints).items():
            self.tracks[i].place, self.tracks[i].placed_at = hints[j].box, hints[j].at
        for i, track in enumerate(self.tracks):
            seen = sightings[tied[i]] if i in tied else None
            track.looks.append(seen)
            if seen is not None:
                track.last, track.place, track.placed_at = seen, seen.box, seen.at
        found = [self.tracks[i] for i in tied]
        taken = set(tied.values())
        for j, sighting in enumerate(sightings):
            if j not in taken:
                looks: deque[Sighting | None] = deque([sighting], maxlen=self._looks)
                found.append(Track(sighting, sighting, looks, sighting.box, sighting.at))
                self.tracks.append(found[-1])
        # In the order of their places, not of their age, which a resumed detector would not know.
        return sorted(found, key=lambda track: track.place)

    def _tie(
        self, tracks: Sequence[tuple[int, Track]], sightings: Sequence[Sighting]
    ) -> dict[int, int]:
        costs = sorted(
            (cost, track.place, sighting.box, i, j)
            for i, track in tracks
            for j, sighting in enumerate(sightings)
            if (cost := self.cost(track.place, track.placed_at, sighting)) is not None
        )
        tied: dict[int, int] = {}
        taken: set[int] = set()
        for _, _, _, i, j in costs:
            if i not in tied and j not in taken:
                tied[i] = j
                taken.add(j)
        return tied

    def cost(self, place: Corners, placed_at: datetime, sighting: Sighting) -> float | None:
        """Say how unlikely somebody is who was seen somewhere else before.

        Args:
            place: Where somebody was.
            placed_at: When.
            sighting: Later.

        Returns:
            0 for the same box, below 1 where they overlap; None for never.
        """
        one, other = place, sighting.box
        size, other_size = size_of(one), size_of(other)
        if size > _SIZE_RATIO * other_size or other_size > _SIZE_RATIO * size:
            return None
        across = one[0] + one[2] - other[0] - other[2]
        down = one[1] + one[3] - other[1] - other[3]
        away = math.hypot(across, down) / (size + other_size)  # halves of sums: in mean sizes
        elapsed_s = (sighting.at - placed_at).total_seconds()
        reach = self._reach
        if away > min(reach.at_once + reach.per_s * elapsed_s, reach.most):
            return None
        shared = overlap(one, other)
        return 1 - shared if shared > 0 else 1 + away


def size_of(box: Corners) -> float:
    """The longer side of a box."""
    return max(box[2] - box[0], box[3] - box[1])


def overlap(one: Corners, other: Corners) -> float:
    """The intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    one_area = (one[2] - one[0]) * (one[3] - one[1])
    other_area = (other[2] - other[0]) * (other[3] - other[1])
    return both / (one_area + other_area - both)
