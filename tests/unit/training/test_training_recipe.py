"""The schedule of a run: rates, stretches, steps."""

import dataclasses
import itertools
import json
import math

import pytest

from detectors.training.recipe import Part, Recipe

# Four steps up, level to step 20, down to step 40; then two up and 18 down.
SHORT = Recipe(
    images=400,
    batch=10,
    peak_rate=1e-2,
    warmup_images=80,
    cooldown_share=0.5,
    final_rate=0.1,
    plain_share=0.25,
    size=64,
    sizes=(64, 96),
    refine_images=200,
    refine_size=128,
    refine_sizes=(96, 128, 160),
    work_size=160,
    refine_rate=4e-3,
    refine_plain_share=0.3,
    refine_hats=0.7,
)


def test_the_rate_rises_stays_level_and_falls() -> None:
    rates = [SHORT.rate(step) for step in range(40)]
    assert rates[:8] == pytest.approx([1e-2 * part / 8 for part in range(1, 9)])
    assert rates[8:21] == [1e-2] * 13
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[20:]))
    # Half-way down lies the mean of the peak and the end, which is a tenth of the peak.
    assert rates[30] == pytest.approx((1e-2 + 1e-3) / 2)
    assert rates[39] == pytest.approx(1e-3, rel=0.1)


def test_the_second_stretch_is_a_smaller_hill() -> None:
    rates = [SHORT.rate(step) for step in range(40, SHORT.steps)]
    assert len(rates) == 20
    assert rates[0] == pytest.approx(4e-3 / 2)
    assert max(rates) == rates[1] < 4e-3
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[1:]))
    assert rates[10] == pytest.approx((4e-3 + 1e-3) / 2)
    assert rates[-1] == pytest.approx(1e-3, rel=0.1)


def test_no_step_of_the_shipped_recipe_has_a_rate_out_of_bounds() -> None:
    recipe = Recipe()
    rates = [recipe.rate(step) for step in range(0, recipe.steps, 7)]
    assert all(0 < rate <= recipe.peak_rate for rate in rates)
    assert max(rates) == recipe.peak_rate
    # What the prefetching of batches asks for beyond the end must not fail either.
    assert recipe.rate(recipe.steps + 2) == pytest.approx(recipe.peak_rate * recipe.final_rate)
    assert recipe.part(recipe.steps + 2).plain


def test_what_a_step_shows() -> None:
    parts = [SHORT.part(step) for step in range(SHORT.steps)]
    mixed, plain = Part((64, 96), plain=False, hats=0.0), Part((64,), plain=True, hats=0.0)
    larger = Part((96, 128, 160), plain=False, hats=0.7)
    last = Part((128,), plain=True, hats=0.7)
    assert parts == [mixed] * 30 + [plain] * 10 + [larger] * 14 + [last] * 6


@pytest.mark.parametrize(("images", "refine", "steps"), [(400, 200, 60), (401, 1, 42), (9, 0, 1)])
def test_steps_are_counted_in_whole_batches(images: int, refine: int, steps: int) -> None:
    assert dataclasses.replace(SHORT, images=images, refine_images=refine).steps == steps


def test_a_run_without_refining_ends_at_the_lowest_rate() -> None:
    plain = dataclasses.replace(SHORT, refine_images=0)
    assert plain.rate(plain.steps) == pytest.approx(plain.peak_rate * plain.final_rate)


def test_the_model_is_made_for_the_size_at_work() -> None:
    assert SHORT.final_size == 160
    assert dataclasses.replace(SHORT, refine_images=0).final_size == 64


def test_prolonging_a_run_on_its_level_changes_nothing_before() -> None:
    longer = dataclasses.replace(SHORT, images=800)
    assert [longer.rate(step) for step in range(20)] == [SHORT.rate(step) for step in range(20)]


def test_a_recipe_can_be_written_down() -> None:
    said = json.loads(json.dumps(SHORT.as_dict()))
    assert said["refine_sizes"] == [96, 128, 160]
    assert set(said) == {field.name for field in dataclasses.fields(Recipe)}
    assert all(math.isfinite(value) for value in said.values() if isinstance(value, float))
