"""Copies for sharing: who is marked, whose head is unreadable, and how unreadable."""

from __future__ import annotations

from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from alerts.concealing import MEANS, Concealed, Corners, conceal, strangers
from alerts.evidence import recipe_of
from alerts.sharing import annotate, best_picture
from device_profiles.errors import Rejected
from device_profiles.findings import Evidence
from device_profiles.readings import Source

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HEAD = ("head", 0.9, 100.0, 100.0, 140.0, 140.0)
OTHER = ("helmet", 0.8, 400.0, 100.0, 440.0, 140.0)


def corners(box: tuple[str, float, float, float, float, float]) -> Corners:
    return box[2:]


def person(left: float, top: float = 90.0) -> tuple[str, float, float, float, float, float]:
    return ("person", 0.9, left, top, left + 80, top + 240)


def test_the_heads_of_all_others_are_hidden() -> None:
    assert strangers([HEAD], [HEAD, OTHER]) == ((corners(OTHER),), (corners(HEAD),))
    assert strangers([HEAD], [HEAD]).hidden == ()


def test_a_person_whose_head_was_not_seen_has_one_all_the_same() -> None:
    (hidden,) = strangers([HEAD], [HEAD, person(80), person(400)]).hidden
    left, top, right, bottom = hidden
    assert 400 < left < right < 480
    assert top == 90
    assert bottom < 90 + 240 / 3


def test_of_a_marked_person_the_own_head_stays_and_the_neighbours_goes() -> None:
    marked = person(80)
    own, behind = HEAD, ("head", 0.7, 130.0, 92.0, 160.0, 122.0)
    assert strangers([marked], [own, behind, marked]) == ((corners(behind),), (corners(own),))


def test_a_helmet_the_second_look_doubted_is_a_head_like_any_other() -> None:
    doubted = ("helmet", 0.9, 300.0, 100.0, 340.0, 140.0, 0.1)
    assert strangers([HEAD], [doubted]).hidden == (doubted[2:6],)
    assert strangers([("head", *doubted[1:6])], [doubted]) == ((), (doubted[2:6],))


def test_a_marked_person_far_off_is_nobody_elses_head() -> None:
    far = ("person", 0.9, 420.0, 100.0, 480.0, 260.0)
    near = ("person", 0.9, 380.0, 150.0, 560.0, 700.0)
    (hidden,) = strangers([far], [far, near]).hidden
    assert hidden[0] > 380
    assert hidden[1] == 150
    # Nor is that person's head, before the other's face.
    own = ("head", 0.9, 442.0, 150.0, 462.0, 170.0)
    low = ("person", 0.9, 430.0, 150.0, 475.0, 280.0)
    assert strangers([own], [own, low, near]) == ((hidden,), (corners(own),))
    assert strangers([own], [own, near]).hidden == (hidden,)


def test_of_two_people_behind_each_other_one_is_a_stranger() -> None:
    one, other = person(80), person(110)
    (hidden,) = strangers([one], [one, other]).hidden
    assert 110 < hidden[0] < hidden[2] < 190
    # A head is one person's only: the other one has a head, too.
    own = ("head", 0.9, 105.0, 90.0, 135.0, 125.0)
    assert strangers([own], [own, one, other]).hidden == (hidden,)


@pytest.mark.parametrize("label", ["vest", "no_vest"])
def test_a_torso_without_a_person_has_a_head_above_it(label: str) -> None:
    torso = (label, 0.9, 400.0, 100.0, 460.0, 180.0)
    ((left, top, right, bottom),) = strangers([HEAD], [HEAD, torso]).hidden
    assert 400 < left < right < 460
    assert 50 < top < bottom < 115
    own = ("head", 0.9, 412.0, 60.0, 448.0, 100.0)
    assert strangers([HEAD], [HEAD, own, torso]).hidden == (corners(own),)
    # Marked itself, or worn by a person who is seen, it hides nobody's head.
    assert strangers([torso], [torso, own]) == ((), (corners(own),))
    around = ("person", 0.9, 390.0, 60.0, 470.0, 300.0)
    assert strangers([HEAD], [HEAD, own, around, torso]).hidden == (corners(own),)


def test_a_verdict_on_a_vest_may_be_drawn_on_the_person() -> None:
    one, own = person(80), HEAD
    drawn = ("no_vest", *one[1:])
    torso = ("no_vest", 0.9, 90.0, 140.0, 150.0, 220.0)
    assert strangers([drawn], [one, own, torso, OTHER]) == ((corners(OTHER),), (corners(own),))


def test_the_head_it_is_about_stays_whole_in_a_crowd() -> None:
    behind = ("helmet", 0.8, 120.0, 95.0, 160.0, 135.0)
    image = decoded(noise())
    copy = image.copy()
    conceal(copy, strangers([HEAD], [HEAD, behind]))
    assert (copy[100:140, 100:140] == image[100:140, 100:140]).all()
    rest = np.s_[95:135, 141:160]
    assert copy[rest].std() < image[rest].std() / 4


@pytest.mark.parametrize("seed", range(40))
def test_nobody_but_who_it_is_about_keeps_a_readable_head(seed: int) -> None:
    random = np.random.default_rng(seed)
    people: list[dict[str, Corners]] = []
    while len(people) < 7:
        height = float(random.uniform(80, 300))
        width = height * float(random.uniform(0.3, 0.5))
        left, top = float(random.uniform(0, 640 - width)), float(random.uniform(0, 400))
        middle = left + width / 2
        head = (middle - 0.07 * height, top, middle + 0.07 * height, top + 0.15 * height)
        torso = (middle - 0.13 * height, top + 0.16 * height)
        # Whose heads cover one another, nobody could tell apart.
        if all(np.hypot(head[0] - x["head"][0], top - x["head"][1]) > 25 for x in people):
            people.append(
                {
                    "head": head,
                    "person": (left, top, left + width, top + height),
                    "vest": (*torso, middle + 0.13 * height, top + 0.5 * height),
                }
            )
    about, *others = people
    drawn = "head" if seed % 2 else "person"
    boxes = [(label, 0.9, *about[label]) for label in about]
    for other in others:
        # The model misses this or that of them.
        known = random.choice(["head", "person", "vest", "head person", "person vest", "head vest"])
        boxes += [(label, 0.9, *other[label]) for label in str(known).split()]
    image = random.integers(0, 256, (720, 640, 3), np.uint8)
    copy = image.copy()
    conceal(copy, strangers([(drawn, 0.9, *about[drawn])], boxes))
    same = (copy == image).all(axis=2)
    left, top, right, bottom = (round(side) for side in about["head"])
    assert same[top:bottom, left:right].all()
    same[top:bottom, left:right] = False
    for other in others:
        left, top, right, bottom = (round(side) for side in other["head"])
        assert same[top:bottom, left:right].mean() < 0.1


def noise(width: int = 640, height: int = 360) -> bytes:
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def decoded(jpeg: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_of_a_hidden_head_only_a_few_means_are_left() -> None:
    original = noise()
    copy = annotate(original, [HEAD], Concealed((corners(OTHER),)))
    before, after = decoded(original).astype(float), decoded(copy).astype(float)
    assert after.shape == before.shape
    part = np.s_[100:140, 400:440]
    # All detail is gone, beyond what a few means can say...
    assert after[part].std() < before[part].std() / 8
    few = cv2.resize(after[part], (MEANS, MEANS), interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(few, (40, 40), interpolation=cv2.INTER_CUBIC)
    assert np.abs(smooth - after[part]).mean() < 3
    # ... round about the box, too, and nowhere else.
    assert after[92:100, 400:440].std() < before[92:100, 400:440].std() / 4
    assert np.abs(after[200:340, 100:600] - before[200:340, 100:600]).mean() < 12
    assert np.abs(after[104:136, 104:136] - before[104:136, 104:136]).mean() < 12


def test_what_was_found_is_marked() -> None:
    grey = np.full((360, 640, 3), 128, np.uint8)
    original = cv2.imencode(".jpg", grey)[1].tobytes()
    copy = decoded(annotate(original, [HEAD], Concealed(), "cam-1 2026-11-21 08:00:00Z 工地"))
    blue, _, red = (copy[120, 100].astype(int)[channel] for channel in range(3))
    assert red > blue + 60
    assert (copy[340:, :200] > 200).any()


@pytest.mark.parametrize(
    "box",
    [
        (-50.0, -50.0, 20.0, 20.0),
        (630.0, 350.0, 700.0, 400.0),
        (700.0, 400.0, 800.0, 500.0),
        (10.0, 10.0, 11.0, 11.0),
        (10.0, 10.0, 10.0, 10.0),
        (-1e6, -1e6, 1e6, 1e6),
    ],
)
def test_any_box_can_be_hidden_and_drawn(box: Corners) -> None:
    copy = annotate(noise(), [("head", 0.5, *box)], Concealed((box,), (box,)))
    assert decoded(copy).shape == (360, 640, 3)


@pytest.mark.parametrize("data", [b"", b"hello", noise()[:200]])
def test_what_is_no_picture_is_rejected(data: bytes) -> None:
    with pytest.raises(Rejected):
        annotate(data, [], Concealed())


def entry(role: str, score: float | None, frame: str | None = "ab" * 32) -> Evidence:
    return Evidence(
        device="cam-1",
        observed_at=T0,
        source=Source(1, 1, 0),
        role=role,
        frame_sha256=frame,
        model_sha256="cd" * 32,
        boxes=() if score is None else (("head", score, 1.0, 2.0, 3.0, 4.0),),
    )


def test_the_best_picture_is_that_of_the_best_score() -> None:
    entries = [entry("confirmation", 0.7), entry("confirmation", 0.9), entry("last", 0.8)]
    assert best_picture(entries) is entries[1]
    assert best_picture([entry("first", None), entry("first", 0.9, None)]) is None
    assert best_picture([]) is None


def test_a_copy_is_known_by_what_is_drawn_on_which_frame() -> None:
    assert recipe_of(entry("confirmation", 0.7)) == recipe_of(entry("last", 0.7))
    assert recipe_of(entry("last", 0.7)) != recipe_of(entry("last", 0.8))
    assert recipe_of(entry("last", 0.7)) != recipe_of(entry("last", 0.7, "ef" * 32))
