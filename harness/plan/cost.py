"""The plan: what each grid cell will cost in crops, FLOPs, memory, communication, hours, price and energy.

Closed forms over the recipe, without torch or pandas, so that `plan` starts fast. The assumptions about GPUs are in the
recipe's `hardware`, above all the share of the peak that training reaches; the log of a finished cell has the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.compute.flops import CONVENTIONS, FLOPS_PER_MAC, System, compute, dense_forward
from harness.data.shard_sets import ShardLocation, manifest_of
from harness.grid.cell import Cell, Training
from harness.grid.states import last_step
from harness.models.architecture import cost_of
from harness.plan.step_time import GIGA, TERA, StepEstimate, estimate_step
from harness.recipe.fields import per_name
from harness.recipe.gpus import Gpu
from harness.recipe.schema import Recipe

CROPS_PER_WELL = 64  # a 2048² well in tiles of 256² (supplement A.3)
HOUR = 3600.0


@dataclass(frozen=True)
class CellPlan:
    """What one cell will cost.

    Attributes:
        crops: that the cell itself trains on, in `steps`.
        crops_before: that were trained on before the state with which the cell starts.
        flops: of all these crops by convention, as the cell's point has them.
        run: None for a cell that trains nothing.
        embed_hours: GPU hours too; None where the number of wells is not known.
    """

    cell: Cell
    parameters: int
    images: int
    crops: int
    steps: int
    crops_before: int
    flops: dict[str, float]
    gpus: int
    run: StepEstimate | None
    embed_hours: float | None

    @property
    def work(self) -> float:
        """FLOPs of the cell's own training (mae_train)."""
        return self.flops["mae_train"] * self.crops / max(1, self.crops + self.crops_before)

    @property
    def wall_hours(self) -> float:
        """Wall-clock hours of training."""
        return self.steps * self.run.step_seconds / HOUR if self.run else 0.0

    @property
    def gpu_hours(self) -> float:
        """GPU hours of training."""
        return self.wall_hours * max(1, self.gpus)

    @property
    def all_hours(self) -> float:
        """GPU hours of training and embedding."""
        return self.gpu_hours + (self.embed_hours or 0.0)


def plan_cells(recipe: Recipe, cells: Sequence[Cell]) -> list[CellPlan]:
    """The plan of every cell that has a model.

    Raises:
        ValueError: a dataset has neither shards nor `images`, so its size is unknown.
    """
    wells = embedded_wells(recipe)
    return [plan_cell(recipe, cell, wells) for cell in cells if cell.architecture is not None]


def plan_cell(recipe: Recipe, cell: Cell, wells: int | None) -> CellPlan:
    """The plan of one cell, which embeds `wells` wells."""
    assert cell.architecture is not None
    recipe, system = cell.recipe(recipe), cost_of(cell.architecture)
    images, first, last, batch, gpus, run = 0, 0, 0, 0, 0, None
    if cell.training is not None and cell.dataset is not None:
        images, batch = training_images(recipe, cell.dataset), cell.training.batch
        first, last = first_and_last_step(cell, images)
        gpus = per_name(recipe.launch.nodes, cell.model) * recipe.launch.gpus_per_node
        run = estimate_step(recipe, cell, system)
    before = first * batch + _crops_continued(recipe, cell)
    crops = (last - first) * batch
    flops = {name: compute(name, system, before + crops) for name in CONVENTIONS}
    wells = 0 if cell.kind == "segment" and not cell.is_snapshot else wells
    hours = None if wells is None else wells * CROPS_PER_WELL * embed_seconds(recipe, cell, system) / HOUR
    return CellPlan(cell, system.parameters(), images, crops, last - first, before, flops, gpus, run, hours)


def first_and_last_step(cell: Cell, images: int) -> tuple[int, int]:
    """The steps of its run between which a cell trains on so many images."""
    assert cell.training is not None
    planned = cell.training.epochs * images // cell.training.batch
    if planned == 0:
        return 0, 0
    first = 0 if cell.begins_run else last_step(_training(cell.start), planned)
    return first, last_step(cell.training, planned)


def _training(cell: Cell | None) -> Training:
    assert cell is not None
    assert cell.training is not None
    return cell.training


def _crops_continued(recipe: Recipe, cell: Cell) -> int:
    """Crops of the run that the cell's own run continues."""
    before = cell.continued
    if before is None:
        return 0
    assert before.dataset is not None
    last = first_and_last_step(before, training_images(recipe, before.dataset))[1]
    return last * _training(before).batch + _crops_continued(recipe, before)


def embed_seconds(recipe: Recipe, cell: Cell, system: System) -> float:
    """GPU seconds for a crop's forward pass through the encoder, at the training's share of the peak."""
    effective = recipe.hardware.gpu_type.peak_tflops * TERA * per_name(recipe.hardware.mfu, cell.model)
    return FLOPS_PER_MAC * dense_forward(system) / effective


def embedded_wells(recipe: Recipe) -> int | None:
    """Wells that every cell embeds: the shards' count, or that of a dataset with the same shards; None if unknown."""
    if recipe.embed is None:
        return 0
    shards = recipe.embed.shards
    counts = _manifest_wells(recipe, shards)
    if counts is not None:
        return sum(counts.values())
    same = [dataset for dataset in recipe.datasets.values() if dataset.shards == shards]
    return max((dataset.images for dataset in same if dataset.images), default=None)


def training_images(recipe: Recipe, name: str) -> int:
    """Images that a dataset trains on: the shards' own count where they are, else what the recipe states.

    A fraction by experiment is estimated by the same fraction of the images until the shards are opened.

    Raises:
        ValueError: neither is known.
    """
    dataset = recipe.datasets[name]
    counted = _manifest_wells(recipe, dataset.shards)
    if counted is not None:
        return round(counted["train"] * dataset.fraction)
    if dataset.images is None:
        raise ValueError(
            f"datasets.{name}: no shards at {dataset.shards} and no `images`, so its size is unknown; "
            "build the shards or state `images`"
        )
    return dataset.images


def _manifest_wells(recipe: Recipe, place: ShardLocation) -> dict[str, int] | None:
    try:
        counts: dict[str, int] = manifest_of(recipe, place).fields["wells"]
    except FileNotFoundError:
        return None
    return counts


def misfits(plans: Sequence[CellPlan], gpu: Gpu) -> list[str]:
    """What does not fit, one line per model and batch, in terms of the recipe's fields."""
    lines: dict[str, None] = {}
    for plan in plans:
        if plan.run is not None and not plan.run.fits:
            run = plan.run
            assert run.memory is not None
            needs = f"{run.memory.total / GIGA:.0f} GB of {gpu.name}'s {gpu.memory_gb:.0f}"
            instead = f"{run.instead} would" if run.instead else "no setting would: take more or larger GPUs"
            line = (
                f"{plan.cell.model} with {run.setting.crops} crops a pass on {plan.gpus} GPUs needs {needs}; {instead}"
            )
            lines[line] = None
    return list(lines)
