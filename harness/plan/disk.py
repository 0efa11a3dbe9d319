"""The disk space that a study needs, in closed form, beside what is free where its output is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.models.architecture import cost_of
from harness.plan.cost import CellPlan, embedded_wells
from harness.plan.memory import FLOAT, MOMENTS
from harness.recipe.schema import Recipe

GIGA = 1e9
WIDEST = 2208  # features of a network whose cost class names no width: DenseNet-161's
IN_PROGRESS = 1  # the checkpoint that is being written, beside those that are kept
PARTS = 2  # embeddings are in parts and in the joined table until that is complete


@dataclass(frozen=True)
class Disk:
    """Bytes that a study's cells need.

    Attributes:
        kept: weights and embeddings, and final states that other cells start from.
        passing: checkpoints of cells in training and parts of embeddings, of as many cells as run at a time.
    """

    kept: float
    passing: float

    @property
    def total(self) -> float:
        return self.kept + self.passing

    @property
    def in_words(self) -> str:
        return (
            f"{self.total / GIGA:,.3g} GB: {self.kept / GIGA:,.3g} for weights and embeddings, and up to "
            f"{self.passing / GIGA:,.3g} for checkpoints and parts while cells run"
        )


def disk(recipe: Recipe, plans: Sequence[CellPlan]) -> Disk:
    """What these cells need from now until they are done."""
    wells = embedded_wells(recipe) or 0
    tables = [wells * _width(plan) * FLOAT if plan.embed_hours else 0 for plan in plans]
    weights = [plan.parameters * FLOAT for plan in plans]
    states = [_checkpoint(plan) if plan.cell.heirs or recipe.launch.keep_states else 0 for plan in plans]
    launch = recipe.launch
    count = launch.checkpoint_keep + IN_PROGRESS + launch.checkpoint_best
    passing = [max(count * _checkpoint(plan), (PARTS - 1) * table) for plan, table in zip(plans, tables, strict=True)]
    at_once = sorted(passing, reverse=True)[: launch.parallel]
    return Disk(sum(tables) + sum(weights) + sum(states), sum(at_once))


def _checkpoint(plan: CellPlan) -> float:
    """Bytes of a training state: weights, and the optimiser's moments of each; none for what trains nothing."""
    if plan.cell.training is None:
        return 0.0
    optimiser = plan.cell.training.optimiser
    moments = MOMENTS.get(optimiser.name, MOMENTS["adamw"])  # Muon: AdamW's of the rest, at most
    return float(plan.parameters * FLOAT * (1 + moments))


def _width(plan: CellPlan) -> int:
    """Length of an embedding."""
    assert plan.cell.architecture is not None
    width = getattr(cost_of(plan.cell.architecture), "width", WIDEST)
    return width if isinstance(width, int) else WIDEST


def free(output: Path) -> int:
    """Bytes that are free in the file system of an output, which may not be there yet.

    A quota of a user or a project is not seen.

    Raises:
        OSError: the file system does not say.
    """
    folder = output.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def on_disk(recipe: Recipe, plans: Sequence[CellPlan]) -> str:
    """What these cells need, and what is free on this machine where their output is."""
    needed = disk(recipe, plans)
    try:
        available = f"{free(recipe.output) / GIGA:,.3g} GB are free here"
    except OSError as error:
        available = f"what is free here is not known ({error.strerror})"
    return f"{needed.in_words}; {available} in {recipe.output}"


def shortage(recipe: Recipe, plans: Sequence[CellPlan]) -> list[str]:
    """That the study does not fit its disk, in one line; empty if it does, or if that cannot be told."""
    needed = disk(recipe, plans)
    try:
        available = free(recipe.output)
    except OSError:
        return []
    if needed.total <= available:
        return []
    return [
        f"the study needs {needed.in_words}; {available / GIGA:,.3g} GB are free in {recipe.output}: free some, choose "
        "another output, or run fewer cells at a time (launch.parallel, launch.checkpoint_keep)"
    ]
