"""The disk space that a study needs, in closed form, beside what is free where its output is."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.grid.cell_folder import cell_folder
from harness.models.architecture import cost_of
from harness.plan.cost import CellPlan, embedded_wells
from harness.plan.memory import FLOAT, MOMENTS
from harness.recipe.schema import Recipe
from harness.storage.ledger import STAGES

GIGA = 1e9
WIDEST = 2208  # features of a network whose cost class names no width: DenseNet-161's
Missing = Mapping[str, Collection[str]]
"""The stages that each cell lacks, by its id."""


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


def disk(recipe: Recipe, plans: Sequence[CellPlan], missing: Missing | None = None) -> Disk:
    """What the missing stages of these cells need until they are done, with what is there of them already.

    Args:
        recipe: the study.
        plans: of the cells.
        missing: the stages that each cell lacks; None: all of them.
    """
    wells, kept, passing = embedded_wells(recipe) or 0, 0.0, list[float]()
    for plan in plans:
        lacks = STAGES if missing is None else missing.get(plan.cell.id, ())
        state = _checkpoint(plan) if "train" in lacks else 0.0
        table = float(wells * _width(plan) * FLOAT) if "embed" in lacks and plan.embed_hours else 0.0
        kept += table + (plan.parameters * FLOAT if "train" in lacks else 0)
        kept += state if plan.cell.heirs or recipe.launch.keep_states else 0
        # Embeddings are in parts, too, until they are joined; by then the checkpoints are gone.
        passing.append(max(_checkpoints_kept(recipe) * state, table))
    return Disk(kept, sum(sorted(passing, reverse=True)[: recipe.launch.parallel]))


def _checkpoints_kept(recipe: Recipe) -> int:
    """How many checkpoints a cell in training has at most: with the best one, and one that is being written."""
    return recipe.launch.checkpoint_keep + recipe.launch.checkpoint_best + 1


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
    try:
        available = f"{free(recipe.output) / GIGA:,.3g} GB are free here"
    except OSError as error:
        available = f"what is free here is not known ({error.strerror})"
    return f"{disk(recipe, plans).in_words}; {available} in {recipe.output}"


def present(recipe: Recipe, plans: Sequence[CellPlan]) -> int:
    """Bytes that the folders of these cells hold: what they need has partly been written."""
    folders = (cell_folder(recipe, plan.cell) for plan in plans)
    sizes = 0
    for path in (path for folder in folders for path in folder.rglob("*")):
        with suppress(OSError):  # a running cell has removed it
            sizes += path.stat().st_size if path.is_file() else 0
    return sizes


def shortage(recipe: Recipe, plans: Sequence[CellPlan], missing: Missing | None = None) -> list[str]:
    """That the study does not fit its disk, in one line; empty if it does, or if that cannot be told."""
    needed = disk(recipe, plans, missing)
    try:
        available = free(recipe.output)
    except OSError:
        return []
    if needed.total <= available + present(recipe, plans):
        return []
    return [
        f"the study needs {needed.in_words}; {available / GIGA:,.3g} GB are free in {recipe.output}: free some, choose "
        "another output, or run fewer cells at a time (launch.parallel, launch.checkpoint_keep)"
    ]
