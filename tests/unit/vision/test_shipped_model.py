"""The model that is shipped, on pictures that are: and what is no model."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectors.vision.boxes import overlap_matrix, overlaps
from detectors.vision.errors import Misconfigured
from detectors.vision.model import MAX_BOXES, SHIPPED, Model
from device_profiles.errors import Rejected
from device_profiles.readings import HEADS, Box

CLIPS = Path(__file__).resolve().parents[3] / "simulators" / "clips"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def look(model: Model, name: str, min_score: float = 0.5) -> list[Box]:
    return model.look((CLIPS / name).read_bytes(), min_score)


def labels(boxes: list[Box]) -> set[str]:
    return {box.label for box in boxes}


def test_it_says_what_it_is(model: Model) -> None:
    assert model.sha256 == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert {"helmet", "head", "person"} <= set(model.classes)
    assert SHIPPED.stat().st_size < 8_000_000


@pytest.mark.parametrize("name", ["one-by-one/00800.jpg", "one-by-one/00830.jpg"])
def test_a_bare_head_is_found(model: Model, name: str) -> None:
    found = look(model, name)
    assert "head" in labels(found)
    assert "helmet" not in labels(found)
    head = next(box for box in found if box.label == "head")
    person = next(box for box in found if box.label == "person")
    # The head is at the upper end of the person, and much smaller.
    x, y = (head.box[0] + head.box[2]) / 2, (head.box[1] + head.box[3]) / 2
    assert person.box[0] <= x <= person.box[2]
    assert y < (person.box[1] + person.box[3]) / 2


@pytest.mark.parametrize("name", ["worker-zone/00030.jpg", "worker-zone/00066.jpg"])
def test_a_helmet_is_found_and_no_bare_head(model: Model, name: str) -> None:
    found = look(model, name)
    assert "helmet" in labels(found)
    assert "head" not in labels(found)


def test_an_empty_room_holds_nobody(model: Model) -> None:
    assert labels(look(model, "one-by-one/00735.jpg")) & {"head", "helmet", "person"} == set()


def test_boxes_lie_in_the_picture_best_first_and_rounded(model: Model) -> None:
    found = look(model, "one-by-one/00800.jpg", 0.01)
    assert 1 < len(found) <= MAX_BOXES
    assert [box.score for box in found] == sorted((box.score for box in found), reverse=True)
    for box in found:
        x1, y1, x2, y2 = box.box
        assert 0 <= x1 <= x2 <= 768
        assert 0 <= y1 <= y2 <= 432
        assert box.score >= 0.01
        for number in (box.score, *box.box):
            assert round(number, 3) == number


def test_every_box_means_every_box_of_every_class(model: Model) -> None:
    data = (CLIPS / "one-by-one/00800.jpg").read_bytes()
    found = model.look(data, 0.0, every=True)
    assert len(found) > MAX_BOXES
    assert labels(found) == set(model.classes)


def test_the_same_picture_gives_the_same_boxes(model: Model) -> None:
    assert look(model, "one-by-one/00800.jpg") == look(model, "one-by-one/00800.jpg")


def test_boxes_are_in_pixels_of_the_original(model: Model) -> None:
    data = (CLIPS / "one-by-one/00800.jpg").read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    twice = cv2.imencode(".jpg", cv2.resize(picture, None, fx=2, fy=2))[1].tobytes()
    small, large = model.look(data, 0.5), model.look(twice, 0.5)
    one = next(box for box in small if box.label == "head")
    other = next(box for box in large if box.label == "head")
    np.testing.assert_allclose(np.array(other.box) / 2, one.box, atol=8)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"no picture"])
def test_what_is_no_picture_is_rejected(model: Model, data: bytes) -> None:
    with pytest.raises(Rejected):
        model.look(data, 0.5)


def test_a_tiny_and_a_long_picture_are_looked_at(model: Model) -> None:
    for height, width in ((1, 1), (3, 2_000), (2_000, 3)):
        data = cv2.imencode(".jpg", np.full((height, width, 3), 120, np.uint8))[1].tobytes()
        assert "head" not in labels(model.look(data, 0.5))


def test_what_is_no_model_is_misconfigured(tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(SHIPPED.read_bytes()[:1_000])
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for path in (
        cut,
        tmp_path / "text.onnx",
        tmp_path / "empty.onnx",
        tmp_path / "none.onnx",
        tmp_path,
    ):
        with pytest.raises(Misconfigured) as caught:
            Model(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


GOLDEN = {
    "one-by-one/00800.jpg": {
        "person": [(365, 33, 501, 380)],
        "head": [(414, 32, 466, 108)],
        "no_vest": [(362, 95, 498, 245)],
    },
    "one-by-one/00830.jpg": {
        "person": [(363, 36, 500, 383)],
        "head": [(418, 35, 468, 108)],
        "no_vest": [(360, 97, 498, 247)],
    },
    "worker-zone/00030.jpg": {
        "person": [(170, 110, 297, 408)],
        "helmet": [(211, 108, 258, 168)],
        "vest": [(194, 163, 280, 276)],
    },
    "worker-zone/00066.jpg": {
        "person": [(141, 82, 244, 336)],
        "helmet": [(163, 84, 206, 142)],
        "vest": [(154, 130, 233, 224)],
    },
    "one-by-one/00735.jpg": {},
}
"""By picture and class what there is to see, marked by hand, pixels."""


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_picture_shows_what_it_shows(model: Model, name: str) -> None:
    found = look_at_what_counts(model, name)
    wanted = GOLDEN[name]
    assert {box.label for box in found} == set(wanted)
    for label, places in wanted.items():
        boxes = [box for box in found if box.label == label]
        assert len(boxes) == len(places)
        for box, place in zip(boxes, places, strict=True):
            share = overlaps(np.array(box.box, np.float32), np.array([place], np.float32))[0]
            assert share > 0.55, (box, place)


def look_at_what_counts(model: Model, name: str) -> list[Box]:
    return model.look((CLIPS / name).read_bytes(), model.operating_point)


def test_one_head_is_only_one_where_it_is_acted_on(model: Model) -> None:
    def doubles(boxes: list[Box]) -> int:
        heads = np.array([box.box for box in boxes if box.label in HEADS], np.float32)
        shares = overlap_matrix(heads, heads)
        return int((np.triu(shares, 1) > 0.6).sum())

    data = (CLIPS / "worker-zone/00030.jpg").read_bytes()
    assert doubles(model.look(data, 0.01)) == 0
    assert doubles(model.look(data, 0.01, every=True)) > 0


def test_many_pictures_are_looked_at_as_one_by_one(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [(CLIPS / name).read_bytes() for name in GOLDEN]
    picture = cv2.imdecode(np.frombuffer(good[0], np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    upright = cv2.imencode(".jpg", cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE))[1].tobytes()
    given = [good[0], b"no picture", upright, *good[1:]]
    alone = [model.look(data, 0.3) if data[:2] == b"\xff\xd8" else None for data in given]
    for batch in (1, 2, 4):
        monkeypatch.setattr(model, "_batch", batch)
        together = model.look_at_many(given, 0.3)
        assert isinstance(together[1], Rejected)
        for one, other in zip(together, alone, strict=True):
            if other is None or isinstance(one, Rejected):
                assert other is None
                continue
            assert [box.label for box in one] == [box.label for box in other]
            np.testing.assert_allclose(
                [box.box for box in one], [box.box for box in other], atol=0.05
            )


def test_two_threads_may_look_at_once(model: Model) -> None:
    datas = [(CLIPS / name).read_bytes() for name in GOLDEN] * 4
    wanted = [model.look(data, 0.3) for data in datas]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda data: model.look(data, 0.3), datas)) == wanted


def test_a_decoded_picture_shows_what_its_bytes_do(model: Model) -> None:
    data = (CLIPS / "one-by-one/00800.jpg").read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert model.see(picture.astype(np.uint8), 0.3) == model.look(data, 0.3)
