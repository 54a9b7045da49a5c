"""The ONNX file equals the checkpoint and says what it is. Runs where torch and onnx are."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectors.training.evaluate import cell_grid, find
from detectors.training.recipe import CLASSES, Recipe
from detectors.vision.model import Model

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
# By name: type checks of the tests need no torch.
export: Any = importlib.import_module("detectors.training.export")
loop: Any = importlib.import_module("detectors.training.loop")
network: Any = importlib.import_module("detectors.training.network")

# torch.onnx tells that the exporter used here is the old one.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RECIPE = Recipe(refine_size=64, work_size=96, batch=4)


@pytest.fixture(scope="module")
def model() -> Any:
    """A network whose batch norms have seen something, so that folding them can go wrong."""
    torch.manual_seed(2)
    made = network.Detector(len(CLASSES)).eval()
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.7, 1.3)
            torch.nn.init.normal_(layer.bias, std=0.1)
    return made


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    state = {"recipe": RECIPE.as_dict(), "step": 25, "averaged": model.state_dict()}
    loop.write_checkpoint(folder / "last.pt", state)
    export.export(folder / "last.pt", folder / "out" / "model.onnx", "ab" * 32, "whose", None)
    assert [path.name for path in (folder / "out").iterdir()] == ["model.onnx"]
    return folder / "out" / "model.onnx"


@pytest.mark.parametrize("size", [64, 96, 160])
def test_onnx_equals_torch(model: Any, exported: Path, size: int) -> None:
    ours, own_size = export.onnx_network(exported)
    assert own_size == 96
    square = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    expected = loop.as_network(model)(square)
    assert expected.shape == (len(cell_grid(size)[0]), 4 + len(CLASSES))
    assert np.ptp(expected[:, 4:]) > 0.01
    np.testing.assert_allclose(ours(square), expected, atol=1e-4, rtol=1e-4)


def test_the_file_says_what_it_is(exported: Path) -> None:
    session = importlib.import_module("onnxruntime").InferenceSession(str(exported))
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == list(CLASSES)
    assert json.loads(said["recipe"]) == json.loads(json.dumps(RECIPE.as_dict()))
    assert said["input_size"] == "96"
    assert said["data_sha256"] == "ab" * 32
    assert said["trained_images"] == "100"
    assert said["attribution"] == "whose"
    assert said["licence"] == "Apache-2.0"
    output = json.loads(said["output"])
    assert output["strides"] == list(network.STRIDES)
    assert output["columns"][4:] == list(CLASSES)
    assert json.loads(said["preprocessing"])["multiple_of"] == 32


def test_the_product_takes_it_and_finds_the_same(exported: Path) -> None:
    product = Model(exported, device="cpu", tested=False)
    assert tuple(product.classes) == CLASSES
    assert product.side == 96
    ours, size = export.onnx_network(exported)
    picture = np.random.default_rng(5).integers(0, 256, (96, 96, 3), np.uint8)
    found = find(ours, picture, size)
    seen = product.see(picture, dict.fromkeys(CLASSES, 0.01), every=True)
    assert CLASSES.index(seen[0].label) == found.classes[0]
    assert seen[0].score == pytest.approx(float(found.scores[0]), abs=1e-3)
    assert seen[0].box == pytest.approx(found.boxes[0].tolist(), abs=0.1)


def test_another_size_at_work_is_written_down(model: Any, exported: Path, tmp_path: Path) -> None:
    checkpoint = exported.parent.parent / "last.pt"
    export.export(checkpoint, tmp_path / "m.onnx", "ab" * 32, "whose", 64)
    _, size = export.onnx_network(tmp_path / "m.onnx")
    assert size == 64


def test_folding_changes_nothing_but_the_layers(model: Any) -> None:
    folded = network.Detector(len(CLASSES)).eval()
    folded.load_state_dict(model.state_dict())
    export.fold_batch_norms(folded)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    images = torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), atol=1e-4, rtol=1e-4)
