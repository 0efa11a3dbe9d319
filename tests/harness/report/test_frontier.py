"""What a study's frontier says of data that were seen many times."""

from pathlib import Path

import numpy as np
import pytest
from finished_cells import finished

from analysis.compute.flops import flops_per_crop
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.plan.cost import training_images
from harness.recipe.load import load
from harness.report.frontier import RECALL, allocations
from harness.report.points import points

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
EPOCHS = (2, 8, 32, 128)


def answer(tmp_path, hurt: float, *, wells: bool = True) -> str:
    """What the frontier of recall says of a study whose 1 - r has a term that grows with repeats until 30 of them."""
    words = ["grid.seeds=[0,1,2,3]", "grid.models=[vit_s16, vit_b16, vit_l16]"]
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", *words])
    grid = [cell for cell in cells(recipe) if cell.kind == "trained"]
    rng = np.random.default_rng(0)
    for cell in grid:
        images, cost = training_images(recipe, cell.dataset), flops_per_crop("mae_train", cost_of(cell.architecture))
        epochs = EPOCHS[cell.seed]
        lost = hurt * (cost / 1e10) ** 0.5 / (images / 1e6) ** 0.5 / (1 + (30 / (epochs - 1)) ** 2)
        lacks = 0.15 + 0.1 * (cost / 1e10) ** -0.3 + 0.2 * (images * epochs / 1e6) ** -0.2 + lost
        ends = {"wells": images} if wells else {}
        finished(recipe, cell, 1 - lacks * np.exp(0.002 * rng.normal()), images * epochs, **ends)
    found = allocations(recipe, grid, {"mae_train": points(recipe, grid, "mae_train")})["mae_train"]
    return next(one for one in found if one.metric == RECALL).answer


@pytest.mark.slow
def test_epochs_that_hurt_are_told_from_epochs_that_do_not(tmp_path):
    hurt = answer(tmp_path / "hurt", 0.1)
    assert "The runs saw their images 2 to 128 times. At the largest cost: on 125,510 images, best after " in hurt
    assert "and more hurt" in hurt
    harmless = answer(tmp_path / "harmless", 0.0)
    assert "on 125,510 images, more epochs do not hurt" in harmless
    assert "on 93,000,000 images, more epochs do not hurt" in harmless


@pytest.mark.slow
def test_rows_without_their_number_of_images_say_nothing_of_repeats(tmp_path):
    assert "images" not in answer(tmp_path, 0.1, wells=False)
