"""Refuse, before anything starts, what would not fit a GPU or the disk."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.grid.cell import Cell
from harness.plan.cost import misfits, plan_cells
from harness.plan.disk import shortage
from harness.recipe.errors import RecipeError
from harness.recipe.schema import Recipe


def check_fit(recipe: Recipe, lacking: Sequence[tuple[Cell, Collection[str]]], *, force: bool) -> None:
    """Check that the cells to run fit the disk and, on a cluster, the GPUs that the plan assumes.

    Args:
        recipe: the study.
        lacking: the cells to run, each with the stages that it lacks.
        force: check nothing.

    Raises:
        RecipeError: they do not, and `force` is not set.
    """
    refused = [] if force else unfit(recipe, lacking)
    if refused:
        raise RecipeError("nothing was started: this would not fit (--force starts it):\n" + "\n".join(refused))


def unfit(recipe: Recipe, lacking: Sequence[tuple[Cell, Collection[str]]]) -> list[str]:
    """What of these cells would not fit the disk or, on a cluster, the GPUs; a line each."""
    plans = plan_cells(recipe, [cell for cell, _ in lacking])
    refused = shortage(recipe, plans, {cell.id: stages for cell, stages in lacking})
    return [*misfits(plans, recipe.hardware.gpu_type), *refused] if recipe.launch.executor == "slurm" else refused
