"""From a detector's raw output to boxes: decoding the grid of cells and suppressing doubles."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Candidates = tuple[Floats, Floats, Ints]
"""Boxes (m × 4: x1, y1, x2, y2 in pixels of the input), scores (m) and classes (m)."""

STRIDES = (8, 16, 32)

LARGEST_LOG = 10.0
"""A head gone wild must not overflow: no side is longer than e^10 cells."""


@functools.lru_cache(maxsize=64)
def grid(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> tuple[Floats, Floats]:
    """The cells of the head.

    Args:
        height: Of the model's input, pixels; a multiple of the largest stride.
        width: Likewise.
        strides: Of the grids, one after the other.

    Returns:
        For each cell, the x and y of its corner in cells (n × 2), and its stride (n × 1).
    """
    corners, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack((x, y), 2).reshape(-1, 2))
        sizes.append(np.full((x.size, 1), stride))
    return (
        np.concatenate(corners).astype(np.float32),
        np.concatenate(sizes).astype(np.float32),
    )


def pick(scores: Floats, floors: Floats) -> tuple[Ints, Ints]:
    """Find the scores that are high enough.

    Args:
        scores: n × classes.
        floors: The least score, for each class or one for all.

    Returns:
        Rows and classes of those at their floor or above; what is not a number is none.
    """
    rows, classes = np.nonzero(scores >= floors)
    return rows.astype(np.int64, copy=False), classes.astype(np.int64, copy=False)


def decode_cells(
    raw: Floats,
    height: int,
    width: int,
    floors: Floats,
    *,
    strides: tuple[int, ...] = STRIDES,
) -> Candidates:
    """Turn the head's raw output into candidates.

    Args:
        raw: n × (4 + classes): x, y, log width, log height in cells; class scores, 0 to 1.
        height: Of the model's input, pixels.
        width: Likewise.
        floors: Candidates below are dropped; for each class or one for all.
        strides: Of the grids.

    Returns:
        The candidates; each cell gives one for each class whose score is high enough.
    """
    corners, sizes = grid(height, width, strides)
    scores = raw[:, 4:]
    cells, classes = pick(scores, floors)
    picked = raw[cells]
    centres = (picked[:, :2] + corners[cells]) * sizes[cells]
    halves = np.exp(np.minimum(picked[:, 2:4], LARGEST_LOG)) * sizes[cells] / 2
    boxes = np.concatenate((centres - halves, centres + halves), 1).astype(np.float32, copy=False)
    return boxes, scores[cells, classes], classes


def overlap_matrix(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of every box with every other.

    Args:
        boxes: n × 4: x1, y1, x2, y2.
        others: m × 4.

    Returns:
        n × m values, 0 to 1.
    """
    low = np.maximum(boxes[:, np.newaxis, :2], others[np.newaxis, :, :2])
    high = np.minimum(boxes[:, np.newaxis, 2:], others[np.newaxis, :, 2:])
    sides = np.clip(high - low, 0, None)
    shared = sides[..., 0] * sides[..., 1]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    other_areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = areas[:, np.newaxis] + other_areas - shared
    share: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return share


def overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box with others.

    Args:
        box: x1, y1, x2, y2.
        others: m × 4.

    Returns:
        m values, 0 to 1.
    """
    (row,) = overlap_matrix(box[np.newaxis], others)
    return np.asarray(row, np.float32)


def suppress(
    boxes: Floats, scores: Floats, groups: Ints, max_overlap: float, most: int | None = None
) -> Ints:
    """Keep the best of the boxes of one group that overlap (non-maximum suppression).

    Args:
        boxes: m × 4.
        scores: m.
        groups: m; boxes of different groups do not suppress each other.
        max_overlap: Intersection over union above which the lower score goes.
        most: How many are wanted; None for all.

    Returns:
        Indices of what stays, highest score first; equal scores in the order given.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, group = boxes[order], groups[order]
    alive = np.zeros(len(order), np.bool_)
    for one in np.unique(group):
        places = np.flatnonzero(group == one)
        alive[places[_unsuppressed(ranked[places], max_overlap)]] = True
    return order[np.flatnonzero(alive)[:most]].astype(np.int64, copy=False)


def _unsuppressed(ranked: Floats, max_overlap: float) -> npt.NDArray[np.bool_]:
    clash = overlap_matrix(ranked, ranked) > max_overlap
    alive = np.ones(len(ranked), np.bool_)
    for place, row in enumerate(clash):
        if alive[place]:
            alive[place + 1 :] &= ~row[place + 1 :]
    return alive
