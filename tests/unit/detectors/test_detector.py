"""What holds for every detector, whatever it is fed."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.cameras import CameraDetector
from detectors.clock import ClockDetector
from detectors.cranes import CraneDetector
from detectors.detector import Detector, Said, Spans, concerning
from detectors.dust import DustDetector
from detectors.helmets import HelmetDetector
from detectors.presence import PresenceDetector
from detectors.reported import ReportedDetector
from detectors.rules import (
    CameraRule,
    ClockRule,
    CraneRule,
    DustRule,
    HelmetRule,
    PresenceRule,
    ReportedRule,
    SilenceRule,
    VestRule,
)
from detectors.silence import SilenceDetector
from detectors.units import UnitDetector
from detectors.vests import VestDetector
from detectors.vision.zones import Plan
from device_profiles.findings import Coverage, Finding
from device_profiles.readings import Reading, Unfit
from device_profiles.sites import CameraSettings, CraneGeometry
from device_profiles.vocabulary import Kind
from tests.unit.detectors.timelines import (
    SITE,
    at,
    box,
    bytes_of,
    coverage_of,
    crane,
    dust,
    findings_of,
    look,
    person,
    report,
    seconds,
    spans,
)

Make = Callable[[datetime | None], Detector]


class Case(NamedTuple):
    """A detector and readings that drive it through all it can do."""

    make: Make
    timelines: st.SearchStrategy[list[Reading]]


def timelines(
    pauses: list[float], reading: Callable[..., Reading], *values: st.SearchStrategy[Any]
) -> st.SearchStrategy[list[Reading]]:
    """Readings one after another with pauses between them."""

    def laid_out(steps: list[tuple[Any, ...]]) -> list[Reading]:
        times = itertools.accumulate(pause for pause, *_ in steps)
        return [reading(t, *said) for t, (_, *said) in zip(times, steps, strict=True)]

    # A state lasts for a while, else nothing would ever be confirmed.
    step = st.tuples(st.sampled_from(pauses), *values)
    runs = st.lists(st.tuples(step, st.integers(1, 12)), min_size=1, max_size=8)
    return runs.map(lambda drawn: [one for one, times in drawn for _ in range(times)]).map(laid_out)


def _geometry(x_m: float, jib_height_m: float) -> CraneGeometry:
    return CraneGeometry(x_m=x_m, y_m=0, jib_height_m=jib_height_m, jib_m=50, counter_jib_m=12)


DUST = Case(
    lambda since: DustDetector(
        SITE, "dust-1", DustRule(limit_ug_m3=100, window_s=10, bridge_s=12), 1.0, since
    ),
    timelines(
        [0.5, 1, 1, 1, 2, 3, 3.5, 7, 12, 40],
        dust,
        st.sampled_from([None, math.nan, 0.0, 80.0, 99.9, 100.0, 110.0, 400.0]),
    ),
)

CRANES = Case(
    lambda since: CraneDetector(
        SITE,
        ("crane-a", _geometry(0, 40)),
        ("crane-b", _geometry(60, 46)),
        CraneRule(bridge_s=10),
        since=since,
    ),
    timelines(
        [0, 0, 0.5, 1, 1, 1, 3, 3.000001, 4, 10, 40],
        crane,
        st.sampled_from(["crane-a", "crane-b"]),
        st.sampled_from([None, 0.0, 90.0, 270.0, 270.0]),
        st.sampled_from([None, 30.0, 30.0, 70.0]),
        st.sampled_from([None, 41.0, 41.9, 42.1, 45.0]),
    ),
)

PLACES = {"head": 0.8, "helmet": 0.8, "unsure": 0.4}
# Helmets of which the second look said something.
CAPS = {"cap": 0.1, "likely cap": 0.4, "undecided": 0.6, "believed": 0.9}
LOOKS = [0, 0.2, 0.5, 0.5, 1, 2, 3, 5, 20]
# How a look came about: as usual, of a still scene, of an unfit camera, after others were skipped.
WAYS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        *[{}] * 5,
        {"still": True},
        {"skipped": 3},
        *({"unfit": unfit} for unfit in (Unfit.DARK, Unfit.MOVED, Unfit.SMALL_HEADS)),
    ]
)
HELMETS = Case(
    lambda since: HelmetDetector(SITE, "cam-1", HelmetRule(cooldown_s=4), since),
    timelines(
        LOOKS,
        lambda t, way, *labels: look(
            t,
            *(
                # Out of one another's reach, so that no track can ever take the other's head.
                box(
                    "head" if label == "unsure" else "helmet" if label in CAPS else label,
                    PLACES.get(label, 0.8),
                    300.0 * place,
                    second_look=CAPS.get(label),
                )
                for place, label in enumerate(labels)
                if label
            ),
            **way,
        ),
        WAYS,
        st.sampled_from([None, "head", "head", "helmet", "unsure", *CAPS]),
        st.sampled_from([None, "head", "helmet", *CAPS]),
    ),
)

LEFT, RIGHT = ([[a, 0], [b, 0], [b, 1], [a, 1]] for a, b in ((0, 0.5), (0.4, 1)))
PLAN = Plan(
    CameraSettings.model_validate(
        {
            "zone": [
                {"name": "left", "polygon": LEFT, "vest": True, "no_entry": True},
                {
                    "name": "right",
                    "polygon": RIGHT,
                    "vest": True,
                    "no_entry_hours": ["08:00-08:01"],
                },
            ]
        }
    )
)


def people(t: float, way: dict[str, Any], *who: tuple[float, float, str | None] | None) -> Reading:
    """Looks at people: where, how well seen, and in what."""
    boxes = []
    for one in who:
        if one is not None:
            x, score, worn = one
            boxes.append(person(score, x))
            if worn:
                boxes.append(box(worn, 0.8, x + 10, 130.0, 60.0))
    return look(t, *boxes, **way)


PERSONS = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from([100.0, 100.0, 700.0]),
        st.sampled_from([0.8, 0.8, 0.4]),
        st.sampled_from([None, "vest", "no_vest", "no_vest"]),
    ),
)
VESTS = Case(
    lambda since: VestDetector(SITE, "cam-1", VestRule(cooldown_s=4), since, PLAN),
    timelines(LOOKS, people, WAYS, PERSONS),
)

PRESENCE = Case(
    lambda since: PresenceDetector(SITE, "cam-1", PresenceRule(cooldown_s=4), since, PLAN),
    timelines(LOOKS, people, WAYS, PERSONS),
)

CAMERA = Case(
    lambda since: CameraDetector(SITE, "cam-1", CameraRule(bridge_s=10), 1.0, since),
    timelines(LOOKS, lambda t, way: look(t, **way), WAYS),
)


def told(t: float, what: str | None, way: dict[str, Any], seen: bool) -> Reading:
    """A report, or a look at the picture of the second."""
    t = round(t)
    return look(t, *[box("head", 0.8, 100)] * seen, **way) if what is None else report(t, what)


REPORTED = Case(
    lambda since: ReportedDetector(SITE, "cam-1", ReportedRule(wait_s=3, cooldown_s=5), since),
    timelines(
        [0, 0, 1, 1, 2, 3, 4, 9, 20],
        told,
        st.sampled_from([None, None, "no_helmet", "no_helmet", "smoke_fire"]),
        WAYS,
        st.booleans(),
    ),
)

SILENCE = Case(
    lambda since: SilenceDetector(SITE, "dust-1", SilenceRule(at_least_s=10), 1.0, since),
    timelines([0, 0.5, 1, 1, 3, 10, 10.000001, 40], dust, st.sampled_from([50.0])),
)

CLOCK = Case(
    lambda since: ClockDetector(SITE, "dust-1", ClockRule(), since),
    timelines(
        [0.5, 1, 1, 3, 40],  # of one time there is but one instantaneous reading
        lambda t, offset_s: dust(t, 50.0, clock_offset_s=offset_s),
        st.sampled_from([0.0, 0.0, 20.0, 79.9, 80.0, -28_800.0]),
    ),
)

UNITS = Case(
    lambda since: UnitDetector(SITE, "dust-1", Kind.DUST, since),
    timelines(
        [0, 60, 60, 300, 600, 1_800, 7_200, 90_000],
        dust,
        st.sampled_from([0.08, 0.08, 80.0, None]),
    ),
)

CASES = [
    pytest.param(case, id=name)
    for name, case in (
        ("dust", DUST),
        ("cranes", CRANES),
        ("helmets", HELMETS),
        ("vests", VESTS),
        ("presence", PRESENCE),
        ("camera", CAMERA),
        ("reported", REPORTED),
        ("silence", SILENCE),
        ("clock", CLOCK),
        ("units", UNITS),
    )
]


def fed(
    detector: Detector, readings: list[Reading], ticks: list[float], end: datetime
) -> list[Said]:
    """Feed readings, with ticks where they fall between them, and finish."""
    said: list[Said] = []
    pending = sorted(at(tick) for tick in ticks)
    for reading in readings:
        while pending and pending[0] <= reading.observed_at:
            said += detector.advance(pending.pop(0))
        said += detector.observe(reading)
    for tick in pending:
        if tick <= end:
            said += detector.advance(tick)
    return said + detector.finish(end)


def joined(coverage: list[Coverage]) -> list[tuple[float, float, str | None]]:
    """Spans, touching ones of one reason as one."""
    result: list[tuple[float, float, str | None]] = []
    for start, end, reason in spans(coverage):
        if result and result[-1][1:] == (start, reason):
            result[-1] = (result[-1][0], end, reason)
        else:
            result.append((start, end, reason))
    return result


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_ticks_change_when_something_is_said_and_not_what(case: Case, data: st.DataObject) -> None:
    readings = data.draw(case.timelines)
    end = data.draw(st.floats(0, 60)) + seconds(readings[-1].observed_at)
    ticks = data.draw(st.lists(st.floats(0, max(end, 1.0)), max_size=20))

    quiet = fed(case.make(None), readings, [], at(end))
    ticked = fed(case.make(None), readings, ticks, at(end))

    assert bytes_of(findings_of(quiet)) == bytes_of(findings_of(ticked))
    assert bytes_of(coverage_of(quiet)) == bytes_of(coverage_of(ticked))


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_same_readings_say_the_same_bytes(case: Case, data: st.DataObject) -> None:
    readings = data.draw(case.timelines)
    end = readings[-1].observed_at

    assert bytes_of(fed(case.make(None), readings, [], end)) == bytes_of(
        fed(case.make(None), readings, [], end)
    )


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_all_time_is_accounted_for_and_all_episodes_end(case: Case, data: st.DataObject) -> None:
    readings = data.draw(case.timelines)
    beginning, end = readings[0].observed_at, readings[-1].observed_at
    detector = case.make(None)

    said = fed(detector, readings, [], end)

    edge = beginning
    for span in coverage_of(said):
        assert span.from_at == edge
        assert span.to_at > span.from_at
        edge = span.to_at
    assert edge == end
    assert detector.pending == ()
    assert not detector.open
    last = {finding.identity: finding for finding in findings_of(said)}
    times = {reading.observed_at for reading in readings}
    for finding in last.values():
        assert finding.closed_at is not None
        assert beginning <= finding.opened_at <= finding.closed_at <= end
        assert {finding.opened_at, finding.closed_at} <= times
        assert finding.evidence
        pointed = [one.observed_at for one in finding.evidence]
        assert pointed == sorted(pointed)
        assert set(pointed) <= times


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_resumed_detector_says_what_the_uninterrupted_one_says(
    case: Case, data: st.DataObject
) -> None:
    readings = data.draw(case.timelines)
    end = readings[-1].observed_at
    pauses = data.draw(
        st.lists(
            st.sampled_from([0, 1e-6, 0.1, 0.5, 1, 3, 6]),
            min_size=len(readings),
            max_size=len(readings),
        )
    )
    first = case.make(None)
    said: list[Said] = []
    calm: list[datetime] = []
    before = end
    for reading, pause in zip(readings, pauses, strict=True):
        tick = reading.observed_at - timedelta(seconds=pause)
        if before < tick:
            said += first.advance(tick)
            if not first.open:
                calm.append(tick)
        said += first.observe(reading)
        if not first.open:
            calm.append(reading.observed_at)
        before = reading.observed_at
    said += first.finish(end)
    if not calm:
        return
    instant = data.draw(st.sampled_from(calm))

    since = max(instant - first.lookback, readings[0].observed_at)
    rest = [reading for reading in readings if reading.observed_at >= since]
    resumed = fed(case.make(since), rest, [], end)

    expected, got = concerning(said, instant), concerning(resumed, instant)
    assert bytes_of(findings_of(got)) == bytes_of(findings_of(expected))
    assert joined(coverage_of(got)) == joined(coverage_of(expected))


@settings(max_examples=150, deadline=None)
@given(CRANES.timelines, st.randoms(use_true_random=False))
def test_the_order_of_cranes_with_equal_times_does_not_matter(
    readings: list[Reading], dice: random.Random
) -> None:
    # Parts of one crane's reading keep their order: what was said first stays.
    shuffled: list[Reading] = []
    for _, group in itertools.groupby(readings, key=lambda one: one.observed_at):
        by_device: dict[str, list[Reading]] = {}
        for one in group:
            by_device.setdefault(one.device, []).append(one)
        queues = list(by_device.values())
        while queues:
            queue = dice.choice(queues)
            shuffled.append(queue.pop(0))
            queues = [left for left in queues if left]
    end = readings[-1].observed_at

    said = fed(CRANES.make(None), readings, [], end)

    assert bytes_of(fed(CRANES.make(None), shuffled, [], end)) == bytes_of(said)


@pytest.mark.parametrize("seed", range(5))
def test_a_resumed_detector_finds_its_way_in_a_crowd(seed: int) -> None:
    """Workers who walk among each other, some bare-headed, seen nine times in ten."""
    dice = random.Random(seed)
    workers = [
        (dice.uniform(0, 1_200), dice.uniform(0, 600), dice.uniform(-60, 60), dice.random() < 0.2)
        for _ in range(12)
    ]
    present = [(dice.uniform(0, 100), dice.uniform(10, 40)) for _ in workers]
    readings: list[Reading] = [
        look(
            t / 4,
            *(
                box("head" if bare else "helmet", 0.9, (x + speed * t / 4) % 1_200, y)
                for (x, y, speed, bare), (arrives, stays) in zip(workers, present, strict=True)
                if arrives <= t / 4 <= arrives + stays and dice.random() < 0.9
            ),
        )
        for t in range(600)
    ]
    end = readings[-1].observed_at
    first = HELMETS.make(None)
    said: list[Said] = []
    calm: list[datetime] = []
    for reading in readings:
        said += first.observe(reading)
        if not first.open:
            calm.append(reading.observed_at)
    said += first.finish(end)
    assert findings_of(said)
    assert len(calm) > 50

    for instant in calm[:: len(calm) // 10]:
        since = max(instant - first.lookback, readings[0].observed_at)
        rest = [reading for reading in readings if reading.observed_at >= since]
        resumed = fed(HELMETS.make(since), rest, [], end)
        expected, got = concerning(said, instant), concerning(resumed, instant)
        assert bytes_of(findings_of(got)) == bytes_of(findings_of(expected))


@pytest.mark.parametrize(("away", "violations"), [(12, 9), (13, 15), (14, 15)])
def test_a_resumed_detector_waits_for_whom_the_uninterrupted_one_waits_for(
    away: int, violations: int
) -> None:
    """Two who come and go, each held for 7 s; one of them is glimpsed in between."""
    one = (("oooo" + "." * away) * 3).ljust(100, ".")
    other = ("..oo.oo" + "." * 13 + "o" + "." * 30 + "oooo").ljust(100, ".")
    readings: list[Reading] = [
        look(
            t / 2,
            *[box("head", 0.8, 100)] * (one[t % len(one)] == "o"),
            *[box("head", 0.8, 400)] * (other[t % len(other)] == "o"),
        )
        for t in range(3 * len(one))
    ]
    end = readings[-1].observed_at
    first = HELMETS.make(None)
    said: list[Said] = []
    calm: list[datetime] = []
    for reading in readings:
        for tick in (reading.observed_at - timedelta(seconds=0.25), reading.observed_at):
            said += first.advance(tick)
            if first.settled_at is not None and not first.open:
                calm.append(tick)
        said += first.observe(reading)
    said += first.finish(end)
    assert len({finding.identity for finding in findings_of(said)}) == violations
    assert len(calm) > 100

    for instant in calm:
        since = max(instant - first.lookback, readings[0].observed_at)
        rest = [reading for reading in readings if reading.observed_at >= since]
        resumed = fed(HELMETS.make(since), rest, [], end)
        expected, got = concerning(said, instant), concerning(resumed, instant)
        assert bytes_of(findings_of(got)) == bytes_of(findings_of(expected))


def test_spans_join_while_the_reason_stays() -> None:
    watch = Spans("rule", SITE, "device", None)

    said = [
        *watch.mark(at(0), None),
        *watch.mark(at(1), None),
        *watch.mark(at(2), None),
        *watch.mark(at(2), "no_data"),
        *watch.mark(at(1), "no_data"),
        *watch.mark(at(5), "no_data"),
        *watch.mark(at(6), None),
    ]

    assert spans(coverage_of(said)) == [(0, 2, None), (2, 5, "no_data")]
    assert spans(watch.pending) == [(5, 6, None)]
    assert spans(coverage_of(watch.flush())) == [(5, 6, None)]
    assert watch.flush() == []


def test_what_a_resumed_detector_says_of_earlier_times_does_not_count() -> None:
    span = Coverage(rule="r", site=SITE, subject="s", from_at=at(0), to_at=at(10))
    finding = Finding(rule="r", kind="dust", site=SITE, subject="s", opened_at=at(4))

    assert concerning([span, finding], at(4)) == [
        Coverage(rule="r", site=SITE, subject="s", from_at=at(4), to_at=at(10)),
        finding,
    ]
    assert concerning([span, finding], at(10)) == []
