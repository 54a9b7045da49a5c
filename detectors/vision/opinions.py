"""Which helmets are to be looked at twice, and what was heard of each: bookkeeping, pure.

A head keeps its opinion from look to look as long as its boxes overlap. It is asked about on every
look until enough was heard and that, taken together, believes in the helmet, clearly so where some
of it doubts (`believed`); then again after a while. One answer against a helmet is asked about
again at once.

Answers are taken together by the mean of their logits: a network's sure answer weighs more than an
undecided one, and none weighs without bound.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from detectors.tracks import Corners, overlap
from device_profiles.readings import Box

HELMET = "helmet"

HEAD_SCORE = 0.3
"""Heads with a score from here on are sure enough to be looked at closely."""

SAME_HELMET = 0.3
"""Boxes of two looks that overlap by so much are the same helmet."""

ASKED = 4
"""A helmet is not believed before so many answers: as many sightings confirm a bare head."""

REMEMBERED = 8
"""The last answers about a head that count: who changes a cap for a helmet is soon believed."""

BELIEVED = timedelta(seconds=10)
"""A helmet that is believed is not looked at twice again for so long, while it stays; a head not
seen for longer is forgotten."""

MOST = 128
"""Heads remembered, those seen last: where people walk, most are never met again."""

LEAST_LOGIT = 0.0
"""The mean logit from which on a head wears a helmet: a probability of one half."""

CLEAR_LOGIT = math.log(3)
"""The mean logit from which on answers are clear: a probability of 0.75. Of the helmets of the
pictures to check, one in 45 lies below it and above one half."""

LATELY = 3
"""So many of the last answers have to be clear together. The logits of answers about one undecided
head have a standard deviation of some 0.85; of three together, 0.5."""

_SUREST = 0.99


def logit(probability: float) -> float:
    """Turn an answer into what can be added up.

    Args:
        probability: 0 to 1.

    Returns:
        Its log odds, as of at least 0.01 and at most 0.99.
    """
    bounded = min(max(probability, 1 - _SUREST), _SUREST)
    return math.log(bounded / (1 - bounded))


def mean_logit(probabilities: Iterable[float]) -> float | None:
    """Take answers together.

    Args:
        probabilities: Of a helmet, 0 to 1 each.

    Returns:
        The mean of their logits; None if there are none.
    """
    logits = [logit(each) for each in probabilities]
    return math.fsum(logits) / len(logits) if logits else None


def believed(probabilities: Sequence[float]) -> bool:
    """Whether answers do more than waver.

    One threshold alone would be crossed again and again by those about an undecided head. Only the
    last few have to be clear: a helmet put on for a cap, if they are sure of it, is believed as
    soon as the mean of all believes, or by the second answer.

    Args:
        probabilities: Of a helmet, 0 to 1 each, in the order in which they were given.

    Returns:
        True where all together believe in a helmet, and none of them doubts it, or the last
        `LATELY` together are clear.
    """
    mean, lately = mean_logit(probabilities), mean_logit(probabilities[-LATELY:])
    if mean is None or lately is None or mean < LEAST_LOGIT:
        return False
    return lately >= CLEAR_LOGIT or all(logit(each) >= LEAST_LOGIT for each in probabilities)


@dataclass(slots=True, eq=False)
class _Head:
    box: Corners
    seen_at: datetime
    asked_at: datetime | None = None
    answers: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def wants(self, at: datetime) -> bool:
        """Whether it is to be asked about."""
        if self.asked_at is None or len(self.answers) < ASKED:
            return True
        if not believed(list(self.answers)) or logit(self.answers[-1]) < LEAST_LOGIT:
            return True
        return at - self.asked_at >= BELIEVED


class Opinions:
    """What a second look said of the helmets that one camera, or one video, shows.

    Each look: `to_ask`, and where that names boxes, `take` with the answers.
    """

    def __init__(self) -> None:
        """Start with nothing heard."""
        self._heads: list[_Head] = []
        self._by_place: dict[int, _Head] = {}
        self._at: datetime | None = None

    def to_ask(self, boxes: Sequence[Box], at: datetime) -> list[int]:
        """Follow the helmets into the next look.

        Args:
            boxes: What the detector saw, of any classes.
            at: When; aware, not before the look before (of a video: from any beginning on). A time
                before it begins anew.

        Returns:
            Places, in `boxes`, of the helmets that are to be looked at twice.
        """
        if self._at is not None and at < self._at:
            self._heads.clear()
        self._at = at
        self._heads = [head for head in self._heads if at - head.seen_at <= BELIEVED]
        helmets = [
            place
            for place, box in enumerate(boxes)
            if box.label == HELMET and box.score >= HEAD_SCORE
        ]
        self._by_place = self._tied(boxes, helmets)
        for place in helmets:
            head = self._by_place.get(place)
            if head is None:
                head = self._by_place[place] = _Head(boxes[place].box, at)
                self._heads.append(head)
            head.box, head.seen_at = boxes[place].box, at
        self._heads = sorted(self._heads, key=lambda head: head.seen_at)[-MOST:]
        return [place for place in helmets if self._by_place[place].wants(at)]

    def take(self, answers: Mapping[int, float]) -> None:
        """Take what the second look said.

        Args:
            answers: By place in the boxes last handed to `to_ask`, the probability of a helmet.
        """
        for place, probability in answers.items():
            head = self._by_place[place]
            head.answers.append(probability)
            head.asked_at = self._at

    def heard(self, box: Box) -> float | None:
        """Say what was heard of a head so far.

        Args:
            box: Of the last look, or of one like it.

        Returns:
            The probability of a helmet that the mean logit of the last answers stands for, above
            0 and below 1; None if there were none.
        """
        near = [(overlap(head.box, box.box), head) for head in self._heads]
        shared, head = max(near, key=lambda one: one[0], default=(0.0, None))
        mean = mean_logit(head.answers) if head is not None and shared >= SAME_HELMET else None
        return None if mean is None else 1 / (1 + math.exp(-mean))

    def _tied(self, boxes: Sequence[Box], helmets: Sequence[int]) -> dict[int, _Head]:
        """Who is who: the largest overlaps first, each head once."""
        pairs = sorted(
            (-shared, place, number)
            for number, head in enumerate(self._heads)
            for place in helmets
            if (shared := overlap(head.box, boxes[place].box)) >= SAME_HELMET
        )
        tied: dict[int, _Head] = {}
        taken: set[int] = set()
        for _, place, number in pairs:
            if place not in tied and number not in taken:
                tied[place] = self._heads[number]
                taken.add(number)
        return tied
