"""A unit that looks wrong by 10³: said once it is known, with the override to write."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from detectors.units import GRACE, RULE, UnitDetector
from device_profiles.findings import Finding
from device_profiles.readings import DustReading
from device_profiles.vocabulary import Kind, Series
from tests.unit.detectors.timelines import (
    SITE,
    at,
    coverage_of,
    crane,
    dust,
    episodes,
    findings_of,
    seconds,
    spans,
)

HOUR = 3_600


def minutes(start: float, count: int, value: float | None) -> list[DustReading]:
    return [dust(start + 60 * n, value) for n in range(count)]


def said_of(readings: Iterable[DustReading], *, until: float | None = None) -> list[Finding]:
    detector = UnitDetector(SITE, "dust-1", Kind.DUST)
    said = [item for reading in readings for item in detector.observe(reading)]
    if until is not None:
        said += detector.advance(at(until))
    return findings_of(said)


def test_milligrams_taken_for_micrograms_are_told_after_an_hour() -> None:
    readings = minutes(0, 60, 0.081)
    assert said_of(readings) == []
    assert said_of(readings, until=HOUR + GRACE.total_seconds() - 1) == []
    (found,) = said_of(readings, until=HOUR + GRACE.total_seconds())
    assert (found.rule, found.kind, found.site, found.subject) == (
        RULE, "device_health", SITE, "dust-1",
    )  # fmt: skip
    assert seconds(found.opened_at) == 0
    assert found.closed_at is None
    assert found.measured == {"pm10_ug_m3": 0.081}
    assert 'units = { pm10_ug_m3 = "mg/m3" }' in found.message_en
    assert 'units = { pm10_ug_m3 = "mg/m3" }' in found.message_zh
    assert "0.081 µg/m³" in found.message_en
    assert [one.values for one in found.evidence] == [{"pm10_ug_m3": 0.081}]


def test_it_ends_with_the_first_reading_of_an_hour_that_looks_right() -> None:
    readings = [
        *minutes(0, 60, 0.081),
        *minutes(HOUR, 5, 0.081),  # too few to tell
        *minutes(2 * HOUR + 120, 30, 81.0),
    ]
    found = said_of(readings, until=4 * HOUR)
    assert episodes(found)[-1] == (0, 2 * HOUR + 120)
    assert [one.role for one in found[-1].evidence] == ["first", "last", "next"]
    assert len(found) == 2


def test_an_episode_nothing_confirms_ends_with_what_was_seen_last() -> None:
    found = said_of(minutes(0, 60, 0.081), until=26 * HOUR)
    assert episodes(found)[-1] == (0, 59 * 60)


@pytest.mark.parametrize("value", [81.0, 1.5, 4_000.0, 0.0, None, 0.0002])
def test_what_air_can_be_is_not_suspected(value: float | None) -> None:
    assert said_of(minutes(0, 60, value), until=2 * HOUR) == []


def test_a_crane_that_sends_kilograms() -> None:
    detector = UnitDetector(SITE, "crane-1", Kind.CRANE)
    for n in range(60):
        assert detector.observe(crane(60 * n, "crane-1", load_t=1_200.0)) == []
    (found,) = findings_of(detector.advance(at(2 * HOUR)))
    assert found.measured == {"load_t": 1_200.0}
    assert 'units = { load_t = "kg" }' in found.message_en


def test_the_first_reading_of_a_minute_counts_in_whatever_order_they_come() -> None:
    wrong = minutes(0, 60, 0.081)
    more = [dust(reading_s + 30, 81.0) for reading_s in range(0, HOUR, 60)]
    mixed = [one for pair in zip(more, wrong, strict=True) for one in pair]
    assert said_of(mixed, until=2 * HOUR) == said_of(wrong, until=2 * HOUR) != []


def test_means_are_left_alone() -> None:
    readings = [dust(60 * n, 0.081, Series.MINUTE) for n in range(60)]
    assert said_of(readings, until=2 * HOUR) == []


def test_it_says_what_it_could_judge() -> None:
    detector = UnitDetector(SITE, "dust-1", Kind.DUST)
    for reading in [*minutes(600, 20, 50.0), *minutes(2 * HOUR, 3, 50.0)]:
        detector.observe(reading)
    said = detector.finish(at(3 * HOUR))
    assert spans(coverage_of(said)) == [
        (600, HOUR, None), (HOUR, 2 * HOUR, "no_data"), (2 * HOUR, 3 * HOUR, "too_few_values"),
    ]  # fmt: skip


def test_a_reading_of_a_judged_hour_comes_too_late() -> None:
    detector = UnitDetector(SITE, "dust-1", Kind.DUST)
    detector.observe(dust(0, 1.0))
    detector.advance(at(2 * HOUR))
    assert detector.settled_at == at(HOUR)
    with pytest.raises(ValueError, match="which is settled"):
        detector.observe(dust(HOUR - 1, 1.0))
