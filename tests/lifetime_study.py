"""A study of six models on five data sets whose recall follows a joint law of cost per crop and crops seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from finished_cells import finished

from harness.grid.cells import cells
from harness.plan.cost import plan_cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "scaling.yaml"
GRID = ["grid.untrained=false", "grid.pixel_statistics=false",
        "grid.models=[vit_s16, vit_b16, vit_l16, vit_s8, vit_b8, vit_l8]"]  # fmt: skip


def miss(cost: float, crops: float) -> float:
    """1 - recall where a crop costs so much (touvron) and so many were seen; also the validation loss."""
    return float(0.3 + 0.25 * (cost / 1e10) ** -0.35 + 0.25 * (crops / 1e7) ** -0.3)


def unfinished(output: Path, *overrides: str, profile: str = "slurm") -> Recipe:
    return load(RECIPE, profile, [f"output={output}", *GRID, *overrides])


def finished_study(output: Path, *overrides: str, noise: float = 0.002) -> Recipe:
    """The same with every cell evaluated."""
    recipe, rng = unfinished(output, *overrides), np.random.default_rng(0)
    for plan in plan_cells(recipe, cells(recipe)):
        recall = 1 - miss(plan.flops["touvron"] / plan.crops, plan.crops) * float(np.exp(noise * rng.normal()))
        finished(recipe, plan.cell, recall, plan.crops, annealed=True)
    return recipe
