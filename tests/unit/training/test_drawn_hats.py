"""Hats: drawn on the upper part of the head and nowhere else."""

import numpy as np
import numpy.typing as npt
import pytest

from detectors.training.hats import (
    HATS,
    cap_mask,
    dress,
    headgear_colour,
    in_another_colour,
    knit,
    recoloured,
    transplant,
)

Pixels = npt.NDArray[np.uint8]
# Of a head in the middle of a crop twice its size, as `dress` cuts it.
SIDE, BOX = 120, np.array([30, 30, 90, 90], np.float32)
SEEDS = range(12)


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height + width).integers(90, 140, (height, width, 3), np.uint8)


def changed(before: Pixels, after: Pixels) -> npt.NDArray[np.bool_]:
    return np.asarray((before != after).any(2), np.bool_)


@pytest.mark.parametrize("name", HATS)
def test_a_hat_changes_the_upper_part_of_the_head(name: str) -> None:
    crop = noise(SIDE, SIDE)
    for seed in SEEDS:
        worn = crop.copy()
        HATS[name](np.random.default_rng(seed), worn, BOX)
        assert worn.shape == crop.shape
        off = changed(crop, worn)
        # The brow and above: the middle of it at least, whatever the hat.
        assert off[34:44, 50:70].mean() > 0.8
        # What lies below the chin is left alone.
        assert not off[106:].any()
        if name != "hood":
            assert not off[80:].any()


@pytest.mark.parametrize("name", HATS)
def test_a_hat_is_decided_by_the_dice_alone(name: str) -> None:
    one, other, third = (noise(SIDE, SIDE) for _ in range(3))
    HATS[name](np.random.default_rng(4), one, BOX)
    HATS[name](np.random.default_rng(4), other, BOX)
    HATS[name](np.random.default_rng(5), third, BOX)
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_what_another_head_wears_is_put_on_this_one() -> None:
    crop = noise(SIDE, SIDE)
    other = np.zeros((80, 80, 3), np.uint8)
    worn = np.array([20, 20, 60, 60], np.float32)
    for seed in SEEDS:
        dressed = crop.copy()
        transplant(np.random.default_rng(seed), dressed, BOX, other, worn)
        off = changed(crop, dressed)
        assert off[34:48, 50:70].mean() > 0.8
        assert not off[80:].any()
    assert not other.any()


@pytest.mark.parametrize("height", [16, 60])
def test_dressing_leaves_what_is_far_from_the_head(height: int) -> None:
    picture = noise(200, 260)
    box = np.array([100, 80, 100 + height * 0.8, 80 + height], np.float32)
    for seed in SEEDS:
        worn = picture.copy()
        dress(np.random.default_rng(seed), worn, box)
        rows, columns = np.nonzero(changed(picture, worn))
        assert len(rows)
        middle_x, middle_y = (box[:2] + box[2:]) / 2
        assert np.abs(columns + 0.5 - middle_x).max() <= height + 1
        assert np.abs(rows + 0.5 - middle_y).max() <= height + 1


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 30, 36),
        (90, 0, 120, 40),
        (0, 70, 24, 100),
        (95, 60, 120, 100),
        (-10, -12, 20, 24),
        (0, 0, 120, 100),
        (50.4, -3.7, 68.2, 15.1),
    ],
)
def test_a_head_at_the_edge_is_dressed_too(box: tuple[float, float, float, float]) -> None:
    picture = noise(100, 120)
    worn = picture.copy()
    for seed in SEEDS:
        dress(np.random.default_rng(seed), worn, np.array(box, np.float32))
    assert worn.shape == picture.shape
    left, top, right, _ = (max(0, round(side)) for side in box)
    assert changed(picture, worn)[top : top + 8, left:right].mean() > 0.5


def test_every_kind_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[str] = set()
    for name in HATS:
        monkeypatch.setitem(HATS, name, lambda *_, name=name: drawn.add(name))
    for seed in range(60):
        dress(np.random.default_rng(seed), noise(100, 100), np.array([30, 30, 60, 60], np.float32))
    assert drawn == set(HATS)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 40), (30, 20)])
def test_colours_and_cloth_keep_the_shape(height: int, width: int) -> None:
    pixels = noise(height, width)
    before = pixels.copy()
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        for look in (recoloured(random, pixels), knit(random, pixels)):
            assert look.shape == pixels.shape
            assert look.dtype == np.float32
            assert np.isfinite(look).all()
    np.testing.assert_array_equal(pixels, before)


def test_another_colour_keeps_the_light() -> None:
    pixels = np.repeat(np.linspace(60, 200, 24, dtype=np.uint8)[None, :, None], 3, 2)
    for seed in SEEDS:
        look = recoloured(np.random.default_rng(seed), pixels)
        rising = np.diff(look[0], axis=0)
        assert (rising >= 0).all()
        assert (rising.max(1) > 0).all()


def test_a_head_of_no_size_keeps_its_colour() -> None:
    crop = noise(40, 40)
    left = crop.copy()
    in_another_colour(np.random.default_rng(0), left, np.array([10, 10, 12, 12], np.float32))
    np.testing.assert_array_equal(left, crop)


def test_colours_of_headgear_are_colours() -> None:
    random = np.random.default_rng(1)
    colours = np.array([headgear_colour(random) for _ in range(200)])
    assert colours.shape == (200, 3)
    assert colours.dtype == np.float32
    assert ((colours >= 0) & (colours <= 255)).all()
    grey = np.ptp(colours, axis=1) == 0
    assert 20 < grey.sum() < 100


def test_a_cap_is_soft_and_covers_the_upper_middle() -> None:
    mask = cap_mask(40, 30)
    assert mask.shape == (40, 30, 1)
    assert mask.dtype == np.float32
    assert ((mask >= 0) & (mask <= 1)).all()
    assert mask[20, 15] == 1
    assert mask[0, 0] == mask[0, -1] == 0
    np.testing.assert_allclose(mask, mask[:, ::-1], atol=1e-5)
