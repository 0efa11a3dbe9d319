"""Covers `tuning`: which model, data set and length a learning-rate sweep is done at, and its recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.grid.cells import cells
from harness.plan.tuning import Spread, derived, designs
from harness.recipe.load import load
from harness.recipe.schema import Recipe

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"


def study(*overrides: str) -> Recipe:
    return load(RECIPE, "slurm", ["grid.models=[vit_l16, vit_s16, vit_s8, vit_b16]", *overrides])


def test_the_cheapest_model_is_swept_on_the_smallest_data_set_that_fills_enough_steps() -> None:
    found = designs(study())
    assert [design.model for design in found] == ["vit_s16", "vit_b16", "vit_l16", "vit_s8"]
    first = found[0]
    # 125,510 images in batches of 4,096: 66 epochs are 2,022 steps, 65 are 1,991
    assert (first.dataset, first.epochs, first.steps, first.own_rate, first.notes) == ("rxrx1", 66, 2022, 1e-4, ())


def test_where_no_data_set_is_long_enough_the_longest_is_taken_and_said() -> None:
    first = designs(study("train.epochs=1", "grid.datasets=[rxrx1_2m, rxrx3, rxrx1]"))[0]
    assert (first.dataset, first.epochs, first.steps) == ("rxrx3", 1, 537)
    assert first.notes == ("537 steps are fewer than 2,000: no data set of the grid fills them",)


def test_models_outside_the_measured_range_come_last() -> None:
    narrow = "models.vit_s16={size: S, patch: 16, width: 24, depth: 12, heads: 6}"
    assert [design.model for design in designs(study(narrow))] == ["vit_b16", "vit_l16", "vit_s8", "vit_s16"]
    assert designs(study(narrow))[-1].notes == (
        "no model is 32 to 1024 wide and 1 to 24 blocks deep, the range that docs/parametrisation.md has measured",
    )


def test_the_kind_that_most_models_are_of_is_swept() -> None:
    unet = "models.u={kind: mu_net, widths: [8, 16]}"
    names = [design.model for design in designs(study(unet, "train.learning_rate=1e-4", "launch.nodes=1",
             "launch.crops_per_gpu_step=null", "grid.models=[u, vit_s16, vit_b16]"))]  # fmt: skip
    assert names == ["vit_s16", "vit_b16"]


def test_the_sweep_is_a_recipe_of_one_model_and_no_evaluation() -> None:
    recipe = study("grid.axes={mae.mask_ratio: [0.5, 0.75]}", "grid.seeds=[3, 4]")
    sweep = derived(recipe, designs(recipe)[0], [2e-4, 1e-4, 4e-4], without=[4e-4])
    grid = cells(sweep)
    assert [cell.training.learning_rate for cell in grid if cell.training] == [1e-4, 2e-4]
    assert {(cell.model, cell.dataset, cell.seed, cell.kind) for cell in grid} == {("vit_s16", "rxrx1", 3, "trained")}
    assert (sweep.output, sweep.embed, sweep.evaluate) == (recipe.output / "tune" / "vit_s16", None, None)
    assert Recipe.model_validate_json(sweep.model_dump_json(), strict=False) == sweep


def test_the_sweep_stops_no_run() -> None:
    """A parabola through the ends of runs needs all of them."""
    recipe = study("launch.stop_when={below_frontier: 0.99}")
    design = designs(recipe)[0]
    assert derived(recipe, design, [1e-4, 2e-4, 4e-4]).launch.stop_when is None


def test_rates_are_even_in_octaves_around_the_recipe_s_own() -> None:
    assert Spread().around(1e-4) == [2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4]
    assert Spread(4, 3.0).around(1e-4) == [3.54e-5, 7.07e-5, 1.41e-4, 2.83e-4]


@pytest.mark.parametrize(("values", "message"), [((2, 4.0), "--rates 2"), ((26, 4.0), "--rates 26"),
                         ((5, 0.1), "--octaves 0.1"), ((5, float("nan")), "--octaves nan")],
                         ids=["few", "many", "narrow", "nan"])  # fmt: skip
def test_a_spread_that_is_no_sweep_is_refused(values: tuple[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spread(*values)


def test_a_rate_that_no_recipe_can_have_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"train\.learning_rate"):
        derived(study(), designs(study())[0], [1e-4, 1e9])
