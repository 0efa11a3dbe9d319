"""What one run of training will do, counted from its shards: wells, steps, validations, log rows, learning rates."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.data.channels import ChannelOrder, training_channels
from harness.data.labels import Labels, labelled_order, labels_of
from harness.data.shard_sets import open_shards
from harness.data.wells import Wells, training_order, training_wells, validation_wells
from harness.distributed.ranks import Ranks
from harness.grid.cell import Cell, Training
from harness.grid.states import planned_steps
from harness.recipe.launch import Launch
from harness.recipe.schema import Recipe
from harness.train.schedule import RunSchedule, run_schedule
from shards.loader.batches import training_batches
from shards.loader.read_ahead import Batch
from shards.loader.shard_prefetch import prefetch_shards
from shards.order.random_order import Order, placed
from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardSet

LOG_ROWS, LOG_STEPS = 200, 50  # at least so many rows in a run, and at most so many steps between two


@dataclass(frozen=True)
class RunSpec:
    """What a training run will do.

    Attributes:
        steps: the step at which it ends.
        schedule: the rates of all steps up to that.
    """

    shards: ShardSet
    channels: ChannelOrder  # of the network, in these shards
    experiments: tuple[str, ...]
    wells: Wells
    order: Order
    validation: Wells
    labels: Labels | None  # of a classifier
    training: Training
    schedule: RunSchedule
    steps: int
    validate_every: int
    log_every: int

    def batches(self, first: int, crop: int, seed: int, ranks: Ranks, launch: Launch) -> Generator[Batch]:
        """This rank's crops from step `first` on. The shards of a stream are downloaded before they are read."""
        batches = training_batches(
            self.shards, self.wells, crop=crop, batch=self.training.batch, seed=seed, first_batch=first,
            last_batch=self.steps, rank=ranks.rank, world=ranks.world, workers=launch.loader_workers,
            ahead=launch.loader_ahead, order=self.order, pin=ranks.device.type == "cuda",
        )  # fmt: skip
        if not isinstance(self.order, StreamOrder):
            return batches
        return prefetch_shards(
            batches,
            self.shards,
            self.order,
            first_batch=first,
            last_batch=self.steps,
            rank=ranks.rank,
            world=ranks.world,
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of the update that follows `step` others."""
        return self.schedule.rate(step, self.training.learning_rate)

    def momentum(self, step: int) -> float | None:
        """The momentum or first beta of that update; None where it stays as the optimiser has it."""
        return self.schedule.momentum(step)

    def class_numbers(self, wells: Tensor, device: torch.device | None = None) -> Tensor | None:
        """The classes of the wells (B,), as a classifier learns them; None for a model without classes."""
        if self.labels is None:
            return None
        return torch.from_numpy(self.labels.of_well[wells.cpu().numpy()]).clamp(min=0).to(device)  # a blank crop's: any

    def crops(self, seed: int, first: int, count: int, crop: int) -> list[str]:
        """Names of the crops at positions `first` to `first + count` of the order: «key of the well@top,left»."""
        wells = self.wells[self.order.wells(first, count)]
        drawn = placed(seed, first, wells, self.shards.shapes[wells], crop)
        keys = self.shards.rows(wells, ["key"])["key"]
        return [f"{key}@{top},{left}" for key, top, left in zip(keys, drawn.top, drawn.left, strict=True)]


def build_run_spec(recipe: Recipe, cell: Cell) -> RunSpec:
    """Count steps and choose wells. That all shards are there is for ranks to check together (`check_shards`).

    Raises:
        ValueError: channels or batch do not fit the shards.
    """
    assert cell.dataset is not None
    assert cell.training is not None
    dataset, training = recipe.datasets[cell.dataset], cell.training
    shards = open_shards(recipe, dataset.shards, dataset.order, sizes=False)
    channels = training_channels(recipe, cell, shards.manifest.channels)
    experiments, wells = training_wells(shards, dataset.fraction)
    labels = labels_of(cell, shards, wells)
    validation = validation_wells(shards, training.settings.validation_wells)
    if labels is not None:
        wells = wells[labels.of_well[wells] >= 0]
        validation = validation[labels.of_well[validation] >= 0]
        if not len(validation):
            raise ValueError(f"{dataset.shards}: no validation well has a label that the training wells have")
    planned = planned_steps(cell, len(wells))
    validations = min(training.settings.validations, planned)
    schedule = run_schedule(training, planned)
    assert cell.data is not None
    stream = cell.data.stream
    if labels is not None and stream is not None:
        raise ValueError(f"a classifier samples by label or plate: datasets.{cell.dataset}.order must be random")
    order = (
        training_order(shards, wells, stream, training.batch, cell.seed) if labels is None
        else labelled_order(cell, shards, wells, labels)
    )  # fmt: skip
    return RunSpec(
        shards, channels, experiments, wells, order, validation, labels, training, schedule, schedule.last,
        validate_every=-(-planned // validations), log_every=min(max(1, planned // LOG_ROWS), LOG_STEPS),
    )  # fmt: skip
