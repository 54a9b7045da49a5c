"""Timelines of one dust monitor: times and values in, violations and coverage out."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.dust import DustDetector
from detectors.rules import DustRule
from device_profiles.findings import Severity
from device_profiles.vocabulary import Series
from tests.unit.detectors.timelines import (
    SITE,
    at,
    coverage_of,
    dust,
    episodes,
    findings_of,
    run,
    seconds,
    spans,
)

RULE = DustRule(limit_ug_m3=100, window_s=10, bridge_s=20)
# Ten samples of one second fill the window, eight are enough; 3.5 s of silence are a gap.

Values = list[tuple[float, float | None]]


def detector(rule: DustRule = RULE, every_s: float = 1.0) -> DustDetector:
    return DustDetector(SITE, "dust-1", rule, every_s)


def each_second(*parts: tuple[int, int, float | None]) -> Values:
    """A reading a second, from a second to before another, of one value."""
    return [(second, value) for start, end, value in parts for second in range(start, end)]


# Seconds 20 to 29 are bad: n bad samples in the window make a mean of 50 + 15·n, which is above
# 100 from n = 4, at second 23, until n = 3 again, at second 36.
BURST = each_second((0, 20, 50.0), (20, 30, 200.0), (30, 60, 50.0))


def test_the_mean_of_the_window_decides_and_not_one_sample() -> None:
    findings, coverage = run(detector(), [dust(t, v) for t, v in BURST], end=60)

    assert episodes(findings) == [(23, 36)]
    assert spans(coverage) == [(0, 10, "warming_up"), (10, 60, None)]


def test_a_finding_says_what_was_measured_and_points_at_the_readings() -> None:
    findings, _ = run(detector(), [dust(t, v) for t, v in BURST])

    last = findings[-1]
    assert (last.rule, last.kind, last.site, last.subject, last.severity) == (
        "dust.pm10_mean",
        "dust",
        SITE,
        "dust-1",
        Severity.WARNING,
    )
    assert last.measured == {
        "mean_ug_m3": 200.0,
        "limit_ug_m3": 100.0,
        "window_s": 10.0,
        "samples": 10.0,
    }
    assert [
        (one.role, seconds(one.observed_at), one.values["pm10_ug_m3"], one.values["mean_ug_m3"])
        for one in last.evidence
    ] == [("first", 23, 200, 110), ("peak", 29, 200, 200), ("last", 35, 50, 110)]
    assert last.evidence[0].source == dust(23, 200).source
    assert last.message_zh == (
        "扬尘监测点 dust-1：PM10 10 秒均值最高 200 µg/m³，限值 100，持续 13 秒，已恢复"
    )
    assert last.message_en == (
        "Dust monitor dust-1: 10 s mean of PM10 up to 200 µg/m³, limit 100, for 13 s,"
        " then back within the limit"
    )


def test_a_rising_peak_is_said_in_steps_and_not_with_every_sample() -> None:
    findings, _ = run(detector(), [dust(t, v) for t, v in BURST])

    # The mean rises 110, 125, … 200: said when a tenth above what was said last, and at the end.
    assert [one.measured["mean_ug_m3"] for one in findings] == [110, 125, 140, 155, 185, 200]
    assert len({one.identity for one in findings}) == 1
    assert "均值 110 µg/m³，限值 100" in findings[0].message_zh


@pytest.mark.parametrize(
    ("clear_ratio", "expected"), [(1.0, [(10, 11), (12, 13), (14, 15)]), (0.9, [(10, 17)])]
)
def test_hysteresis_joins_what_flickers(
    clear_ratio: float, expected: list[tuple[float, float | None]]
) -> None:
    # A window of one sample: the mean is the value.
    rule = DustRule(limit_ug_m3=100, window_s=1, clear_ratio=clear_ratio)
    flicker: Values = [(10 + i, value) for i, value in enumerate([101, 95, 101, 91, 101, 95])]
    values = each_second((0, 10, 50.0)) + flicker + [(16, 95.0), (17, 90.0), (18, 95.0)]

    findings, _ = run(detector(rule), [dust(t, v) for t, v in values])

    assert episodes(findings) == expected


def test_the_figure_that_is_printed_is_the_figure_that_is_compared() -> None:
    rule = DustRule(limit_ug_m3=80, window_s=1)

    below, _ = run(detector(rule), [dust(0, 1), dust(1, 80.0004), dust(2, 80)])
    above, _ = run(detector(rule), [dust(0, 1), dust(1, 80.0006), dust(2, 80)])

    assert below == []
    assert "80.001 µg/m³，限值 80" in above[0].message_zh


def test_a_dropout_shorter_than_the_bridge_does_not_split_a_violation() -> None:
    values = each_second((0, 10, 50.0), (10, 30, 300.0), (40, 60, 300.0), (60, 80, 10.0))

    findings, coverage = run(detector(), [dust(t, v) for t, v in values], end=80)

    # Opened by the third bad sample (two make 100 exactly), closed by the seventh good one.
    assert episodes(findings) == [(12, 66)]
    assert spans(coverage) == [
        (0, 10, "warming_up"),
        (10, 29, None),
        (29, 40, "no_data"),
        (40, 47, "too_few_samples"),
        (47, 80, None),
    ]


def test_a_dropout_longer_than_the_bridge_does() -> None:
    values = each_second((0, 10, 50.0), (10, 30, 300.0), (42, 60, 300.0), (60, 80, 10.0))

    findings, _ = run(detector(), [dust(t, v) for t, v in values])

    assert episodes(findings) == [(12, 29), (49, 66)]
    ended = next(one for one in findings if one.closed_at == at(29))
    assert ended.message_zh.endswith("持续 17 秒，其后数据中断")


def test_what_ended_within_a_gap_ended_at_its_last_evidence() -> None:
    values = each_second((0, 10, 50.0), (10, 30, 300.0), (40, 60, 10.0))

    findings, _ = run(detector(), [dust(t, v) for t, v in values])

    assert episodes(findings) == [(12, 29)]
    assert findings[-1].message_en.endswith("for 17 s, then no data")


def test_silence_is_noticed_by_ticks_and_dated_by_readings() -> None:
    watch = detector()
    run(watch, [dust(t, 300) for t in range(20)])

    assert watch.advance(at(22.4)) == []
    assert spans(coverage_of(watch.advance(at(25)))) == [(10, 19, None)]
    assert spans(watch.pending) == [(19, 22.5, "no_data")]
    assert watch.open
    assert watch.advance(at(38.9)) == []
    assert episodes(findings_of(watch.advance(at(39)))) == [(10, 19)]
    assert not watch.open


def test_a_device_that_says_everything_but_pm10_is_missing_a_quantity() -> None:
    values = each_second((0, 20, 50.0), (20, 40, None), (40, 45, math.nan), (45, 60, 50.0))

    findings, coverage = run(detector(), [dust(t, v) for t, v in values], end=60)

    assert findings == []
    assert spans(coverage) == [
        (0, 10, "warming_up"),
        (10, 19, None),
        (19, 45, "missing_quantity"),
        (45, 52, "too_few_samples"),
        (52, 60, None),
    ]


def test_a_device_that_first_withholds_pm10_and_then_falls_silent() -> None:
    values = each_second((0, 20, 50.0), (20, 30, None), (100, 101, None))

    _, coverage = run(detector(), [dust(t, v) for t, v in values], end=110)

    assert spans(coverage)[-2:] == [(19, 29, "missing_quantity"), (29, 110, "no_data")]


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_an_absurd_value_is_no_sample(absurd: float) -> None:
    values = [*each_second((0, 20, 50.0)), (20, absurd), *each_second((21, 40, 50.0))]

    findings, coverage = run(detector(), [dust(t, v) for t, v in values], end=40)

    assert findings == []
    assert spans(coverage) == [(0, 10, "warming_up"), (10, 40, None)]


def test_other_series_are_other_measurements() -> None:
    readings = [dust(t, 50) for t in range(30)]
    hours = [dust(t, 900, Series.HOUR) for t in (0, 10, 20)]

    findings, _ = run(detector(), sorted(readings + hours, key=lambda one: one.observed_at))

    assert findings == []
    assert detector().observe(dust(5, 900, Series.MINUTE)) == []


def test_of_two_samples_with_equal_time_the_first_stays() -> None:
    rule = DustRule(limit_ug_m3=100, window_s=1)

    findings, _ = run(detector(rule), [dust(0, 1), dust(1, 50), dust(1, 500), dust(2, 50)])
    completed, _ = run(detector(rule), [dust(0, 1), dust(1, None), dust(1, 500), dust(2, 50)])

    assert findings == []
    assert episodes(completed) == [(1, 2)]


def test_a_device_slower_than_the_window_cannot_be_judged() -> None:
    findings, coverage = run(
        detector(every_s=60), [dust(t, 900) for t in range(0, 600, 60)], end=600
    )

    assert findings == []
    assert spans(coverage) == [(0, 600, "too_slow")]


def test_a_minute_device_over_a_quarter_of_an_hour() -> None:
    # 15 samples fill the window, 12 are enough: three lost ones do not matter, four are a gap.
    rule = DustRule()
    minutes = [m for m in range(60) if m not in (20, 21, 22) and m not in (40, 41, 42, 43)]
    watch = DustDetector(SITE, "dust-1", rule, 60)

    _, coverage = run(watch, [dust(60 * m, 50) for m in minutes], end=3_600)

    assert [(start / 60, end / 60, reason) for start, end, reason in spans(coverage)] == [
        (0, 15, "warming_up"),
        (15, 39, None),
        (39, 44, "no_data"),
        (44, 55, "too_few_samples"),
        (55, 60, None),
    ]


def test_silence_from_the_beginning_is_accounted_for_when_the_beginning_is_known() -> None:
    watch = DustDetector(SITE, "dust-1", RULE, 1.0, since=at(0))

    assert watch.advance(at(100)) == []
    assert spans(watch.pending) == [(0, 3.5, "no_data")]
    assert spans(coverage_of(watch.finish(at(200)))) == [(0, 200, "no_data")]


def test_a_reading_of_another_device_or_one_that_comes_too_late_is_a_mistake() -> None:
    watch = detector()
    watch.observe(dust(5, 50))

    with pytest.raises(ValueError, match="dust-2"):
        watch.observe(dust(6, 50, device="dust-2"))
    with pytest.raises(ValueError, match="settled"):
        watch.observe(dust(4, 50))
    watch.advance(at(9))
    assert watch.settled_at == at(8.5)
    with pytest.raises(ValueError, match="settled"):
        watch.observe(dust(8, 50))
    watch.observe(dust(8.5, None))
    watch.observe(dust(11, None))
    watch.observe(dust(11.5, 50))
    watch.observe(dust(14, None))
    watch.advance(at(16))
    assert watch.settled_at == at(15)
    watch.advance(at(20))
    assert watch.settled_at == at(17.5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.floats(0, 30_000, allow_subnormal=True) | st.sampled_from([99.9999999, 1e-9]),
        min_size=30,
        max_size=60,
    )
)
def test_the_mean_is_exact_however_long_the_window_slides(values: list[float]) -> None:
    rule = DustRule(limit_ug_m3=1e-3, window_s=10)

    findings, _ = run(detector(rule), [dust(t, v) for t, v in enumerate(values)], end=len(values))

    for finding in findings:
        for one in finding.evidence:
            end = int(seconds(one.observed_at))
            window = [Fraction(value) for value in values[end - 9 : end + 1]]
            exact = float(sum(window) / len(window))
            # Half a thousandth for the rounding of the mean, half a millionth for the samples'.
            assert abs(one.values["mean_ug_m3"] - exact) <= 0.0005 + 0.000_000_6
