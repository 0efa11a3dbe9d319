"""Validation: the masked loss on crops of experiments that no training saw (supplement A.3).

Shapes: B crops of a batch, C channels, S crop side, L tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch

from harness.data.plate_statistics import adapted, by_plate
from harness.data.to_device import prepare
from harness.data.wells import VALIDATION_SEED
from harness.distributed.engine import Engine
from harness.distributed.preemption import StopFlag, abreast
from harness.grid.cells import Cell
from harness.models.layers.masking import masking_noise
from harness.train.run_spec import Course
from shards.loader.batches import validation_batches, well_tiles
from shards.loader.read_ahead import Batch

VALIDATION_BATCH = 64
TILES_PER_WELL = 1 << 20  # more than any well has: keys of different wells never meet


@torch.no_grad()
def validate(engine: Engine, cell: Cell, course: Course, stop: StopFlag) -> dict[str, float]:
    """The validation loss on crops of unseen experiments, of the model and of one that predicts nothing in particular.

    For masked autoencoders: masked MSE, without the Fourier term, and the error of predicting each channel's mean.

    Raises:
        Preempted: a rank was told to stop.
    """
    model, here = engine.model, engine.here
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=here.device)  # loss, mean predictor's loss, crops
    seen: Counter[int] = Counter()
    for wells in by_plate(model, course.shards, course.validation):
        part = replace(course, validation=wells)
        with adapted(model, cell, course.shards, wells, here, engine.autocast()):
            for batch in abreast(_batches(engine, cell, part), here, stop):
                count = len(batch.wells)
                batch = batch if count else _blank(course, model.config.crop)
                crops = prepare(batch.images, cell, here)
                noise = masking_noise(VALIDATION_SEED, _mask_keys(batch.wells.tolist(), seen), model.config.tokens)
                with engine.autocast():
                    output = model(crops, course.with_labels(batch.wells, noise).to(here.device))
                flat = model.trivial_loss(crops, output)
                losses = torch.stack([output.validation_loss.double(), flat.double(), torch.ones_like(sums[0])])
                sums += losses * count
    loss, mean_loss, _ = (here.sum(sums) / here.sum(sums)[2]).tolist()
    model.train()
    return {"validation_loss": loss, "mean_predictor_loss": mean_loss}


def _batches(engine: Engine, cell: Cell, course: Course) -> Iterator[Batch]:
    """This rank's crops; every rank yields equally often, as engines with shards need, so some batches are empty."""
    assert cell.training is not None
    crop, here = engine.model.config.crop, engine.here
    tiles = cell.training.settings["validation_view"] == "tiles"
    read = well_tiles if tiles else validation_batches
    found = read(course.shards, course.validation, crop=crop, batch=VALIDATION_BATCH, rank=here.rank, world=here.world)
    read_here = 0
    for batch in found:
        read_here += 1
        yield batch
    if tiles:
        most = max(_tile_batches(course, crop, rank, here.world) for rank in range(here.world))
        yield from (_blank(course, crop, 0) for _ in range(most - read_here))


def _tile_batches(course: Course, crop: int, rank: int, world: int) -> int:
    """How many batches of tiles a rank reads."""
    tiles = (course.shards.shapes[course.validation[rank::world]] // crop).prod(axis=1).sum()
    return -(-int(tiles) // VALIDATION_BATCH)


def _blank(course: Course, crop: int, count: int = 1) -> Batch:
    """Black crops that stand in where a rank has none."""
    shape = (count, len(course.shards.manifest.channels), crop, crop)
    return Batch(torch.zeros(shape, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))


def _mask_keys(wells: list[int], seen: Counter[int]) -> list[int]:
    """A key for each crop that depends on its well and its number within the well alone."""
    keys = []
    for well in wells:
        keys.append(well * TILES_PER_WELL + seen[well])
        seen[well] += 1
    return keys
