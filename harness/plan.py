"""The plan: what each cell costs before it is spent, in crops, FLOPs under every convention, GPU hours and money.

Closed forms over the recipe; no torch, no pandas, so that it answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.flops import CONVENTIONS, compute
from harness.grid import Cell
from harness.networks import cost_of
from harness.recipe import Recipe
from harness.recipe_fields import per_name


@dataclass(frozen=True)
class CellPlan:
    """What one cell will cost; GPU hours are of training alone, at the recipe's stated share of the peak."""

    cell: Cell
    parameters: int
    images: int
    crops: int
    steps: int
    flops: dict[str, float]  # by convention
    gpus: int
    gpu_hours: float

    @property
    def wall_hours(self) -> float:
        return self.gpu_hours / max(1, self.gpus)


def plan_cells(recipe: Recipe, cells: Sequence[Cell]) -> list[CellPlan]:
    """The plan of every cell that has a model.

    Raises:
        ValueError: a dataset has neither shards nor `images`, so its size is unknown.
    """
    return [plan_cell(recipe, cell) for cell in cells if cell.architecture is not None]


def plan_cell(recipe: Recipe, cell: Cell) -> CellPlan:
    """The plan of one cell."""
    system = cost_of(cell)
    images, steps, batch = 0, 0, 0
    if cell.training is not None and cell.dataset is not None:
        images, batch = training_images(recipe, cell.dataset), cell.training.batch
        steps = cell.training.epochs * images // batch
    crops = steps * batch
    flops = {name: compute(name, system, crops) for name in CONVENTIONS}
    effective = recipe.hardware.peak_tflops * 1e12 * recipe.hardware.mfu
    gpus = per_name(recipe.launch.nodes, cell.model) * recipe.launch.gpus_per_node if crops else 0
    hours = flops["mae_train"] / effective / 3600
    return CellPlan(cell, system.parameters(), images, crops, steps, flops, gpus, hours)


def training_images(recipe: Recipe, name: str) -> int:
    """Images that a dataset trains on: the shards' own count where they are, else what the recipe states.

    A fraction by experiment is estimated by the same fraction of the images until the shards are opened.

    Raises:
        ValueError: neither is known.
    """
    dataset = recipe.datasets[name]
    counted = _manifest_images(dataset.shards)
    if counted is not None:
        return round(counted * dataset.fraction)
    if dataset.images is None:
        raise ValueError(
            f"datasets.{name}: no shards at {dataset.shards} and no `images`, so its size is unknown; "
            "build the shards or state `images`"
        )
    return dataset.images


def _manifest_images(folder: Path) -> int | None:
    path = folder / "manifest.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["wells"]["train"]) if path.exists() else None


def table(recipe: Recipe, plans: Sequence[CellPlan]) -> str:
    """The plan as text, a line per cell and the sum."""
    head = f"{'cell':<44}{'params':>9}{'crops':>9}{'steps':>9}" + "".join(f"{name:>15}" for name in CONVENTIONS)
    lines = [head + f"{'GPUs':>6}{'hours':>9}{'GPU h':>10}"]
    for plan in plans:
        counts = f"{_short(plan.parameters):>9}{_short(plan.crops):>9}{plan.steps:>9}"
        flops = "".join(f"{value:>15.2e}" for value in plan.flops.values())
        lines.append(f"{plan.cell.id:<44}{counts}{flops}{plan.gpus:>6}{plan.wall_hours:>9.2f}{plan.gpu_hours:>10.1f}")
    hours, hardware = sum(plan.gpu_hours for plan in plans), recipe.hardware
    lines += [
        f"{len(plans)} cells with a model: {_short(sum(plan.crops for plan in plans))} crops, {hours:,.0f} GPU hours "
        f"of {hardware.gpu} at {hardware.mfu:.0%} of {hardware.peak_tflops:g} TFLOP/s (mae_train), "
        f"{hours * hardware.price_per_hour:,.0f} at {hardware.price_per_hour:g} an hour"
    ]
    return "\n".join(lines)


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"
