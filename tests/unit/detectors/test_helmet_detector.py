"""Timelines of one camera: looks and boxes in, violations and coverage out."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from detectors.helmets import HelmetDetector
from detectors.rules import HelmetRule
from detectors.vision.opinions import logit
from detectors.vision.zones import Plan
from device_profiles.findings import Finding, Severity
from device_profiles.readings import Box, Detections, Unfit
from device_profiles.sites import CameraSettings
from tests.unit.detectors.timelines import (
    SITE,
    at,
    box,
    coverage_of,
    episodes,
    findings_of,
    look,
    person,
    run,
    seconds,
    spans,
)

RULE = HelmetRule()
# Four bare sightings of the last six looks within 5 s; gone after 3 s, carried on for 10 more.
EVERY_S = 0.5


def detector(rule: HelmetRule = RULE) -> HelmetDetector:
    return HelmetDetector(SITE, "cam-1", rule)


def looks(
    drawn: str, x: float = 100.0, start: float = 0.0, speed: float = 0.0, score: float = 0.8
) -> list[Detections]:
    """Two looks a second at one head: o bare, n helmeted, . not seen, s bare and a still scene.

    Of helmets a digit is what the second look says, in tenths; r repeats the last such box in a
    still scene.
    """
    readings = []
    heard: float | None = None
    for i, letter in enumerate(drawn):
        where = x + speed * i * EVERY_S
        label = {"o": "head", "s": "head", ".": None}.get(letter, "helmet")
        if letter in "0123456789":
            heard = int(letter) / 10
        said = None if letter in "osn" else heard
        boxes = [] if label is None else [box(label, score, where, second_look=said)]
        readings.append(look(start + i * EVERY_S, *boxes, still=letter in "sr"))
    return readings


def together(*scenes: Iterable[Detections]) -> list[Detections]:
    """Several heads in the same pictures."""
    boxes: dict[float, tuple[Box, ...]] = {}
    for scene in scenes:
        for one in scene:
            boxes[seconds(one.observed_at)] = boxes.get(seconds(one.observed_at), ()) + one.boxes
    return [look(t, *boxes[t]) for t in sorted(boxes)]


def ended(drawn: str, after: int = 40) -> tuple[list[Finding], list[tuple[float, float | None]]]:
    """Findings of a scene that stays empty for a while at the end, and when they lasted."""
    findings, _ = run(detector(), looks(drawn + "." * after))
    return findings, episodes(findings)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        # Four of six, in a row, with gaps, too thin, and only after enough looks.
        ("oooo", [(0, 1.5)]),
        ("o.oo.o", [(0, 2.5)]),
        ("o..o..o..o", []),
        ("ooo", []),
        (".....oooooo", [(2.5, 5)]),
        # A helmet seen as well as the head: the head does not count until it has left the looks.
        ("nooo", []),
        ("noooooo", [(0.5, 3)]),
        ("nonononono", []),
        # A still scene repeats its boxes, and they count; but one mistake cannot confirm itself.
        ("osss", []),
        ("osssssss", []),
        ("osos", [(0, 1.5)]),
        ("ossos", [(0, 2)]),
        # Bare, covered, and bare again soon after: one violation. Long after: two.
        ("oooonnnnnnoooo", [(0, 6.5)]),
        ("oooo" + "n" * 30 + "oooooooooo", [(0, 1.5), (17, 21.5)]),
        # Not seen for two looks; for three seconds; for long.
        ("oooo..oooo", [(0, 4.5)]),
        ("oooo........oooo", [(0, 7.5)]),
        ("oooo" + "." * 30 + "oooo", [(0, 1.5), (17, 18.5)]),
        # A single glimpse does not carry on what is over.
        ("oooo" + ".........o" * 4, [(0, 1.5)]),
    ],
)
def test_a_bare_head_is_confirmed_over_several_looks(
    drawn: str, expected: list[tuple[float, float | None]]
) -> None:
    assert ended(drawn)[1] == expected


def test_a_finding_points_at_the_confirming_frames() -> None:
    findings, _ = ended("o.oo.ooo")

    opened, closed = findings
    assert (opened.rule, opened.kind, opened.site, opened.severity) == (
        "helmet.bare_head",
        "helmet",
        SITE,
        Severity.WARNING,
    )
    assert opened.subject == "cam-1#1795248000000@120,120"
    assert opened.closed_at is None
    assert [(one.role, seconds(one.observed_at)) for one in opened.evidence] == [
        ("confirmation", 0),
        ("confirmation", 1),
        ("confirmation", 1.5),
        ("confirmation", 2.5),
    ]
    assert opened.evidence[1].boxes == (("head", 0.8, 100, 100, 140, 140),)
    assert opened.evidence[1].frame_sha256 == f"{1000:064x}"
    assert opened.evidence[1].model_sha256 == "ab" * 32
    assert opened.measured == {"score": 0.8, "sightings": 4}
    assert opened.message_zh == "摄像头 cam-1：有人未戴安全帽（4 帧确认，置信度最高 0.80）"
    assert closed.identity == opened.identity
    assert closed.evidence == (*opened.evidence, closed.evidence[-1])
    assert (closed.evidence[-1].role, seconds(closed.evidence[-1].observed_at)) == ("last", 3.5)
    assert closed.measured == {"score": 0.8, "sightings": 6}
    assert closed.message_en == (
        "Camera cam-1: a worker without a helmet (confirmed on 4 frames, score up to 0.80),"
        " for 3 s, then no longer seen"
    )


@pytest.mark.parametrize(
    ("drawn", "after", "ending"),
    [
        ("oooo", 40, "不再看到"),
        ("oooo" + "n" * 20, 20, "已戴好安全帽"),
        ("oooonnnnnnoooo", 40, "不再看到"),
        ("oooo", 0, "其后画面中断"),
    ],
)
def test_a_finding_says_how_it_ended(drawn: str, after: int, ending: str) -> None:
    watch = detector()
    findings, _ = run(watch, looks(drawn + "." * after))
    findings += findings_of(watch.advance(at(60)))

    assert findings[-1].message_zh.endswith(ending)
    assert findings[-1].closed_at == at(drawn.rindex("o") * EVERY_S)


def test_scores_decide_between_boxes_over_the_same_head() -> None:
    def confirmed(head: float, helmet: float) -> bool:
        pictures = [
            look(t, box("head", head, 100), box("helmet", helmet, 104)) for t in (0, 1, 2, 3)
        ]
        return run(detector(), pictures)[0] != []

    assert confirmed(0.9, 0.6)
    assert not confirmed(0.6, 0.9)
    assert not confirmed(0.7, 0.7)


def test_a_better_score_outvotes_one_helmet_among_the_looks() -> None:
    def confirmed(helmet: float) -> bool:
        covered = looks("n", start=1, score=helmet)
        return run(detector(), [*looks("oo"), *covered, *looks("ooo", start=1.5)])[0] != []

    assert confirmed(0.79)
    assert not confirmed(0.8)


@pytest.mark.parametrize(
    "unfit",
    [
        Box("head", 0.43, (100, 100, 140, 140)),
        Box("head", math.nan, (100, 100, 140, 140)),
        Box("head", 0.9, (100, 100, 100, 140)),
        Box("head", 0.9, (100, 140, 140, 100)),
        Box("head", 0.9, (math.nan, 100, 140, 140)),
        Box("head", 0.9, (100, 100, math.inf, 140)),
        Box("person", 0.9, (100, 100, 140, 140)),
    ],
)
def test_unfit_boxes_are_not_looked_at(unfit: Box) -> None:
    findings, coverage = run(detector(), [look(t, unfit) for t in range(10)], end=10)

    assert findings == []
    assert spans(coverage) == [(0, 3, "warming_up"), (3, 10, None)]


def test_a_steady_bare_head_above_the_operating_point_is_a_violation() -> None:
    findings, _ = run(detector(), looks("ooooo", score=0.46))

    assert len(findings) == 1


def test_pictures_of_events_are_no_looks_at_the_scene() -> None:
    bare = Box("head", 0.9, (100, 100, 140, 140))
    events = [look(0.25 + t / 2, bare, event=True) for t in range(12)]
    quiet = [look(t / 2) for t in range(12)]
    findings, coverage = run(detector(), sorted(events + quiet, key=lambda one: one.observed_at))

    assert findings == []
    assert coverage == run(detector(), quiet)[1]


def test_a_head_cut_by_the_edge_of_the_picture_counts() -> None:
    findings, _ = run(detector(), looks("oooo", x=-2.5))

    assert len(findings) == 1


def test_two_bare_heads_are_two_violations() -> None:
    pictures = together(looks("oooooo", x=100), looks("oooooo", x=400))

    findings, _ = run(detector(), pictures, end=10)

    assert episodes(findings) == [(0, 2.5), (0, 2.5)]
    assert {one.subject.partition("@")[2] for one in findings} == {"120,120", "420,120"}


def test_a_helmeted_neighbour_does_not_cover_a_bare_head() -> None:
    pictures = together(looks("oooooo", x=100), looks("nnnnnn", x=160))

    findings, _ = run(detector(), pictures, end=10)

    assert episodes(findings) == [(0, 2.5)]


def test_a_walking_head_is_one_violation() -> None:
    # A head of 40 pixels is some 0.25 m, so 220 pixels a second are a walk of 1.4 m/s.
    findings, _ = run(detector(), looks("oooooo.oooo", speed=220), end=30)

    assert episodes(findings) == [(0, 5)]


def test_a_track_broken_by_a_jump_goes_on_near_its_place() -> None:
    # Unseen for 4 s and found again 120 pixels on: a new track, the same violation.
    found = [*looks("oooooo", x=100), *looks("." * 8, start=3), *looks("oooooo", x=220, start=7)]
    # 400 pixels on it is another head.
    other = [*looks("oooooo", x=100), *looks("." * 8, start=3), *looks("oooooo", x=500, start=7)]

    assert episodes(run(detector(), found, end=30)[0]) == [(0, 9.5)]
    assert episodes(run(detector(), other, end=30)[0]) == [(0, 2.5), (7, 9.5)]


def test_a_new_head_beside_a_bare_one_that_stays_is_another_violation() -> None:
    pictures = together(looks("o" * 20, x=100), looks("o" * 12, x=180, start=4))

    findings, _ = run(detector(), pictures, end=30)

    assert episodes(findings) == [(0, 9.5), (4, 9.5)]


def test_a_bare_head_beside_one_that_was_covered_is_another_violation() -> None:
    pictures = together(looks("oooo" + "n" * 20, x=100), looks("." * 8 + "oooo" + "." * 12, x=180))

    findings, _ = run(detector(), pictures, end=30)

    assert episodes(findings) == [(0, 1.5), (4, 5.5)]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        # Back 12.5 s after, within 3 s and 10 s together: confirmed later than that, but the same.
        ("oooo" + "." * 24 + "oooo", [(0, 15.5)]),
        ("oooo" + "." * 25 + "oooo", [(0, 1.5), (14.5, 16)]),
        # Over and over.
        (("oooo" + "." * 24) * 5, [(0, 57.5)]),
        # Missed now and then when back.
        ("oooo" + "." * 24 + "o..oo.oo", [(0, 17.5)]),
        # Not confirmed within 5 s.
        ("oooo" + "." * 24 + "o....o....oooo", [(0, 1.5), (19, 20.5)]),
        # A glimpse is nobody.
        ("oooo" + "." * 24 + "o", [(0, 1.5)]),
        # The same where the head was covered all the while.
        ("oooo" + "n" * 24 + "oooo", [(0, 15.5)]),
        ("oooo" + "n" * 25 + "oooooo", [(0, 1.5), (14.5, 17)]),
        ("oooo" + "n" * 24 + "onnnnn", [(0, 1.5)]),
        # And where a cap was, or is, taken for a helmet.
        ("1111" + "." * 24 + "1111", [(0, 15.5)]),
        ("1111" + "." * 25 + "1111", [(0, 1.5), (14.5, 16)]),
        ("oooo" + "." * 24 + "2416", [(0, 15.5)]),
        ("oooo" + "9" * 24 + "1111", [(0, 15.5)]),
    ],
)
def test_who_is_seen_again_in_time_is_waited_for(
    drawn: str, expected: list[tuple[float, float | None]]
) -> None:
    assert ended(drawn)[1] == expected


def test_what_may_still_go_on_is_neither_closed_nor_settled() -> None:
    watch = detector()
    run(watch, looks("oooo" + "." * 24 + "o"))  # last at 1.5, held until 14.5, back at 14

    assert watch.advance(at(16.9)) == []
    assert watch.settled_at == at(14)
    assert run(watch, looks("ooo", start=14.5)) == ([], [])
    assert episodes(findings_of(watch.finish(at(30)))) == [(0, 15.5)]

    # Unless nobody comes: then when the track is gone, and by `linger` at the latest.
    watch = detector()
    run(watch, looks("oooo" + "." * 24 + "o"))
    assert at(1.5) + watch.linger == at(19.5)
    assert episodes(findings_of(watch.advance(at(17)))) == [(0, 1.5)]
    assert watch.settled_at == at(17)
    watch = detector(HelmetRule(max_gap_s=2))  # silence is noticed before
    run(watch, looks("oooo" + "." * 24 + "o"))
    assert findings_of(watch.advance(at(15.9))) == []
    assert episodes(findings_of(watch.advance(at(16)))) == [(0, 1.5)]
    assert watch.settled_at == at(16)


def test_only_who_may_carry_an_episode_on_is_waited_for() -> None:
    # A helmet came, and stays: for 5 s it might have been a mistake.
    watch = detector()
    run(watch, looks("oooo" + "." * 20 + "n" * 10))
    assert findings_of(watch.advance(at(16.9))) == []
    assert episodes(findings_of(watch.advance(at(17)))) == [(0, 1.5)]

    # Two are away, and one is back: who carries one episode on is not the other.
    watch = detector()
    away = looks("oooo" + "." * 23)
    run(watch, together(away, looks("oooo", x=180), looks("oooo", x=100, start=13.5)))
    assert episodes(findings_of(watch.advance(at(15.1)))) == [(0, 1.5)]


def test_who_came_from_afar_goes_on_where_they_are_bare() -> None:
    pictures = together(
        looks("oooo" + "." * 40),
        looks("nn", x=400, speed=-220, start=7, score=0.6),
        looks("oooo", x=180, start=8),
    )
    assert episodes(run(detector(), pictures, end=40)[0]) == [(0, 9.5)]


def test_what_would_be_confirmed_anew_goes_on() -> None:
    """Bare on few of the looks, but well seen: the helmets between are not."""
    heads, helmets = looks("o.." * 20, score=0.9), looks(".nn" * 20, score=0.6)
    findings, _ = run(detector(HelmetRule(sightings=2)), together(heads, helmets), end=60)
    assert episodes(findings) == [(0, 28.5)]


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        # One stays; the other is back in time, and too late.
        ("o" * 32, [(0, 15.5), (0, 15.5)]),
        # Both are away: each goes on where it was; one of them comes too late.
        ("oooo" + "." * 24 + "oooo", [(0, 15.5), (0, 15.5)]),
        ("oooo" + "." * 26 + "oooo", [(0, 1.5), (0, 15.5), (15, 16.5)]),
        # The other was not bare-headed before.
        ("nnnn" + "n" * 24 + "nnnn", [(0, 15.5)]),
    ],
)
def test_of_two_who_stand_side_by_side_each_goes_on(
    beside: str, expected: list[tuple[float, float | None]]
) -> None:
    away = looks("oooo" + "." * 24 + "oooo", x=100)
    empty = looks("." * 80)

    findings, _ = run(detector(), together(empty, away, looks(beside, x=180)))

    assert sorted(episodes(findings)) == expected


def test_coverage_needs_enough_looks() -> None:
    # Two a second, none for six seconds, then one every three seconds, then two a second.
    times = [*(t / 2 for t in range(8)), 9.5, 12.5, 15.5, 18.5, *(20 + t / 2 for t in range(6))]

    _, coverage = run(detector(), [look(t) for t in times], end=23)

    assert spans(coverage) == [
        (0, 1.5, "warming_up"),
        (1.5, 3.5, None),
        (3.5, 9.5, "no_frames"),
        (9.5, 20.5, "too_few_frames"),
        (20.5, 23, None),
    ]


def test_frames_that_stop_end_a_violation_at_its_last_sighting() -> None:
    watch = detector()
    run(watch, looks("oooooooo"))

    assert watch.advance(at(8.4)) == []
    assert spans(coverage_of(watch.advance(at(8.5)))) == [(1.5, 3.5, None)]
    assert watch.open
    assert watch.advance(at(16.4)) == []
    findings = findings_of(watch.advance(at(16.5)))

    assert episodes(findings) == [(0, 3.5)]
    assert findings[-1].message_en.endswith("then no frames")
    assert not watch.open


def test_a_head_that_may_yet_be_confirmed_keeps_the_detector_open() -> None:
    watch = detector()
    run(watch, looks("ooo"))
    assert watch.open

    run(watch, looks("......", start=1.5))
    assert not watch.open

    run(watch, looks("nnnnnn", start=4.5))
    assert not watch.open


def test_a_picture_said_twice_is_one_look() -> None:
    findings, _ = run(detector(), [look(t, box("head", 0.9, 100)) for t in (0, 0, 1, 1, 2)])

    assert findings == []


def test_one_look_may_be_enough_where_the_rule_says_so() -> None:
    rule = HelmetRule(sightings=1, looks=1, cooldown_s=0)

    findings, coverage = run(detector(rule), looks("..o......."), end=5)

    assert episodes(findings) == [(1, 1)]
    assert spans(coverage) == [(0, 5, None)]


def test_mistakes_of_the_caller_are_refused() -> None:
    watch = HelmetDetector(SITE, "cam-2", RULE)
    with pytest.raises(ValueError, match="cam-1"):
        watch.observe(look(0))
    watch = detector()
    watch.observe(look(5))
    with pytest.raises(ValueError, match="settled"):
        watch.observe(look(4))


def confirmed(*boxes: Box) -> bool:
    pictures = [look(t / 2, *boxes) for t in range(8)]
    return run(detector(), pictures)[0] != []


BARE = box("head", 0.8, 120, 100)
"""The head of `person(0.9, 100)`, who stands from 100 to 340."""


@pytest.mark.parametrize(
    ("helmet", "violated"),
    [
        (box("helmet", 0.9, 122, 104), False),  # on the head
        (box("helmet", 0.9, 120, 190), True),  # in the hand
        (box("helmet", 0.9, 150, 145), True),  # held before the chest, high in the box
        (box("helmet", 0.9, 600, 300), True),  # on a table
    ],
)
def test_a_helmet_counts_on_the_head_only(helmet: Box, violated: bool) -> None:
    assert confirmed(person(0.9, 100), BARE, helmet) == violated


def test_a_helmet_on_a_table_is_no_head_either() -> None:
    # The model is not sure what it is; somebody else is in the picture.
    lying = (box("helmet", 0.9, 600, 300), box("head", 0.6, 602, 300))
    assert not confirmed(person(0.9, 100), *lying)


def test_a_helmet_in_the_hand_does_not_stand_in_for_the_head() -> None:
    """The head is missed now and then; the helmet below is always seen."""
    held = box("helmet", 0.95, 125, 185)
    pictures = [
        look(t / 2, person(0.9, 100), held, *[BARE] * (drawn == "o"))
        for t, drawn in enumerate("oo.oo.oo.o")
    ]
    findings, _ = run(detector(), pictures, end=20)
    assert episodes(findings) == [(0, 4.5)]


def test_where_no_person_is_seen_helmets_count_as_they_are() -> None:
    assert not confirmed(BARE, box("helmet", 0.9, 122, 104))


def test_a_bent_persons_helmet_is_worn() -> None:
    bent = person(0.9, 100, 100, width=200, height=180)
    assert not confirmed(bent, box("helmet", 0.9, 110, 180), box("head", 0.6, 112, 180))


def test_a_weak_box_keeps_a_track_and_no_more() -> None:
    """Walking on while badly seen: who comes out of it is who went in."""
    speed = 220.0

    def seen(t: float) -> Box:
        return box("head", 0.4 if 1.5 < t < 4.0 else 0.8, 100 + speed * t)

    walk = [look(t / 2, seen(t / 2)) for t in range(14)]
    assert episodes(run(detector(), walk, end=30)[0]) == [(0, 6.5)]
    # Weak boxes alone are nobody.
    weak = [look(t / 2, box("head", 0.4, 100)) for t in range(14)]
    assert run(detector(), weak, end=30)[0] == []


def planned(**settings: object) -> HelmetDetector:
    plan = Plan(CameraSettings.model_validate(settings))
    return HelmetDetector(SITE, "cam-1", RULE, plan=plan)


LEFT_HALF = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]


@pytest.mark.parametrize(
    ("settings", "x", "violated"),
    [
        ({"masks": [LEFT_HALF]}, 100.0, False),
        ({"masks": [LEFT_HALF]}, 900.0, True),
        ({"areas": [LEFT_HALF]}, 100.0, True),
        ({"areas": [LEFT_HALF]}, 900.0, False),
        ({"min_head_px": 40}, 100.0, True),
        ({"min_head_px": 41}, 100.0, False),
    ],
)
def test_heads_count_where_the_plan_says(
    settings: dict[str, object], x: float, violated: bool
) -> None:
    assert bool(run(planned(**settings), looks("oooooo", x=x))[0]) == violated


@pytest.mark.parametrize("unfit", list(Unfit))
def test_an_unfit_camera_is_never_compliant(unfit: Unfit) -> None:
    _, coverage = run(detector(), [look(t / 2, unfit=unfit) for t in range(20)], end=9.5)
    assert spans(coverage)[-1][2] == f"camera_{unfit}"
    assert None not in {reason for _, _, reason in spans(coverage)}


@pytest.mark.parametrize(
    ("unfit", "settings", "violated"),
    [
        (Unfit.DARK, {}, False),
        (Unfit.BLURRED, {}, False),
        (Unfit.MOVED, {}, True),
        (Unfit.MOVED, {"masks": [LEFT_HALF]}, False),
        (Unfit.SMALL_HEADS, {}, True),
    ],
)
def test_an_unfit_camera_proves_what_it_sees_and_no_more(
    unfit: Unfit, settings: dict[str, object], violated: bool
) -> None:
    pictures = [look(t / 2, box("head", 0.8, 900), unfit=unfit) for t in range(8)]
    assert bool(run(planned(**settings), pictures)[0]) == violated


def test_a_violation_ends_when_the_camera_cannot_see() -> None:
    dark = [look(3 + t / 2, unfit=Unfit.DARK) for t in range(40)]
    findings, coverage = run(detector(), [*looks("oooooo"), *dark], end=22.5)
    assert episodes(findings) == [(0, 2.5)]
    assert findings[-1].message_en.endswith("then the picture is of no use")
    assert spans(coverage) == [(0, 1.5, "warming_up"), (1.5, 3, None), (3, 22.5, "camera_dark")]


def test_what_was_skipped_is_the_reason_where_looks_are_too_few() -> None:
    pictures = [look(3.0 * t, skipped=5) for t in range(6)]
    _, coverage = run(detector(), pictures, end=15)
    assert spans(coverage) == [(0, 6, "warming_up"), (6, 15, "frames_skipped")]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        # A cap that the detector takes for a helmet: confirmed like a bare head, once.
        ("1111", [(0, 1.5)]),
        ("1" * 60, [(0, 29.5)]),
        ("111", []),
        ("1.11.1", [(0, 2.5)]),
        # Looks on which it was not asked follow the others.
        ("1n1n", [(0, 1.5)]),
        # All answers together decide: sure ones weigh more.
        ("2416", [(0, 1.5)]),
        ("99199", []),
        ("9" * 4 + "n" * 19 + "1" + "9" + "n" * 18, []),
        ("9" * 4 + "n" * 19 + "1" + "n" * 19, []),
        ("5555555", []),
        # One answer decides nothing.
        ("1nnnnn", []),
        ("1nnnn1", [(0, 2.5)]),
        # Before the first doubt it was a helmet, and no better seen: that has to leave the looks.
        ("9111111", [(0.5, 3)]),
        # Seen now as a head, now as a helmet.
        ("o1o1o1", [(0, 2.5)]),
        ("ononon", []),
        ("o9o9o9", []),
        # A still scene repeats what was heard, and its helmets with it: no further answers.
        ("1rrr", []),
        ("1rr1rr1rrrrrrr", [(0, 6.5)]),
        ("1rr9rrrrrr", []),
        ("1rnnnn", []),
        ("1rrrrrnnnn", []),
        ("o1rn", []),
        # A helmet is put on, and the cap again.
        ("1111" + "9" * 20, [(0, 2.5)]),
        ("11111111" + "9" * 8 + "11111111", [(0, 11.5)]),
    ],
)
def test_a_cap_is_told_from_a_helmet_by_all_that_was_heard_of_its_track(
    drawn: str, expected: list[tuple[float, float | None]]
) -> None:
    assert ended(drawn)[1] == expected


WAVERING = "647" * 10
"""Answers about an undecided head, their mean just above one half, for longer than a violation is
held open."""


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        # By one threshold each fall of the mean below one half was a violation of its own.
        (("4444" + WAVERING) * 3, [(0, 50.5)]),
        # What wavers from the beginning is none.
        (WAVERING, []),
        ("9999" + WAVERING, []),
        # Ended by clear answers, and by those of which none doubts; a single one changes nothing.
        ("4444" + WAVERING + "9" * 20, [(0, 17)]),
        ("4444" + WAVERING + "6" * 20, [(0, 18.5)]),
        ("4444" + WAVERING + "9" + WAVERING, [(0, 32)]),
        # A bare head covered by something undecided is still the same violation.
        ("oooo" + WAVERING, [(0, 16.5)]),
        ("oooo" + "6" * 20, [(0, 1.5)]),
    ],
)
def test_an_undecided_head_is_one_violation(
    drawn: str, expected: list[tuple[float, float | None]]
) -> None:
    assert ended(drawn)[1] == expected


@pytest.mark.parametrize("cap", ["1", "2", "3", "4"])
def test_a_helmet_put_on_for_a_cap_ends_the_violation_as_soon_as_their_mean_believes(
    cap: str,
) -> None:
    sure = logit(0.95)
    looked = range(2, RULE.looks + 1)  # one answer decides nothing
    needed = next(n for n in looked if n * sure + (RULE.looks - n) * logit(int(cap) / 10) >= 0)
    scene = [
        *looks(cap * 12),
        *(look(6 + t / 2, box("helmet", 0.8, 100, second_look=0.95)) for t in range(40)),
    ]
    ((_, closed),) = episodes(run(detector(), scene)[0])
    # The last wrong look is the one before.
    assert closed == 6 + (needed - 2) * EVERY_S


def test_a_finding_on_a_cap_says_what_both_looks_said() -> None:
    findings, _ = ended("1n2n12")

    opened, closed = findings
    assert opened.evidence[0].boxes == (("head", 0.8, 100, 100, 140, 140),)
    assert [one.values for one in closed.evidence] == [
        {"score": 0.8, "second_look": 0.1},
        {"score": 0.8},
        {"score": 0.8, "second_look": 0.2},
        {"score": 0.8},
        {"score": 0.8, "second_look": 0.2},
    ]
    assert opened.measured == {"score": 0.8, "sightings": 4}


def test_one_cap_does_not_bare_the_helmet_beside_it() -> None:
    pictures = together(looks("111111", x=100), looks("999999", x=300), looks("nnnnnn", x=500))

    findings, _ = run(detector(), pictures, end=10)

    assert {one.subject.partition("@")[2] for one in findings} == {"120,120"}


def test_a_cap_that_may_yet_be_confirmed_keeps_the_detector_open() -> None:
    watch = detector()
    run(watch, looks("999n"))
    assert not watch.open
    run(watch, looks("1", start=2))
    assert watch.open
    run(watch, looks("9nnnnn", start=2.5))
    assert not watch.open


def test_a_cap_nobody_wears_is_no_sighting() -> None:
    lying = box("helmet", 0.9, 600, 300, second_look=0.1)
    assert not confirmed(person(0.9, 100), lying)


def test_a_helmet_in_the_hand_does_not_stand_in_for_a_cap() -> None:
    cap, held = box("helmet", 0.8, 120, 100, second_look=0.1), box("helmet", 0.95, 150, 145)
    assert confirmed(person(0.9, 100), cap, held)
    pictures = [look(t / 2, person(0.9, 100), cap, held) for t in range(8)]
    findings, _ = run(detector(), pictures, end=4)
    assert {one.subject.partition("@")[2] for one in findings} == {"140,120"}


def test_what_the_second_look_said_of_a_head_changes_nothing() -> None:
    assert confirmed(box("head", 0.8, 100, second_look=0.99))
