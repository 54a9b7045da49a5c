"""A dataset folder of drawn pictures: grey noise, and one rectangle of its own colour an object."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detectors.training.recipe import CLASSES, HEAD, HELMET, NO_VEST, PERSON, VEST

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Thing = tuple[int, int, int, int, int]
"""A class, and x1, y1, x2, y2 in pixels."""

SIDE = 96
# By class, BGR.
COLOURS = ((0, 220, 255), (255, 0, 255), (0, 0, 255), (0, 255, 0), (255, 0, 0))
HEADS = "helmet;head"
BODIES = "person;vest;no_vest;helmet~"


@dataclass(frozen=True)
class Scene:
    """One picture to draw; `labelled` None for a scene without people."""

    name: str
    source: str = "heads"
    split: str = "train"
    labelled: str | None = HEADS
    things: tuple[Thing, ...] = ()
    width: int = SIDE
    height: int = SIDE


SCENES = (
    Scene("a1", things=((HELMET, 10, 10, 40, 42), (HEAD, 50, 20, 80, 50))),
    Scene("a2", things=((HEAD, 30, 30, 62, 66),)),
    Scene("a3", things=((HELMET, 44, 6, 84, 40),)),
    Scene("a4", split="val", things=((HELMET, 12, 16, 44, 48), (HEAD, 56, 40, 84, 72))),
    Scene("a5", split="val", things=((HELMET, 40, 20, 80, 60),), height=64),
    Scene("b1", "bodies", labelled=BODIES, things=((PERSON, 8, 8, 40, 90),)),
    Scene("b2", "bodies", labelled=BODIES, things=((VEST, 20, 30, 60, 80),)),
    Scene(
        "b3", "bodies", "val", BODIES, things=((NO_VEST, 10, 10, 40, 60), (HELMET, 50, 8, 80, 36))
    ),
    Scene("n1", split="train", labelled=None),
    Scene("n2", split="val", labelled=None),
)


def drawn(scene: Scene) -> Pixels:
    """A picture of a scene; the same each time."""
    random = np.random.default_rng(len(scene.name) + ord(scene.name[-1]))
    grey = random.integers(150, 200, (scene.height, scene.width, 1), np.uint8)
    pixels = np.repeat(grey, 3, 2)
    for category, x1, y1, x2, y2 in scene.things:
        pixels[y1:y2, x1:x2] = COLOURS[category]
    return pixels


def shown(pixels: Pixels, category: int) -> Mask:
    """Where a picture has the colour of a class."""
    off = np.abs(pixels.astype(np.int64) - np.array(COLOURS[category]))
    return np.asarray(off.max(2) < 60, np.bool_)


def write_dataset(folder: Path, scenes: Sequence[Scene] = SCENES) -> Path:
    """Draws a dataset folder, labels and manifests and all."""
    for name in ("images", "labels", "negatives"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    peopled = [scene for scene in scenes if scene.labelled is not None]
    empty = [scene for scene in scenes if scene.labelled is None]
    for scene in scenes:
        place = "negatives" if scene.labelled is None else "images"
        assert cv2.imwrite(str(folder / place / f"{scene.name}.png"), drawn(scene))
    for scene in peopled:
        lines = [
            f"{category} {(x1 + x2) / 2 / scene.width} {(y1 + y2) / 2 / scene.height}"
            f" {(x2 - x1) / scene.width} {(y2 - y1) / scene.height}\n"
            for category, x1, y1, x2, y2 in scene.things
        ]
        (folder / "labels" / f"{scene.name}.txt").write_text("".join(lines), encoding="ascii")
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "source", "split", "labelled_classes"))
        for scene in peopled:
            rows.writerow((f"{scene.name}.png", scene.source, scene.split, scene.labelled))
    with (folder / "negatives.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "split", "sha256"))
        for scene in empty:
            # Which of them are held out is told by the hash, whatever the manifest says.
            held_out = scene.split == "val"
            rows.writerow((f"{scene.name}.png", "train", ("00" if held_out else "ff") * 32))
    return folder
