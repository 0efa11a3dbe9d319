"""Covers `multipliers` and `panels`: each value of an axis against its baseline, on the page and as files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_cells import finished

from analysis.compute.flops import compute
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.comparisons.multipliers import multipliers, says, table
from harness.report.write import report

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_l16]", "grid.datasets=[rxrx3, rpi_52m]", "grid.untrained=false",
        "grid.pixel_statistics=false"]  # fmt: skip
VARIANTS = "grid.variants={adamw: {train.optimiser.name: adamw}, lion: {}}"
WORTH = {"adamw": 2.0}  # times the baseline's compute


def study(folder: Path, *overrides: str) -> Recipe:
    return load(RECIPE, "slurm", [f"output={folder}", *GRID, *overrides])


def finish(recipe: Recipe, cell: Cell, worth: float = 1.0) -> None:
    """A run on a law of compute, of which the cell's is worth a multiple."""
    assert cell.architecture is not None
    crops = 100_000_000 if cell.dataset == "rpi_52m" else 10_000_000
    spent = compute(recipe.fit.convention, cost_of(cell.architecture), crops)
    finished(recipe, cell, 1 - 0.3 - 0.4 * (worth * spent / 1e16) ** -0.12, crops, annealed=True)


@pytest.mark.slow
def test_the_variant_that_changes_nothing_is_the_baseline_and_a_known_multiplier_is_read(tmp_path: Path) -> None:
    recipe = study(tmp_path, VARIANTS)
    for cell in cells(recipe):
        finish(recipe, cell, WORTH.get(cell.point.variant or "", 1.0))
    (along,) = multipliers(recipe, cells(recipe))
    assert (along.axis, along.baseline, along.why) == ("variant", "lion", "it changes no field of the recipe")
    assert [one.label for one in along.compared] == [
        "adamw: validation loss", "adamw: recall, CORUM", "adamw: recall, StringDB",
    ]  # fmt: skip
    for one in along.compared:
        assert one.comparison is not None
        assert one.comparison.pairs == 6
        assert one.comparison.shared.value == pytest.approx(2.0, rel=0.01)
    numbers = table([along])
    assert set(numbers["baseline"]) == {"lion"}
    assert numbers.loc[numbers["compute"].isna(), "multiplier"].to_numpy() == pytest.approx(2.0, rel=0.01)


def test_branches_of_one_run_are_designs_of_their_own(tmp_path: Path) -> None:
    """Three models, two ends: six pairs. A cosine run is paired with the branch to the end of the run alone."""
    stable = "train.schedule={name: warmup_stable_decay, ends: [0.25, 1.0]}"
    whole = ["grid.datasets=[rxrx3]", "train.early_stopping=null"]
    branched = study(tmp_path / "branched", VARIANTS, stable, *whole)
    schedules = "grid.variants={cosine: {}, stable: {train.schedule: {name: warmup_stable_decay, ends: [0.25, 1.0]}}}"
    mixed = study(tmp_path / "mixed", schedules, *whole)
    for recipe, pairs in ((branched, 6), (mixed, 3)):
        for cell in cells(recipe):
            if cell.kind == "trained":
                assert cell.training is not None
                finish(recipe, cell, cell.training.share)
        (along,) = multipliers(recipe, cells(recipe))
        loss = along.compared[0]
        assert loss.comparison is not None
        assert loss.comparison.pairs == pairs


@pytest.mark.parametrize(
    ("axis", "baseline", "why"),
    [
        ("train.learning_rate: [5e-5, 1e-4]", "5e-05", "the first on the axis"),  # the recipe's is by model
        ("train.optimiser.weight_decay: [0.1, 0.05]", "0.05", "the recipe's own value"),
        ("train.optimiser.weight_decay: [0, 0.05]", "0.05", "the recipe's own value"),
        ("train.optimiser.betas: [[0.9, 0.99], [0.9, 0.95]]", "[0.9, 0.95]", "the recipe's own value"),
    ],
    ids=["first", "own", "integer", "list"],
)
def test_the_recipe_s_own_value_is_the_baseline_else_the_first(
    tmp_path: Path, axis: str, baseline: str, why: str
) -> None:
    recipe = study(tmp_path, f"grid.axes={{{axis}}}")
    (along,) = multipliers(recipe, cells(recipe))
    assert (along.baseline, along.why, along.compared) == (baseline, why, ())
    assert along.notes == ("no cell on this axis is finished yet; 12 are open",)


def test_too_few_runs_say_what_would_be_enough(tmp_path: Path) -> None:
    recipe = study(tmp_path, VARIANTS)
    grid = cells(recipe)
    for cell in [*(c for c in grid if c.point.variant == "lion"), *(c for c in grid if c.point.variant != "lion")][:8]:
        finish(recipe, cell)
    (along,) = multipliers(recipe, grid)
    assert {says(one) for one in along.compared} == {
        "adamw against lion: not enough to tell: adamw has runs at 2 distinct computes, and 3 would be: finish its 4 "
        "open cells"
    }


@pytest.mark.slow
def test_values_are_compared_at_each_point_of_the_other_axes_and_losses_only_of_one_task(tmp_path: Path) -> None:
    recipe = study(tmp_path, "grid.axes={mae.mask_ratio: [0.5, 0.75], train.optimiser.weight_decay: [0.05, 0.1]}")
    for cell in cells(recipe):
        finish(recipe, cell, 3.0 if cell.labels()["train.optimiser.weight_decay"] == 0.1 else 1.0)
    by_axis = {along.axis: along for along in multipliers(recipe, cells(recipe))}
    masks, decays = by_axis["mae.mask_ratio"], by_axis["train.optimiser.weight_decay"]
    assert masks.baseline == "0.75"
    assert {one.metric for one in masks.compared} == {"recall, CORUM", "recall, StringDB"}
    assert masks.notes == ("values of mae.mask_ratio change what a validation loss is of, so losses are not compared",)
    assert {one.variant for one in decays.compared} == {"0.1, mask_ratio=0.5", "0.1, mask_ratio=0.75"}
    found = [one.comparison.shared.value for one in decays.compared if one.comparison]
    np.testing.assert_allclose(found, 3.0, rtol=0.02)


def test_values_that_are_lists_or_numbers_of_another_type_are_found(tmp_path: Path) -> None:
    """Cells that differ along one axis are compared whatever its values are; here each side lacks two computes."""
    recipe = study(tmp_path, "grid.axes={train.optimiser.betas: [[0.9, 0.95], [0.9, 0.99]]}")
    for cell in [cell for cell in cells(recipe) if cell.dataset == "rxrx3" and cell.model == "vit_s16"]:
        finish(recipe, cell)
    (along,) = multipliers(recipe, cells(recipe))
    assert "[0.9, 0.95] has runs at 1 distinct computes" in along.compared[0].failed
    assert "finish its 5 open cells" in along.compared[0].failed


def test_a_recipe_without_axes_has_no_panel(tmp_path: Path) -> None:
    recipe = study(tmp_path)
    assert multipliers(recipe, cells(recipe)) == []


@pytest.mark.slow
def test_the_panel_is_on_the_page_and_beside_the_other_figures(tmp_path: Path) -> None:
    recipe = study(tmp_path, VARIANTS)
    for cell in cells(recipe):
        finish(recipe, cell, WORTH.get(cell.point.variant or "", 1.0))
    written = {path.name for path in report(recipe)}
    assert {"multipliers.csv", "multipliers_variant.png", "multipliers_variant.svg"} <= written
    assert "best_rates.png" not in written
    assert len(pd.read_csv(tmp_path / "report" / "multipliers.csv")) == 3 * 4
    page = (tmp_path / "report" / "report.html").read_text()
    section = page[page.index('id="multipliers"') : page.index('id="frontier"') if 'id="frontier"' in page else None]
    assert "Baseline: lion, it changes no field of the recipe." in section
    assert len(re.findall(r"<tr><td>adamw</td>", section)) == 3
    assert 'data-value="2.0' in section or 'data-value="1.9' in section
    assert 'id="rates"' not in page


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        ("train.epochs: [50, 100]", "100"),
        ("train.optimiser: [{name: lion}, {name: adamw}]", '{"name": "adamw"}'),
        ("train.optimiser.betas: [[0.9, 0.95], [0.9, 0.99]]", "[0.9, 0.99]"),
    ],
    ids=["whole", "section", "list"],
)
def test_values_have_one_name_whatever_they_are(tmp_path: Path, axis: str, value: str) -> None:
    """The column of a whole number holds 100.0 beside baselines, which have none."""
    recipe = study(tmp_path, f"grid.axes={{{axis}}}", "grid.untrained=true", "train.early_stopping=null")
    for cell in cells(recipe):
        if cell.architecture is not None:
            finish(recipe, cell)
    (along,) = multipliers(recipe, cells(recipe))
    assert [one.label for one in along.compared] == [
        f"{value}: validation loss", f"{value}: recall, CORUM", f"{value}: recall, StringDB",
    ]  # fmt: skip
    assert all(one.comparison is not None and one.comparison.pairs == 6 for one in along.compared)
