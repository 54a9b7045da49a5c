"""The camera doctor: what it measures, and what it says would help."""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast

import cv2
import numpy as np
import pytest

from detectors.rules import HelmetRule, PresenceRule, Rules
from detectors.vision.model import Model
from detectors.vision.picture import Image
from device_profiles.readings import Box, Unfit
from device_profiles.sites import CameraSettings, Zone
from smartsite import doctor
from smartsite.commands import vision
from smartsite.doctor import Given, NoneRead, Report, as_json, examine, files
from smartsite.errors import Misconfigured

CLIPS = Path(__file__).resolve().parents[3] / "simulators" / "clips"
ROOM = sorted((CLIPS / "one-by-one").glob("*.jpg"))
T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def images(paths: Iterable[Path]) -> list[Image]:
    found = [cv2.imread(str(path)) for path in paths]
    return [image.astype(np.uint8) for image in found if image is not None]


class Seer:
    """A model that sees heads of one size and one score on every picture."""

    side = 416

    def __init__(self, head_px: float, score: float = 0.9) -> None:
        self._boxes = [
            Box("head", score, (40.0 * n, 10.0, 40.0 * n + head_px, 10.0 + head_px))
            for n in range(8)
        ]
        self.parts = 0

    def look(self, data: bytes, least: float) -> list[Box]:
        return [box for box in self._boxes if box.score >= least]

    def see(self, image: Image, least: float, *, every: bool = False) -> list[Box]:
        self.parts += 1
        return self.look(b"", least) if self.parts % 7 == 1 else []


def given(pictures: Iterable[Image], every_s: float = 0.5) -> list[Given]:
    return [
        Given(
            f"picture {number}",
            cv2.imencode(".jpg", picture)[1].tobytes(),
            T0 + timedelta(seconds=number * every_s),
        )
        for number, picture in enumerate(pictures)
    ]


def report(
    pictures: Iterable[Given],
    model: Model,
    camera: CameraSettings | None = None,
    rules: Rules | None = None,
) -> Report:
    found = examine(pictures, model, camera, rules)
    assert isinstance(found, Report)
    return found


def said(found: Report, word: str) -> bool:
    return any(word in line for line in found.advice)


def test_a_good_camera_is_fit(model: Model) -> None:
    found = report(given(images(ROOM[8:20])), model)
    assert found.fit
    assert (found.width, found.height, found.sizes, found.pictures) == (768, 432, 1, 12)
    assert (found.frames_per_s, found.longest_gap_s) == (2.0, 0.5)
    assert found.unreadable == {}
    assert found.advice == ()
    assert found.heads.seen >= 10
    assert found.heads.median_px == pytest.approx(50, abs=7)
    # The picture was shrunk to the model's input.
    assert found.heads.median_original_px == pytest.approx(44 * 768 / 416, abs=12)
    assert found.same_scene is not None
    assert found.same_scene > 0.6
    assert as_json(found)["fit"] is True


@pytest.mark.parametrize(
    ("spoil", "unfit"),
    [
        (lambda image: image // 10, Unfit.DARK),
        (lambda image: np.full_like(image, 255), Unfit.BRIGHT),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 9), Unfit.BLURRED),
        (lambda image: np.full_like(image, 120), Unfit.BLOCKED),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_unfit_camera_is_told_why(model: Model, spoil: object, unfit: Unfit, count: int) -> None:
    assert callable(spoil)
    found = report(given(spoil(image) for image in images(ROOM[:count])), model)
    assert found.unfit is unfit
    assert not found.fit
    assert found.advice


def test_a_lens_that_looked_elsewhere_is_told(model: Model) -> None:
    elsewhere = images(sorted((CLIPS / "worker-zone").glob("*.jpg")))
    pictures = given([*images(ROOM[:14]), *elsewhere], every_s=2)
    found = report(pictures, model)
    assert found.unfit is Unfit.MOVED
    assert found.same_scene is not None
    assert found.same_scene < 0.45
    turned = report(pictures, model, CameraSettings(fixed=False))
    assert turned.fit
    assert turned.same_scene is None


def test_what_would_help_is_said(model: Model) -> None:
    small = [cv2.resize(image, (320, 180)).astype(np.uint8) for image in images(ROOM[10:14])]
    found = report(given(small, every_s=5), model)
    assert said(found, "pictures of 320 × 180 are small")
    assert said(found, "a frame every 5 s is too seldom for helmet.bare_head")
    far = []
    for image in images(ROOM[10:14]):
        wide = np.full((1_400, 2_480, 3), 200, np.uint8)
        wide[400:832, 900:1_668] = image
        far.append(wide)
    found = report(given(far), model, CameraSettings(tiles="off"))
    assert found.heads.median_px is None or found.heads.median_px < 20
    assert said(found, "tiles") or said(found, "no head was seen")
    nobody = cast("Model", Seer(60, score=0.1))
    assert said(report(given(images(ROOM[:3])), nobody), "no head was seen")


def test_pictures_that_are_gone_or_broken_are_counted(model: Model) -> None:
    good = given(images(ROOM[8:11]))
    found = report([*good, Given("gone", None, T0), Given("broken", b"\xff\xd8?", T0)], model)
    assert found.pictures == 3
    assert set(found.unreadable) == {"gone", "broken"}
    assert said(found, "2 of 5 pictures could not be read")
    told = examine([Given("broken", b"", None), Given("gone", None, None)], model)
    assert isinstance(told, NoneRead)
    assert told.unreadable == {
        "broken": "syntax: not a JPEG: it begins with nothing",
        "gone": "the picture is no longer kept",
    }
    assert examine([], model) == NoneRead({})


def test_why_nothing_could_be_examined_is_told(tmp_path: Path) -> None:
    cut, drawn, pipe = (tmp_path / name for name in ("cut.jpg", "drawn.png", "pipe.jpg"))
    cut.write_bytes(ROOM[8].read_bytes()[:9_000])
    drawn.write_bytes(b"\x89PNG\r\n\x1a\n")
    os.mkfifo(pipe)
    for path, why in ((cut, "cut off after"), (drawn, "not a JPEG"), (pipe, "is no file")):
        with pytest.raises(Misconfigured, match=f"can be read: {re.escape(str(path))}: .*{why}"):
            vision.doctor(camera=None, file=[path, tmp_path / "gone.jpg"], last=60, patrols=False)


def test_pictures_of_two_sizes_are_told(model: Model) -> None:
    first, second, third = images(ROOM[8:11])
    other = cv2.resize(third, (640, 360)).astype(np.uint8)
    found = report(given([first, second, other]), model)
    assert (found.width, found.height, found.sizes) == (768, 432, 2)
    assert said(found, "2 sizes")


def test_files_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("2.jpg", "1.jpg", "3.JPEG", "no.txt"):
        (tmp_path / name).write_bytes(name.encode())
    found = list(files([tmp_path, tmp_path / "missing.jpg"]))
    assert [each.data for each in found] == [b"1.jpg", b"2.jpg", b"3.JPEG", None]
    assert all(each.at is None for each in found)


def test_of_many_files_only_the_last_are_read_and_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    read: list[str] = []

    def noting(path: Path) -> BinaryIO:
        read.append(path.name)
        return path.open("rb")

    monkeypatch.setattr(doctor, "opened", noting)
    found = files([tmp_path], 2)
    assert next(found).data == b"7"
    assert read == ["7.jpg"]
    assert [each.data for each in found] == [b"8"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    found = list(files([tmp_path, tmp_path / "pipe.jpg", Path("/dev/zero")]))
    assert [(each.data, each.fault) for each in found] == [(None, "is no file")] * 4


def test_a_file_beyond_the_limit_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MAX_BYTES", 1_000)
    (tmp_path / "1.jpg").write_bytes(bytes(1_001))
    (tmp_path / "2.jpg").write_bytes(bytes(1_000))
    large, small = files([tmp_path])
    assert (large.data, large.fault) == (None, "a picture of more than 1000 bytes")
    assert small.data == bytes(1_000)


def test_heads_count_from_the_score_on_that_the_service_counts() -> None:
    pictures = given(images(ROOM[8:12]))
    faint = examine(pictures, cast("Model", Seer(60, score=0.35)))
    assert isinstance(faint, Report)
    assert faint.heads.seen == 32
    # Boxes below vision.min_score are never stored.
    least = examine(pictures, cast("Model", Seer(60, score=0.35)), min_score=0.4)
    assert isinstance(least, Report)
    assert least.heads.seen == 0


def test_heads_are_as_large_as_they_are_where_it_looks() -> None:
    wide = [cv2.resize(image, (1_920, 1_080)).astype(np.uint8) for image in images(ROOM[8:16])]
    whole = report(given(wide), cast("Model", Seer(30)), CameraSettings(tiles="off"))
    assert whole.unfit is Unfit.SMALL_HEADS
    seer = Seer(30)
    tiled = report(given(wide), cast("Model", seer), CameraSettings(tiles="3x2"))
    assert seer.parts == 8 * 7
    assert tiled.fit
    assert whole.heads.median_px == pytest.approx(30 * 416 / 1_920, abs=0.1)
    assert tiled.heads.median_px == pytest.approx(30 * 416 / 711, rel=0.02)
    assert tiled.heads.median_original_px == whole.heads.median_original_px
    left = report(given(wide), cast("Model", Seer(30)), CameraSettings(tiles="off", min_head_px=50))
    assert said(left, "under its min_head_px of 50 they are left out")


def test_how_often_frames_have_to_come_is_for_the_rules_to_say() -> None:
    pictures = given(images(ROOM[8:14]), every_s=1)
    seer = cast("Model", Seer(60))
    assert not said(report(pictures, seer), "too seldom")
    strict = Rules(helmet=HelmetRule(sightings=6, looks=8, window_s=3))
    found = report(pictures, seer, rules=strict)
    assert said(found, "too seldom for helmet.bare_head, which needs 6 looks within 3 s")
    # Four looks lie within five seconds as long as they are 1.67 s apart.
    assert not said(report(given(images(ROOM[8:14]), every_s=1.6), seer), "too seldom")
    assert said(report(given(images(ROOM[8:14]), every_s=1.7), seer), "too seldom")
    lax = Rules(helmet=HelmetRule(sightings=1, looks=1, max_gap_s=60))
    assert not said(report(given(images(ROOM[8:14]), every_s=50), seer, rules=lax), "too seldom")


def test_rules_that_do_not_hold_for_a_camera_ask_nothing_of_it() -> None:
    strict = Rules(presence=PresenceRule(sightings=6, looks=8, window_s=3))
    pictures = given(images(ROOM[8:14]), every_s=1)
    seer = cast("Model", Seer(60))
    assert not said(report(pictures, seer, rules=strict), "too seldom")
    zone = Zone(name="z", polygon=((0, 0), (1, 0), (1, 1)), vest=False, no_entry=True)
    found = report(pictures, seer, CameraSettings(zone=(zone,)), strict)
    assert said(found, "too seldom for zone.entry")
