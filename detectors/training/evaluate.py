"""Average precision by class and source, and false boxes on scenes without people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from detectors.training.augment import PADDING
from detectors.training.dataset import Boxes, Picture, Pixels, read_picture, resized
from detectors.training.recipe import CLASSES, HEAD, HELMET
from detectors.vision.boxes import STRIDES

Floats = npt.NDArray[np.float32]
# Raw network output [A, 4 + classes], scores already through the sigmoid, of one letterboxed image.
Network = Callable[[Pixels], Floats]

MATCH_IOU = 0.5
NMS_IOU = 0.6
LOWEST_SCORE = 0.01
MOST_BOXES = 300
FALSE_BOXES_PER_100 = 3.0


@dataclass(frozen=True)
class Found:
    """Boxes found in one picture, best first: [n, 4] in its pixels, [n], [n]."""

    boxes: Boxes
    scores: Floats
    classes: npt.NDArray[np.int64]


@dataclass
class _Curve:
    """Scores and whether each was right, over pictures, with the number there was to find."""

    scores: list[Floats] = field(default_factory=list)
    right: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    there: int = 0


def letterbox(pixels: Pixels, size: int) -> tuple[Pixels, float]:
    """Fits a picture into the upper left of a grey square; also returns the scale."""
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    inner = resized(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    square = np.full((size, size, 3), PADDING, np.uint8)
    square[: inner.shape[0], : inner.shape[1]] = inner
    return square, scale


def cell_grid(size: int) -> tuple[Floats, Floats]:
    """Upper left corners [A, 2] in cells, and strides [A, 1] in pixels, of a square input."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size // stride, : size // stride]
        corners.append(np.stack((columns, rows), 2).reshape(-1, 2))
        strides.append(np.full((corners[-1].shape[0], 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)


def find(network: Network, pixels: Pixels, size: int) -> Found:
    """Letterbox, network, decoding, and suppression class by class."""
    square, scale = letterbox(pixels, size)
    raw = network(square)
    corners, strides = cell_grid(size)
    cells, classes = np.nonzero(raw[:, 4:] >= LOWEST_SCORE)
    scores = raw[cells, 4 + classes]
    chosen = np.argsort(-scores)[: 4 * MOST_BOXES]
    cells, classes, scores = cells[chosen], classes[chosen], scores[chosen]
    centres = (raw[cells, :2] + corners[cells]) * strides[cells]
    halves = np.exp(raw[cells, 2:4]) * strides[cells] / 2
    ends = np.concatenate((centres - halves, centres + halves), 1) / scale
    height, width = pixels.shape[:2]
    boxes = np.asarray(ends.clip(0, [width, height, width, height]), np.float32)
    if not len(boxes):
        return Found(boxes, scores, classes)
    corners_and_sides = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
    kept = np.asarray(
        cv2.dnn.NMSBoxesBatched(
            corners_and_sides.tolist(), scores.tolist(), classes.tolist(), LOWEST_SCORE, NMS_IOU
        ),
        np.int64,
    ).reshape(-1)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MOST_BOXES]
    return Found(boxes[kept], scores[kept], classes[kept])


def iou_matrix(a: Boxes, b: Boxes) -> Floats:
    """Intersection over union of all pairs, [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod((high - low).clip(0), 2)
    areas_a, areas_b = (np.prod(boxes[:, 2:] - boxes[:, :2], 1) for boxes in (a, b))
    return np.asarray(common / (areas_a[:, None] + areas_b[None] - common + 1e-9), np.float32)


def matches(found: Boxes, true: Boxes) -> npt.NDArray[np.bool_]:
    """Which of the boxes found, best first, are right: each true box counts once."""
    right = np.zeros(len(found), np.bool_)
    if not len(true):
        return right
    iou = iou_matrix(found, true)
    free = np.ones(len(true), np.bool_)
    for number, row in enumerate(iou):
        open_row = np.where(free, row, 0.0)
        best = int(open_row.argmax())
        if open_row[best] >= MATCH_IOU:
            right[number], free[best] = True, False
    return right


def average_precision(
    scores: Floats, right: npt.NDArray[np.bool_], there: int
) -> tuple[float, Floats, Floats]:
    """Area under the precision envelope over every recall reached, with the curve itself."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    recall = (hits / max(1, there)).astype(np.float32)
    precision = (hits / np.arange(1, len(hits) + 1)).astype(np.float32)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=np.float32(0.0))
    return float((envelope * steps).sum()), recall, precision


def evaluate(
    network: Network, pictures: Sequence[Picture], size: int
) -> dict[str, dict[str, dict[str, float]] | dict[str, float]]:
    """AP at IoU 0.5 by source and class, and false boxes per 100 people-free scenes.

    Only classes a source labels exhaustively and exactly are scored on it.

    Args:
        network: raw predictions of a letterboxed square.
        pictures: what to score on, people-free scenes (source "negative") included.
        size: side of the square.

    Returns:
        `ap50` by source (and "all") and class; `boxes` likewise, how many there were;
        `operating_point`: for helmets and heads the lowest score that keeps at most
        `FALSE_BOXES_PER_100` false boxes per 100 people-free scenes, with recall and precision
        of both classes there; `false_boxes_per_100` by score.
    """
    curves: dict[tuple[str, int], _Curve] = {}
    empty_scores: list[Floats] = []
    scenes = 0
    for picture in pictures:
        pixels = read_picture(picture.path)
        found = find(network, pixels, size)
        if picture.source == "negative":
            scenes += 1
            empty_scores.append(found.scores[np.isin(found.classes, (HELMET, HEAD))])
            continue
        height, width = pixels.shape[:2]
        true = picture.boxes * np.array([width, height] * 2, np.float32)
        for category in np.flatnonzero(picture.exact).tolist():
            of_class = found.classes == category
            aims = true[picture.classes == category]
            right = matches(found.boxes[of_class], aims)
            for source in (picture.source, "all"):
                curve = curves.setdefault((source, category), _Curve())
                curve.scores.append(found.scores[of_class])
                curve.right.append(right)
                curve.there += len(aims)
    ap50: dict[str, dict[str, float]] = {}
    boxes: dict[str, dict[str, float]] = {}
    for (source, category), curve in sorted(curves.items()):
        if curve.there:
            scores, right = np.concatenate(curve.scores), np.concatenate(curve.right)
            area = average_precision(scores, right, curve.there)[0]
            ap50.setdefault(source, {})[CLASSES[category]] = round(area, 4)
            boxes.setdefault(source, {})[CLASSES[category]] = curve.there
    report: dict[str, dict[str, dict[str, float]] | dict[str, float]] = {
        "ap50": ap50,
        "boxes": boxes,
    }
    if scenes:
        false = np.sort(np.concatenate(empty_scores))[::-1]
        report["false_boxes_per_100"] = {
            f"{score:.2f}": round(100.0 * float((false >= score).sum()) / scenes, 1)
            for score in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
        }
        allowed = int(FALSE_BOXES_PER_100 * scenes / 100)
        threshold = float(false[allowed]) + 1e-3 if len(false) > allowed else LOWEST_SCORE
        point = {"score": round(threshold, 3), "scenes": float(scenes)}
        for category in (HELMET, HEAD):
            total = curves.get(("all", category), _Curve())
            if total.there:
                shown = np.concatenate(total.scores) >= threshold
                hits = float(np.concatenate(total.right)[shown].sum())
                point[f"{CLASSES[category]}_recall"] = round(hits / total.there, 4)
                point[f"{CLASSES[category]}_precision"] = round(
                    hits / max(1.0, float(shown.sum())), 4
                )
        report["operating_point"] = point
    return report
