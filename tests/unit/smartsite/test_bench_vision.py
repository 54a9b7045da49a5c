"""The benchmark of the eyes: that it measures what it says, not how fast this machine is."""

import json

import numpy as np
import pytest

from detectors.vision.model import Model, open_session
from smartsite.bench import reference, vision
from smartsite.bench.reference import reference_model, weights


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.mark.parametrize("side", [320, 416, 480, 640])
def test_the_reference_is_yolox_nano_for_coco_at_any_size(side: int) -> None:
    data = reference_model(side)
    # 0.90 million weights of convolutions, and 80 classes, box and objectness from each cell.
    count = sum((one.end - one.start) // 4 for one in weights(data))
    assert count == pytest.approx(0.9e6, rel=0.02)
    session = open_session(data, "the reference", device="cpu")
    cells = (side // 8) ** 2 + (side // 16) ** 2 + (side // 32) ** 2
    assert [port.shape for port in session.get_inputs()] == [[1, 3, side, side]]
    assert [port.shape for port in session.get_outputs()] == [[1, cells, 85]]
    picture = np.random.default_rng(1).uniform(0, 255, (1, 3, side, side)).astype(np.float32)
    (answer,) = session.run(None, {"images": picture})
    assert answer.shape == (1, cells, 85)
    assert np.isfinite(answer).all()
    # Signals are alive to the end: numbers that die out would be slower than real ones.
    assert answer.std() > 1e-3


def test_its_weights_are_drawn_by_lot_the_same_every_time() -> None:
    assert reference_model(416) == reference_model(416)
    assert reference_model(416) != reference_model(416, seed=2)
    assert reference.FILE.stat().st_size < 50_000


def test_the_stages_are_timed(model: Model) -> None:
    runs = []
    figures = vision.at_size(model, lambda: runs.append(1), 640, 360, 3)
    assert len(runs) == 2 + 3
    for stage in (
        "decode",
        "pre",
        "model",
        "post",
        "bytes_to_findings",
        "moving",
        "still",
        "full_decode",
    ):
        assert figures[f"{stage}_ms"] > 0
    assert figures["frames_per_s_per_core"] == pytest.approx(
        1_000 / figures["bytes_to_findings_ms"], rel=0.01
    )
    json.dumps(figures)


def test_the_gate_spares_looks_on_the_clip(model: Model) -> None:
    figures = vision.on_the_clip(model, rounds=1)
    assert figures["frames"] == 60
    assert 5 <= figures["still"] <= 40
    assert figures["the_same_bytes_again"] < figures["still"]
    assert figures["with_gate_ms"] > 0
    assert figures["without_gate_ms"] > 0
