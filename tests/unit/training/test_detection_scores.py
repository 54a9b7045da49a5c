"""How a detector is scored: boxes found, matched, and average precision, against plain loops."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.training.augment import PADDING
from detectors.training.dataset import read_dataset
from detectors.training.evaluate import (
    LOWEST_SCORE,
    MOST_BOXES,
    Network,
    average_precision,
    cell_grid,
    evaluate,
    find,
    iou_matrix,
    letterbox,
    matches,
)
from detectors.training.recipe import CLASSES, HEAD, HELMET, NO_VEST
from detectors.vision.boxes import grid, overlap_matrix
from tests.unit.training.drawn_dataset import SCENES, Pixels, drawn, shown

Floats = npt.NDArray[np.float32]
Seen = tuple[int, float, tuple[float, float, float, float]]
"""A class, its score, and its box in pixels of the input."""


def plainly(scores: list[float], right: list[bool], there: int) -> float:
    """Average precision: for each hit the best precision at its rank or later."""
    ranked = [right[place] for place in sorted(range(len(scores)), key=lambda n: -scores[n])]
    precisions = [sum(ranked[: rank + 1]) / (rank + 1) for rank in range(len(ranked))]
    return sum(max(precisions[rank:]) for rank, hit in enumerate(ranked) if hit) / there


def area(scores: list[float], right: list[bool], there: int) -> float:
    return average_precision(np.array(scores, np.float32), np.array(right, np.bool_), there)[0]


@pytest.mark.parametrize(
    ("right", "there", "expected"),
    [
        ([True, True], 2, 1.0),
        ([True, True], 4, 0.5),
        ([False, True], 1, 0.5),
        ([True, False, True], 2, (1 + 2 / 3) / 2),
        # The envelope: the first hit counts with the better precision that comes later.
        ([False, True, True, True], 3, 3 / 4),
        ([False, False], 2, 0.0),
        ([], 3, 0.0),
    ],
)
def test_average_precision_by_hand(right: list[bool], there: int, expected: float) -> None:
    scores = [1 - place / 10 for place in range(len(right))]
    assert area(scores, right, there) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_pictures_does_not_matter() -> None:
    assert area([0.2, 0.9, 0.5], [False, True, True], 2) == pytest.approx(1.0)


def test_the_curve_comes_with_the_area() -> None:
    _, recall, precision = average_precision(
        np.array([0.9, 0.8, 0.7], np.float32), np.array([True, False, True]), 4
    )
    assert recall.tolist() == [0.25, 0.25, 0.5]
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=30), st.integers(0, 10))
@settings(deadline=None)
def test_average_precision_against_loops(found: list[tuple[int, bool]], missed: int) -> None:
    scores, right = [score / 20 for score, _ in found], [hit for _, hit in found]
    there = max(1, sum(right) + missed)
    assert area(scores, right, there) == pytest.approx(plainly(scores, right, there), abs=1e-5)


def test_overlaps_by_hand_and_against_the_product() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]], np.float32)
    overlaps = iou_matrix(boxes, boxes)
    assert overlaps[0].tolist() == pytest.approx([1, 1 / 3, 0, 0.04])
    np.testing.assert_allclose(overlaps, overlap_matrix(boxes, boxes), atol=1e-6)
    np.testing.assert_allclose(overlaps, overlaps.T)
    assert iou_matrix(boxes, boxes[:0]).shape == (4, 0)
    empty = np.array([[3, 3, 3, 3]], np.float32)
    assert iou_matrix(empty, empty).tolist() == [[0]]


def test_each_true_box_counts_once() -> None:
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    found = np.array(
        [[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 4.9], [20, 0, 30, 5.1], [50, 0, 60, 10]],
        np.float32,
    )
    assert matches(found, true).tolist() == [True, False, False, True, False]
    assert matches(found, true[:0]).tolist() == [False] * 5
    assert matches(found[:0], true).tolist() == []


def test_a_box_found_takes_the_best_that_is_free() -> None:
    true = np.array([[0, 0, 10, 10], [0, 0, 10, 8]], np.float32)
    found = np.array([[0, 0, 10, 8.5], [0, 0, 10, 8.5]], np.float32)
    assert matches(found, true).tolist() == [True, True]


@pytest.mark.parametrize(("width", "height"), [(96, 96), (96, 40), (30, 60), (500, 3)])
def test_a_picture_lies_in_the_upper_left(width: int, height: int) -> None:
    pixels = np.full((height, width, 3), 7, np.uint8)
    square, scale = letterbox(pixels, 64)
    assert scale == 64 / max(width, height)
    inner = square[: max(1, round(height * scale)), : max(1, round(width * scale))]
    assert (inner == 7).all()
    assert (square == 7).sum() == inner.size
    assert ((square == 7) | (square == PADDING)).all()


def test_the_cells_are_those_of_the_product() -> None:
    for ours, theirs in zip(cell_grid(96), grid(96, 96), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def answer(size: int, seen: list[Seen]) -> Floats:
    """What a network says that sees these boxes, each in a cell of its own."""
    corners, strides = cell_grid(size)
    raw = np.zeros((len(corners), 4 + len(CLASSES)), np.float32)
    for cell, (category, score, (x1, y1, x2, y2)) in enumerate(seen):
        stride = float(strides[cell, 0])
        centre = np.array([x1 + x2, y1 + y2]) / 2 / stride - corners[cell]
        sides = np.log(np.array([x2 - x1, y2 - y1]) / stride)
        raw[cell, :4] = np.concatenate((centre, sides))
        raw[cell, 4 + category] = score
    return raw


def by_colour(square: Pixels) -> Floats:
    """A network that knows all drawn objects by their colours."""
    seen: list[Seen] = []
    for category in range(len(CLASSES)):
        rows, columns = np.nonzero(shown(square, category))
        if len(rows):
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            seen.append((category, 0.9, box))
    return answer(square.shape[0], seen)


@pytest.mark.parametrize("size", [96, 160])
def test_boxes_are_found_where_they_are_in_the_picture(size: int) -> None:
    for scene in SCENES:
        found = find(by_colour, drawn(scene), size)
        things = {thing[0]: thing[1:] for thing in scene.things}
        assert sorted(found.classes.tolist()) == sorted(things)
        for category, box in zip(found.classes.tolist(), found.boxes, strict=True):
            np.testing.assert_allclose(box, things[category], atol=1.5)


def finding(seen: list[Seen], size: int = 96) -> Network:
    return lambda _square: answer(size, seen)


def test_doubles_are_suppressed_class_by_class_and_the_best_comes_first() -> None:
    seen: list[Seen] = [
        (HEAD, 0.5, (10, 10, 30, 30)),
        (HEAD, 0.8, (10, 10, 30, 31)),  # the same head
        (HELMET, 0.6, (10, 10, 30, 30)),  # another class
        (HEAD, 0.7, (10, 22, 30, 42)),  # overlaps by little
        (NO_VEST, LOWEST_SCORE / 2, (50, 50, 90, 90)),  # next to nothing
    ]
    found = find(finding(seen), np.zeros((96, 96, 3), np.uint8), 96)
    assert found.classes.tolist() == [HEAD, HEAD, HELMET]
    assert found.scores.tolist() == pytest.approx([0.8, 0.7, 0.6])
    np.testing.assert_allclose(found.boxes[0], [10, 10, 30, 31], atol=1e-3)


def test_boxes_end_at_the_picture() -> None:
    seen: list[Seen] = [(HEAD, 0.5, (-10, 20, 300, 90))]
    found = find(finding(seen), np.zeros((48, 96, 3), np.uint8), 96)
    np.testing.assert_allclose(found.boxes, [[0, 20, 96, 48]], atol=1e-3)


def test_nothing_found_is_no_box_and_much_found_is_limited() -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    nothing = find(finding([], 256), picture, 256)
    assert len(nothing.boxes) == len(nothing.scores) == len(nothing.classes) == 0
    assert nothing.boxes.shape == (0, 4)
    places = [(x, y) for y in range(0, 250, 10) for x in range(0, 250, 10)]
    many: list[Seen] = [(HEAD, 0.5, (x, y, x + 8, y + 8)) for x, y in places]
    assert len(find(finding(many, 256), picture, 256).boxes) == MOST_BOXES < len(places)


def test_a_network_that_sees_all_scores_full_marks(dataset: Path) -> None:
    report = evaluate(by_colour, read_dataset(dataset), 96)
    assert report["ap50"] == {
        "all": {"helmet": 1.0, "head": 1.0, "person": 1.0, "vest": 1.0, "no_vest": 1.0},
        "heads": {"helmet": 1.0, "head": 1.0},
        "bodies": {"person": 1.0, "vest": 1.0, "no_vest": 1.0},
    }
    # The rough helmet of the bodies' source is not counted.
    assert report["boxes"]["all"] == {"helmet": 4, "head": 3, "person": 1, "vest": 1, "no_vest": 1}
    assert report["operating_point"] == {
        "score": LOWEST_SCORE,
        "scenes": 2.0,
        "helmet_recall": 1.0,
        "helmet_precision": 1.0,
        "head_recall": 1.0,
        "head_precision": 1.0,
    }


def test_false_boxes_on_empty_scenes_raise_the_operating_point(dataset: Path) -> None:
    def haunted(square: Pixels) -> Floats:
        seen: list[Seen] = []
        if not any(shown(square, category).any() for category in range(len(CLASSES))):
            seen = [
                (HELMET, 0.35, (10, 10, 30, 30)),
                (HEAD, 0.15, (50, 50, 70, 70)),
                (NO_VEST, 0.99, (50, 50, 70, 70)),  # helmets and heads alone are what alarms
            ]
            return answer(96, seen)
        return by_colour(square)

    report = evaluate(haunted, read_dataset(dataset), 96)
    assert report["false_boxes_per_100"] == {
        "0.10": 200.0,
        "0.20": 100.0,
        "0.30": 100.0,
        "0.40": 0.0,
        "0.50": 0.0,
        "0.60": 0.0,
    }
    point = report["operating_point"]
    assert point["score"] == pytest.approx(0.351)
    assert point["helmet_recall"] == point["helmet_precision"] == 1.0


def test_misses_and_false_boxes_cost(dataset: Path) -> None:
    def blind_to_heads(square: Pixels) -> Floats:
        raw = by_colour(square)
        raw[:, 4 + HEAD] = 0
        return raw

    def heads_for_helmets(square: Pixels) -> Floats:
        raw = by_colour(square)
        raw[:, 4 + HELMET] = np.maximum(raw[:, 4 + HELMET], raw[:, 4 + HEAD])
        return raw

    pictures = read_dataset(dataset)
    blind = evaluate(blind_to_heads, pictures, 96)["ap50"]["all"]
    assert isinstance(blind, dict)
    assert (blind["head"], blind["helmet"]) == (0.0, 1.0)
    taken = evaluate(heads_for_helmets, pictures, 96)
    assert isinstance(taken["operating_point"], dict)
    # Four helmets, and the three heads taken for some.
    assert taken["operating_point"]["helmet_precision"] == pytest.approx(4 / 7, abs=1e-4)
    assert taken["operating_point"]["helmet_recall"] == 1.0


def test_without_empty_scenes_there_is_no_operating_point(dataset: Path) -> None:
    peopled = [p for p in read_dataset(dataset) if p.source != "negative"]
    assert set(evaluate(by_colour, peopled, 96)) == {"ap50", "boxes"}
