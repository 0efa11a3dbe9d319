"""Validation: the masked loss on crops of experiments that no training saw (supplement A.3).

Shapes: B crops of a batch, C channels, S crop side, L tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch

from harness.data.plate_statistics import adapted, by_plate
from harness.data.to_device import to_model_input
from harness.data.wells import VALIDATION_SEED
from harness.distributed.engine import Engine
from harness.distributed.preemption import StopFlag, in_lockstep
from harness.grid.cell import Cell
from harness.models.layers.masking import masking_noise
from harness.train.run_spec import RunSpec
from shards.loader.batches import tile_batches, validation_batches, well_tiles
from shards.loader.read_ahead import Batch

VALIDATION_BATCH = 64  # crops of a rank
TILES_PER_WELL = 1 << 20  # more than any well has, so that keys of different wells never collide


@torch.no_grad()
def validate(engine: Engine, cell: Cell, spec: RunSpec, stop: StopFlag) -> dict[str, float]:
    """The validation loss on crops of unseen experiments, of the model and of a trivial prediction.

    For masked autoencoders: masked MSE, without the Fourier term, and the error of predicting each channel's mean.

    Raises:
        Preempted: a rank was told to stop.
    """
    model, ranks = engine.model, engine.ranks
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)  # loss, mean predictor's loss, crops
    seen: Counter[int] = Counter()
    for wells in by_plate(model, spec.shards, spec.validation):
        part = replace(spec, validation=wells)
        with adapted(model, cell, spec.shards, wells, spec.channels, ranks, engine.autocast()):
            for batch in in_lockstep(_batches(engine, cell, part), ranks, stop):
                count = len(batch.wells)
                batch = batch if count else _blank(spec, model.config.crop)
                crops = to_model_input(batch.images, cell, ranks, spec.channels)
                noise = masking_noise(VALIDATION_SEED, _mask_keys(batch.wells.tolist(), seen), model.config.mask_values)
                labels = spec.class_numbers(batch.wells, ranks.device)
                with engine.autocast():
                    output = model(crops, noise.to(ranks.device), labels)
                flat = model.trivial_loss(crops, output)
                losses = torch.stack([output.validation_loss.double(), flat.double(), torch.ones_like(sums[0])])
                sums += losses * count
    loss, mean_loss, _ = (ranks.sum(sums) / ranks.sum(sums)[2]).tolist()
    model.train()
    return {"validation_loss": loss, "mean_predictor_loss": mean_loss}


def _batches(engine: Engine, cell: Cell, spec: RunSpec) -> Iterator[Batch]:
    """This rank's crops. Every rank yields equally often, as engines with shards need, so some batches are empty."""
    assert cell.training is not None
    crop, ranks = engine.model.config.crop, engine.ranks
    tiles = cell.training.settings.validation_view == "tiles"
    read, crops = (well_tiles, VALIDATION_BATCH) if tiles else (validation_batches, VALIDATION_BATCH * ranks.world)
    batches = read(spec.shards, spec.validation, crop=crop, batch=crops, rank=ranks.rank, world=ranks.world)
    count = 0
    for batch in batches:
        count += 1
        yield batch
    if tiles:
        shape = {"crop": crop, "batch": VALIDATION_BATCH, "world": ranks.world}
        largest = max(tile_batches(spec.shards, spec.validation, rank=rank, **shape) for rank in range(ranks.world))
        yield from (_blank(spec, crop, 0) for _ in range(largest - count))


def _blank(spec: RunSpec, crop: int, count: int = 1) -> Batch:
    """Black crops for a rank that has none."""
    shape = (count, len(spec.shards.manifest.channels), crop, crop)
    return Batch(torch.zeros(shape, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))


def _mask_keys(wells: list[int], seen: Counter[int]) -> list[int]:
    """A key for each crop that depends on its well and its number within the well alone."""
    keys = []
    for well in wells:
        keys.append(well * TILES_PER_WELL + seen[well])
        seen[well] += 1
    return keys
