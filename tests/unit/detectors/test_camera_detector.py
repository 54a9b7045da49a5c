"""Timelines of a camera that can and cannot see."""

from __future__ import annotations

import pytest

from detectors.cameras import WORDS, CameraDetector
from detectors.rules import CameraRule
from device_profiles.findings import Finding
from device_profiles.readings import Detections, Unfit
from tests.unit.detectors.timelines import (
    SITE,
    at,
    coverage_of,
    episodes,
    findings_of,
    look,
    run,
    seconds,
    spans,
)

LETTERS = {"d": Unfit.DARK, "m": Unfit.MOVED}


def detector(expected_every_s: float = 1.0) -> CameraDetector:
    return CameraDetector(SITE, "cam-1", CameraRule(), expected_every_s)


def looks(drawn: str, start: float = 0) -> list[Detections]:
    """A look a second: . fit, d dark, m moved."""
    return [look(start + t, unfit=LETTERS.get(letter)) for t, letter in enumerate(drawn)]


def said(drawn: str) -> list[Finding]:
    return run(detector(), looks(drawn), end=len(drawn))[0]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ("......", []),
        ("..ddd..", [(2, 5)]),
        ("..dddd", [(2, 5)]),
        ("..ddmm..", [(2, 4), (4, 6)]),
        ("dd..dd..", [(0, 2), (4, 6)]),
    ],
)
def test_an_episode_lasts_while_the_camera_is_unfit(
    drawn: str, expected: list[tuple[float, float | None]]
) -> None:
    assert episodes(said(drawn)) == expected


def test_pictures_of_events_say_nothing_of_the_lens() -> None:
    events = [look(t + 0.5, event=True) for t in range(8)]
    timeline = sorted([*looks("..mmmm.."), *events], key=lambda one: one.observed_at)
    assert episodes(run(detector(), timeline, end=8)[0]) == [(2, 6)]


def test_a_finding_says_why_and_with_which_picture() -> None:
    opened, closed = said("..ddd..")
    assert (opened.rule, opened.kind, opened.subject) == ("device.camera", "device_health", "cam-1")
    assert opened.measured == {"light": 12.0}
    assert opened.message_en == "Camera cam-1 is too dark: nothing can be judged (light 12)"
    assert [(one.role, seconds(one.observed_at)) for one in closed.evidence] == [
        ("first", 2),
        ("last", 4),
    ]
    assert opened.evidence[0].frame_sha256 == f"{2000:064x}"
    assert closed.message_zh.endswith("持续 3 秒，已恢复或原因改变")


def test_every_reason_has_words() -> None:
    assert set(WORDS) == set(Unfit)


def test_a_camera_that_falls_silent_ends_its_episode_at_its_last_look() -> None:
    watch = detector()
    run(watch, looks("..ddd"))
    assert findings_of(watch.advance(at(63))) == []
    told = watch.advance(at(64))
    assert episodes(findings_of(told)) == [(2, 4)]
    assert spans(coverage_of(told)) == [(0, 4, None)]
    assert spans(watch.pending) == [(4, 64, "no_frames")]


def test_a_short_silence_does_not_end_it() -> None:
    findings, coverage = run(detector(), [*looks("..dd"), *looks("dd..", start=40)], end=43)
    assert episodes(findings) == [(2, 42)]
    assert spans(coverage) == [(0, 43, None)]


def test_a_slow_camera_is_not_silent_between_its_pictures() -> None:
    slow = [look(100 * t, unfit=Unfit.DARK) for t in range(4)]
    assert episodes(run(detector(100), slow, end=300)[0]) == [(0, 300)]
