"""`smartsite camera doctor`: is a camera fit to be looked through, and what would help.

It measures what the role `vision` judges by (`detectors.vision.fitness`), on frames at hand: of the
store, or files. What is registered of a camera, the least score of a head that counts, and the
rules that confirm are those of the service. A frame says little of what comes seldom; a hundred of
different hours say more.

Pictures are read one by one: only one of them is held at a time.
"""

from __future__ import annotations

import logging
import statistics
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psycopg
from pydantic import ValidationError

from detectors import helmets, presence, vests
from detectors.confirming import BLIND
from detectors.rules import ConfirmedRule, Rules
from detectors.vision import fitness
from detectors.vision.fitness import Judge
from detectors.vision.model import Model
from detectors.vision.motion import grey_of
from detectors.vision.opinions import HEAD_SCORE
from detectors.vision.tiles import LARGER, Magnifier, look_closely, nearer
from detectors.vision.zones import Plan
from device_profiles.errors import Rejected
from device_profiles.jpeg import JpegHeader, read_jpeg_header
from device_profiles.readings import HEADS, Box, Unfit
from device_profiles.sites import CameraSettings
from ingest.frame_store import FrameStore
from ingest.store.queries import load_queries
from smartsite.media import MAX_BYTES, opened

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).with_suffix(".sql"))


SMALL_HEAD_PX = 20.0
"""Heads smaller than this in the model's input are found less and less: then tiles help."""

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
        data: A JPEG; None where there is none.
        at: Its time; aware. None where nobody knows.
        fault: Why there is none.
    """

    name: str
    data: bytes | None
    at: datetime | None
    fault: str = "the picture is no longer kept"


class Frame(NamedTuple):
    """A frame of the store.

    Attributes:
        observed_at: Its time.
        sha256: Hash of its bytes.
    """

    observed_at: datetime
    sha256: bytes


class Registered(NamedTuple):
    """A camera of the database.

    Attributes:
        camera: What is registered of it.
        frames: Its newest, oldest first.
    """

    camera: CameraSettings
    frames: list[Frame]


class Heads(msgspec.Struct, frozen=True):
    """The heads that were seen.

    Attributes:
        seen: On all pictures together.
        median_px: Longer side in the model's input, that of a tile where it looked in tiles; None
            where none was seen.
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


class NoneRead(NamedTuple):
    """No picture of a camera could be read.

    Attributes:
        unreadable: Name and fault of each, in their order; empty where there was none.
    """

    unreadable: dict[str, str]


def examine(
    pictures: Iterable[Given],
    model: Model,
    camera: CameraSettings | None = None,
    rules: Rules | None = None,
    min_score: float = 0.0,
) -> Report | NoneRead:
    """Examine a camera by its pictures.

    Args:
        pictures: In the order they were taken.
        model: Looks for heads.
        camera: What is registered of it; default: nothing.
        rules: What has to be confirmed by its frames; default: those the service comes with.
        min_score: Boxes below are not kept by the service.

    Returns:
        How fit it is; or why no picture could be read.
    """
    camera = camera or CameraSettings()
    plan = Plan(camera)
    unreadable: dict[str, str] = {}
    judge = Judge(fixed=camera.fixed, drawn_on=plan.bound)
    eye = _Eye(model, camera, max(min_score, HEAD_SCORE))
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
            unreadable[given.name] = given.fault
            continue
        try:
            header = read_jpeg_header(given.data)
            grey = grey_of(given.data)
            # Of a camera that cannot see, nobody looks for heads.
            blind = judge.take(grey, at).unfit in BLIND
            heads, scale = ([], 1.0) if blind else eye.heads(given.data, header, at)
        except Rejected as fault:
            unreadable[given.name] = str(fault)
            continue
        original_px += heads
        input_px += [side * scale for side in heads]
        judge.heads([side * scale for side in heads], at)
        sizes[header.width, header.height] += 1
        measured.append(fitness.measure(grey))
        gradients.append(fitness.gradients(grey))
        bytes_.append(len(given.data))
        if given.at is not None:
            times.append(given.at)
    if not measured:
        return NoneRead(unreadable)
    for _ in range(fitness.LOOKS - len(measured)):
        judge.again(at)  # of one or two pictures, what they show counts
    ((width, height), _), *_ = sizes.most_common()
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    unfit = judge.verdict.unfit
    same = _same_scene(gradients) if camera.fixed else None
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
    advice = (*_advice(report), *_on_rate(gaps, confirming(rules or Rules(), plan)))
    larger = max(width, height) >= LARGER * model.side
    advice += tuple(_on_heads(report, camera, larger=larger))
    return msgspec.structs.replace(report, advice=advice)


class _Eye:
    """Looks for heads as `smartsite.eyes` does, whole or in tiles; without its motion gate."""

    def __init__(self, model: Model, camera: CameraSettings, least: float) -> None:
        self._model, self._least = model, least
        self._magnifier = Magnifier(camera.tiles)

    def heads(self, data: bytes, header: JpegHeader, at: datetime) -> tuple[list[float], float]:
        """The longer sides of heads in pixels of the picture, and its scale in the model's input.

        Raises:
            Rejected: The picture cannot be decoded.
        """
        side, longest = self._model.side, max(header.width, header.height)
        grid = self._magnifier.grid(header.width, header.height, side, at)
        scale = side / longest
        if grid is None:
            boxes, larger = self._model.look(data, self._least), 1.0
        else:
            boxes = look_closely(self._model, data, header, self._least, grid)
            larger = nearer(header.width, header.height, grid)
        heads = [_longer_side(box) for box in boxes if box.label in HEADS]
        self._magnifier.saw([head * scale for head in heads], at)
        return heads, scale * larger


def _longer_side(box: Box) -> float:
    return max(box.box[2] - box.box[0], box.box[3] - box.box[1])


def confirming(rules: Rules, plan: Plan) -> dict[str, ConfirmedRule]:
    """The rules that a camera's frames have to confirm.

    Args:
        rules: All settings.
        plan: Of the camera.

    Returns:
        Settings by name of the rule.
    """
    found: dict[str, ConfirmedRule] = {helmets.RULE: rules.helmet}
    if plan.vest:
        found[vests.RULE] = rules.vest
    if plan.entry:
        found[presence.RULE] = rules.presence
    return found


def longest_between(rule: ConfirmedRule) -> float:
    """How far apart frames may be for a rule to be judged.

    Args:
        rule: Its settings.

    Returns:
        Seconds: so many looks as confirm lie within its window, and none is missed for too long.
    """
    spans = rule.sightings - 1
    return min(rule.window_s / spans, rule.max_gap_s) if spans else rule.max_gap_s


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
    if report.same_scene is not None and report.same_scene < fitness.LEAST_SAME:
        yield (
            "it does not always look at the same scene: zones and masks would not hold; register"
            " it with fixed = false if it is turned"
        )


def _on_rate(gaps: Sequence[float], rules: Mapping[str, ConfirmedRule]) -> Iterator[str]:
    if not gaps:
        return
    between = statistics.median(gaps)
    for name, rule in rules.items():
        longest = longest_between(rule)
        if between > longest:
            yield (
                f"a frame every {between:g} s is too seldom for {name}, which needs"
                f" {rule.sightings} looks within {rule.window_s:g} s and none more than"
                f" {rule.max_gap_s:g} s after another: send one every {longest / 2:.2g} s"
            )


def _on_heads(report: Report, camera: CameraSettings, *, larger: bool) -> Iterator[str]:
    heads = report.heads
    if heads.median_px is None:
        yield "no head was seen: examine it again with frames of working hours"
        return
    if heads.median_px < SMALL_HEAD_PX and report.unfit is not Unfit.SMALL_HEADS:
        help_ = "zoom in"
        if camera.tiles == "off" and larger:
            help_ = 'register it with tiles = "auto", or zoom in'
        yield (
            f"heads are some {heads.median_px:g} pixels in the model's input, under"
            f" {SMALL_HEAD_PX:g}: {help_}"
        )
    original = heads.median_original_px
    if original is not None and original < camera.min_head_px:
        yield (
            f"heads are some {original:g} pixels in the picture, and under its min_head_px of"
            f" {camera.min_head_px:g} they are left out"
        )


def files(paths: Sequence[Path], last: int | None = None) -> Iterator[Given]:
    """Read pictures from files, one by one.

    Args:
        paths: Files, and folders of JPEGs, taken in the order of names.
        last: Only so many, the last; None: all.

    Yields:
        Each, without a time.
    """
    found: deque[Path] = deque(maxlen=last)
    for path in paths:
        if path.is_dir():
            found += sorted(
                file for file in path.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg")
            )
        else:
            found.append(path)
    for path in found:
        yield _read(path)


def _read(path: Path) -> Given:
    try:
        with opened(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as fault:
        return Given(str(path), None, None, str(fault.strerror))
    if len(data) > MAX_BYTES:
        return Given(str(path), None, None, f"a picture of more than {MAX_BYTES} bytes")
    return Given(str(path), data, None)


def stored(
    connection: psycopg.Connection[Any], site: str, device: str, at_most: int
) -> Registered | None:
    """Find the newest frames of a camera.

    Args:
        connection: To the database.
        site: Id.
        device: Id.
        at_most: How many.

    Returns:
        What is registered of it, and its frames; None where there is no such camera.
    """
    terms = {"site": site, "device": device, "at_most": at_most}
    row = connection.execute(SQL["registered_camera"], terms).fetchone()
    if row is None:
        return None
    try:
        camera = CameraSettings.model_validate(row[0] or {})
    except ValidationError as fault:  # of a later version; the service does the same
        log.warning("what is registered of %s/%s cannot be read: %s", site, device, fault)
        camera = CameraSettings()
    frames = connection.execute(SQL["last_frames"], terms).fetchall()
    return Registered(camera, [Frame(*frame) for frame in frames])


def kept(store: FrameStore, frames: Iterable[Frame]) -> Iterator[Given]:
    """Read frames of the store, one by one.

    Args:
        store: Where the pictures lie.
        frames: Which.

    Yields:
        Each, with its time.
    """
    for observed_at, sha256 in frames:
        try:
            data = store.get(sha256)
        except (OSError, ValueError):
            data = None
        yield Given(observed_at.isoformat(), data, observed_at)


def as_json(report: Report) -> dict[str, Any]:
    """For `--json`.

    Args:
        report: Of a camera.

    Returns:
        Its fields, and ``fit``.
    """
    return {"fit": report.fit, **msgspec.to_builtins(report)}
