"""Wells to embeddings: tiles in, the mean over each well's tiles out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from harness.data.channels import ChannelOrder
from harness.data.plate_statistics import adapted, by_plate
from harness.data.to_device import prefetch_to_device, to_model_input
from harness.data.wells import Wells
from harness.distributed.engine import autocast
from harness.distributed.preemption import StopFlag, in_lockstep
from harness.distributed.ranks import Ranks
from harness.grid.cell import Cell
from harness.models.interface import Network
from harness.recipe.schema import Recipe
from shards.loader.batches import well_tiles
from shards.loader.read_ahead import Batch
from shards.reader.shard_set import ShardSet

GPU_BATCH = 256  # tiles in a forward pass where the recipe does not say
CPU_PIXELS = 8 * 256**2  # the same on a CPU, in pixels of one channel: larger batches no longer fit the caches
Features = NDArray[np.float32]  # (W, D)


@dataclass(frozen=True)
class TileReading:
    """Tiles in a forward pass, and the threads that decode wells ahead of it."""

    batch: int
    workers: int

    @classmethod
    def of(cls, recipe: Recipe, crop: int, device: torch.device) -> TileReading:
        """As the recipe says. On a CPU, more than one reading thread would only take time from the network."""
        assert recipe.embed is not None
        if device.type == "cuda":
            return cls(recipe.embed.batch or GPU_BATCH, recipe.launch.loader_workers)
        return cls(recipe.embed.batch or max(1, min(GPU_BATCH, CPU_PIXELS // crop**2)), 1)


@torch.inference_mode()
def embed_wells(
    model: Network, cell: Cell, shards: ShardSet, wells: Wells, channels: ChannelOrder, reading: TileReading,
    ranks: Ranks, precision: str, stop: StopFlag,
) -> Features:  # fmt: skip
    """Mean embedding of each well's tiles, (W, D), in the order of `wells`; ranks share the work."""
    place = {int(well): i for i, well in enumerate(wells)}
    sums = torch.zeros(len(wells), model.config.embedding_width, dtype=torch.float64, device=ranks.device)  # (W, D)
    tiles = torch.zeros(len(wells), dtype=torch.float64, device=ranks.device)  # (W,)
    for part in by_plate(model, shards, wells):
        with adapted(model, cell, shards, part, channels, ranks, autocast(ranks.device, precision)):
            for batch in in_lockstep(_tiles(shards, part, model.config.crop, reading, ranks), ranks, stop):
                with autocast(ranks.device, precision):
                    embedded = model.embed(to_model_input(batch.images, cell, ranks, channels))  # (T, D)
                rows = torch.tensor([place[int(well)] for well in batch.wells], device=ranks.device)
                sums.index_add_(0, rows, embedded.double())
                tiles.index_add_(0, rows, torch.ones(len(rows), dtype=torch.float64, device=ranks.device))
    mean = ranks.sum(sums) / ranks.sum(tiles)[:, None]
    return mean.float().cpu().numpy()


def _tiles(shards: ShardSet, wells: Wells, crop: int, reading: TileReading, ranks: Ranks) -> Iterator[Batch]:
    """This rank's batches of tiles, decoded ahead by threads and, for a GPU, copied while the previous one computes."""
    from tqdm import tqdm

    batches = well_tiles(
        shards, wells, crop=crop, batch=reading.batch, rank=ranks.rank, world=ranks.world, workers=reading.workers
    )
    if ranks.device.type == "cuda":
        ahead = prefetch_to_device(batches, lambda _, wells: torch.empty(len(wells), 0), 0, ranks.device)
        batches = (step.batch for step in ahead)
    with tqdm(unit=" tiles", unit_scale=True, desc="embed", mininterval=5, disable=not ranks.is_first) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.images))
