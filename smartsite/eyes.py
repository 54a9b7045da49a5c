"""The eyes: what becomes of a frame between the queue and the store.

Every frame goes through its camera's motion gate and fitness first. A still scene says what it said
before; an unfit camera that cannot see is not looked at; the rest goes to the model, frames of
several cameras together where that pays, large pictures with small heads in tiles.

A scene that stays still while something in it may be a violation is looked at again, a few times:
what confirms has to come from the model, and a gate that opens every ten seconds would be too slow.

The picture of an AI box's event is looked at by itself: it never enters what is known of its
camera, or whoever posts such pictures would decide what the camera's scene is. Whether anything can
be seen on it, it says by itself.

A helmet is looked at twice, by a classifier of heads, before it is believed, and again every ten
seconds while it stays (`detectors.vision.opinions`). What it says is stored beside what the
detector says; which of them counts, the rule decides (`detectors.helmets`).

All that is known of a camera is here and small; lost in a crash, it is learnt again, but for its
scene, which is handed out to be kept.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from prometheus_client import Counter
from pydantic import ValidationError

from detectors.confirming import BLIND
from detectors.vision.crops import SIDE, WIDER, head_crop
from detectors.vision.fitness import FIT, LOOKS, Judge, Verdict
from detectors.vision.model import Model
from detectors.vision.motion import MotionGate, grey_of
from detectors.vision.opinions import HEAD_SCORE, HELMET, Opinions
from detectors.vision.picture import decode
from detectors.vision.second_look import SecondLook
from detectors.vision.tiles import Magnifier, look_closely, nearer
from detectors.vision.zones import Plan
from device_profiles.errors import Rejected
from device_profiles.jpeg import JpegHeader, read_jpeg_header
from device_profiles.readings import Box, Unfit
from device_profiles.sites import CameraSettings
from ingest.frame_store import FrameStore

log = logging.getLogger(__name__)

RUNS = 3
"""A still scene that shows what may be a violation is looked at so many times by the model."""

RECHECK = timedelta(seconds=1.2)
"""With at least so long between."""

KEEP_SCENES = timedelta(minutes=5)
"""How often what was learnt of a scene is handed out to be kept."""

LOOKED = Counter("smartsite_frames_looked_at", "frames looked at", ["way"])
RUN = Counter("smartsite_vision_runs", "runs of the model, those on tiles included")
DOUBTED = Counter("smartsite_helmets_doubted", "answers of the second look that doubted a helmet")
LOOK_SECONDS = Counter("smartsite_vision_cpu_seconds", "CPU seconds spent looking")

_HEADS = frozenset({"head", HELMET})
_DOUBTFUL = frozenset({"head", "no_vest"})


class Leased(NamedTuple):
    """A frame taken from the queue.

    Attributes:
        device_id: The registry's number of its camera.
        site_id: Site id.
        device: Device id.
        observed_at: Its time.
        received_at: When it came.
        sha256: Hash of its bytes.
        camera: What is registered of its camera, as it is stored.
        event: Whether it is the picture of an AI box's event: the box chose it, and may have cut it
            or drawn on it, so it says nothing of the camera's scene.
    """

    device_id: int
    site_id: str
    device: str
    observed_at: datetime
    received_at: datetime
    sha256: bytes
    camera: Mapping[str, Any] | None = None
    event: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen on a frame.

    Attributes:
        frame: The frame.
        header: Of its picture.
        boxes: What the model saw, and of helmets what the second look said.
        still: Whether it saw that on an earlier picture of the same scene.
        unfit: Why the camera cannot be relied on.
        fitness: The figures that decided.
        skipped: Frames of this camera that nobody looked at since the look before.
    """

    frame: Leased
    header: JpegHeader
    boxes: tuple[Box, ...]
    still: bool
    unfit: Unfit | None = None
    fitness: Mapping[str, float] = field(default_factory=dict)
    skipped: int = 0


class Scene(NamedTuple):
    """What was learnt of a camera's scene.

    Attributes:
        device_id: The registry's number of the camera.
        camera: What was registered of it then.
        memory: See `detectors.vision.fitness.Judge.remember`.
    """

    device_id: int
    camera: Mapping[str, Any]
    memory: bytes


class _Camera:
    """What is known of one camera."""

    def __init__(self, registered: Mapping[str, Any], memory: bytes | None) -> None:
        try:
            settings = CameraSettings.model_validate(registered)
        except ValidationError as fault:  # of a later version: its zones are nobody's yet
            log.warning("what is registered of a camera cannot be read: %s", fault)
            settings = CameraSettings()
        plan = Plan(settings)
        self.registered = registered
        self.entry = bool(plan.entry)
        self.gate = MotionGate()
        self.judge = Judge(fixed=settings.fixed, drawn_on=plan.bound)
        self.magnifier = Magnifier(settings.tiles)
        self.runs = 0
        self.ran_at: datetime | None = None
        self.blind = False
        self.kept_at: datetime | None = None
        self.opinions = Opinions()
        if memory is not None and settings.fixed:
            self.judge.recall(memory)

    def doubts(self, seen: Sequence[Box], at: datetime) -> bool:
        """Whether a still scene is worth another run of the model."""
        if self.blind:
            return True  # what it showed last was not looked at
        if self.runs >= RUNS or self.ran_at is None or at - self.ran_at < RECHECK:
            return False
        return any(self._may_be_wrong(box) for box in seen)

    def _may_be_wrong(self, box: Box) -> bool:
        if box.label == HELMET:
            heard = self.opinions.heard(box)
            return heard is not None and heard < 0.5
        return box.label in _DOUBTFUL or (self.entry and box.label == "person")


@dataclass(slots=True)
class _Case:
    """A frame the model has to look at."""

    place: int
    frame: Leased
    data: bytes
    header: JpegHeader
    verdict: Verdict
    grid: tuple[int, int] | None


class Eyes:
    """The model and, per camera, all that is remembered of it.

    Attributes:
        model: The detector.
        second_look_sha256: Hash of the second look's file, hexadecimal; None where there is none.
        min_score: The score from which on boxes are kept.
    """

    def __init__(
        self,
        model: Model,
        store: FrameStore,
        min_score: float,
        second_look: SecondLook | None = None,
    ) -> None:
        """Open the eyes.

        Args:
            model: The detector.
            store: Where the pictures lie.
            min_score: Boxes below are not kept, but for those at the model's operating point.
            second_look: Asked whether helmets are helmets.
        """
        self.model = model
        self._second_look = second_look
        self.second_look_sha256 = None if second_look is None else second_look.sha256
        self._store = store
        self.min_score = min([min_score, *model.operating_point.values()])
        self._cameras: dict[int, _Camera] = {}
        self._scenes: dict[int, Scene] = {}

    def strangers(self, frames: Iterable[Leased]) -> list[int]:
        """Cameras nothing is known of: `recall` their scenes before looking.

        Args:
            frames: From the queue.

        Returns:
            Their numbers.
        """
        streamed = {frame.device_id for frame in frames if not frame.event}
        return sorted(streamed - self._cameras.keys())

    def recall(self, scenes: Iterable[Scene]) -> None:
        """Take what was learnt before a restart.

        Args:
            scenes: Of any cameras.
        """
        self._scenes |= {scene.device_id: scene for scene in scenes}

    def scenes(self, now: datetime) -> list[Scene]:
        """What is to be kept of the cameras' scenes by now.

        Args:
            now: The present time; aware.

        Returns:
            Of each camera whose turn it is.
        """
        found = []
        for number, camera in self._cameras.items():
            if camera.kept_at is None:
                camera.kept_at = now  # nothing is known yet that was not kept
            elif now - camera.kept_at >= KEEP_SCENES:
                camera.kept_at = now
                memory = camera.judge.remember()
                if memory is not None:
                    found.append(Scene(number, camera.registered, memory))
        return found

    def look(self, frames: Sequence[Leased]) -> list[tuple[Leased, Look | str]]:
        """Look at frames; blocking.

        Args:
            frames: From the queue, by observed time.

        Returns:
            For each what was seen, or why nothing could be: "missing", "undecodable".
        """
        started = time.thread_time()
        found: list[tuple[Leased, Look | str]] = [(frame, "missing") for frame in frames]
        # What a frame means to its camera depends on the frame before: one of each at a time. What
        # an event's picture shows depends on none.
        turns: list[list[int]] = []
        nth: Counts[int] = Counts()
        for place, frame in enumerate(frames):
            its_turn = 0 if frame.event else nth[frame.device_id]
            if its_turn == len(turns):
                turns.append([])
            turns[its_turn].append(place)
            nth[frame.device_id] += not frame.event
        for turn in turns:
            cases = []
            for place in turn:
                answer = self._meet(place, frames[place])
                if isinstance(answer, _Case):
                    cases.append(answer)
                else:
                    found[place] = (frames[place], answer)
            for case, seen in zip(cases, self._run(cases), strict=True):
                found[case.place] = (case.frame, self._conclude(case, seen))
        LOOK_SECONDS.inc(time.thread_time() - started)
        return found

    def _camera(self, frame: Leased) -> _Camera:
        registered = frame.camera or {}
        camera = self._cameras.get(frame.device_id)
        if camera is None or camera.registered != registered:
            scene = self._scenes.pop(frame.device_id, None)
            same = scene is not None and scene.camera == registered
            camera = _Camera(registered, scene.memory if scene is not None and same else None)
            self._cameras[frame.device_id] = camera
        return camera

    def _meet(self, place: int, frame: Leased) -> _Case | Look | str:
        """Decide whether a frame has to go to the model."""
        try:
            data = self._store.get(frame.sha256)
        except (OSError, ValueError) as fault:
            log.error("frame %s of %s: %s", frame.sha256.hex(), frame.device, fault)  # noqa: TRY400
            return "missing"
        try:
            header = read_jpeg_header(data)
            if frame.event:
                return _Case(place, frame, data, header, _by_itself(data, frame.observed_at), None)
            camera, at = self._camera(frame), frame.observed_at
            seen = camera.gate.still(data, at, frame.sha256, header)
        except Rejected as fault:
            return _undecodable(frame, fault)
        grey = camera.gate.grey
        if seen is not None:
            verdict = camera.judge.again(at)
        elif grey is not None:
            verdict = camera.judge.take(grey, at)
            camera.runs = 0
        else:
            verdict = FIT
        if verdict.unfit in BLIND:
            # What is seen there cannot be relied on, and would only cost.
            camera.gate.looked(at, ())
            camera.blind = True
            LOOKED.labels("blind").inc()
            return Look(frame, header, (), seen is not None, verdict.unfit, verdict.figures)
        if seen is not None and not camera.doubts(seen, at):
            LOOKED.labels("still").inc()
            return Look(frame, header, seen, still=True, **_said(verdict))
        grid = camera.magnifier.grid(header.width, header.height, self.model.side, at)
        return _Case(place, frame, data, header, verdict, grid)

    def _run(self, cases: Sequence[_Case]) -> list[list[Box] | Rejected]:
        """Let the model look: at whole pictures together, at those in tiles one by one."""
        whole = [case.data for case in cases if case.grid is None]
        answers = iter(self.model.look_at_many(whole, self.min_score) if whole else ())
        found: list[list[Box] | Rejected] = []
        for case in cases:
            if case.grid is None:
                found.append(next(answers))
                RUN.inc()
                LOOKED.labels("model").inc()
                continue
            try:
                found.append(
                    look_closely(self.model, case.data, case.header, self.min_score, case.grid)
                )
            except Rejected as fault:
                found.append(fault)
            RUN.inc(1 + case.grid[0] * case.grid[1])
            LOOKED.labels("tiles").inc()
        return found

    def _conclude(self, case: _Case, seen: list[Box] | Rejected) -> Look | str:
        """Let a camera know what the model saw."""
        if isinstance(seen, Rejected):
            return _undecodable(case.frame, seen)
        if case.frame.event:
            boxes = self._look_twice(Opinions(), case, seen)  # nothing was heard: it asks of all
            return Look(case.frame, case.header, tuple(boxes), still=False, **_said(case.verdict))
        camera, at, header = (
            self._cameras[case.frame.device_id],
            case.frame.observed_at,
            case.header,
        )
        seen = self._look_twice(camera.opinions, case, seen)
        camera.runs += 1
        camera.ran_at, camera.blind = at, False
        camera.gate.looked(at, tuple(seen))
        longest = max(header.width, header.height)
        sizes = [
            max(box.box[2] - box.box[0], box.box[3] - box.box[1]) * self.model.side / longest
            for box in seen
            if box.label in _HEADS and box.score >= HEAD_SCORE
        ]
        camera.magnifier.saw(sizes, at)
        larger = 1.0 if case.grid is None else nearer(header.width, header.height, case.grid)
        camera.judge.heads([size * larger for size in sizes], at)
        return Look(case.frame, header, tuple(seen), still=False, **_said(case.verdict))

    def _look_twice(self, opinions: Opinions, case: _Case, seen: list[Box]) -> list[Box]:
        """Write beside helmets what the second look says of them, where it is to be asked."""
        if self._second_look is None:
            return seen
        header = case.header
        asked = opinions.to_ask(seen, case.frame.observed_at)
        if not asked:
            return seen
        smallest = min(max(_sides(seen[place])) for place in asked)
        longest = max(header.width, header.height)
        wanted = longest * SIDE / (WIDER * max(smallest, 1.0))
        try:
            image = decode(case.data, header, min(longest, wanted))
        except Rejected:
            return seen
        scale = max(image.shape[:2]) / longest
        crops = []
        for place in asked:
            x1, y1, x2, y2 = seen[place].box
            crops.append(head_crop(image, (x1 * scale, y1 * scale, x2 * scale, y2 * scale)))
        said = [round(share, 3) for share in self._second_look(crops)]
        answers = dict(zip(asked, said, strict=True))
        opinions.take(answers)
        DOUBTED.inc(sum(share < self._second_look.least for share in said))
        found = list(seen)
        for place, share in answers.items():
            found[place] = msgspec.structs.replace(seen[place], second_look=share)
        return found


def _sides(box: Box) -> tuple[float, float]:
    return box.box[2] - box.box[0], box.box[3] - box.box[1]


def _by_itself(data: bytes, at: datetime) -> Verdict:
    """Whether one picture shows too little to be judged; of its camera nothing is known."""
    judge = Judge()
    verdict = judge.take(grey_of(data), at)
    for _ in range(LOOKS - 1):
        verdict = judge.again(at)
    return verdict if verdict.unfit in BLIND else FIT


def _said(verdict: Verdict) -> dict[str, Any]:
    return {"unfit": verdict.unfit, "fitness": verdict.figures}


def _undecodable(frame: Leased, fault: Rejected) -> str:
    log.warning("%s/%s: %s", frame.site_id, frame.device, fault)
    return "undecodable"


def with_skipped(
    seen: Iterable[tuple[Leased, Look | str]], skipped: Counts[int]
) -> list[tuple[Leased, Look | str]]:
    """Write down with each look how many frames of its camera were skipped before it.

    Args:
        seen: By observed time; frames nobody could look at are counted with those skipped. Pictures
            of events are not of the stream that had the gap: they are neither counted nor told.
        skipped: By camera; what is written down is taken out.

    Returns:
        The same with the counts.
    """
    found: list[tuple[Leased, Look | str]] = []
    for frame, look in seen:
        if isinstance(look, str):
            skipped[frame.device_id] += not frame.event
        elif not frame.event:
            look = replace(look, skipped=skipped.pop(frame.device_id, 0))
        found.append((frame, look))
    return found
