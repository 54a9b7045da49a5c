"""What truly happened on a simulated site: from when to when, and how bad.

Judged on the simulated world itself, before any instrument's error and with no gap: what a
perfect observer would have found. A recording goes with its truth, so that detectors can be
scored against it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from device_profiles.errors import Reason, Rejected
from device_profiles.recording import write_recording
from simulators.camera import picture_at
from simulators.cranes import HIGH, LOW, bodies, cranes_at, distance_m
from simulators.dust import dust_samples
from simulators.site import CAMERAS, CRANES, DUST_EPISODES, PHASE_S, SimulatedSite


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as a violation; the defaults are the demo's, stricter than any law.

    Attributes:
        pm10_ug_m3: A PM10 mean above this.
        window_s: Length of that mean's window, whole seconds.
        crane_m: A distance of the cranes' bodies below this.
    """

    pm10_ug_m3: float = 150.0
    window_s: int = 10
    crane_m: float = 2.0


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.

    Attributes:
        kind: "dust", "crane" or "helmet".
        site: Site id.
        subject: A device, or both cranes joined by "+".
        from_at: When it began; aware, UTC.
        to_at: When it had ended; aware, UTC. The end of the recording where it went on.
        measured: How bad it was, units in the names.
    """

    kind: str
    site: str
    subject: str
    from_at: datetime
    to_at: datetime
    measured: dict[str, float] = {}


CRANE_STEP_S = 0.1
"""How finely the cranes are watched."""


def truth_of(
    site: SimulatedSite,
    start: datetime,
    seconds: float,
    seed: int = 0,
    limits: Limits | None = None,
) -> list[Truth]:
    """What happens on a site while it publishes `site.messages(start, seed, seconds)`.

    * dust: at the seconds a monitor measures, the mean of the true PM10 over the window that
      ends there lies above the limit. The air before the start counts too.
    * crane: the least distance between bodies of the two cranes lies below the limit.
    * helmet: a bare head is wholly and clearly in the camera's picture.

    Args:
        site: The site.
        start: As given to `messages`.
        seconds: As given to `messages`.
        seed: As given to `messages`.
        limits: What counts; None for the demo's limits.

    Returns:
        Everything that happened, ordered by beginning.
    """
    limits = limits or Limits()
    start = start.astimezone(UTC)
    start = start.replace(microsecond=start.microsecond // 1000 * 1000)
    hour = site.start_hour(start)
    found: list[Truth] = []

    def say(kind: str, subject: str, spans: Iterable[_Span], name: str) -> None:
        found.extend(
            Truth(
                kind=kind,
                site=site.id,
                subject=subject,
                from_at=start + timedelta(seconds=round(began, 3)),
                to_at=start + timedelta(seconds=round(ended, 3)),
                measured={name: round(worst, 2)} if name else {},
            )
            for began, ended, worst in spans
        )

    for device in DUST_EPISODES:
        means = _pm10_means(device, seed, hour, seconds, limits.window_s)
        above = ((at, mean > limits.pm10_ug_m3, mean) for at, mean in means)
        say("dust", device, _spans(above, seconds, max), "pm10_ug_m3")
    steps = (number * CRANE_STEP_S for number in range(int(seconds / CRANE_STEP_S) + 1))
    apart = ((at, crane_distance_m(seed, at)) for at in steps if at < seconds)
    below = ((at, distance < limits.crane_m, distance) for at, distance in apart)
    say("crane", "+".join(sorted(CRANES)), _spans(below, seconds, min), "distance_m")
    for device in CAMERAS:
        times = (number / site.pictures_hz for number in itertools.count())
        shown = ((at + PHASE_S[device], picture_at(at).bare_head, 0.0) for at in times)
        seen = itertools.takewhile(lambda one: one[0] < seconds, shown)
        say("helmet", device, _spans(seen, seconds, max), "")
    return sorted(found, key=lambda truth: (truth.from_at, truth.kind, truth.subject))


def crane_distance_m(seed: int, seconds: float) -> float:
    """How far the cranes' bodies really are apart.

    Args:
        seed: As given to `messages`.
        seconds: Since the site's start.

    Returns:
        Metres.
    """
    high, low = cranes_at(seed, seconds)
    return distance_m(bodies(HIGH, high), bodies(LOW, low))


def write_truth(path: Path, truths: Iterable[Truth]) -> int:
    """Write truths to a file, a JSON object a line.

    Args:
        path: Where.
        truths: What happened.

    Returns:
        How many were written.
    """
    lines = [msgspec.json.encode(truth) + b"\n" for truth in truths]
    path.write_bytes(b"".join(lines))
    return len(lines)


def read_truth(path: Path) -> list[Truth]:
    """Read what `write_truth` wrote.

    Args:
        path: Where.

    Returns:
        The truths in the order of the file.

    Raises:
        Rejected: A line is none of these; the detail names file and line.
    """
    truths = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            truths.append(_DECODER.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise Rejected(Reason.SYNTAX, f"{path}, line {number}: {fault}") from None
    return truths


def truth_path(recording: Path) -> Path:
    """Where the truth of a recording lies: beside it, ``NAME.truth.jsonl``.

    Args:
        recording: A ``.jsonl`` or ``.jsonl.zst`` file.

    Returns:
        The path.
    """
    name = recording.name.removesuffix(".zst").removesuffix(".jsonl")
    return recording.with_name(f"{name}.truth.jsonl")


def record(
    site: SimulatedSite, recording: Path, start: datetime, seconds: float, seed: int = 0
) -> int:
    """Write a site's recording and, beside it, its truth.

    Args:
        site: The site.
        recording: A ``.jsonl`` or ``.jsonl.zst`` file to write.
        start: When the devices come up; aware.
        seconds: How long.
        seed: What makes one run differ from another.

    Returns:
        How many messages were written.
    """
    count = write_recording(recording, site.messages(start, seed, seconds))
    write_truth(truth_path(recording), truth_of(site, start, seconds, seed))
    return count


_DECODER = msgspec.json.Decoder(Truth)
_Span = tuple[float, float, float]


def _pm10_means(
    device: str, seed: int, hour: float, seconds: float, window_s: int
) -> Iterator[tuple[float, float]]:
    """Seconds since the start, and the mean of the window that ends there."""
    window: deque[float] = deque(maxlen=window_s)
    for sample in dust_samples(seed, device, DUST_EPISODES[device], hour, before_s=window_s - 1):
        at = sample.second + PHASE_S[device]
        if at >= seconds:
            return
        window.append(sample.pm10_ug_m3)
        if sample.second >= 0:
            yield at, sum(window) / len(window)


def _spans(
    watched: Iterable[tuple[float, bool, float]], end: float, worse: Callable[[float, float], float]
) -> Iterator[_Span]:
    """Join instants at which something is the case into spans, each with its worst value."""
    began: float | None = None
    worst = 0.0
    for at, is_so, value in watched:
        if is_so:
            worst = value if began is None else worse(worst, value)
            began = at if began is None else began
        elif began is not None:
            yield began, at, worst
            began = None
    if began is not None:
        yield began, end, worst
