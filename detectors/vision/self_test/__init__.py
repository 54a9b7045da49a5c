"""A picture with a known answer: what every model is asked before it is believed.

The picture is made of two frames that Intel Corporation published under CC BY 4.0; see README.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from detectors.vision.boxes import overlaps
from device_profiles.readings import Box

PICTURE = Path(__file__).parent / "people.jpg"

ANSWER = (
    Box("helmet", 1.0, (151, 108, 198, 168)),
    Box("vest", 1.0, (134, 163, 220, 276)),
    Box("person", 1.0, (110, 110, 237, 408)),
    Box("head", 1.0, (548, 32, 600, 108)),
    Box("person", 1.0, (499, 33, 635, 380)),
)
"""What it shows, marked by hand, pixels."""

LEAST_SCORE = 0.2
"""Boxes with a lower score are no answer."""

LEAST_OVERLAP = 0.45
"""Nor are boxes that overlap by less (intersection over union)."""


def missed(found: Sequence[Box], classes: Iterable[str]) -> list[str]:
    """Compare what a model found with what there is.

    A helmet called a head, or a head called a helmet, is no answer either.

    Args:
        found: Its boxes from `LEAST_SCORE` up.
        classes: What the model claims to know.

    Returns:
        What it did not find, for people; empty for a model that works.
    """
    known = set(classes)
    lines = []
    for wanted in ANSWER:
        if wanted.label not in known:
            continue
        near = [
            box
            for box in found
            if box.label == wanted.label and _overlap(box, wanted) >= LEAST_OVERLAP
        ]
        better = {"helmet": "head", "head": "helmet"}.get(wanted.label)
        best = max((box.score for box in near), default=0.0)
        if not near:
            lines.append(f"no {wanted.label} at {wanted.box}")
        elif any(
            box.label == better and box.score > best and _overlap(box, wanted) >= LEAST_OVERLAP
            for box in found
        ):
            lines.append(f"a {better} instead of the {wanted.label} at {wanted.box}")
    return lines


def _overlap(box: Box, other: Box) -> float:
    boxes = np.array([box.box, other.box], np.float32)
    return float(overlaps(boxes[0], boxes[1:])[0])
