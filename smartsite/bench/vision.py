"""`smartsite bench vision`: what looking at a picture costs, stage by stage, on one thread.

CPU time of the thread that looks. The pictures are frames of the shipped clip, scaled up and stored
as JPEGs of quality 85. Every round times each stage and the bare reference network once, so that a
machine that is busy with other things slows both alike; medians of the rounds are told.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import cv2
import numpy as np
import psutil

from detectors.vision.crops import head_crop
from detectors.vision.fitness import Judge
from detectors.vision.model import Model, open_session
from detectors.vision.motion import MotionGate
from detectors.vision.picture import Image, decode
from detectors.vision.second_look import SecondLook
from device_profiles.jpeg import read_jpeg_header
from simulators.camera import PICTURES_PER_S, programme
from smartsite.bench.reference import reference_model
from smartsite.errors import Unavailable

SIZES = ((640, 360), (1280, 720), (1920, 1080))
ROUNDS = 40
JPEG_QUALITY = 85
LEAST_SCORE = 0.3
PEOPLE = 13
"""Number of a picture of the clip that shows a man."""

HEADS = 8
"""Looked at twice: so many are on a busy picture."""

EMPTY = 0
"""Number of a picture that shows an empty room."""

NOISE = 2.0
"""Standard deviation of a sensor's noise, of 255 levels: no two pictures have the same bytes."""

CAMERAS = 50
LOOKS_A_CAMERA = 4
T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)


def scaled(data: bytes, width: int, height: int) -> bytes:
    """Store a picture in another size.

    Args:
        data: A JPEG.
        width: Pixels.
        height: Pixels.

    Returns:
        A JPEG.
    """
    return _stored(_enlarged(data, width, height))


def still_scene(width: int, height: int, count: int) -> list[bytes]:
    """Take pictures of an empty room, as a camera does: the same but for the sensor's noise.

    One picture time and again would be learnt by the processor's branch prediction.

    Args:
        width: Pixels.
        height: Pixels.
        count: How many.

    Returns:
        JPEGs.
    """
    room = _enlarged(programme()[EMPTY].jpeg, width, height).astype(np.float32)
    dice = np.random.default_rng(1)
    noise = (dice.normal(0, NOISE, room.shape).astype(np.float32) for _ in range(count))
    return [_stored((room + one).round().clip(0, 255).astype(np.uint8)) for one in noise]


def _enlarged(data: bytes, width: int, height: int) -> Image:
    image = decode(data, read_jpeg_header(data), 10_000)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def _stored(image: Image) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _ms(times: list[float]) -> float:
    return round(statistics.median(times) * 1e3, 3)


def _ratio(times: list[float], of: list[float]) -> float:
    """Median of the rounds' own ratios."""
    return round(statistics.median(a / b for a, b in zip(times, of, strict=True)), 3)


class _Clock:
    """Adds up CPU time of this thread by name."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[[], T]) -> T:
        began = time.thread_time()
        result = work()
        self.times.setdefault(name, []).append(time.thread_time() - began)
        return result

    def repeat(self, rounds: int, work: Callable[[], object]) -> None:
        """Do it twice to fill caches, then so many times on the clock."""
        before = {name: list(times) for name, times in self.times.items()}
        for _ in range(2):
            work()
        self.times = before
        for _ in range(rounds):
            work()


def at_size(
    model: Model, reference: Callable[[], object], width: int, height: int, rounds: int
) -> dict[str, Any]:
    """Time the stages on a picture of one size.

    Args:
        model: The detector.
        reference: Runs the bare reference network once.
        width: Of the pictures, pixels.
        height: Likewise.
        rounds: How often.

    Returns:
        Milliseconds of CPU by stage, and the ratios the project has bars for.
    """
    clock = _Clock()
    data = scaled(programme()[PEOPLE].jpeg, width, height)
    header = read_jpeg_header(data)
    placement = model.place(header.width, header.height)

    def move() -> None:
        """All that becomes of a moving picture in `smartsite.eyes`, from its bytes on."""
        gate, judge = MotionGate(), Judge()
        gate.still(data, START, header=read_jpeg_header(data))
        if gate.grey is not None:
            judge.take(gate.grey, START)
        gate.looked(START, tuple(model.look(data, LEAST_SCORE)))

    def stages() -> None:
        image = clock.time("decode", lambda: decode(data, header, placement.side))
        tensor = clock.time("pre", lambda: model.prepare(image, placement).tensor)
        answer = clock.time("model", lambda: model.run(tensor)[0])
        clock.time("post", lambda: model.read(answer, placement, LEAST_SCORE))
        clock.time("bytes_to_findings", lambda: model.look(data, LEAST_SCORE))
        clock.time("moving", move)
        clock.time("reference", reference)

    clock.repeat(rounds, stages)
    first, *pictures = still_scene(width, height, rounds + 1)
    gate, judge = MotionGate(), Judge()
    gate.still(first, START)
    gate.looked(START, ())
    if gate.grey is not None:
        judge.take(gate.grey, START)
    at = START + timedelta(seconds=1)

    def meet(picture: bytes) -> bool:
        """All that becomes of a still picture in `smartsite.eyes`, from its bytes on."""
        seen = gate.still(picture, at, header=read_jpeg_header(picture))
        judge.again(at)
        return seen is not None

    # Each by itself, as it happens: a full decode would empty the caches of the gate.
    for picture in pictures:
        if not clock.time("still", partial(meet, picture)):
            raise AssertionError("the still scene was taken for a moving one")
    for picture in pictures:
        clock.time("full_decode", partial(_whole, picture))
    figures: dict[str, Any] = {f"{name}_ms": _ms(times) for name, times in clock.times.items()}
    return figures | {
        "jpeg_kb": round(len(data) / 1_024, 1),
        "still_jpeg_kb": round(len(first) / 1_024, 1),
        "frames_per_s_per_core": round(1e3 / figures["bytes_to_findings_ms"], 1),
        "bytes_to_findings_of_reference": _ratio(
            clock.times["bytes_to_findings"], clock.times["reference"]
        ),
        "moving_of_reference": _ratio(clock.times["moving"], clock.times["reference"]),
        "still_of_full_decode": round(figures["still_ms"] / figures["full_decode_ms"], 3),
    }


def _whole(data: bytes) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise AssertionError("a picture of our own cannot be decoded")
    return image.astype(np.uint8, copy=False)


def looked_at_twice(look: SecondLook, rounds: int) -> float:
    """Time the second look on a crop of a head's size, without the picture's decoding.

    Args:
        look: The classifier of heads.
        rounds: How often.

    Returns:
        Milliseconds of CPU a head.
    """
    image = _whole(programme()[PEOPLE].jpeg)
    crop = head_crop(image, (image.shape[1] / 2, 0, image.shape[1] / 2 + 30, 30))
    clock = _Clock()
    clock.repeat(rounds, lambda: clock.time("heads", lambda: look([crop] * HEADS)))
    return round(_ms(clock.times["heads"]) / HEADS, 3)


def on_the_clip(model: Model, rounds: int = 2) -> dict[str, Any]:
    """Look at the shipped clip as a camera shows it, with and without the motion gate.

    Args:
        model: The detector.
        rounds: How often the clip is shown.

    Returns:
        Milliseconds of CPU a frame, frames a second a core, and how many frames were still.
    """
    pictures = [picture.jpeg for picture in programme()] * rounds
    hashes = [hashlib.sha256(data).digest() for data in pictures]  # frames come with theirs
    times: dict[str, float] = {}
    still = 0
    for way in ("without_gate", "with_gate"):
        gate = MotionGate()
        began = time.thread_time()
        for number, data in enumerate(pictures):
            at = START + timedelta(seconds=number / PICTURES_PER_S)
            if way == "with_gate" and gate.still(data, at, hashes[number]) is not None:
                still += 1
                continue
            gate.looked(at, tuple(model.look(data, LEAST_SCORE)))
        times[way] = (time.thread_time() - began) / len(pictures)
    repeated = sum(one == other for one, other in pairwise(pictures))
    return {
        "frames": len(pictures),
        "still": still,
        "the_same_bytes_again": repeated,
        **{f"{way}_ms": round(seconds * 1e3, 3) for way, seconds in times.items()},
        **{f"{way}_frames_per_s_per_core": round(1 / each, 1) for way, each in times.items()},
    }


def memory_mb() -> float:
    """What the process of the role `vision` holds after looking through fifty cameras.

    Returns:
        MB of resident memory of a fresh process.

    Raises:
        Unavailable: It did not end well.
    """
    run = subprocess.run(
        [sys.executable, "-m", "smartsite.bench.vision"],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise Unavailable(f"the memory of fifty cameras: {run.stderr.strip()[-300:]}")
    return float(json.loads(run.stdout))


def _hold_fifty_cameras() -> float:
    import smartsite.roles.vision  # noqa: F401 - for its memory

    model, second_look = Model(), SecondLook()
    process = psutil.Process()
    pictures = [picture.jpeg for picture in programme()[3:7]]
    gates = [MotionGate() for _ in range(CAMERAS)]
    peak = 0
    for number, gate in enumerate(gates):
        width, height = ((640, 480), (1280, 720), (1920, 1080))[number % 3]
        for turn in range(LOOKS_A_CAMERA):
            data = scaled(pictures[turn % len(pictures)], width, height)
            at = START + timedelta(seconds=turn)
            if gate.still(data, at) is None:
                boxes = model.look(data, LEAST_SCORE)
                # As of a busy picture, decoded whole for it.
                crop = head_crop(_whole(data), (0, 0, 64, 64))
                second_look([crop] * HEADS)
                gate.looked(at, tuple(boxes))
            peak = max(peak, process.memory_info().rss)
    return round(peak / 2**20, 1)


def measure(
    say: Callable[[str], None] = lambda _line: None, *, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Measure everything.

    Args:
        say: Told how it goes.
        rounds: How often each stage is timed.

    Returns:
        Figures by size of picture, of the second look, of the clip, and of memory.
    """
    model = Model(threads=1, device="cpu")
    side = model.side
    session = open_session(reference_model(side), "the reference network", device="cpu")
    tensor = np.random.default_rng(1).uniform(0, 255, (1, 3, side, side)).astype(np.float32)

    def reference() -> object:
        return session.run(None, {"images": tensor})

    sizes: dict[str, Any] = {}
    for width, height in SIZES:
        say(f"looking at pictures of {width} × {height}")
        sizes[f"{width}x{height}"] = at_size(model, reference, width, height, rounds)
    say("looking at heads twice")
    second_look = looked_at_twice(SecondLook(threads=1), rounds)
    say("looking at the clip")
    clip = on_the_clip(model)
    say(f"looking through {CAMERAS} cameras")
    return {
        "model_sha256": model.sha256,
        "threads": 1,
        "input": side,
        "sizes": sizes,
        "second_look_ms_a_head": second_look,
        "clip": clip,
        "cameras": CAMERAS,
        "memory_mb": memory_mb(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_hold_fifty_cameras()))
