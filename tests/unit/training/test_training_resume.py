"""A run stopped and resumed equals one never stopped. Runs where torch is installed."""

import importlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detectors.training.dataset import read_dataset
from detectors.training.recipe import CLASSES, PERSON, Recipe

torch = pytest.importorskip("torch")
# By name: type checks of the tests need no torch.
loop: Any = importlib.import_module("detectors.training.loop")
network: Any = importlib.import_module("detectors.training.network")

RECIPE = Recipe(
    size=64,
    sizes=(64,),
    images=8,
    batch=2,
    warmup_images=4,
    refine_images=4,
    refine_size=64,
    refine_sizes=(64, 96),
    seed=7,
)
NEVER = 1000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """One thread, and the signal handlers as they were: a run sets its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """Weights with the names and shapes of COCO's."""
    torch.manual_seed(1)
    path = tmp_path / "start.pth"
    torch.save({"model": network.Detector(80).state_dict()}, path)
    return path


def trainer(dataset: Path, start: Path, run: str) -> Any:
    folder = dataset.parent
    return loop.Trainer(RECIPE, read_dataset(dataset), folder / "cache", folder / run, start)


def stopping(running: Any, after: int) -> None:
    """Sends the process SIGTERM when so many steps are learnt."""
    learn = running._learn

    def then_stop(samples: Any) -> Any:
        parts = learn(samples)
        if running.step + 1 == after:
            signal.raise_signal(signal.SIGTERM)
        return parts

    running._learn = then_stop


def saved(dataset: Path, run: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(dataset.parent / run / "last.pt", weights_only=True)
    return state


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other)


def test_a_run_resumed_equals_one_never_stopped(dataset: Path, start: Path) -> None:
    whole = trainer(dataset, start, "whole")
    whole.run(NEVER)
    assert whole.step == RECIPE.steps == 6
    for stop in (3, 5):  # in either stretch
        part = trainer(dataset, start, "parts")
        stopping(part, stop)
        part.run(NEVER)
        assert part.step == saved(dataset, "parts")["step"] == stop
    last = trainer(dataset, start, "parts")
    assert last.step == 5
    last.run(NEVER)
    one, other = saved(dataset, "whole"), saved(dataset, "parts")
    assert equal(one, other)
    assert not equal(one["model"], saved(dataset, "whole")["averaged"])
    lines = (dataset.parent / "parts" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records if "resumed" in record] == [3, 5]
    (check,) = (record["check"] for record in records if "check" in record)
    assert set(check["ap50"]["all"]) == {"helmet", "head", "no_vest"}
    assert check["operating_point"]["scenes"] == 1


def test_steps_move_the_weights_and_leave_no_partial_file(dataset: Path, start: Path) -> None:
    running = trainer(dataset, start, "run")
    before = {name: value.clone() for name, value in running.model.state_dict().items()}
    stopping(running, 2)
    running.run(NEVER)
    after = dict(running.model.named_parameters())
    moved = [name for name, value in after.items() if not torch.equal(before[name], value)]
    # A level of the head that no box was assigned to may have learnt nothing.
    assert len(moved) > 0.95 * len(after)
    assert sorted(path.name for path in (dataset.parent / "run").iterdir()) == ["last.pt"]


def test_all_of_coco_is_taken_over_but_its_classes(start: Path) -> None:
    weights = loop.read_weights(start)
    model = network.Detector(len(CLASSES))
    assert network.load_coco(model, weights, PERSON) == []
    ours = model.state_dict()
    for name, value in weights.items():
        if ".cls_preds." not in name:
            assert torch.equal(ours[name], value)
        else:
            assert torch.equal(ours[name][PERSON], value[network.COCO_PERSON])
    assert float(ours["head.cls_preds.0.bias"][0]) == network.NEW_CLASS_BIAS
    del weights["backbone.backbone.stem.conv.conv.weight"]
    with pytest.raises(ValueError, match="lack 1 tensors"):
        network.load_coco(model, weights, PERSON)


def test_the_masks_of_coarser_cells_are_those_at_their_centres(dataset: Path, start: Path) -> None:
    running = trainer(dataset, start, "run")
    sample = running._sampler.batch(0)[0]
    sample.known[:] = False
    sample.known[2, 5, 7] = True  # pixels 40 to 48 down, 56 to 64 across
    known = running._targets(sample).known
    corners, strides = network.grid(64, 64)
    assert known.shape == (len(corners), len(CLASSES))
    cells, classes = known.nonzero().T
    assert set(classes.tolist()) == {2}
    assert strides[cells, 0].tolist() == [8.0, 16.0]
    assert corners[cells].tolist() == [[7.0, 5.0], [3.0, 2.0]]
