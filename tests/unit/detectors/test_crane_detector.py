"""Timelines of two tower cranes whose jibs overlap.

crane-a stands at the origin, its jib at 40 m. crane-b stands 60 m east of it, its jib at 46 m.
When both look at each other, crane-b's hook hangs over crane-a's jib, and its height above it is
the distance of the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from detectors.cranes import CraneDetector
from detectors.detector import concerning
from detectors.rules import CraneRule
from device_profiles.findings import Severity
from device_profiles.readings import CraneReading
from device_profiles.sites import CraneGeometry
from tests.unit.detectors.timelines import (
    SITE,
    at,
    bytes_of,
    coverage_of,
    crane,
    episodes,
    findings_of,
    run,
    seconds,
    spans,
)

RULE = CraneRule()
JIB_M = 40.0


def geometry(x_m: float, jib_height_m: float) -> CraneGeometry:
    return CraneGeometry(x_m=x_m, y_m=0, jib_height_m=jib_height_m, jib_m=50, counter_jib_m=12)


def detector(other_height_m: float = 46, expected_every_s: float = 1.0) -> CraneDetector:
    return CraneDetector(
        SITE,
        ("crane-b", geometry(60, other_height_m)),
        ("crane-a", geometry(0, JIB_M)),
        RULE,
        expected_every_s,
    )


def a(second: float, *, towards: bool = True) -> CraneReading:
    """crane-a looks towards crane-b, or away from it, to the north."""
    return crane(second, "crane-a", 90 if towards else 0, 20, 10)


def b(second: float, above_m: float) -> CraneReading:
    """crane-b looks towards crane-a, its hook over the jib."""
    return crane(second, "crane-b", 270, 30, JIB_M + above_m)


def both(*above_m: float) -> list[CraneReading]:
    """Both cranes speak each second."""
    return [one for t, above in enumerate(above_m) for one in (a(t), b(t, above))]


def test_a_conflict_opens_below_the_limit_and_closes_with_hysteresis() -> None:
    findings, coverage = run(
        detector(), both(4, 3, 2, 1.9, 1.2, 1.9, 2.1, 1.9, 2.2, 2.1, 4), end=11
    )

    assert episodes(findings) == [(3, 8)]
    assert spans(coverage) == [(0, 11, None)]
    assert [one.measured["distance_m"] for one in findings] == [1.9, 1.2, 1.2]


def test_a_finding_says_what_was_measured_and_points_at_both_cranes_readings() -> None:
    findings, _ = run(detector(), both(4, 1.5, 0.84, 1.9, 3), end=5)

    last = findings[-1]
    assert (last.rule, last.kind, last.site, last.subject, last.severity) == (
        "crane.min_distance",
        "crane",
        SITE,
        "crane-a+crane-b",
        Severity.CRITICAL,
    )
    assert last.measured == {"distance_m": 0.84, "limit_m": 2.0}
    assert [
        (one.role, one.device, seconds(one.observed_at), one.values["distance_m"])
        for one in last.evidence
    ] == [
        ("first", "crane-a", 1, 1.5),
        ("first", "crane-b", 1, 1.5),
        ("peak", "crane-a", 2, 0.84),
        ("peak", "crane-b", 2, 0.84),
        ("last", "crane-a", 3, 1.9),
        ("last", "crane-b", 3, 1.9),
    ]
    assert last.evidence[3].values == {
        "slew_deg": 270,
        "trolley_m": 30,
        "hook_height_m": 40.84,
        "distance_m": 0.84,
    }
    assert findings[0].message_zh == (
        "塔吊 crane-a 的起重臂与塔吊 crane-b 的吊绳相距 1.5 m，限值 2 m"
    )
    assert last.message_zh == (
        "塔吊 crane-a 的起重臂与塔吊 crane-b 的吊绳最近 0.84 m，限值 2 m，持续 3 秒，已脱离"
    )
    assert last.message_en == (
        "The jib of crane crane-a and the hoist rope of crane crane-b: down to 0.84 m apart,"
        " limit 2 m, for 3 s, then clear"
    )


def test_readings_with_equal_times_count_together_in_any_order() -> None:
    # crane-a turns in as crane-b's hook goes up. Each with the other's position of a second
    # before would be a conflict, one way or the other.
    def timeline(order: int) -> Iterable[CraneReading]:
        for pair in (
            (a(0, towards=False), b(0, 1.0)),
            (a(1, towards=True), b(1, 5.0)),
            (a(2, towards=False), b(2, 1.0)),
        ):
            yield from pair[::order]

    forward, backward = run(detector(), timeline(1), end=3), run(detector(), timeline(-1), end=3)

    assert forward[0] == []
    assert spans(forward[1]) == [(0, 3, None)]
    assert backward == forward


def test_parts_of_one_reading_are_put_together() -> None:
    parts = [crane(1, "crane-b", slew_deg=270), crane(1, "crane-b", None, 30, JIB_M + 1)]

    findings, coverage = run(detector(), [a(0), b(0, 5), a(1), *parts, a(2), b(2, 5)], end=3)

    assert episodes(findings) == [(1, 2)]
    assert spans(coverage) == [(0, 3, None)]


def test_a_partner_heard_three_seconds_ago_holds_and_no_longer() -> None:
    readings = [a(0), b(0, 5), a(1), a(2), a(3), a(4), a(5), b(6, 5), a(7)]

    findings, coverage = run(detector(), readings, end=8)

    assert findings == []
    assert spans(coverage) == [(0, 3, None), (3, 6, "stale_partner"), (6, 8, None)]


def test_between_two_instants_the_older_position_may_run_out() -> None:
    readings = [b(0, 5), a(2), a(4), b(4, 5), a(5)]

    _, coverage = run(detector(), readings, end=5)

    # At second 2 crane-b's position still held, but not until second 4, when it is next judged.
    assert spans(coverage) == [(0, 4, "stale_partner"), (4, 5, None)]


def test_silence_of_both_is_no_data() -> None:
    watch = detector()
    run(watch, [*both(5, 5, 5)])

    assert watch.advance(at(5)) == []
    assert spans(watch.pending) == [(0, 2, None)]
    assert spans(coverage_of(watch.advance(at(5.1)))) == [(0, 2, None)]
    assert spans(watch.pending) == [(2, 5, "no_data")]
    with pytest.raises(ValueError, match="settled"):
        watch.observe(a(5))
    _, coverage = run(watch, [a(60), b(60, 5), a(61)], end=62)
    assert spans(coverage) == [(2, 60, "no_data"), (60, 62, None)]


def test_three_seconds_between_readings_are_not_yet_silence() -> None:
    readings = [a(0), b(0, 5), a(3), b(3, 5), a(6.1), b(6.1, 5)]

    _, coverage = run(detector(), readings, end=7)

    assert spans(coverage) == [(0, 3, None), (3, 6.1, "no_data"), (6.1, 7, None)]


def test_a_crane_that_speaks_too_seldom_is_called_so() -> None:
    readings = [one for t in range(0, 120, 30) for one in (a(t), b(t, 5))]

    _, coverage = run(detector(expected_every_s=30), readings, end=120)

    assert spans(coverage) == [(0, 120, "too_slow")]


def test_a_conflict_seen_by_slow_cranes_is_a_conflict_all_the_same() -> None:
    readings = [a(0), b(0, 5), a(20), b(20, 1), a(21), b(21, 1), a(40), b(40, 5), a(41), b(41, 5)]

    findings, coverage = run(detector(expected_every_s=20), readings, end=41)

    # It ended somewhere in the gap: at the last evidence.
    assert episodes(findings) == [(20, 21)]
    assert findings[-1].message_en.endswith("then no data")
    assert spans(coverage) == [
        (0, 20, "too_slow"),
        (20, 21, None),
        (21, 40, "too_slow"),
        (40, 41, None),
    ]


@pytest.mark.parametrize(
    ("unclear", "reason"),
    [
        (crane(1, "crane-b", None, 30, 44), "missing_quantity"),
        (crane(1, "crane-b", math.nan, 30, 44), "missing_quantity"),
        (crane(1, "crane-b", 270, None, 44), "missing_quantity"),
        (crane(1, "crane-b", 270, 30, None), "missing_quantity"),
        (crane(1, "crane-b", 270, 53.7, 44), "out_of_range"),
        (crane(1, "crane-b", 270, 30, 60), "out_of_range"),
    ],
)
def test_a_position_that_is_not_known_is_not_judged(unclear: CraneReading, reason: str) -> None:
    findings, coverage = run(detector(), [a(0), b(0, 5), a(1), unclear, a(2), b(2, 5)], end=3)

    assert findings == []
    assert spans(coverage) == [(0, 1, None), (1, 2, reason), (2, 3, None)]


def test_jibs_alone_may_prove_a_conflict() -> None:
    hookless = [crane(t, "crane-b", 270) for t in range(3)]
    low = detector(other_height_m=41)

    findings, coverage = run(
        low, [one for t, other in enumerate(hookless) for one in (a(t), other)], end=3
    )

    assert episodes(findings) == [(0, 2)]
    assert findings[0].measured["distance_m"] == 1
    assert "crane-a 的起重臂与塔吊 crane-b 的起重臂" in findings[0].message_zh
    assert spans(coverage) == [(0, 3, None)]


def test_the_mast_of_a_silent_crane_stands_where_it_stood() -> None:
    # crane-c is 51 m away and says nothing; its mast is a metre beyond crane-a's tip.
    watch = CraneDetector(SITE, ("crane-a", geometry(0, 40)), ("crane-c", geometry(51, 45)), RULE)

    findings, coverage = run(watch, [a(0, towards=False), a(1), a(2), a(3, towards=False)], end=4)

    assert episodes(findings) == [(1, 2)]
    assert "crane-a 的起重臂与塔吊 crane-c 的塔身相距 1 m" in findings[0].message_zh
    assert {one.device for one in findings[0].evidence} == {"crane-a"}
    assert spans(coverage) == [(0, 1, "stale_partner"), (1, 3, None), (3, 4, "stale_partner")]


def test_a_message_about_the_load_does_not_hide_the_position() -> None:
    loads = [crane(t + 0.5, "crane-b", load_t=2.5) for t in range(3)]
    readings = sorted([*both(5, 1, 5), *loads], key=lambda one: one.observed_at)

    findings, coverage = run(detector(), readings, end=3)

    assert episodes(findings) == [(1, 2)]
    assert spans(coverage) == [(0, 3, None)]


def test_a_dropout_shorter_than_the_bridge_does_not_split_a_conflict() -> None:
    readings = [*both(5, 1, 1), a(20), b(20, 1), a(21), b(21, 3)]

    findings, coverage = run(detector(), readings, end=22)

    assert episodes(findings) == [(1, 21)]
    assert spans(coverage) == [(0, 2, None), (2, 20, "no_data"), (20, 22, None)]


def test_a_conflict_whose_data_stop_ends_at_the_last_evidence() -> None:
    watch = detector()
    run(watch, both(5, 1, 1))
    watch.advance(at(31.9))
    assert watch.open

    findings = findings_of(watch.advance(at(32)))

    assert not watch.open
    assert episodes(findings) == [(1, 2)]
    assert findings[-1].message_zh.endswith("持续 1 秒，其后数据中断")


def test_the_instant_that_is_not_over_is_judged_when_time_goes_on() -> None:
    watch = detector()

    assert run(watch, [a(0), b(0, 1)]) == ([], [])
    assert watch.advance(at(0)) == []
    assert episodes(findings_of(watch.advance(at(0.5)))) == [(0, None)]
    with pytest.raises(ValueError, match="settled"):
        watch.observe(a(0))
    watch.observe(a(0.2))


def test_the_lookback_reaches_to_the_partner_of_the_last_instant() -> None:
    # Resumed after crane-a said nothing of its slewing beside crane-b's position of second 0.
    readings = [b(0, 5), crane(2, "crane-a", None, 20, 10), a(4.5), b(4.5, 5)]
    instant = at(3.9)
    since = max(at(0), instant - detector().lookback)
    resumed = CraneDetector(
        SITE, ("crane-a", geometry(0, JIB_M)), ("crane-b", geometry(60, 46)), RULE, since=since
    )

    _, coverage = run(resumed, [one for one in readings if one.observed_at >= since], end=5)

    assert spans(coverage_of(concerning(coverage, instant))) == [
        (3.9, 4.5, "missing_quantity"),
        (4.5, 5, None),
    ]


def test_the_same_cranes_in_either_order_are_the_same_pair() -> None:
    one, other = ("crane-a", geometry(0, 40)), ("crane-b", geometry(60, 46))
    readings = both(5, 1.5, 0.5, 5)

    said = run(CraneDetector(SITE, one, other, RULE), readings, end=4)
    back = run(CraneDetector(SITE, other, one, RULE), readings, end=4)

    assert bytes_of([*said[0], *said[1]]) == bytes_of([*back[0], *back[1]])


def test_mistakes_of_the_caller_are_refused() -> None:
    with pytest.raises(ValueError, match="itself"):
        CraneDetector(SITE, ("crane-a", geometry(0, 40)), ("crane-a", geometry(9, 40)), RULE)
    watch = detector()
    with pytest.raises(ValueError, match="crane-c"):
        watch.observe(crane(0, "crane-c", 1, 2, 3))
    watch.observe(a(5))
    with pytest.raises(ValueError, match="settled"):
        watch.observe(b(4, 5))
