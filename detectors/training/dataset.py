"""The dataset folder: manifest, labels, and a cache of decoded, reduced images.

Layout of a dataset folder: `classes.txt`, `manifest.csv` with one row a picture (file, source,
split, labelled_classes, …), `images/FILE`, `labels/STEM.txt` (YOLO: class, centre x, centre y,
width, height as parts of the picture), and `negatives.csv` with `negatives/FILE`: nobody there.

`labelled_classes` says what a source labels exhaustively. Where a class is not named, its absence
from the labels means nothing; where it carries "~", its boxes are only roughly right.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detectors.training.recipe import CLASSES

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]

# Larger than any training size, so that enlarging a crop still has something to show.
CACHED_SIDE = 576
# Of the negatives, which the manifest has as training data only, these are kept for checking.
HELD_OUT_NEGATIVES = 0.2


class DatasetError(Exception):
    """A dataset folder that does not hold what its manifest says."""


@dataclass(frozen=True)
class Picture:
    """One labelled picture.

    Attributes:
        path: the file.
        source: which collection it comes from; "negative" for people-free scenes.
        split: train or val.
        exact: for each class, whether it is labelled exhaustively and exactly (scorable).
        known: for each class, whether what is not labelled is not there.
        classes: class of each box, [n].
        boxes: x1, y1, x2, y2 as parts of the picture, [n, 4].
    """

    path: Path
    source: str
    split: str
    exact: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.int64]
    boxes: Boxes


def manifest_hash(folder: Path) -> str:
    """SHA-256 over both manifests: names which data a model has seen."""
    digest = hashlib.sha256()
    for name in ("manifest.csv", "negatives.csv"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def read_dataset(folder: Path) -> list[Picture]:
    """All pictures of a dataset folder, in the manifest's order, negatives last.

    Raises:
        DatasetError: other classes than ours, a file the manifest names is missing, or its labels
            are none.
    """
    names = tuple((folder / "classes.txt").read_text(encoding="utf-8").split())
    if names != CLASSES:
        raise DatasetError(f"{folder / 'classes.txt'}: {names} is not {CLASSES}")
    pictures = []
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            labelled = set(row["labelled_classes"].split(";"))
            classes, boxes = _labels(folder / "labels" / (Path(row["file"]).stem + ".txt"))
            pictures.append(
                Picture(
                    path=_existing(folder / "images" / row["file"]),
                    source=row["source"],
                    split=row["split"],
                    exact=np.array([name in labelled for name in CLASSES]),
                    known=np.array(
                        [name in labelled or f"{name}~" in labelled for name in CLASSES]
                    ),
                    classes=classes,
                    boxes=boxes,
                )
            )
    with (folder / "negatives.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            held_out = int(row["sha256"][:8], 16) / 2**32 < HELD_OUT_NEGATIVES
            pictures.append(
                Picture(
                    path=_existing(folder / "negatives" / row["file"]),
                    source="negative",
                    split="val" if held_out else "train",
                    exact=np.ones(len(CLASSES), bool),
                    known=np.ones(len(CLASSES), bool),
                    classes=np.zeros(0, np.int64),
                    boxes=np.zeros((0, 4), np.float32),
                )
            )
    return pictures


def read_picture(path: Path) -> Pixels:
    """Decodes a picture to [H, W, 3], BGR.

    Raises:
        DatasetError: the file is no picture.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DatasetError(f"{path}: not a picture")
    return np.asarray(pixels, np.uint8)


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scales, averaging areas where it shrinks a lot."""
    shrinks = width < 0.7 * pixels.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), np.uint8)


class PixelCache:
    """Decoded pictures, reduced to `CACHED_SIDE`, in one memory-mapped file."""

    def __init__(self, pictures: Sequence[Picture], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(
            "\n".join([str(CACHED_SIDE), *(f"{p.path.name}" for p in pictures)]).encode()
        ).hexdigest()[:16]
        data, index = folder / f"{key}.u8", folder / f"{key}.json"
        if not index.exists():
            _pack(pictures, data, index)
        self._entries: list[tuple[int, int, int]] = json.loads(index.read_text(encoding="ascii"))
        self._bytes = np.memmap(data, np.uint8, "r")

    def __getitem__(self, number: int) -> Pixels:
        """Pixels [H, W, 3] of a picture, read-only."""
        start, height, width = self._entries[number]
        return self._bytes[start : start + height * width * 3].reshape(height, width, 3)


def _pack(pictures: Sequence[Picture], data: Path, index: Path) -> None:
    entries, start = [], 0
    partial = data.with_suffix(".partial")
    with partial.open("wb") as file:
        for picture in pictures:
            pixels = read_picture(picture.path)
            scale = min(1.0, CACHED_SIDE / max(pixels.shape[:2]))
            if scale < 1.0:
                height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
                pixels = resized(pixels, width, height)
            entries.append((start, pixels.shape[0], pixels.shape[1]))
            file.write(np.ascontiguousarray(pixels).data)
            start += pixels.size
    partial.replace(data)
    index.write_text(json.dumps(entries), encoding="ascii")


def _labels(path: Path) -> tuple[npt.NDArray[np.int64], Boxes]:
    rows = [line.split() for line in _existing(path).read_text(encoding="ascii").splitlines()]
    try:
        cells = [[float(cell) for cell in row] for row in rows if row]
    except ValueError:
        cells = [[]]
    known = range(len(CLASSES))
    if not all(len(row) == 5 and row[0] in known and np.isfinite(row).all() for row in cells):
        raise DatasetError(f"{path}: a line is not a class of ours and four numbers")
    numbers = np.array(cells, np.float32).reshape(-1, 5)
    centres, halves = numbers[:, 1:3], numbers[:, 3:5] / 2
    boxes = np.concatenate((centres - halves, centres + halves), 1).clip(0.0, 1.0)
    return numbers[:, 0].astype(np.int64), boxes.astype(np.float32)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(f"{path}: named by the manifest and missing")
    return path
