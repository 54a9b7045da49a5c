"""The eyes: what goes to the model, and what is remembered of a camera."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from msgspec.structs import replace as replace_box
from prometheus_client import REGISTRY

from detectors.reported import ReportedDetector
from detectors.rules import HelmetRule, ReportedRule, Rules
from detectors.vision.model import SHIPPED, Model
from detectors.vision.picture import Image
from detectors.vision.second_look import SecondLook
from device_profiles.readings import Box, Unfit
from ingest.frame_store import FrameStore
from simulators.camera import programme
from smartsite.eyes import KEEP_SCENES, RUNS, Eyes, Leased, Look, Scene, with_skipped
from smartsite.roles.vision import as_message, scores_apart
from smartsite.settings import Settings, VisionSettings
from tests.unit.detectors import timelines
from tests.unit.detectors.timelines import SITE, findings_of, report

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HEAD = Box("head", 0.9, (100.0, 100.0, 140.0, 140.0))
PERSON = Box("person", 0.9, (100.0, 100.0, 180.0, 340.0))
HELMET = Box("helmet", 0.8, HEAD.box)
WHOLE = {"tiles": "off"}
ZONE = WHOLE | {
    "zone": [{"name": "z", "polygon": [[0, 0], [1, 0], [1, 1]], "no_entry": True, "vest": False}]
}


class Seer:
    """A model that sees the same on every picture, and counts."""

    side = 416
    sha256 = "ab" * 32

    def __init__(self, *boxes: Box, points: Mapping[str, float] | None = None) -> None:
        self.boxes = list(boxes)
        self.operating_point = points or {"head": 0.42, "helmet": 0.42, "person": 0.4}
        self.least: set[float] = set()
        self.batches: list[int] = []
        self.parts = 0

    def look_at_many(self, pictures: Sequence[bytes], least: float) -> list[list[Box]]:
        self.batches.append(len(pictures))
        self.least.add(least)
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
        self,
        second: float,
        jpeg: bytes,
        camera: int = 1,
        plan: Mapping[str, Any] | None = None,
        *,
        event: bool = False,
    ) -> Leased:
        sha256 = self.store.put(jpeg)
        at = T0 + timedelta(seconds=second)
        return Leased(camera, "s", f"cam-{camera}", at, at, sha256, plan or WHOLE, event)

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
    sha256 = "cd" * 32

    def __init__(self, share: float) -> None:
        self.share = share
        self.asked: list[int] = []

    def __call__(self, crops: Sequence[Image]) -> list[float]:
        self.asked.append(len(crops))
        return [self.share] * len(crops)


def doubted() -> float:
    return REGISTRY.get_sample_value("smartsite_helmets_doubted_total") or 0.0


@pytest.mark.parametrize(
    ("share", "asked"),
    # Believed after four answers, it is asked for again ten seconds after the last.
    [(0.90049, [0, 1, 2, 3, 23]), (0.2, list(range(24)))],
)
def test_a_helmet_is_looked_at_twice_until_it_is_believed(
    stand: Stand, share: float, asked: list[int]
) -> None:
    doubter = Doubter(share)
    seer = Seer(PERSON, HELMET)
    eyes = Eyes(cast("Model", seer), stand.store, 0.3, cast("SecondLook", doubter))
    assert eyes.second_look_sha256 == doubter.sha256
    # Two scenes in turn: each picture goes to the model.
    pictures = [programme()[n].jpeg for n in (31, 35)]
    before = doubted()
    heard = {}
    for turn in range(24):
        ((_, look),) = eyes.look([stand.frame(turn / 2, pictures[turn % 2])])
        assert isinstance(look, Look)
        assert not look.still
        # What the detector said stays as it is.
        person, helmet = look.boxes
        assert (person, helmet.label, helmet.score, helmet.box) == (
            PERSON,
            *HELMET.as_row()[:2],
            HEAD.box,
        )
        if helmet.second_look is not None:
            heard[turn] = helmet.second_look
    assert heard == dict.fromkeys(asked, round(share, 3))
    assert doubter.asked == [1] * len(asked)
    assert doubted() - before == (len(asked) if share < doubter.least else 0)


@pytest.mark.parametrize(("share", "runs"), [(0.9, 1), (0.2, RUNS)])
def test_a_still_scene_with_what_may_be_a_cap_is_looked_at_again(
    stand: Stand, share: float, runs: int
) -> None:
    doubter = Doubter(share)
    eyes = Eyes(cast("Model", Seer(HELMET)), stand.store, 0.3, cast("SecondLook", doubter))
    looks = [look for t in range(18) for _, look in eyes.look([stand.frame(t / 2, still())])]
    assert doubter.asked == [1] * runs
    assert [look.still for look in looks if isinstance(look, Look)].count(False) == runs
    # Repeated with what was heard.
    assert {look.boxes for look in looks if isinstance(look, Look)} == {
        (Box("helmet", 0.8, HEAD.box, share),)
    }


def test_bare_heads_and_weak_helmets_are_not_looked_at_twice(stand: Stand) -> None:
    doubter = Doubter(0.1)
    seer = Seer(HEAD, Box("helmet", 0.2, HEAD.box))
    eyes = Eyes(cast("Model", seer), stand.store, 0.1, cast("SecondLook", doubter))
    ((_, look),) = eyes.look([stand.frame(0, still())])
    assert doubter.asked == []
    assert isinstance(look, Look)
    assert look.boxes == tuple(seer.boxes)


def test_a_message_says_what_both_looks_said(stand: Stand) -> None:
    (look,) = stand.look(stand.frame(0, still()))
    asked = replace(look, boxes=(PERSON, replace_box(HELMET, second_look=0.125)))
    topic, payload = as_message(asked, "ab" * 32, "cd" * 32)
    said = json.loads(payload)
    assert topic == b"site/s/camera/cam-1/detections"
    assert (said["model_sha256"], said["second_look_sha256"]) == ("ab" * 32, "cd" * 32)
    assert said["boxes"][1] == [*HELMET.as_row(), 0.125]
    assert tuple(Box.of_row(row) for row in said["boxes"]) == asked.boxes
    assert "second_look_sha256" not in json.loads(as_message(look, "ab" * 32)[1])


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


def cropped() -> bytes:
    """What an AI box sends of the scene: a part of it, drawn on."""
    picture = cv2.imdecode(np.frombuffer(still(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    crop = np.ascontiguousarray(picture[40:240, 100:300])
    cv2.rectangle(crop, (20, 20), (120, 160), (0, 0, 255), 4)
    return cv2.imencode(".jpg", crop)[1].tobytes()


def test_a_turned_lens_is_found_among_pictures_of_events(stand: Stand) -> None:
    last = None
    for second in range(40):
        if second % 2:
            stand.look(stand.frame(second + 0.5, cropped(), event=True))
        # The scene, and from the twelfth second on the same mirrored.
        jpeg = programme()[31 + second % 12].jpeg
        if second >= 12:
            picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            jpeg = cv2.imencode(".jpg", np.ascontiguousarray(picture[::-1, ::-1]))[1].tobytes()
        (last,) = stand.look(stand.frame(second, jpeg))
    assert last is not None
    assert last.unfit is Unfit.MOVED


def test_pictures_of_events_leave_the_gate_alone_and_pass_none(tmp_path: Path) -> None:
    stand = Stand(tmp_path, HEAD)
    (first,) = stand.look(stand.frame(0, still()))
    events = [stand.frame(0.1 * turn, cropped(), event=True) for turn in (1, 2, 3)]
    looks = stand.look(*events)
    # Nothing of one depends on another: the model sees them together.
    assert stand.seer.batches == [1, 3]
    looks += stand.look(stand.frame(1, still()))
    assert [look.still for look in (first, *looks)] == [False, False, False, False, True]
    assert [look.frame.event for look in looks] == [True, True, True, False]


def test_a_dark_camera_says_nothing_of_the_picture_of_an_event(tmp_path: Path) -> None:
    stand = Stand(tmp_path, HEAD)
    assert stand.watch([0, 1, 2, 3], night())[-1].unfit is Unfit.DARK
    (look,) = stand.look(stand.frame(3.5, cropped(), event=True))
    assert (look.boxes, look.unfit, look.fitness) == ((HEAD,), None, {})


def flat() -> bytes:
    return cv2.imencode(".jpg", np.full((360, 640, 3), 128, np.uint8))[1].tobytes()


def blurred() -> bytes:
    picture = cv2.imdecode(np.frombuffer(still(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return cv2.imencode(".jpg", cv2.GaussianBlur(picture, (0, 0), 8))[1].tobytes()


def blown_out() -> bytes:
    picture = np.full((360, 640, 3), 255, np.uint8)
    picture[:40] = 0
    return cv2.imencode(".jpg", picture)[1].tobytes()


@pytest.mark.parametrize(
    ("picture", "unfit"),
    [
        (night, Unfit.DARK),
        (blown_out, Unfit.BRIGHT),
        (blurred, Unfit.BLURRED),
        (flat, Unfit.BLOCKED),
    ],
)
def test_the_picture_of_an_event_says_by_itself_that_nothing_can_be_seen_on_it(
    tmp_path: Path, picture: Callable[[], bytes], unfit: Unfit
) -> None:
    stand = Stand(tmp_path, HEAD)
    (look,) = stand.look(stand.frame(0, picture(), event=True))
    # The model looks all the same: what it finds it finds, and heads are there to be concealed.
    assert (look.boxes, look.unfit) == ((HEAD,), unfit)
    assert look.fitness.keys() == {"light", "sharpness", "structure"}
    # It is one picture's fault, not the camera's.
    (look,) = stand.look(stand.frame(1, still()))
    assert look.unfit is None


@pytest.mark.parametrize(("picture", "contradicted"), [(night, 0), (still, 1)])
def test_a_report_with_a_dark_picture_is_not_contradicted(
    stand: Stand, picture: Callable[[], bytes], contradicted: float
) -> None:
    (seen,) = stand.look(stand.frame(0, picture(), event=True))
    detector = ReportedDetector(SITE, "cam-1", ReportedRule())
    detector.observe(report(1))
    (told,) = findings_of(detector.observe(timelines.look(1, *seen.boxes, unfit=seen.unfit)))
    assert (told.measured["confirmed"], told.measured["contradicted"]) == (0, contradicted)


def test_pictures_of_events_are_looked_at_whole_and_tell_nothing_of_the_size_of_heads(
    tmp_path: Path,
) -> None:
    small = [Box("head", 0.9, (10.0 * n, 0.0, 10.0 * n + 6, 6.0)) for n in range(12)]
    stand = Stand(tmp_path, *small)
    picture = cv2.imdecode(np.frombuffer(still(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    large = cv2.imencode(".jpg", cv2.resize(picture, (1920, 1080)))[1].tobytes()
    plan = {"tiles": "auto"}
    for second in range(4):
        stand.look(stand.frame(second, large, plan=plan, event=True))
    assert (stand.seer.parts, stand.seer.batches) == (0, [1] * 4)
    # What the stream shows is still to be found out, by a look in tiles.
    stand.look(stand.frame(5, large, plan=plan))
    assert stand.seer.parts > 0


def test_each_helmet_on_the_picture_of_an_event_is_looked_at_twice(stand: Stand) -> None:
    doubter = Doubter(0.9)
    eyes = Eyes(cast("Model", Seer(HELMET)), stand.store, 0.3, cast("SecondLook", doubter))
    for second in range(6):
        ((_, look),) = eyes.look([stand.frame(second, cropped(), event=True)])
        assert isinstance(look, Look)
        assert look.boxes == (Box("helmet", 0.8, HEAD.box, 0.9),)
    # And what was heard there counts for no head of the stream.
    eyes.look([stand.frame(6, still())])
    assert doubter.asked == [1] * 7


def test_a_camera_of_events_alone_has_no_scene(stand: Stand) -> None:
    frame = stand.frame(0, cropped(), event=True)
    assert stand.eyes.strangers([frame]) == []
    stand.look(frame)
    assert stand.eyes.strangers([stand.frame(1, still())]) == [1]


def test_a_message_says_that_a_picture_was_of_an_event(stand: Stand) -> None:
    (look,) = stand.look(stand.frame(0, cropped(), event=True))
    assert json.loads(as_message(look, "ab" * 32)[1])["event"] is True
    (look,) = stand.look(stand.frame(1, still()))
    assert "event" not in json.loads(as_message(look, "ab" * 32)[1])


@pytest.mark.parametrize(("point", "least"), [(0.2, 0.2), (0.5, 0.3)])
def test_no_box_at_the_operating_point_is_lost(stand: Stand, point: float, least: float) -> None:
    seer = Seer(points={"head": point, "helmet": 0.6})
    eyes = Eyes(cast("Model", seer), stand.store, 0.3)
    eyes.look([stand.frame(0, still())])
    assert eyes.min_score == least
    assert seer.least == {least}


def test_a_rule_that_counts_other_scores_than_the_model_was_measured_for_is_told() -> None:
    settings = Settings(data_dir=Path("unused"))
    shipped = tomllib.loads(SHIPPED.with_suffix(".toml").read_text("utf-8"))["operating_point"]
    helmet, reported = settings.rules.helmet, settings.rules.reported
    assert {helmet.min_score, reported.min_score} == {shipped["helmet"], shipped["head"]}
    assert scores_apart(shipped, 0.3, settings) == []
    rules = Rules(helmet=HelmetRule(min_score=0.25))
    (line,) = scores_apart(shipped, 0.3, settings.model_copy(update={"rules": rules}))
    assert line.startswith("rules.helmet.min_score is 0.25, but no box below 0.3")
    own = settings.model_copy(update={"vision": VisionSettings(model=Path("mine.onnx"))})
    assert [
        line.split(" is ")[0] for line in scores_apart({"head": 0.2, "helmet": 0.35}, 0.2, own)
    ] == ["rules.helmet.min_score", "rules.reported.min_score"]
    assert scores_apart({"head": 0.35, "helmet": 0.5}, 0.3, own)[1:] == []


def test_what_became_of_events_is_not_counted_with_the_stream(stand: Stand) -> None:
    event, frame = stand.frame(0, cropped(), event=True), stand.frame(1, still())
    looks = stand.look(event, frame)
    skipped = Counter({1: 5})
    counted = with_skipped([(event, "missing"), (event, looks[0]), (frame, looks[1])], skipped)
    assert [look if isinstance(look, str) else look.skipped for _, look in counted] == [
        "missing",
        0,
        5,
    ]


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
