"""The second look that is shipped, on pictures that are: and what is none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from detectors.vision.crops import SIDE, head_crop
from detectors.vision.errors import Misconfigured
from detectors.vision.model import SHIPPED as DETECTOR
from detectors.vision.model import Model
from detectors.vision.second_look import SHIPPED, SecondLook

CLIPS = Path(__file__).resolve().parents[3] / "simulators" / "clips"


@pytest.fixture(scope="module")
def look() -> SecondLook:
    return SecondLook()


def test_it_tells_helmets_from_heads_on_the_shipped_clips(look: SecondLook) -> None:
    model = Model(tested=False)
    for clip, label in (("worker-zone", "helmet"), ("one-by-one", "head")):
        crops = []
        for path in sorted((CLIPS / clip).glob("*.jpg")):
            image = cv2.imread(str(path))
            assert image is not None
            pixels = image.astype(np.uint8)
            boxes = model.see(pixels, model.operating_point)
            crops += [head_crop(pixels, box.box) for box in boxes if box.label == label]
        assert len(crops) >= 10
        helmets = [share >= look.least for share in look(crops)]
        assert np.mean(helmets) > 0.9 if label == "helmet" else np.mean(helmets) < 0.1


def test_a_crop_does_not_depend_on_those_beside_it(look: SecondLook) -> None:
    random = np.random.default_rng(1)
    crops = [random.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for _ in range(5)]
    together = look(crops)
    assert len(together) == 5
    assert together[-1] == pytest.approx(look(crops[-1:])[0], abs=1e-4)
    assert all(0 <= share <= 1 for share in together)
    assert look([]) == []


@pytest.mark.parametrize(
    "box", [(0, 0, 5, 5), (28, 18, 30, 20), (30, 20, 30, 20), (3, 3, 3, 3), (-1e6, -1e6, 1e6, 1e6)]
)
def test_a_head_at_the_edge_or_of_no_size_has_a_crop(
    box: tuple[float, float, float, float],
) -> None:
    crop = head_crop(np.zeros((20, 30, 3), np.uint8), box)
    assert crop.shape == (SIDE, SIDE, 3)


def test_a_crop_shows_the_head_in_its_middle() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[100:120, 150:170] = 255
    crop = head_crop(image, (150, 100, 170, 120))
    inner = crop[SIDE // 2 - 14 : SIDE // 2 + 14, SIDE // 2 - 14 : SIDE // 2 + 14]
    assert inner.min() == 255
    assert crop[:5].max() == crop[:, -5:].max() == 0
    edge = head_crop(image[100:, 150:], (0, 0, 20, 20))
    assert (edge[:3] == 114).all()


def test_what_is_no_second_look_is_misconfigured(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes(SHIPPED.read_bytes()[:1_000])
    for path in (tmp_path / "none.onnx", tmp_path / "text.onnx", tmp_path / "cut.onnx", DETECTOR):
        with pytest.raises(Misconfigured) as caught:
            SecondLook(path)
        assert str(path) in str(caught.value)
