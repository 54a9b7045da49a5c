"""Boxes: cells decoded and doubles suppressed, against plain loops."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.vision.boxes import STRIDES, decode_cells, grid, overlaps, suppress

Floats = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]

SIDE = 64
HALF = np.array(0.5, np.float32)
CELLS = sum((SIDE // stride) ** 2 for stride in STRIDES)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, written down plainly."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def plainly(boxes: list[Box], scores: list[float], groups: list[int], most: float) -> list[int]:
    """Non-maximum suppression, every pair looked at."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(
            groups[index] != groups[other] or overlap(boxes[other], boxes[index]) <= most
            for other in kept
        ):
            kept.append(index)
    return kept


# Whole numbers of pixels, so that both ways compute the same floats.
corner = st.integers(-200, 200)
extent = st.integers(0, 60)
one_box = st.tuples(corner, corner, extent, extent).map(
    lambda box: (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
)
candidate = st.tuples(one_box, st.sampled_from([0.1, 0.25, 0.5, 0.75]), st.integers(0, 4))


@given(st.lists(candidate, max_size=25), st.sampled_from([0.0, 0.3, 0.6, 1.0]))
@settings(max_examples=200, deadline=None)
def test_suppression_agrees_with_looking_at_every_pair(
    candidates: list[tuple[Box, float, int]], most: float
) -> None:
    boxes = [box for box, _, _ in candidates]
    scores = [score for _, score, _ in candidates]
    groups = [group for _, _, group in candidates]
    kept = suppress(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(groups, np.int64),
        # Halfway between the fractions that small whole boxes can have is no tie to round.
        most + 1e-6,
    )
    assert kept.tolist() == plainly(boxes, scores, groups, most + 1e-6)


def test_the_best_of_doubles_stays_and_groups_keep_apart() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([0.5, 0.9, 0.8, 0.1], np.float32)
    assert suppress(boxes, scores, np.array([0, 0, 1, 0]), 0.6).tolist() == [1, 2, 3]
    assert suppress(boxes, scores, np.array([0, 0, 0, 0]), 0.6).tolist() == [1, 3]


@given(st.lists(candidate, max_size=25), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_as_many_as_are_wanted_are_the_best_of_all(
    candidates: list[tuple[Box, float, int]], most: int
) -> None:
    boxes = np.array([box for box, _, _ in candidates], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in candidates], np.float32)
    groups = np.array([group for _, _, group in candidates], np.int64)
    everything = suppress(boxes, scores, groups, 0.3)
    assert suppress(boxes, scores, groups, 0.3, most).tolist() == everything[:most].tolist()


def test_the_least_score_may_differ_by_class() -> None:
    raw = np.zeros((CELLS, 6), np.float32)
    raw[3, 4:] = 0.5, 0.4
    _, _, classes = decode_cells(raw, SIDE, SIDE, np.array([0.6, 0.3], np.float32))
    assert classes.tolist() == [1]


def test_nothing_to_suppress() -> None:
    nothing = np.empty((0, 4), np.float32)
    assert suppress(nothing, np.empty(0, np.float32), np.empty(0, np.int64), 0.5).tolist() == []


@given(one_box, st.lists(one_box, max_size=10))
@settings(max_examples=100, deadline=None)
def test_overlaps(box: Box, others: list[Box]) -> None:
    found = overlaps(np.array(box, np.float32), np.array(others, np.float32).reshape(-1, 4))
    assert found.tolist() == pytest.approx([overlap(box, other) for other in others])
    assert ((found >= 0) & (found <= 1)).all()


def test_the_grid_goes_row_by_row_stride_by_stride() -> None:
    corners, strides = grid(SIDE, 2 * SIDE)
    wanted = [
        (x, y, stride)
        for stride in STRIDES
        for y in range(SIDE // stride)
        for x in range(2 * SIDE // stride)
    ]
    found = np.concatenate((corners, strides), 1).tolist()
    assert [tuple(row) for row in found] == wanted


def decode_plainly(raw: Floats, least: float) -> list[tuple[list[float], float, int]]:
    """By the table of the weights: centre (x + column)·stride, sides exp(log)·stride."""
    found = []
    cell = 0
    for stride in STRIDES:
        for row in range(SIDE // stride):
            for column in range(SIDE // stride):
                x, y, log_width, log_height, *scores = raw[cell].tolist()
                for class_, score in enumerate(scores):
                    if score < least:
                        continue
                    centre = (x + column) * stride, (y + row) * stride
                    half = math.exp(log_width) * stride / 2, math.exp(log_height) * stride / 2
                    box = [
                        centre[0] - half[0],
                        centre[1] - half[1],
                        centre[0] + half[0],
                        centre[1] + half[1],
                    ]
                    found.append((box, score, class_))
                cell += 1
    return found


@pytest.mark.parametrize("seed", range(5))
def test_cells_are_decoded_as_a_loop_does(seed: int) -> None:
    dice = np.random.default_rng(seed)
    raw = np.concatenate((dice.normal(0, 1.5, (CELLS, 4)), dice.random((CELLS, 3)) ** 4), 1).astype(
        np.float32
    )
    least = float(np.float32(0.5))
    boxes, scores, classes = decode_cells(raw, SIDE, SIDE, np.array(least, np.float32))
    wanted = decode_plainly(raw, least)
    assert len(wanted) > 10
    assert classes.tolist() == [class_ for _, _, class_ in wanted]
    assert scores.tolist() == [score for _, score, _ in wanted]
    np.testing.assert_allclose(boxes, [box for box, _, _ in wanted], rtol=1e-5, atol=1e-3)


def test_a_score_at_the_limit_counts_and_nothing_gives_nothing() -> None:
    raw = np.zeros((CELLS, 6), np.float32)
    boxes, scores, classes = decode_cells(raw, SIDE, SIDE, HALF)
    assert (boxes.shape, scores.shape, classes.shape) == ((0, 4), (0,), (0,))
    raw[3, 4:] = 0.5
    boxes, _, classes = decode_cells(raw, SIDE, SIDE, HALF)
    assert classes.tolist() == [0, 1]  # one candidate for each class
    assert boxes.tolist() == [[20, -4, 28, 4]] * 2


def test_a_head_gone_wild_gives_finite_boxes() -> None:
    raw = np.full((CELLS, 5), 1e4, np.float32)
    boxes, _, _ = decode_cells(raw, SIDE, SIDE, HALF)
    assert np.isfinite(boxes).all()
