"""The masked loss: what is not known teaches nothing. Runs where torch is installed."""

import importlib
from typing import Any

import numpy as np
import pytest

from detectors.training.recipe import CLASSES, HEAD, HELMET, PERSON

torch = pytest.importorskip("torch")
# By name: type checks of the tests need no torch.
loss: Any = importlib.import_module("detectors.training.loss")
network: Any = importlib.import_module("detectors.training.network")

SIZE = 64
CELLS = 64 + 16 + 4


def raw(seed: int = 0) -> Any:
    values = np.random.default_rng(seed).normal(0, 0.5, (1, CELLS, 4 + len(CLASSES)))
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def targets(*things: tuple[int, tuple[float, ...]], weight: float = 1.0) -> Any:
    return loss.Targets(
        classes=torch.tensor([category for category, _ in things], dtype=torch.int64),
        boxes=torch.tensor([box for _, box in things], dtype=torch.float32).reshape(-1, 4),
        box_weights=torch.full((len(things),), weight),
        known=torch.ones((CELLS, len(CLASSES)), dtype=torch.bool),
    )


def gradient(predicted: Any, wanted: Any) -> Any:
    total, _ = loss.detection_loss(predicted, [wanted], network.grid(SIZE, SIZE), box_weight=2.0)
    total.backward()
    return predicted.grad[0]


def test_a_class_that_is_not_known_contributes_nothing() -> None:
    wanted = targets((HEAD, (10, 10, 40, 40)))
    wanted.known[:, PERSON] = False
    slopes = gradient(raw(), wanted)
    assert (slopes[:, 4 + PERSON] == 0).all()
    assert (slopes[:, 4 + HELMET] != 0).all()


def test_a_cell_that_is_not_known_contributes_nothing() -> None:
    wanted = targets()
    wanted.known[:32] = False
    slopes = gradient(raw(), wanted)
    assert (slopes[:32] == 0).all()
    assert (slopes[32:, 4:] != 0).all()
    # Without boxes nothing teaches the place.
    assert (slopes[:, :4] == 0).all()


def test_nothing_known_and_nothing_there_is_no_loss() -> None:
    wanted = targets()
    wanted.known[:] = False
    predicted = raw()
    total, parts = loss.detection_loss(
        predicted, [wanted], network.grid(SIZE, SIZE), box_weight=2.0
    )
    assert float(total.detach()) == 0
    assert parts["positives"] == 0


def test_a_box_teaches_where_its_class_is_not_known() -> None:
    wanted = targets((HEAD, (10, 10, 40, 40)))
    wanted.known[:] = False
    slopes = gradient(raw(), wanted)
    taught = slopes[:, 4 + HEAD].nonzero().squeeze(1)
    assert 0 < len(taught) < 20
    corners, strides = network.grid(SIZE, SIZE)
    off = ((corners + 0.5) * strides - 25)[taught].abs().amax(1) / strides[taught, 0]
    assert (off < loss.CENTRE_RADIUS).all()
    assert (slopes[:, 4 + HELMET] == 0).all()
    np.testing.assert_array_equal(slopes[:, :4].abs().sum(1).nonzero().squeeze(1), taught)


def test_an_approximate_box_teaches_its_class_and_hardly_its_place() -> None:
    exact = gradient(raw(), targets((HEAD, (10, 10, 40, 40))))
    rough = gradient(raw(), targets((HEAD, (10, 10, 40, 40)), weight=0.2))
    torch.testing.assert_close(rough[:, 4:], exact[:, 4:])
    torch.testing.assert_close(rough[:, :4], 0.2 * exact[:, :4])


def test_each_cell_answers_for_one_box_and_boxes_apart_have_cells() -> None:
    boxes = [(x, y, x + 20, y + 20) for x in (6, 38) for y in (6, 38)]
    wanted = targets(*((HEAD, box) for box in boxes))
    predicted = raw(3)[0].detach()
    corners, strides = network.grid(SIZE, SIZE)
    cells, owner, quality = loss.assign(
        network.decode(predicted[:, :4], corners, strides),
        predicted[:, 4:],
        wanted,
        (corners + 0.5) * strides,
        strides,
    )
    assert len(set(cells.tolist())) == len(cells)
    assert set(owner.tolist()) == {0, 1, 2, 3}
    assert ((quality >= 0) & (quality <= 1)).all()


def test_a_box_whose_centre_no_cell_is_near_is_passed_over() -> None:
    total, parts = loss.detection_loss(
        raw(), [targets((HEAD, (900, 900, 920, 920)))], network.grid(SIZE, SIZE), box_weight=2.0
    )
    assert torch.isfinite(total)
    assert parts["positives"] == 0


def test_descending_finds_the_box() -> None:
    """Two hundred steps on the raw output itself, with the answer known."""
    predicted = torch.zeros((1, CELLS, 4 + len(CLASSES)), requires_grad=True)
    wanted = targets((HEAD, (4, 4, 28, 30)), (PERSON, (20, 24, 64, 64)))
    grid = network.grid(SIZE, SIZE)
    descent = torch.optim.Adam([predicted], lr=0.05)
    for _ in range(200):
        descent.zero_grad()
        total, _ = loss.detection_loss(predicted, [wanted], grid, box_weight=2.0)
        total.backward()
        descent.step()
    boxes = network.decode(predicted[0, :, :4], *grid).detach()
    scores = predicted[0, :, 4:].detach().sigmoid()
    for category, box in zip((HEAD, PERSON), wanted.boxes, strict=True):
        best = scores[:, category].argmax()
        assert scores[best, category] > 0.7
        assert loss.pairwise_iou(boxes[best][None], box[None])[0, 0] > 0.8
    assert (scores[:, HELMET] < 0.2).all()


def test_generalised_overlap_by_hand() -> None:
    one = torch.tensor([[0.0, 0, 10, 10]] * 3)
    other = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    expected = torch.tensor([1.0, 1 / 3, -1 / 3])
    torch.testing.assert_close(loss.generalised_iou(one, other), expected)
    torch.testing.assert_close(
        loss.pairwise_iou(one[:1], other)[0], torch.tensor([1.0, 1 / 3, 0.0])
    )
