"""Timelines of persons in zones: vests, no entry, hours."""

from __future__ import annotations

import pytest

from detectors.presence import PresenceDetector
from detectors.rules import PresenceRule, VestRule
from detectors.vests import VestDetector
from detectors.vision.zones import Plan
from device_profiles.findings import Finding
from device_profiles.readings import Box, Detections, Unfit
from device_profiles.sites import CameraSettings
from tests.unit.detectors.timelines import SITE, box, episodes, look, person, run, spans

LEFT = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
UPPER = [[0, 0], [1, 0], [1, 0.4], [0, 0.4]]
IN, OUT = 100.0, 900.0


def plan(timezone: str = "UTC", **zone: object) -> Plan:
    settings = {"zone": [{"name": "pit 基坑", "polygon": LEFT, **zone}]}
    return Plan(CameraSettings.model_validate(settings), timezone)


def vest_detector() -> VestDetector:
    return VestDetector(SITE, "cam-1", VestRule(), None, plan(vest=True))


def worker(x: float, worn: str | None, score: float = 0.8) -> list[Box]:
    """A person of 80 × 240 pixels, their torso from 40 to 110 below the top."""
    torso = [] if worn is None else [box(worn, score, x + 10, 140, 60)]
    return [person(0.9, x), *torso]


def scene(drawn: str, x: float = IN) -> list[Detections]:
    """Two looks a second: o without a vest, v with one, p neither seen, . nobody, > elsewhere."""
    pictures = []
    for t, letter in enumerate(drawn):
        worn = {"o": "no_vest", "v": "vest", ">": "no_vest"}.get(letter)
        boxes = [] if letter == "." else worker(x + 450 * (letter == ">"), worn)
        pictures.append(look(t / 2, *boxes))
    return pictures


def vests(pictures: list[Detections]) -> list[Finding]:
    return run(vest_detector(), pictures, end=60)[0]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ("oooooo", [(0, 2.5)]),
        ("oopooo", [(0, 2.5)]),
        ("pppppp", []),
        ("vvvvvv", []),
        ("ovovovov", []),
        ("oooooovvvvvvvvvv", [(0, 2.5)]),
    ],
)
def test_a_missing_vest_is_confirmed(
    drawn: str, expected: list[tuple[float, float | None]]
) -> None:
    assert episodes(vests(scene(drawn))) == expected


def test_a_finding_names_the_zone_and_the_camera() -> None:
    opened = vests(scene("oooo"))[0]
    assert (opened.rule, opened.kind) == ("vest.missing", "vest")
    assert opened.subject == "cam-1#1795248000000@140,220/pit 基坑"
    assert opened.message_zh.startswith("摄像头 cam-1：有人在“pit 基坑”未穿反光衣（4 帧确认")
    assert opened.evidence[0].boxes == (("no_vest", 0.8, 100, 100, 180, 340),)
    assert opened.evidence[0].frame_sha256 == "0" * 64


def test_outside_of_the_zone_no_vest_is_demanded() -> None:
    assert vests(scene("oooooo", x=OUT)) == []


def test_who_leaves_the_zone_ends_the_violation() -> None:
    walk = [look(t / 2, *worker(100 + 90 * t, "no_vest")) for t in range(12)]
    findings = vests(walk)
    assert episodes(findings) == [(0, 2.5)]
    assert "left" in findings[-1].message_en


def test_a_vest_on_a_fence_is_nobodys() -> None:
    fence = box("vest", 0.95, 300, 140, 60)
    assert vests([look(t / 2, *worker(IN, "no_vest"), fence) for t in range(6)])


def test_torsos_without_any_person_stand_for_themselves() -> None:
    def said(y: float) -> list[Finding]:
        return vests([look(t / 2, box("no_vest", 0.8, IN, y, 60)) for t in range(6)])

    assert said(300)
    # One without a person among persons is not believed.
    lone = [look(t / 2, box("no_vest", 0.8, IN, 300, 60), person(0.9, 400)) for t in range(6)]
    assert vests(lone) == []


def entries(pictures: list[Detections], plan: Plan) -> list[Finding]:
    detector = PresenceDetector(SITE, "cam-1", PresenceRule(), None, plan)
    return run(detector, pictures, end=120)[0]


def standing(
    x: float, count: int = 8, start: float = 0, unfit: Unfit | None = None
) -> list[Detections]:
    return [look(start + t / 2, person(0.9, x), unfit=unfit) for t in range(count)]


def test_feet_in_a_forbidden_zone_are_a_violation() -> None:
    findings = entries(standing(IN), plan(no_entry=True))
    assert episodes(findings) == [(0, 3.5)]
    assert findings[0].kind == "presence"
    assert "no-entry zone 'pit 基坑'" in findings[0].message_en
    assert entries(standing(OUT), plan(no_entry=True)) == []


def test_a_head_in_the_zone_is_not_a_foot() -> None:
    """From 100 to 340 of 720 pixels: the head is in the upper part, the feet are not."""
    settings = {"zone": [{"name": "sky", "polygon": UPPER, "no_entry": True}]}
    assert entries(standing(IN), Plan(CameraSettings.model_validate(settings))) == []


@pytest.mark.parametrize(
    ("hours", "timezone", "violated"),
    [
        # The looks are at 08:00 UTC, 16:00 in Shanghai.
        ("07:00-09:00", "UTC", True),
        ("08:01-09:00", "UTC", False),
        ("07:00-08:00", "UTC", False),
        ("15:59-16:01", "Asia/Shanghai", True),
        ("07:00-09:00", "Asia/Shanghai", False),
        ("22:00-08:01", "UTC", True),
        ("22:00-08:00", "UTC", False),
        ("08:00-06:00", "UTC", True),
    ],
)
def test_hours_are_those_of_the_site_over_midnight_too(
    hours: str, timezone: str, violated: bool
) -> None:
    zone = plan(timezone, no_entry_hours=[hours])
    assert bool(entries(standing(IN), zone)) == violated


def test_a_violation_ends_when_the_hour_does() -> None:
    pictures = standing(IN, count=100, start=20)
    findings = entries(pictures, plan(no_entry_hours=["06:00-08:01"]))
    assert episodes(findings) == [(20, 59.5)]
    assert findings[-1].message_en.endswith("entry is allowed again")


def test_who_walks_in_is_found_though_they_were_elsewhere_before() -> None:
    walk = [look(t / 2, person(0.9, 900 - 60 * t)) for t in range(14)]
    findings = entries(walk, plan(no_entry=True))
    # Feet at 640 of 1280 pixels and beyond are outside: the seventh is in.
    assert episodes(findings) == [(3, 6.5)]


def test_a_moved_lens_lets_nothing_be_said_of_zones() -> None:
    detector = PresenceDetector(SITE, "cam-1", PresenceRule(), None, plan(no_entry=True))
    findings, coverage = run(detector, standing(IN, unfit=Unfit.MOVED), end=3.5)
    assert findings == []
    assert spans(coverage) == [(0, 3.5, "camera_moved")]


def test_small_heads_do_not_hide_persons() -> None:
    assert entries(standing(IN, unfit=Unfit.SMALL_HEADS), plan(no_entry=True))
