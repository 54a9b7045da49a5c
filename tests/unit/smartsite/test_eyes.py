"""The eyes: what goes to the model, and what is remembered of a camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest

from detectors.vision.model import Model
from detectors.vision.picture import Image
from detectors.vision.second_look import SecondLook
from device_profiles.readings import Box, Unfit
from ingest.frame_store import FrameStore
from simulators.camera import programme
from smartsite.eyes import KEEP_SCENES, RUNS, Eyes, Leased, Look, Scene, with_skipped

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HEAD = Box("head", 0.9, (100.0, 100.0, 140.0, 140.0))
PERSON = Box("person", 0.9, (100.0, 100.0, 180.0, 340.0))
WHOLE = {"tiles": "off"}
ZONE = WHOLE | {
    "zone": [{"name": "z", "polygon": [[0, 0], [1, 0], [1, 1]], "no_entry": True, "vest": False}]
}


class Seer:
    """A model that sees the same on every picture, and counts."""

    side = 416
    sha256 = "ab" * 32

    def __init__(self, *boxes: Box) -> None:
        self.boxes = list(boxes)
        self.batches: list[int] = []
        self.parts = 0

    def look_at_many(self, pictures: Sequence[bytes], least: float) -> list[list[Box]]:
        self.batches.append(len(pictures))
        return [list(self.boxes) for _ in pictures]

    def see(self, image: Image, least: float, *, every: bool = False) -> list[Box]:
        self.parts += 1
        return []


@cache
def still() -> bytes:
    """A scene that always looks the same."""
    return programme()[40].jpeg


def night() -> bytes:
    picture = cv2.imdecode(np.frombuffer(still(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return cv2.imencode(".jpg", picture // 12)[1].tobytes()


class Stand:
    """Eyes, a model, a store, and frames to look at."""

    def __init__(self, folder: Path, *boxes: Box) -> None:
        self.store = FrameStore(folder)
        self.seer = Seer(*boxes)
        self.eyes = Eyes(cast("Model", self.seer), self.store, 0.3)

    def frame(
        self, second: float, jpeg: bytes, camera: int = 1, plan: Mapping[str, Any] | None = None
    ) -> Leased:
        sha256 = self.store.put(jpeg)
        at = T0 + timedelta(seconds=second)
        return Leased(camera, "s", f"cam-{camera}", at, at, sha256, plan or WHOLE)

    def look(self, *frames: Leased) -> list[Look]:
        looks = []
        for _, look in self.eyes.look(frames):
            assert isinstance(look, Look)
            looks.append(look)
        return looks

    def watch(
        self, seconds: Sequence[float], jpeg: bytes, plan: Mapping[str, Any] | None = None
    ) -> list[Look]:
        return [self.look(self.frame(second, jpeg, plan=plan))[0] for second in seconds]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_a_still_scene_is_looked_at_once(stand: Stand) -> None:
    looks = stand.watch([t / 2 for t in range(18)], still())
    assert [look.still for look in looks] == [False] + [True] * 17
    assert stand.seer.batches == [1]


@pytest.mark.parametrize(
    ("box", "plan", "doubtful"),
    [
        (HEAD, None, True),
        (PERSON, None, False),
        (PERSON, ZONE, True),
        (Box("helmet", 0.9, HEAD.box), None, False),
    ],
)
def test_a_still_scene_that_may_be_a_violation_is_looked_at_again(
    tmp_path: Path, box: Box, plan: Mapping[str, Any] | None, doubtful: bool
) -> None:
    stand = Stand(tmp_path, box)
    looks = stand.watch([t / 2 for t in range(18)], still(), plan)
    runs = [place for place, look in enumerate(looks) if not look.still]
    # 1.2 s apart, and no more than it takes.
    assert runs == ([0, 3, 6][:RUNS] if doubtful else [0])
    assert all(look.boxes == (box,) for look in looks)


class Doubter:
    """A second look that says what it is told to."""

    least = 0.5

    def __init__(self, share: float) -> None:
        self.share = share
        self.asked: list[int] = []

    def __call__(self, crops: Sequence[Image]) -> list[float]:
        self.asked.append(len(crops))
        return [self.share] * len(crops)


@pytest.mark.parametrize(("share", "label", "asked"), [(0.9, "helmet", 2), (0.2, "head", 24)])
def test_a_helmet_is_looked_at_twice_until_it_is_believed(
    stand: Stand, share: float, label: str, asked: int
) -> None:
    doubter = Doubter(share)
    seer = Seer(PERSON, Box("helmet", 0.8, HEAD.box))
    eyes = Eyes(cast("Model", seer), stand.store, 0.3, cast("SecondLook", doubter))
    # Two scenes in turn: each picture goes to the model.
    pictures = [programme()[n].jpeg for n in (31, 35)]
    for turn in range(24):
        ((_, look),) = eyes.look([stand.frame(turn / 2, pictures[turn % 2])])
        assert isinstance(look, Look)
        assert not look.still
        assert look.boxes == (PERSON, Box(label, 0.8, HEAD.box))
    # Believed, it is asked for again after ten seconds.
    assert doubter.asked == [1] * asked


def test_bare_heads_and_weak_helmets_are_not_looked_at_twice(stand: Stand) -> None:
    doubter = Doubter(0.1)
    seer = Seer(HEAD, Box("helmet", 0.2, HEAD.box))
    eyes = Eyes(cast("Model", seer), stand.store, 0.1, cast("SecondLook", doubter))
    eyes.look([stand.frame(0, still())])
    assert doubter.asked == []


def test_frames_of_several_cameras_go_to_the_model_together(stand: Stand) -> None:
    jpegs = [picture.jpeg for picture in programme()[31:36]]
    frames = [stand.frame(t, jpegs[t], camera) for t in range(2) for camera in range(3)]
    looks = stand.look(*frames)
    assert [look.frame for look in looks] == frames
    assert stand.seer.batches[0] == 3


def test_a_camera_that_cannot_see_costs_no_run_and_is_looked_at_when_it_can(stand: Stand) -> None:
    stand.watch([0], still())
    dark = stand.watch([1, 2, 3, 4, 5], night())
    assert [look.unfit for look in dark] == [None, None, *[Unfit.DARK] * 3]
    runs = len(stand.seer.batches)
    assert all(look.boxes == () for look in dark)
    assert dark[-1].fitness["light"] < 50
    light = stand.watch([6, 7, 8, 9], still())
    assert [look.unfit for look in light] == [*[Unfit.DARK] * 2, None, None]
    # Though it stays still, it was not looked at yet.
    assert [look.still for look in light[2:]] == [False, True]
    assert len(stand.seer.batches) == runs + 1


def test_what_is_not_there_or_no_picture_is_said(stand: Stand) -> None:
    gone, broken = stand.frame(0, still(), 1), stand.frame(0, b"no picture", 2)
    stand.store.path(gone.sha256).unlink()
    good = stand.frame(0, programme()[0].jpeg, 3)
    found = [look for _, look in stand.eyes.look([gone, broken, good])]
    assert found[:2] == ["missing", "undecodable"]
    assert isinstance(found[2], Look)


def test_a_large_picture_is_looked_at_in_tiles_where_that_is_registered(stand: Stand) -> None:
    picture = cv2.imdecode(np.frombuffer(still(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    large = cv2.imencode(".jpg", cv2.resize(picture, (1920, 1080)))[1].tobytes()
    stand.watch([0], large, {"tiles": "2x2"})
    assert (stand.seer.parts, stand.seer.batches) == (5, [])
    stand.watch([1], large, WHOLE)
    assert (stand.seer.parts, stand.seer.batches) == (5, [1])


def test_scenes_are_handed_out_and_outlive_a_restart(tmp_path: Path, stand: Stand) -> None:
    plan: dict[str, Any] = {"masks": []}
    jpegs = [picture.jpeg for picture in programme()[31:43]]
    for place, jpeg in enumerate(jpegs):
        stand.look(stand.frame(place, jpeg, plan=plan))
    assert stand.eyes.scenes(T0) == []
    (scene,) = stand.eyes.scenes(T0 + KEEP_SCENES)
    assert stand.eyes.scenes(T0 + KEEP_SCENES) == []
    assert (scene.device_id, scene.camera) == (1, plan)

    def moved(*scenes: Scene, plan: Mapping[str, Any]) -> bool:
        again = Stand(tmp_path)
        frames = [again.frame(t, programme()[t % 5].jpeg, plan=plan) for t in range(40)]
        assert again.eyes.strangers(frames) == [1]
        again.eyes.recall(scenes)
        return again.look(*frames)[-1].unfit is Unfit.MOVED

    assert moved(scene, plan=plan)
    assert not moved(plan=plan)
    # Under other settings it is another scene.
    assert not moved(scene, plan=plan | {"min_head_px": 9})
    assert not moved(Scene(1, plan, b"?"), plan=plan)


def test_settings_of_a_later_version_do_not_stop_the_looking(stand: Stand) -> None:
    assert stand.watch([0], still(), {"unheard_of": 1})


def test_skipped_frames_are_counted_with_the_next_look(stand: Stand) -> None:
    seen = stand.eyes.look([stand.frame(0, still()), stand.frame(1, still())])
    skipped = Counter({1: 5, 2: 7})
    counted = with_skipped([(seen[0][0], "missing"), *seen], skipped)
    assert [look if isinstance(look, str) else look.skipped for _, look in counted] == [
        "missing",
        6,
        0,
    ]
    assert skipped == {2: 7}
