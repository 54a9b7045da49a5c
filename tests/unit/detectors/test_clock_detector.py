"""Timelines of a device whose clock is off: offsets in, jumps and drift out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.clock import ClockDetector
from detectors.rules import ClockRule
from device_profiles.findings import Finding, Severity
from device_profiles.readings import Reading
from device_profiles.vocabulary import Kind, Series
from tests.unit.detectors.timelines import (
    SITE,
    at,
    dust,
    episodes,
    findings_of,
    run,
    seconds,
    spans,
)

HOUR = 3_600.0


def detector() -> ClockDetector:
    return ClockDetector(SITE, "dust-1", ClockRule())


def offsets(*values: float) -> list[Reading]:
    return [dust(t, 50, clock_offset_s=value) for t, value in enumerate(values)]


def test_an_episode_lasts_while_the_offset_is_not_zero() -> None:
    findings, coverage = run(detector(), offsets(0, 0, 8 * HOUR, 8 * HOUR, 8 * HOUR, 0, 0), end=6)

    assert episodes(findings) == [(2, 5)]
    assert spans(coverage) == [(0, 6, None)]
    assert len(findings) == 2


def test_a_finding_says_how_far_which_way_and_that_it_is_repaired() -> None:
    findings, _ = run(detector(), offsets(0, 8 * HOUR, 0))

    opened, closed = findings
    assert (opened.rule, opened.kind, opened.subject, opened.severity) == (
        "device.clock",
        "device_health",
        "dust-1",
        Severity.INFO,
    )
    assert opened.measured == {"clock_offset_s": 28_800.0}
    assert opened.message_zh == "扬尘监测点 dust-1 的时钟慢 8 小时，读数时间已修正"
    assert opened.message_en == (
        "The clock of dust monitor dust-1 is 8 h slow; the times of its readings are repaired"
    )
    assert closed.message_zh.endswith("，持续 1 秒，已校准")
    assert closed.message_en.endswith(", for 1 s, then it is right")
    assert [(one.role, seconds(one.observed_at)) for one in closed.evidence] == [
        ("first", 1),
        ("next", 2),
    ]
    assert closed.evidence[0].values == {"clock_offset_s": 28_800.0}


def test_a_fast_clock_is_called_fast() -> None:
    watch = ClockDetector(SITE, "dust-1", ClockRule(), kind=Kind.CRANE)
    (opened,) = findings_of(watch.observe(dust(0, 50, clock_offset_s=-90)))
    assert opened.message_zh == "塔吊 dust-1 的时钟快 1 分 30 秒，读数时间已修正"
    assert "1 min 30 s fast" in opened.message_en


def test_a_jump_ends_one_and_opens_the_next_while_drift_amends() -> None:
    findings, _ = run(detector(), offsets(0, 100, 130, 180, 240, 240, 179, 239), end=8)

    # 180 to 240 is a jump of 60; the steps of 30, 50, 61 are drift, drift and a jump.
    assert episodes(findings) == [(1, 4), (4, 6), (6, 7), (7, 7)]
    drifted = [one for one in findings if one.opened_at == at(1)]
    assert [one.measured["clock_offset_s"] for one in drifted] == [100, 130, 180, 180]
    assert [entry.role for entry in drifted[-1].evidence] == ["first", "last", "next"]
    assert drifted[-1].message_en.endswith("then it jumped")


def test_means_say_nothing_of_the_clock() -> None:
    watch = detector()
    run(watch, offsets(0))
    mean = dust(-60, 50, Series.MINUTE, clock_offset_s=500)

    assert not watch.late(mean)
    assert watch.observe(mean) == []


def test_mistakes_of_the_caller_are_refused() -> None:
    watch = detector()
    run(watch, offsets(0, 0, 90))
    with pytest.raises(ValueError, match="crane-9"):
        watch.observe(dust(200, 50, device="crane-9"))
    with pytest.raises(ValueError, match="settled"):
        watch.observe(dust(1, 50))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 20.0, 500.0]), min_size=1, max_size=20),
    st.data(),
)
def test_what_comes_in_disorder_changes_nothing_or_is_called_late(
    values: list[float], data: st.DataObject
) -> None:
    said = offsets(*values)
    delays = data.draw(
        st.lists(st.sampled_from([0.0, 1.5, 4.5]), min_size=len(said), max_size=len(said))
    )
    order = sorted(range(len(said)), key=lambda place: place + delays[place])
    watch, found, came = detector(), dict[str, Finding](), list[Reading]()
    for place in order:
        came.append(said[place])
        if watch.late(said[place]):
            watch, found = detector(), {}
            known = sorted(came, key=lambda one: one.observed_at)
        else:
            known = [said[place]]
        for one in known:
            found |= {item.identity: item for item in findings_of(watch.observe(one))}
    found |= {item.identity: item for item in findings_of(watch.finish(at(len(said))))}

    expected, _ = run(detector(), said, end=len(said))
    assert sorted(episodes(found.values())) == sorted(episodes(expected))
