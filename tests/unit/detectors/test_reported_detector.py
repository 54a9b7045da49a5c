"""Timelines of what a device's own AI says, and what our model makes of its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from detectors.reported import ReportedDetector
from detectors.rules import ReportedRule
from device_profiles.findings import Finding, Severity
from device_profiles.readings import Box, Reading, Unfit
from tests.unit.detectors.timelines import (
    SITE,
    at,
    box,
    episodes,
    findings_of,
    look,
    person,
    report,
    run,
    seconds,
    spans,
)

HEAD = box("head", 0.8, 100)
HELMET = box("helmet", 0.9, 100)


def detector() -> ReportedDetector:
    return ReportedDetector(SITE, "cam-1", ReportedRule())


def verdict(*readings: Reading) -> str:
    findings, _ = run(detector(), readings, end=200)
    measured = findings[-1].measured
    return next((name for name in ("confirmed", "contradicted") if measured[name]), "not looked at")


@pytest.mark.parametrize(
    ("what", "boxes", "expected"),
    [
        ("no_helmet", [HEAD], "confirmed"),
        ("no_helmet", [HELMET], "contradicted"),
        # Of one picture, what the second look said of it decides.
        ("no_helmet", [box("helmet", 0.9, 100, second_look=0.9)], "contradicted"),
        ("no_helmet", [box("helmet", 0.9, 100, second_look=0.1)], "confirmed"),
        ("no_helmet", [], "contradicted"),
        ("no_helmet", [box("head", 0.4, 100)], "contradicted"),
        ("no_vest", [box("no_vest", 0.8, 100)], "confirmed"),
        ("no_vest", [box("vest", 0.8, 100)], "contradicted"),
        ("intrusion", [person(0.8, 100)], "confirmed"),
        ("smoke_fire", [HEAD], "not looked at"),
        ("other", [HEAD], "not looked at"),
    ],
)
def test_our_model_confirms_or_contradicts_on_the_very_picture(
    what: str, boxes: Sequence[Box], expected: str
) -> None:
    assert verdict(report(1, what), look(1, *boxes)) == expected
    # In whichever order they come.
    assert verdict(look(1, *boxes), report(1, what)) == expected


def test_another_picture_says_nothing_of_it() -> None:
    assert verdict(report(1), look(1.5, HEAD)) == "not looked at"


@pytest.mark.parametrize(("x", "expected"), [(110, "confirmed"), (600, "contradicted")])
def test_where_the_device_says_where_it_has_to_be_there(x: float, expected: str) -> None:
    assert verdict(report(1, "no_helmet", box("no_helmet", 0.7, x)), look(1, HEAD)) == expected


def test_a_camera_that_cannot_see_contradicts_nothing() -> None:
    assert verdict(report(1), look(1, unfit=Unfit.DARK)) == "not looked at"
    assert verdict(report(1), look(1, HELMET, unfit=Unfit.BLURRED)) == "not looked at"
    # What is found is there.
    assert verdict(report(1), look(1, HEAD, unfit=Unfit.BLURRED)) == "confirmed"
    # A lens that looks elsewhere sees all the same.
    assert verdict(report(1), look(1, unfit=Unfit.MOVED)) == "contradicted"


def test_a_report_without_a_picture_is_said_at_once() -> None:
    watch = detector()
    findings = findings_of(watch.observe(report(1, pictured=False)))
    assert [finding.severity for finding in findings] == [Severity.INFO]
    assert findings[0].message_en == (
        "Camera cam-1's own AI reports: no helmet (not looked at by our model)"
    )


def test_a_picture_is_waited_for() -> None:
    watch = detector()
    assert findings_of(watch.observe(report(1))) == []
    assert watch.open
    assert findings_of(watch.advance(at(31))) == []
    assert len(findings_of(watch.advance(at(31.001)))) == 1
    watch = detector()
    watch.observe(report(1))
    assert len(findings_of(watch.observe(look(1, HEAD)))) == 1


def finding(*readings: Reading) -> Finding:
    findings, _ = run(detector(), readings, end=300)
    assert len({one.identity for one in findings}) == 1
    return findings[-1]


def test_a_finding_carries_the_report_and_the_look() -> None:
    found = finding(report(1, "no_helmet", box("no_helmet", 0.7, 90)), look(1, HEAD))
    assert (found.rule, found.kind, found.subject) == (
        "device.reported",
        "helmet",
        "cam-1#no_helmet",
    )
    assert found.severity is Severity.WARNING
    assert [(one.role, one.frame_sha256) for one in found.evidence] == [
        ("first", f"{1000:064x}"),
        ("look", f"{1000:064x}"),
    ]
    assert found.evidence[0].boxes == (("no_helmet", 0.7, 90, 100, 130, 140),)
    assert found.evidence[1].boxes == (("head", 0.8, 100, 100, 140, 140),)
    assert found.evidence[1].model_sha256 == "ab" * 32
    assert found.measured == {
        "confirmed": 1,
        "contradicted": 0,
        "reports": 1,
        "device_score": 0.9,
    }


def test_one_bare_head_is_one_violation_however_often_it_is_reported() -> None:
    readings = [one for t in range(0, 200, 2) for one in (report(t), look(t, HELMET))]
    readings[100:102] = [report(100), look(100, HEAD)]
    found = finding(*readings)
    assert seconds(found.opened_at) == 0
    assert found.closed_at == at(198)
    assert found.measured["reports"] == 100
    # Our model agreed once.
    assert found.measured["confirmed"] == 1
    assert [one.role for one in found.evidence] == ["first", "look", "peak", "look", "last", "look"]
    assert found.message_en.endswith("100 times within 3 min 18 s")


def test_long_after_it_is_another_and_other_reports_are_others() -> None:
    findings, _ = run(
        detector(), [report(0), report(0, "no_vest"), report(60), report(121)], end=300
    )
    assert episodes(findings) == [(0, 60), (0, 0), (121, 121)]


def test_all_time_is_evaluated() -> None:
    _, coverage = run(detector(), [look(0), report(5), look(9)], end=20)
    assert spans(coverage) == [(0, 20, None)]


def test_what_comes_too_late_is_refused() -> None:
    watch = detector()
    watch.observe(look(100))
    watch.observe(report(80))  # within what is waited for
    with pytest.raises(ValueError, match="settled"):
        watch.observe(report(60))
