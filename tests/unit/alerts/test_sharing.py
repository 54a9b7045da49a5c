"""Copies for sharing: who is marked, whose head is unreadable, and how unreadable."""

from __future__ import annotations

from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from alerts.evidence import recipe_of
from alerts.sharing import MEANS, Corners, annotate, best_picture, strangers
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
    assert strangers([corners(HEAD)], [HEAD, OTHER]) == [corners(OTHER)]
    assert strangers([corners(HEAD)], [HEAD]) == []


def test_a_person_whose_head_was_not_seen_has_one_all_the_same() -> None:
    (hidden,) = strangers([corners(HEAD)], [HEAD, person(80), person(400)])
    left, top, right, bottom = hidden
    assert 400 < left < right < 480
    assert top == 90
    assert bottom < 90 + 240 / 3


def test_of_a_marked_person_the_own_head_stays_and_the_neighbours_goes() -> None:
    marked = person(80)
    own, behind = HEAD, ("head", 0.7, 130.0, 92.0, 160.0, 122.0)
    assert strangers([corners(marked)], [own, behind, marked]) == [corners(behind)]


def noise(width: int = 640, height: int = 360) -> bytes:
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def decoded(jpeg: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_of_a_hidden_head_only_a_few_means_are_left() -> None:
    original = noise()
    copy = annotate(original, [HEAD], [corners(OTHER)])
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
    copy = decoded(annotate(original, [HEAD], [], "cam-1 2026-11-21 08:00:00Z 工地"))
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
    copy = annotate(noise(), [("head", 0.5, *box)], [box])
    assert decoded(copy).shape == (360, 640, 3)


@pytest.mark.parametrize("data", [b"", b"hello", noise()[:200]])
def test_what_is_no_picture_is_rejected(data: bytes) -> None:
    with pytest.raises(Rejected):
        annotate(data, [], [])


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
