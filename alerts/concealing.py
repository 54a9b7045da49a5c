"""Whose head a copy of a picture has to conceal, and the concealing: pure functions of pixels.

A head is made unreadable by throwing it away: of its box, grown a little, no more than six by six
means are left, and these are blurred. The head a violation is about is put back as it was, its box
alone, where it lies among others.

Heads are told apart by whose they are: each is of one person at most, and each person has one. Of
a person without one, or of a vest or torso without a person, the head is taken to be where it must
be. In doubt a head is a stranger's. One whom the model missed altogether stays as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from device_profiles.readings import HEADS

Image: TypeAlias = npt.NDArray[np.uint8]
Corners: TypeAlias = tuple[float, float, float, float]
Seen: TypeAlias = Sequence[Sequence[Any]]
"""What the model saw, as it is stored: label, score, x1, y1, x2, y2 each, and what the second look
said of some."""

RULE = 2
"""Goes up when other heads are concealed: copies made by an older rule are made anew."""

MEANS = 6
GROWN = 0.3
"""A head's box is grown by this share of its size on every side: hair, chin and ears."""

_PERSON = "person"
_TORSOS = frozenset({"vest", "no_vest"})
SAME = 0.3
"""Boxes that overlap by so much may be of one head, or of one person: those that do most are."""

_ONE = 0.6
"""Boxes of heads that overlap by so much are two of one head."""

_UNFIT = 0.3
"""So far may a head be from the middle of its person, in widths, and the top, in heights, taken
together: further off it may be somebody else's, and that person's not seen."""

_CLOSE, _CLOSE_TO_TORSO = 0.12, 0.2
"""A head so near to where it would be is surely that person's; else, where it must be is hidden as
well: the head may be somebody's whose person was not seen."""

_HEAD_OF_PERSON = (0.2, 0.22)
"""Where a person's head is that was not seen: in from each side, down from the top, in shares of
the person's box."""

_BENT = 1.4
"""A box lower than so many of its widths is of somebody bent, sitting or half hidden, whose head
may be anywhere in its upper half."""

_HEAD_SIZES = (0.15, 1.2)
"""Least and most size of a head, in the shorter sides of its person: a worker far off before one
near by is not that one's head."""

_TORSO = (0.1, 0.75)
"""From where to where the middle of a torso may lie, in heights of its person's box."""

_TORSO_WITHIN = 0.6
"""Least share of a torso that lies on its person."""

_TORSO_ASIDE = 0.25
"""Furthest from the middle of its person that of a torso may be, in widths of the person."""

_TORSO_HIGH = (0.2, 0.8)
"""Least and most height of a torso, in those of its person."""

# A torso is some 0.45 m broad and 0.6 m high, a head in a helmet 0.3 m.
_HEAD_OF_TORSO = 0.65
_HIGH_TORSO = 0.7


class Concealed(NamedTuple):
    """What becomes of the heads on a copy.

    Attributes:
        hidden: To be made unreadable.
        kept: Seen heads of those whom the copy is about, to stay as they are.
    """

    hidden: tuple[Corners, ...] = ()
    kept: tuple[Corners, ...] = ()


class _Body(NamedTuple):
    """Somebody of whom more than a head was seen.

    Attributes:
        box: Of the person; of the torso where no person was seen with it.
        torso: Whether it is a torso alone.
    """

    box: Corners
    torso: bool

    @property
    def size(self) -> float:
        """Of a head that would be too large for it, pixels."""
        width, height = self.box[2] - self.box[0], self.box[3] - self.box[1]
        return max(width, _HIGH_TORSO * height) if self.torso else min(width, height)

    @property
    def head(self) -> Corners:
        """Where its head must be."""
        left, top, right, bottom = self.box
        width, height = right - left, bottom - top
        if self.torso:
            size, middle = _HEAD_OF_TORSO * self.size, (left + right) / 2
            return middle - 0.6 * size, top - 1.1 * size, middle + 0.6 * size, top + 0.2 * size
        if height < _BENT * width:
            return left, top, right, top + height / 2
        aside = _HEAD_OF_PERSON[0] * width
        down = max(_HEAD_OF_PERSON[1] * height, 0.3 * width)
        return left + aside, top, right - aside, min(bottom, top + down)

    def is_close(self, head: Corners) -> bool:
        """Whether a head is surely its own."""
        unfit = self.unfitness(head)
        return unfit is not None and unfit <= (_CLOSE_TO_TORSO if self.torso else _CLOSE)

    def unfitness(self, head: Corners) -> float | None:
        """How far a head is from where its own would be; None where it cannot be its own."""
        left, top, right, bottom = self.box
        x, y = (head[0] + head[2]) / 2, (head[1] + head[3]) / 2
        size = max(head[2] - head[0], head[3] - head[1])
        least, most = _HEAD_SIZES
        if not least * self.size <= size <= most * self.size:
            return None
        aside = abs(x - (left + right) / 2) / (right - left)
        # A chin lies before the collar: a seventh of a head below a torso's top.
        down = abs((y + 0.35 * size if self.torso else head[1]) - top) / (bottom - top)
        return aside + down if aside + down <= _UNFIT else None


def strangers(drawn: Seen, seen: Seen) -> Concealed:
    """Tell the heads of people a violation is not about from those of whom it is.

    Args:
        drawn: What the violation is about: heads, whole persons, torsos; like `seen`.
        seen: What the model saw on the picture.

    Returns:
        All other heads, and where none was seen of somebody, where it must be; and the heads that
        stay.
    """
    heads = _labelled(seen, HEADS)
    persons = _labelled(seen, {_PERSON})
    torsos = _labelled(seen, _TORSOS)
    bodies = [_Body(person, torso=False) for person in persons]
    wearers = _wearers(torsos, persons)
    for place, torso in enumerate(torsos):
        if place not in wearers:
            wearers[place] = len(bodies)
            bodies.append(_Body(torso, torso=True))
    involved: set[int] = set()
    about: set[int] = set()
    for corners in _labelled(drawn, HEADS):
        head = _best(corners, heads)
        if head is None:
            head = len(heads)
            heads.append(corners)
        involved.add(head)
    # A verdict on a vest may be drawn on the person or on the torso, whatever its label.
    for corners in _labelled(drawn, {_PERSON, *_TORSOS}):
        whole = _best(corners, persons + torsos)
        if whole is None:
            about.add(len(bodies))
            bodies.append(_Body(corners, torso=False))
        else:
            about.add(whole if whole < len(persons) else wearers[whole - len(persons)])
    owners = _owners(heads, bodies)
    involved |= {head for head, body in owners.items() if body in about}
    kept = [heads[place] for place in sorted(involved)]
    hidden = [head for head in heads if all(overlap(head, one) < _ONE for one in kept)]
    head_of = {body: heads[head] for head, body in owners.items()}
    worn = [
        (wearers[number], _Body(torso, torso=True))
        for number, torso in enumerate(torsos)
        if bodies[wearers[number]].box != torso
    ]
    for place, body in (*enumerate(bodies), *worn):
        own = head_of.get(place)
        # Of whom it is about, nothing is guessed.
        if place not in about and (own is None or not body.is_close(own)):
            hidden.append(body.head)
    return Concealed(tuple(hidden), tuple(kept))


def _labelled(boxes: Seen, labels: Collection[str]) -> list[Corners]:
    """The boxes of some classes."""
    found = [
        (float(x1), float(y1), float(x2), float(y2))
        for label, _, x1, y1, x2, y2, *_ in boxes
        if label in labels
    ]
    return [box for box in found if box[2] > box[0] and box[3] > box[1]]


def _best(corners: Corners, known: Sequence[Corners]) -> int | None:
    """The place of the box that is most like one; None where none is."""
    place = max(range(len(known)), key=lambda each: overlap(known[each], corners), default=None)
    return None if place is None or overlap(known[place], corners) < SAME else place


def _wearers(torsos: Sequence[Corners], persons: Sequence[Corners]) -> dict[int, int]:
    """Whose torsos are whose, by places: each person's own, both boxes of it if it has two."""
    pairs = []
    for number, (left, top, right, bottom) in enumerate(torsos):
        for place, person in enumerate(persons):
            height = person[3] - person[1]
            high = (bottom - top) / height
            within = _shared((left, top, right, bottom), person) / ((right - left) * (bottom - top))
            down = ((top + bottom) / 2 - person[1]) / height
            aside = abs(left + right - person[0] - person[2]) / 2 / (person[2] - person[0])
            if (
                within >= _TORSO_WITHIN
                and aside <= _TORSO_ASIDE
                and _TORSO[0] <= down <= _TORSO[1]
                and _TORSO_HIGH[0] <= high <= _TORSO_HIGH[1]
            ):
                pairs.append((aside, number, place))
    wearers: dict[int, int] = {}
    own: dict[int, int] = {}
    for _, number, place in sorted(pairs):
        if number in wearers:
            continue
        first = own.setdefault(place, number)
        if overlap(torsos[first], torsos[number]) >= _ONE:
            wearers[number] = place
    return wearers


def _owners(heads: Sequence[Corners], bodies: Sequence[_Body]) -> dict[int, int]:
    """Whose heads are whose, by their places: the best fits first, each head and body once."""
    pairs = sorted(
        (unfit, number, place)
        for number, head in enumerate(heads)
        for place, body in enumerate(bodies)
        if (unfit := body.unfitness(head)) is not None
    )
    owners: dict[int, int] = {}
    taken: set[int] = set()
    for _, number, place in pairs:
        if number not in owners and place not in taken:
            owners[number] = place
            taken.add(place)
    return owners


def conceal(image: Image, concealed: Concealed) -> None:
    """Make heads unreadable, and leave those that are to stay.

    Args:
        image: Height × width × 3, 0 to 255; changed in place.
        concealed: From `strangers`.
    """
    height, width = image.shape[:2]
    kept = []
    for corners in concealed.kept:
        left, right = (min(max(0, round(side)), width) for side in corners[::2])
        top, bottom = (min(max(0, round(side)), height) for side in corners[1::2])
        part = np.s_[top:bottom, left:right]
        kept.append((part, image[part].copy()))
    for corners in concealed.hidden:
        hide(image, corners)
    for part, pixels in kept:
        image[part] = pixels


def hide(image: Image, corners: Corners) -> None:
    """Leave of a head no more than a few means.

    Args:
        image: Height × width × 3, 0 to 255; changed in place.
        corners: Of the head; anywhere, also outside the picture.
    """
    height, width = image.shape[:2]
    across, down = (GROWN * (corners[2 + side] - corners[side]) for side in (0, 1))
    left, right = (round(corners[0] - across), round(corners[2] + across))
    top, bottom = (round(corners[1] - down), round(corners[3] + down))
    left, right = max(0, left), min(width, right)
    top, bottom = max(0, top), min(height, bottom)
    if right <= left or bottom <= top:
        return
    part = image[top:bottom, left:right]
    size = right - left, bottom - top
    few = min(MEANS, size[0]), min(MEANS, size[1])
    if max(size) <= MEANS:
        few = (1, 1)
    means = cv2.resize(part, few, interpolation=cv2.INTER_AREA)
    wide = cv2.resize(means, size, interpolation=cv2.INTER_LINEAR)
    blurred = cv2.GaussianBlur(wide, (0, 0), max(size) / (2 * MEANS))
    image[top:bottom, left:right] = blurred


def overlap(one: Corners, other: Corners) -> float:
    """How much two boxes overlap.

    Args:
        one: A box.
        other: Another.

    Returns:
        Intersection over union, 0 to 1.
    """
    both = _shared(one, other)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both) if both else 0.0


def _shared(one: Corners, other: Corners) -> float:
    """The area that two boxes share, pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
