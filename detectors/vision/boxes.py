"""From the head's raw output to boxes: decoding the grid of cells and suppressing doubles."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

STRIDES = (8, 16, 32)


@functools.cache
def grid(side: int) -> tuple[Floats, Floats]:
    """The cells of the head.

    Args:
        side: Of the model's square, pixels; a multiple of 32.

    Returns:
        For each cell, the x and y of its corner in cells (n × 2), and its stride (n × 1).
    """
    corners, strides = [], []
    for stride in STRIDES:
        cells = side // stride
        y, x = np.mgrid[:cells, :cells]
        corners.append(np.stack((x, y), 2).reshape(-1, 2))
        strides.append(np.full((cells * cells, 1), stride))
    return (
        np.concatenate(corners).astype(np.float32),
        np.concatenate(strides).astype(np.float32),
    )


def decode_cells(raw: Floats, side: int, min_score: float) -> tuple[Floats, Floats, Ints]:
    """Turn the head's raw output into candidates.

    Args:
        raw: n × (4 + classes): x, y, log width, log height in cells; class scores, 0 to 1.
        side: Of the model's square, pixels.
        min_score: Candidates below are dropped.

    Returns:
        Boxes (m × 4: x1, y1, x2, y2 in pixels of the square), scores (m) and classes (m); each
        cell gives one candidate for each class whose score is high enough.
    """
    corners, strides = grid(side)
    scores = raw[:, 4:]
    cells, classes = np.nonzero(scores >= min_score)
    if not len(cells):
        return np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    picked = raw[cells]
    centres = (picked[:, :2] + corners[cells]) * strides[cells]
    # A head gone wild must not overflow: no box is larger than some squares.
    halves = np.exp(np.minimum(picked[:, 2:4], 10.0)) * strides[cells] / 2
    boxes = np.concatenate((centres - halves, centres + halves), 1)
    return boxes.astype(np.float32), scores[cells, classes], classes.astype(np.int64)


def overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box with others.

    Args:
        box: x1, y1, x2, y2.
        others: m × 4.

    Returns:
        m values, 0 to 1.
    """
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    own = (box[2:] - box[:2]).prod()
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    union = own + areas - shared
    share: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return share


def suppress(boxes: Floats, scores: Floats, groups: Ints, max_overlap: float) -> Ints:
    """Keep the best of the boxes of one group that overlap (non-maximum suppression).

    Args:
        boxes: m × 4.
        scores: m.
        groups: m; boxes of different groups do not suppress each other.
        max_overlap: Intersection over union above which the lower score goes.

    Returns:
        Indices of what stays, highest score first; equal scores in the order given.
    """
    order = np.argsort(-scores, kind="stable")
    # Groups are moved far apart, so that one pass serves all of them.
    span = float(boxes.max() - boxes.min()) + 1 if len(boxes) else 0.0
    moved = boxes + (groups * span)[:, np.newaxis].astype(np.float32)
    kept = []
    while len(order):
        best = order[0]
        kept.append(best)
        rest = order[1:]
        order = rest[overlaps(moved[best], moved[rest]) <= max_overlap]
    return np.array(kept, np.int64)
