"""Samples: drawn by seed and step alone, boxes on their objects, and what is known where."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from detectors.training import augment
from detectors.training.augment import FINEST_STRIDE, PADDING, Sample, Sampler, weathered
from detectors.training.dataset import PixelCache, read_dataset
from detectors.training.recipe import CLASSES, HEAD, HELMET, NO_VEST, PERSON, VEST, Recipe
from tests.unit.training.drawn_dataset import HEADS, Scene, shown, write_dataset

RECIPE = Recipe(
    images=80,
    batch=8,
    mosaic=1.0,
    mixup=0.0,
    size=96,
    sizes=(96, 128),
    plain_share=0.5,
    refine_images=80,
    refine_size=96,
    refine_sizes=(96, 160),
    refine_plain_share=0.5,
    refine_hats=1.0,
)
MIXED, PLAIN, LARGER = range(5), range(5, 10), range(10, 15)

# Heads and helmets are dressed in other colours, so bodies are what can be found again.
LABELLED = "person;vest;no_vest"
BODIES = (
    Scene("p1", labelled=LABELLED, things=((PERSON, 10, 6, 40, 60), (VEST, 50, 30, 86, 70))),
    Scene("p2", labelled=LABELLED, things=((NO_VEST, 30, 30, 70, 80),)),
    Scene("p3", labelled=LABELLED, things=((VEST, 0, 50, 40, 96), (PERSON, 60, 0, 96, 40))),
)
# A visible rest smaller than this may be too little to be silenced: a twentieth of the largest
# object at the largest scale, as a part of the sample.
NEGLIGIBLE = 0.05 * (40 * 54) / 96**2 * 1.25**2


def sampler(folder: Path, recipe: Recipe, scenes: Sequence[Scene] | None = None) -> Sampler:
    if scenes is not None:
        write_dataset(folder / "dataset", scenes)
    pictures = [p for p in read_dataset(folder / "dataset") if p.split == "train"]
    return Sampler(recipe, pictures, PixelCache(pictures, folder / "cache"))


def same(one: Sample, other: Sample) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(Sample)
    )


def finely(sample: Sample, category: int) -> npt.NDArray[np.bool_]:
    """What is known of a class, pixel by pixel."""
    cells = np.ones((FINEST_STRIDE, FINEST_STRIDE), np.bool_)
    return np.kron(sample.known[category], cells)


@pytest.fixture
def fair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the colours of samples as they were drawn."""
    monkeypatch.setattr(augment, "weathered", lambda _random, pixels: pixels)


def test_a_step_is_the_same_whatever_was_drawn_before(dataset: Path) -> None:
    recipe = dataclasses.replace(RECIPE, mixup=0.5, mosaic=0.5)
    first = sampler(dataset.parent, recipe)
    forwards = {step: first.batch(step) for step in (1, 7, 12)}
    second = sampler(dataset.parent, recipe)
    for step in (12, 1, 7):
        pairs = zip(second.batch(step), forwards[step], strict=True)
        assert all(same(one, other) for one, other in pairs)
    assert not same(forwards[1][0], forwards[1][1])


def test_other_seeds_and_steps_show_other_samples(dataset: Path) -> None:
    here = sampler(dataset.parent, RECIPE)
    other = sampler(dataset.parent, dataclasses.replace(RECIPE, seed=1))
    assert not same(here.batch(5)[0], here.batch(6)[0])
    assert not same(here.batch(5)[0], other.batch(5)[0])


def test_a_step_has_the_size_of_its_part(dataset: Path) -> None:
    drawing = sampler(dataset.parent, RECIPE)
    sizes = [{sample.pixels.shape for sample in drawing.batch(step)} for step in range(20)]
    assert all(len(shapes) == 1 for shapes in sizes)
    sides = [next(iter(shapes))[0] for shapes in sizes]
    assert set(sides[:5]) <= {96, 128}
    assert sides[5:10] == [96] * 5
    assert set(sides[10:15]) <= {96, 160}
    assert 160 in sides[10:15]
    assert sides[15:] == [96] * 5


def test_every_sample_is_sound(dataset: Path) -> None:
    drawing = sampler(dataset.parent, dataclasses.replace(RECIPE, mosaic=0.7, mixup=0.5))
    for step in (0, 3, 8, 11, 18):
        for sample in drawing.batch(step):
            side = sample.pixels.shape[0]
            assert sample.pixels.shape == (side, side, 3)
            assert sample.pixels.dtype == np.uint8
            assert sample.known.shape == (len(CLASSES), side // 8, side // 8)
            assert len(sample.classes) == len(sample.boxes) == len(sample.exact)
            assert sample.boxes.dtype == np.float32
            assert ((sample.boxes >= 0) & (sample.boxes <= side)).all()
            assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


@pytest.mark.usefixtures("fair")
@pytest.mark.parametrize("steps", [MIXED, PLAIN, LARGER], ids=["mosaic", "plain", "larger"])
def test_boxes_stay_on_their_objects(tmp_path: Path, steps: range) -> None:
    drawing = sampler(tmp_path, RECIPE, BODIES)
    boxes = rests = 0
    for sample in (sample for step in steps for sample in drawing.batch(step)):
        for category in (PERSON, VEST, NO_VEST):
            colour = shown(sample.pixels, category)
            rest = colour.copy()
            for x1, y1, x2, y2 in sample.boxes[sample.classes == category].round().astype(int):
                boxes += 1
                assert colour[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
                rest[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
            # What is seen of an object without a box is silent: it is neither there nor not.
            inner = cv2.erode(rest.astype(np.uint8), np.ones((3, 3), np.uint8))
            count, parts, sizes, _ = cv2.connectedComponentsWithStats(inner)
            for part in range(1, count):
                if sizes[part, cv2.CC_STAT_AREA] > NEGLIGIBLE * colour.size:
                    rests += 1
                    assert not finely(sample, category)[parts == part].any()
    assert boxes > 40
    assert rests or steps == PLAIN


@pytest.mark.usefixtures("fair")
def test_slivers_are_silent_in_their_class_alone(tmp_path: Path) -> None:
    """Every object but the sliver's own stays known next to it."""
    scene = Scene("p1", labelled=LABELLED, things=((PERSON, 20, 20, 76, 76),))
    drawing = sampler(tmp_path, RECIPE, [scene])
    samples = [sample for step in MIXED for sample in drawing.batch(step)]
    silent = [sample for sample in samples if not sample.known[PERSON].all()]
    assert 0 < len(silent) < len(samples)
    assert all(sample.known[VEST].all() for sample in samples)
    for sample in silent:
        # Nothing is silent that does not show the object.
        for row, column in np.argwhere(~sample.known[PERSON]):
            y, x = row * FINEST_STRIDE, column * FINEST_STRIDE
            around = shown(sample.pixels, PERSON)[
                max(0, y - 2) : y + FINEST_STRIDE + 2, max(0, x - 2) : x + FINEST_STRIDE + 2
            ]
            assert around.any()


def test_what_is_left_of_a_cut_box() -> None:
    whole = np.array([[0, 0, 20, 10]] * 5, np.float32)
    cut = np.array(
        [
            [0, 0, 8, 10],  # two fifths: still a box
            [0, 0, 7.9, 10],  # less: a sliver
            [0, 0, 1, 10],  # a twentieth: nothing
            [0, 0, 20, 2.9],  # too flat
            [0, 0, 0, 10],  # gone
        ],
        np.float32,
    )
    kept, doubtful = augment._still_visible(whole, cut)
    assert kept.tolist() == [True, False, False, False, False]
    assert doubtful.tolist() == [False, True, False, True, False]
    nothing = np.zeros((0, 4), np.float32)
    assert [len(part) for part in augment._still_visible(nothing, nothing)] == [0, 0]


@pytest.mark.usefixtures("fair")
@pytest.mark.parametrize("steps", [MIXED, PLAIN], ids=["mosaic", "plain"])
def test_unlabelled_classes_are_silent_but_in_the_padding(tmp_path: Path, steps: range) -> None:
    scenes = [Scene("w", labelled="helmet;person~", height=48)]
    drawing = sampler(tmp_path, RECIPE, scenes)
    for sample in (sample for step in steps for sample in drawing.batch(step)):
        padding = (sample.pixels == PADDING).all(2)
        cells = padding.reshape(len(sample.known[0]), 8, -1, 8).all((1, 3))
        assert 0 < cells.sum() < cells.size
        for category in (HEAD, VEST, NO_VEST):
            np.testing.assert_array_equal(sample.known[category], cells)
        assert sample.known[[HELMET, PERSON]].all()


@pytest.mark.usefixtures("fair")
def test_a_cell_across_two_tiles_knows_what_both_know(tmp_path: Path) -> None:
    scenes = [
        Scene("h", "heads", labelled=HEADS, things=()),
        Scene("p", "bodies", labelled=LABELLED, things=()),
    ]
    drawing = sampler(tmp_path, RECIPE, scenes)
    for sample in (sample for step in MIXED for sample in drawing.batch(step)):
        # No source labels both, so nowhere is all known but in padding.
        padding = (sample.pixels == PADDING).all(2)
        cells = padding.reshape(len(sample.known[0]), 8, -1, 8).all((1, 3))
        np.testing.assert_array_equal(sample.known[HEAD] & sample.known[VEST], cells)


@pytest.mark.usefixtures("fair")
def test_mixed_pictures_know_what_both_know(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, mosaic=0.0, mixup=1.0)
    scenes = [Scene("h", labelled=HEADS), Scene("p", "bodies", labelled=LABELLED)]
    both = 0
    for sample in (s for step in MIXED for s in sampler(tmp_path, recipe, scenes).batch(step)):
        silent = ~sample.known[HEAD] & ~sample.known[VEST]
        both += bool(silent.any())
    assert both > 5


def test_approximate_boxes_are_marked(dataset: Path) -> None:
    """Helmets of the bodies' source are rough there, and exact in the heads' source."""
    heads = dataclasses.replace(RECIPE, source_weights=(("bodies", 0.0), ("negative", 0.0)))
    bodies = dataclasses.replace(RECIPE, source_weights=(("heads", 0.0), ("negative", 0.0)))
    (dataset / "manifest.csv").write_text(
        (dataset / "manifest.csv").read_text(encoding="utf-8").replace("val", "train"),
        encoding="utf-8",
    )
    for recipe, exact in ((heads, True), (bodies, False)):
        drawing = sampler(dataset.parent, recipe)
        samples = [sample for step in MIXED for sample in drawing.batch(step)]
        helmets = np.concatenate([sample.exact[sample.classes == HELMET] for sample in samples])
        assert len(helmets) > 3
        assert (helmets == exact).all()


def test_a_source_of_no_weight_is_never_drawn(dataset: Path) -> None:
    recipe = dataclasses.replace(RECIPE, source_weights=(("heads", 0.0), ("negative", 0.0)))
    drawing = sampler(dataset.parent, recipe)
    samples = [sample for step in MIXED for sample in drawing.batch(step)]
    seen = set(np.concatenate([sample.classes for sample in samples]).tolist())
    assert seen == {PERSON, VEST}


@pytest.mark.usefixtures("fair")
def test_hats_are_drawn_in_the_second_stretch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[float] = []
    monkeypatch.setattr(
        augment, "dress", lambda _random, _image, box: widths.append(float(box[2] - box[0]))
    )
    scenes = [Scene("h", things=((HEAD, 30, 30, 66, 70), (HELMET, 70, 4, 94, 30)))]
    drawing = sampler(tmp_path, RECIPE, scenes)
    for step in (*MIXED, *PLAIN):
        drawing.batch(step)
    assert not widths
    for step in LARGER:
        drawing.batch(step)
    assert len(widths) > 5
    assert min(widths) >= augment.ROOM_FOR_A_HAT


def test_weather_keeps_the_shape() -> None:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (40, 56, 3), np.uint8)
    before = pixels.copy()
    looks = [weathered(random, pixels) for _ in range(60)]
    assert all(look.shape == pixels.shape and look.dtype == np.uint8 for look in looks)
    assert len({look.tobytes() for look in looks}) == 60
    np.testing.assert_array_equal(pixels, before)
