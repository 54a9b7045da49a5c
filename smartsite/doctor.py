"""`smartsite camera doctor`: is a camera fit to be looked through, and what would help.

It measures what the role `vision` judges by (`detectors.vision.fitness`), on frames at hand: of the
store, or files. A frame says little of what comes seldom; a hundred of different hours say more.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psycopg

from detectors.vision import fitness
from detectors.vision.fitness import Judge
from detectors.vision.model import Model
from detectors.vision.motion import grey_of
from device_profiles.errors import Rejected
from device_profiles.jpeg import read_jpeg_header
from device_profiles.readings import Unfit
from ingest.frame_store import FrameStore
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).with_suffix(".sql"))

HEADS = frozenset({"helmet", "head"})

SMALL_HEAD_PX = 20.0
"""Heads smaller than this in the model's input are found less and less: then tiles help."""

SLOW_S = 1.25
"""Frames further apart than this leave too few looks to confirm a bare head: 4 in 5 seconds."""

TOO_SMALL_SIDE = 640
"""Pictures with a longer side under this show heads only from near by, pixels."""

SPACING = timedelta(seconds=2)
"""Pictures without a time are taken to be so far apart."""

ADVICE = {
    Unfit.DARK: "it is too dark: light the scene, or lengthen the exposure",
    Unfit.BRIGHT: "it is blown out: shorten the exposure, or turn it away from the light",
    Unfit.BLURRED: "it is out of focus or smeared: clean the lens, focus it, raise the bit rate",
    Unfit.BLOCKED: "hardly anything is to be seen: something is before the lens",
    Unfit.MOVED: "it looks elsewhere than before: turn it back, or draw its zones anew",
    Unfit.SMALL_HEADS: "heads are too small to judge: zoom in, or move it nearer",
}


class Given(NamedTuple):
    """A picture to examine.

    Attributes:
        name: For people.
        data: A JPEG; None where it is gone.
        at: Its time; aware. None where nobody knows.
    """

    name: str
    data: bytes | None
    at: datetime | None


class Heads(msgspec.Struct, frozen=True):
    """The heads that were seen.

    Attributes:
        seen: On all pictures together.
        median_px: Longer side in the model's input; None where none was seen.
        smallest_px: Likewise.
        median_original_px: In the picture as it came.
    """

    seen: int
    median_px: float | None
    smallest_px: float | None
    median_original_px: float | None


class Report(msgspec.Struct, frozen=True):
    """How fit a camera is.

    Attributes:
        pictures: Examined.
        unreadable: Name and fault of those that could not be.
        width: Pixels, of most.
        height: Likewise.
        sizes: How many different sizes there are.
        kilobytes: Median of the files.
        frames_per_s: By the median of what lies between them; None where times are unknown.
        longest_gap_s: Likewise.
        light: Medians of what `fitness.measure` says.
        blown: Likewise.
        sharpness: Likewise.
        structure: Likewise.
        same_scene: Share of the scene that the worst picture shows where the others do; None
            where too little can be recognised.
        heads: That were seen.
        unfit: Why it cannot be relied on; None while it can.
        advice: What would help, one sentence each.
    """

    pictures: int
    unreadable: dict[str, str]
    width: int
    height: int
    sizes: int
    kilobytes: float
    frames_per_s: float | None
    longest_gap_s: float | None
    light: float
    blown: float
    sharpness: float
    structure: float
    same_scene: float | None
    heads: Heads
    unfit: Unfit | None
    advice: tuple[str, ...]

    @property
    def fit(self) -> bool:
        """Whether what it shows can be judged."""
        return self.unfit is None


def examine(pictures: Iterable[Given], model: Model, *, fixed: bool = True) -> Report | None:
    """Examine a camera by its pictures.

    Args:
        pictures: In the order they were taken.
        model: Looks for heads.
        fixed: Whether the camera always looks at the same scene.

    Returns:
        How fit it is; None where no picture could be read.
    """
    unreadable: dict[str, str] = {}
    judge = Judge(fixed=fixed)
    sizes: Counter[tuple[int, int]] = Counter()
    measured: list[fitness.Fitness] = []
    gradients: list[fitness.Floats] = []
    bytes_: list[int] = []
    times: list[datetime] = []
    input_px: list[float] = []
    original_px: list[float] = []
    at = datetime(2000, 1, 1, tzinfo=UTC)
    for given in pictures:
        at = given.at or at + SPACING
        if given.data is None:
            unreadable[given.name] = "the picture is no longer kept"
            continue
        try:
            header = read_jpeg_header(given.data)
            grey = grey_of(given.data)
            boxes = model.look(given.data, model.operating_point)
        except Rejected as fault:
            unreadable[given.name] = str(fault)
            continue
        placement = model.place(header.width, header.height)
        scale = placement.inner_width / header.width
        heads = [
            max(box.box[2] - box.box[0], box.box[3] - box.box[1])
            for box in boxes
            if box.label in HEADS
        ]
        original_px += heads
        input_px += [side * scale for side in heads]
        judge.heads([side * scale for side in heads], at)
        judge.take(grey, at)
        sizes[header.width, header.height] += 1
        measured.append(fitness.measure(grey))
        gradients.append(fitness.gradients(grey))
        bytes_.append(len(given.data))
        if given.at is not None:
            times.append(given.at)
    if not measured:
        return None
    for _ in range(fitness.LOOKS - len(measured)):
        judge.again(at)  # of one or two pictures, what they show counts
    ((width, height), _), *_ = sizes.most_common()
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    unfit = judge.verdict.unfit
    same = _same_scene(gradients) if fixed else None
    report = Report(
        pictures=len(measured),
        unreadable=unreadable,
        width=width,
        height=height,
        sizes=len(sizes),
        kilobytes=round(statistics.median(bytes_) / 1_024, 1),
        frames_per_s=_rate(gaps),
        longest_gap_s=round(max(gaps), 3) if gaps else None,
        light=_median([one.light for one in measured]),
        blown=_median([one.blown for one in measured]),
        sharpness=_median([one.sharpness for one in measured]),
        structure=_median([one.structure for one in measured]),
        same_scene=same,
        heads=Heads(
            len(input_px),
            round(statistics.median(input_px), 1) if input_px else None,
            round(min(input_px), 1) if input_px else None,
            round(statistics.median(original_px), 1) if original_px else None,
        ),
        unfit=unfit,
        advice=(),
    )
    return msgspec.structs.replace(report, advice=tuple(_advice(report)))


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _rate(gaps: Sequence[float]) -> float | None:
    between = statistics.median(gaps) if gaps else 0.0
    return round(1 / between, 2) if between > 0 else None


def _same_scene(gradients: Sequence[fitness.Floats]) -> float | None:
    """The worst picture's share of a scene that is the mean of all."""
    alike = [one for one in gradients if one.shape == gradients[-1].shape]
    if len(alike) < fitness.LOOKS:
        return None
    scene = np.asarray(np.mean(alike, axis=0), np.float32)
    energy = np.asarray(np.mean([fitness.energy_of(one) for one in alike], axis=0), np.float32)
    shares = [fitness.same_scene(one, scene, energy) for one in alike]
    known = [share for share in shares if share is not None]
    return round(min(known), 3) if known else None


def _advice(report: Report) -> Iterator[str]:
    if report.unfit is not None:
        yield ADVICE[report.unfit]
    if report.unreadable:
        yield (
            f"{len(report.unreadable)} of {len(report.unreadable) + report.pictures} pictures could"
            " not be read: look at the link and at the camera's settings"
        )
    if report.sizes > 1:
        yield f"it sends pictures of {report.sizes} sizes: fix one"
    if max(report.width, report.height) < TOO_SMALL_SIDE:
        yield f"pictures of {report.width} × {report.height} are small: send 1280 × 720 or more"
    if report.frames_per_s is not None and report.frames_per_s < 1 / SLOW_S:
        yield (
            f"{report.frames_per_s:g} frames a second are few: a bare head is confirmed by four"
            " looks within five seconds; send two a second"
        )
    if report.same_scene is not None and report.same_scene < fitness.LEAST_SAME:
        yield "it does not always look at the same scene: zones and masks would not hold"
    heads = report.heads
    if heads.median_px is None:
        yield "no head was seen: examine it again with frames of working hours"
    elif heads.median_px < SMALL_HEAD_PX and report.unfit is not Unfit.SMALL_HEADS:
        yield (
            f"heads are some {heads.median_px:g} pixels in the model's input, under"
            f" {SMALL_HEAD_PX:g}: look in tiles, or zoom in"
        )


def files(paths: Sequence[Path]) -> Iterator[Given]:
    """Read pictures from files.

    Args:
        paths: Files, and folders of JPEGs, taken in the order of names.

    Yields:
        Each, without a time.
    """
    for path in paths:
        inside = (
            sorted(file for file in path.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
            if path.is_dir()
            else [path]
        )
        for file in inside:
            try:
                yield Given(str(file), file.read_bytes(), None)
            except OSError:
                yield Given(str(file), None, None)


def stored(
    connection: psycopg.Connection[Any], store: FrameStore, site: str, device: str, at_most: int
) -> list[Given] | None:
    """Fetch the newest frames of a camera.

    Args:
        connection: To the database.
        store: Where the pictures lie.
        site: Id.
        device: Id.
        at_most: How many.

    Returns:
        Oldest first; None where there is no such camera.
    """
    terms = {"site": site, "device": device, "at_most": at_most}
    if connection.execute(SQL["is_camera"], terms).fetchone() is None:
        return None
    found = []
    for observed_at, sha256 in connection.execute(SQL["last_frames"], terms).fetchall():
        try:
            data = store.get(sha256)
        except (OSError, ValueError):
            data = None
        found.append(Given(observed_at.isoformat(), data, observed_at))
    return found


def as_json(report: Report) -> dict[str, Any]:
    """For `--json`.

    Args:
        report: Of a camera.

    Returns:
        Its fields, and ``fit``.
    """
    return {"fit": report.fit, **msgspec.to_builtins(report)}
