"""The camera doctor: what it measures, and what it says would help."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectors.vision.model import Model
from detectors.vision.picture import Image
from device_profiles.readings import Unfit
from smartsite.doctor import Given, Report, as_json, examine, files

CLIPS = Path(__file__).resolve().parents[3] / "simulators" / "clips"
ROOM = sorted((CLIPS / "one-by-one").glob("*.jpg"))
T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def images(paths: Iterable[Path]) -> list[Image]:
    found = [cv2.imread(str(path)) for path in paths]
    return [image.astype(np.uint8) for image in found if image is not None]


def given(pictures: Iterable[Image], every_s: float = 0.5) -> list[Given]:
    return [
        Given(
            f"picture {number}",
            cv2.imencode(".jpg", picture)[1].tobytes(),
            T0 + timedelta(seconds=number * every_s),
        )
        for number, picture in enumerate(pictures)
    ]


def report(pictures: Iterable[Given], model: Model, *, fixed: bool = True) -> Report:
    found = examine(pictures, model, fixed=fixed)
    assert found is not None
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
    turned = report(pictures, model, fixed=False)
    assert turned.fit
    assert turned.same_scene is None


def test_what_would_help_is_said(model: Model) -> None:
    small = [cv2.resize(image, (320, 180)).astype(np.uint8) for image in images(ROOM[10:14])]
    found = report(given(small, every_s=5), model)
    assert said(found, "pictures of 320 × 180 are small")
    assert said(found, "0.2 frames a second are few")
    far = []
    for image in images(ROOM[10:14]):
        wide = np.full((1_400, 2_480, 3), 200, np.uint8)
        wide[400:832, 900:1_668] = image
        far.append(wide)
    found = report(given(far), model)
    assert found.heads.median_px is None or found.heads.median_px < 20
    assert said(found, "tiles") or said(found, "no head was seen")
    assert said(report(given(images(ROOM[:3])), model), "no head was seen")


def test_pictures_that_are_gone_or_broken_are_counted(model: Model) -> None:
    good = given(images(ROOM[8:11]))
    found = report([*good, Given("gone", None, T0), Given("broken", b"\xff\xd8?", T0)], model)
    assert found.pictures == 3
    assert set(found.unreadable) == {"gone", "broken"}
    assert said(found, "2 of 5 pictures could not be read")
    assert examine([Given("broken", b"", None)], model) is None
    assert examine([], model) is None


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
