"""What a model is worth, as pictures: curves as SVG, worst cases, and what hats do to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detectors.training.dataset import Boxes, Picture, Pixels, read_picture
from detectors.training.evaluate import (
    MATCH_IOU,
    Floats,
    Found,
    Network,
    average_precision,
    find,
    iou_matrix,
    matches,
)
from detectors.training.hats import HATS, put_on
from detectors.training.recipe import CLASSES, HEAD, HELMET
from detectors.training.second_look import LEAST, SMALLEST_HEAD
from detectors.vision.crops import head_crop

Look = Callable[[Pixels], Floats]

COLOURS = ("#2e7d32", "#c62828", "#1565c0", "#ef6c00", "#6a1b9a")
WORST = 20
TILE = 320
SHOWN_POINTS = 160


@dataclass
class _Class:
    scores: list[Floats] = field(default_factory=list)
    right: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    there: int = 0


@dataclass
class _Bad:
    faults: float
    path: Path
    marks: list[tuple[Boxes, str]]


def report(
    network: Network,
    size: int,
    look: Look | None,
    pictures: Sequence[Picture],
    folder: Path,
    least: float,
) -> dict[str, object]:
    """Writes precision_recall.svg, worst.jpg and report.json into a folder.

    Args:
        network: the detector.
        size: of its input.
        look: the second look, from crops to the probability of a helmet.
        pictures: of the val split.
        folder: where to; made if need be. worst.jpg shows pictures that may not be published.
        least: score of helmets and heads that counts.

    Returns:
        What report.json holds: `ap50`, and for bare heads of val as they are and with hats drawn
        on: how many the detector calls a helmet at `least`, and how many are left after the
        second look; for helmets, how many it takes away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = {number: _Class() for number in range(len(CLASSES))}
    bad: list[_Bad] = []
    hats: dict[str, list[int]] = {}
    random = np.random.default_rng(11)
    for picture in pictures:
        if picture.source == "negative":
            continue
        pixels = read_picture(picture.path)
        height, width = pixels.shape[:2]
        true = picture.boxes * np.array([width, height] * 2, np.float32)
        found = find(network, pixels, size)
        bad.append(_scored(picture, found, true, classes, least))
        if not picture.exact[HEAD]:
            continue
        _tally(hats, "helmets as they are", pixels, found, true, picture, HELMET, look, least)
        _tally(hats, "heads as they are", pixels, found, true, picture, HEAD, look, least)
        if not (picture.classes == HEAD).any():
            continue
        for name, hat in HATS.items():
            dressed = pixels.copy()
            for box in true[picture.classes == HEAD]:
                if max(box[2] - box[0], box[3] - box[1]) >= SMALLEST_HEAD:
                    put_on(random, dressed, box, hat)
            again = find(network, dressed, size)
            _tally(hats, f"heads with {name}", dressed, again, true, picture, HEAD, look, least)
    curves = {}
    for number, each in classes.items():
        if each.there:
            curves[CLASSES[number]] = average_precision(
                np.concatenate(each.scores), np.concatenate(each.right), each.there
            )
    (folder / "precision_recall.svg").write_text(drawn(curves), encoding="utf-8")
    bad.sort(key=lambda one: -one.faults)
    cv2.imwrite(str(folder / "worst.jpg"), _sheet(bad[:WORST]))
    result: dict[str, object] = {
        "size": size,
        "score": least,
        "ap50": {name: round(curve[0], 4) for name, curve in curves.items()},
        "hats": {
            name: {
                "found": counts[0],
                "called_helmet": counts[1],
                "after_the_second_look": counts[2],
            }
            for name, counts in hats.items()
        },
        "worst": [one.path.name for one in bad[:WORST]],
    }
    (folder / "report.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _scored(
    picture: Picture, found: Found, true: Boxes, classes: dict[int, _Class], least: float
) -> _Bad:
    """Adds a picture to the curves; counts what is wrong with helmets and heads at `least`."""
    faults, marks = 0.0, []
    for category in np.flatnonzero(picture.exact):
        mine = found.classes == category
        aims = true[picture.classes == category]
        right = matches(found.boxes[mine], aims)
        each = classes[int(category)]
        each.scores.append(found.scores[mine])
        each.right.append(right)
        each.there += len(aims)
        if category in (HELMET, HEAD):
            shown = found.scores[mine] >= least
            false = found.boxes[mine][shown & ~right]
            hit = found.boxes[mine][shown & right]
            left = (
                aims[(iou_matrix(aims, hit) < MATCH_IOU).all(1)] if len(hit) and len(aims) else aims
            )
            faults += len(false) + len(left)
            marks += [(false, f"not {CLASSES[category]}"), (left, f"missed {CLASSES[category]}")]
    return _Bad(faults, picture.path, marks)


def _tally(
    hats: dict[str, list[int]],
    name: str,
    pixels: Pixels,
    found: Found,
    true: Boxes,
    picture: Picture,
    category: int,
    look: Look | None,
    least: float,
) -> None:
    """Counts true boxes found at all, called a helmet, and so still after the second look."""
    counts = hats.setdefault(name, [0, 0, 0])
    shown = (found.scores >= least) & np.isin(found.classes, (HELMET, HEAD))
    boxes, labels = found.boxes[shown], found.classes[shown]
    if not len(boxes):
        return
    for row in iou_matrix(true[picture.classes == category], boxes):
        over = np.flatnonzero(row >= MATCH_IOU)
        if not len(over):
            continue
        best = over[0]  # they come best first
        counts[0] += 1
        if labels[best] != HELMET:
            continue
        counts[1] += 1
        x1, y1, x2, y2 = (float(side) for side in boxes[best])
        if look is None or look(head_crop(pixels, (x1, y1, x2, y2))[None])[0] >= LEAST:
            counts[2] += 1


def drawn(curves: dict[str, tuple[float, Floats, Floats]]) -> str:
    """Precision over recall as SVG, both from 0.5 to 1.

    Args:
        curves: by class: average precision, recall, precision.
    """
    left, top, side = 60, 20, 400

    def at(recall: float, precision: float) -> str:
        x = left + (max(recall, 0.5) - 0.5) * 2 * side
        y = top + (1 - max(precision, 0.5)) * 2 * side
        return f"{x:.1f},{y:.1f}"

    box = f"0 0 {left + side + 190} {side + 70}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif"',
        'font-size="13"><rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for step in range(6):
        value = 0.5 + step / 10
        x, y = left + step * side / 5, top + side - step * side / 5
        lines.append(f'<path d="M{x:.0f} {top}v{side}M{left} {y:.0f}h{side}" stroke="#dddddd"/>')
        lines.append(
            f'<text x="{x:.0f}" y="{top + side + 18}" text-anchor="middle">{value:.1f}</text>'
        )
        lines.append(f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{value:.1f}</text>')
    lines.append(
        f'<text x="{left + side / 2:.0f}" y="{top + side + 40}" text-anchor="middle">recall</text>'
    )
    middle = top + side / 2
    lines.append(
        f'<text x="18" y="{middle:.0f}" text-anchor="middle"'
        f' transform="rotate(-90 18 {middle:.0f})">precision</text>'
    )
    for number, (name, (area, recall, precision)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        seen = np.flatnonzero((recall >= 0.5) & (precision >= 0.5))
        if len(seen) > SHOWN_POINTS:
            seen = seen[np.linspace(0, len(seen) - 1, SHOWN_POINTS).astype(int)]
        points = " ".join(at(float(recall[i]), float(precision[i])) for i in seen)
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        y = top + 20 + 22 * number
        lines.append(
            f'<text x="{left + side + 16}" y="{y}" fill="{colour}">{name}, AP50 {area:.3f}</text>'
        )
    return "\n".join([*lines, "</svg>\n"])


def _sheet(bad: Sequence[_Bad]) -> Pixels:
    """A contact sheet: what was missed in red, what was wrongly found in yellow."""
    tiles = []
    for one in bad:
        pixels = read_picture(one.path)
        for boxes, what in one.marks:
            colour = (0, 0, 255) if what.startswith("missed") else (0, 220, 255)
            for box in boxes:
                x1, y1, x2, y2 = (round(float(side)) for side in box)
                thick = max(2, max(pixels.shape) // 300)
                cv2.rectangle(pixels, (x1, y1), (x2, y2), colour, thick)
        scale = TILE / max(pixels.shape[:2])
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tile = np.full((TILE + 16, TILE, 3), 255, np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small[:TILE, :TILE]
        said = f"{one.path.name} {one.faults:.0f}"
        cv2.putText(tile, said, (2, TILE + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
        tiles.append(tile)
    while len(tiles) % 5:
        tiles.append(np.full((TILE + 16, TILE, 3), 255, np.uint8))
    rows = [np.hstack(tiles[start : start + 5]) for start in range(0, len(tiles), 5)]
    return np.asarray(np.vstack(rows), np.uint8)
