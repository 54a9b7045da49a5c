"""`helmet.bare_head`: a head without a helmet, confirmed over several looks of one camera.

Boxes of the classes head and helmet are one sighting each; where two cover the same place, the
better score says whether the head is bare, and the helmet where they are equal.

A helmet counts only on a head: in the upper part of a person's box, and not below that person's
own bare head. One on a table, or in a hand, is no sighting at all: it neither covers a head nor
makes a bare head of the place it lies at. In a look that shows no person (close crops, a model
without that class) nothing can be said of that, and helmets count as they are seen. A person
bent over has the head at one end of a box that is wide and low: there the upper part reaches
further down.

A helmet is a cap where the second look says so: where its answers about the recent sightings of
one track, taken together, do not believe in a helmet, the track's helmets count as bare heads from
the first one it doubted on, with the detector's score. One bad answer, alone or among good ones,
changes nothing, and without any a helmet is one. What a still scene repeats is no further answer,
but carries on what was confirmed. While a track's episode is open, answers that waver leave a cap
a cap: it takes clear ones, or none that doubts, to make a helmet of it again
(`detectors.vision.opinions.believed`). So an undecided head is one violation and not dozens, while
a helmet put on that the second look is sure of ends it as soon.

How it is confirmed and lasts: `detectors.confirming`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from detectors.confirming import ConfirmingDetector, Seen, Words, best_first, fits
from detectors.tracks import Corners, Episode, Reach, Sighting, Track, overlap, size_of
from detectors.vision.opinions import LEAST_LOGIT, believed, logit, mean_logit
from detectors.vision.zones import centre_of
from device_profiles.readings import Detections

RULE = "helmet.bare_head"

HEAD = "head"
HELMET = "helmet"
PERSON = "person"

SAME_HEAD_IOU = 0.5
"""Boxes of one look that overlap this much are the same head."""

PERSON_SCORE = 0.3
"""A person's box with a score from here on tells whose head a helmet is on."""

# Of a person's box. Standing, a head is the top seventh; half hidden, or cut by the picture's
# edge, up to the top third. A helmet held before the chest has its middle at two fifths and below.
_UPPER = 0.33
_UPPER_BENT = 0.6
_BENT = 1.4
"""A box lower than so many of its widths is of somebody bent, sitting or half hidden."""
_ASIDE_SIZES = 0.25
_ABOVE_SIZES = 0.6


class HelmetDetector(ConfirmingDetector):
    """Judges one camera."""

    RULE = RULE
    KIND = "helmet"
    # A head is some 0.25 m, a walk 1.4 m/s.
    REACH: ClassVar[Reach] = Reach(1.0, 5.0, 6.0)
    MENDED = Words("已戴好安全帽", "a helmet was put on")

    def _see(self, lane: str, reading: Detections) -> Seen:
        sure, unsure = heads_of(reading, self._settings.min_score)
        plan = self._plan
        kept = [
            [
                one
                for one in some
                if size_of(one.box) >= plan.min_head_px
                and plan.counts(*centre_of(one.box), reading.width, reading.height)
            ]
            for some in (sure, unsure)
        ]
        return Seen(*kept)

    def _wrong(self, episode: Episode) -> Words:
        return Words("有人未戴安全帽", "a worker without a helmet")

    def _reconsider(self, track: Track, recent: list[Sighting]) -> list[Sighting]:
        heard = [one for one in recent if one.second_look is not None]
        fresh = [one for one in heard if not one.reading.still]
        if len(fresh if track.episode is None else heard) < self._runs:
            return recent
        answers = [one.second_look for one in fresh or heard if one.second_look is not None]
        mean = mean_logit(answers)
        if mean is None or (mean >= LEAST_LOGIT if track.episode is None else believed(answers)):
            return recent
        # Those before the first doubt keep counting: an episode never begins before an instant at
        # which nothing spoke against anybody, from which a detector may have been resumed.
        first = next(place for place, one in enumerate(recent) if doubted(one))
        return [*recent[:first], *(bared(one) for one in recent[first:])]

    def _suspect(self, sighting: Sighting) -> bool:
        return sighting.wrong or doubted(sighting)


def doubted(sighting: Sighting) -> bool:
    """Whether the second look, asked of this very sighting, did not believe in the helmet."""
    return sighting.second_look is not None and logit(sighting.second_look) < LEAST_LOGIT


def bared(sighting: Sighting) -> Sighting:
    """The bare head that a sighting of a cap is."""
    return sighting._replace(wrong=True, label=HEAD)


def heads_of(reading: Detections, min_score: float) -> tuple[list[Sighting], list[Sighting]]:
    """The heads of a look.

    Args:
        reading: The look.
        min_score: Of a head that is seen well.

    Returns:
        Those seen well, a bare one being wrong (caps taken for helmets are not, see `doubted`); and
        those seen badly: of boxes over the same place the best, helmets before heads; helmets that
        nobody wears are in neither.
    """
    boxes = [box for box in reading.boxes if fits(box, reading)]
    persons = [corners for corners, _ in best_first(boxes, PERSON, PERSON_SCORE)]
    candidates = sorted(
        (box for box in boxes if box.label in (HEAD, HELMET) and box.score > 0),
        key=lambda box: (-box.score, box.label == HEAD, box.box),
    )
    kept: list[Sighting] = []
    for box in candidates:
        if all(overlap(box.box, other.box) < SAME_HEAD_IOU for other in kept):
            bare = box.label == HEAD
            heard = None if bare else box.second_look
            kept.append(Sighting(reading, bare, box.score, box.box, box.label, heard))
    heads = [one.box for one in kept if (one.wrong or doubted(one)) and one.score >= min_score]
    counted = [one for one in kept if one.wrong or not persons or worn(one.box, persons, heads)]
    sure = [one for one in counted if one.score >= min_score]
    return sure, [one for one in counted if one.score < min_score]


def worn(helmet: Corners, persons: Sequence[Corners], heads: Sequence[Corners]) -> bool:
    """Whether a helmet is on somebody's head.

    Args:
        helmet: Its box.
        persons: Of all persons seen.
        heads: Of all bare heads seen.

    Returns:
        True where it is in the upper part of a person who has no bare head above it.
    """
    return any(
        at_the_top(helmet, person)
        and not any(at_the_top(head, person) and _above(head, helmet) for head in heads)
        for person in persons
    )


def at_the_top(box: Corners, person: Corners) -> bool:
    """Whether a box is where a person's head would be.

    Args:
        box: Of a head or helmet.
        person: Of the whole person.

    Returns:
        Whether it is.
    """
    left, top, right, bottom = person
    x, y = centre_of(box)
    size, height = size_of(box), bottom - top
    aside = _ASIDE_SIZES * size
    if not left - aside <= x <= right + aside:
        return False
    upper = _UPPER_BENT if height < _BENT * (right - left) else _UPPER
    return top - _ABOVE_SIZES * size <= y <= top + max(upper * height, 0.6 * size)


def _above(head: Corners, helmet: Corners) -> bool:
    return centre_of(head)[1] < centre_of(helmet)[1] - size_of(head) / 2
