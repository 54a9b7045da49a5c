"""The model that is shipped, on pictures that are: and what is no model."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectors.vision.errors import Misconfigured
from detectors.vision.model import MAX_BOXES, SHIPPED, Model
from device_profiles.errors import Rejected
from device_profiles.readings import Box

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
