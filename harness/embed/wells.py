"""Wells to embeddings: tiles in, the mean over each well's tiles out.

Shapes: T tiles in a forward pass, W wells of a part, D embedding width.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from harness.data.channels import ChannelOrder
from harness.data.plate_statistics import adapted, by_plate
from harness.data.to_device import StepInput, on_device, prefetch_to_device, to_model_input
from harness.data.wells import Wells
from harness.distributed.engine import autocast
from harness.distributed.preemption import StopFlag, in_lockstep
from harness.distributed.ranks import Ranks
from harness.grid.cell import Cell
from harness.models.interface import Network
from harness.recipe.schema import Recipe
from shards.loader.batches import tile_batches, tile_counts, tiles_of_parts
from shards.loader.read_ahead import Batch
from shards.reader.shard_set import ShardSet

GPU_BATCH = 256  # tiles in a forward pass where the recipe does not say
CPU_PIXELS = 8 * 256**2  # the same on a CPU, in pixels of one channel: larger batches no longer fit the caches
Features = NDArray[np.float32]  # (W, D)


class RankTiles(TypedDict):
    """Side of a tile, tiles of a batch, and the rank that reads them."""

    crop: int
    batch: int
    rank: int
    world: int


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

    def of_rank(self, crop: int, ranks: Ranks) -> RankTiles:
        """Which tiles a rank reads."""
        return RankTiles(crop=crop, batch=self.batch, rank=ranks.rank, world=ranks.world)


@torch.inference_mode()
def embed_parts(
    model: Network, cell: Cell, shards: ShardSet, parts: Sequence[Wells], channels: ChannelOrder, reading: TileReading,
    ranks: Ranks, precision: str, stop: StopFlag,
) -> Iterator[Features]:  # fmt: skip
    """Yield the mean embeddings of the tiles of each part's wells, (W, D) in the order of the wells; ranks share the
    work.

    All parts are read by one pipeline, and their embeddings do not depend on which parts come before.

    Raises:
        Preempted: a rank received a signal; parts before this one have been yielded.
    """
    plates = [by_plate(model, shards, wells) for wells in parts]
    with closing(_tiles(shards, [one for part in plates for one in part], model.config.crop, reading, ranks)) as tiles:
        for wells, part in zip(parts, plates, strict=True):
            place = {well: row for row, well in enumerate(wells.tolist())}
            sums = torch.zeros(len(wells), model.config.embedding_width, dtype=torch.float64, device=ranks.device)
            for plate in part:
                with adapted(model, cell, shards, plate, channels, ranks, autocast(ranks.device, precision)):
                    count = tile_batches(shards, plate, **reading.of_rank(model.config.crop, ranks))
                    for batch in in_lockstep(islice(tiles, count), ranks, stop):
                        with autocast(ranks.device, precision):
                            embedded = model.embed(to_model_input(batch.images, cell, ranks, channels))  # (T, D)
                        rows = torch.tensor([place[well] for well in batch.wells.tolist()])
                        sums.index_add_(0, on_device(rows, ranks.device), embedded.double())
            count_of = torch.from_numpy(tile_counts(shards, wells, model.config.crop)).double()  # (W,)
            mean = ranks.sum(sums) / on_device(count_of, ranks.device)[:, None]
            yield mean.float().cpu().numpy()


def _tiles(
    shards: ShardSet, parts: Sequence[Wells], crop: int, reading: TileReading, ranks: Ranks
) -> Generator[Batch]:  # fmt: skip
    """This rank's batches of tiles of all parts, decoded ahead by threads and, for a GPU, copied while the previous one
    computes."""
    from tqdm import tqdm

    batches = tiles_of_parts(shards, parts, **reading.of_rank(crop, ranks), workers=reading.workers)
    source: Generator[Batch] | Generator[StepInput] = batches
    if ranks.device.type != "cpu":
        source = prefetch_to_device(batches, lambda _, wells: torch.empty(len(wells), 0), 0, ranks.device)
    with (
        closing(source),
        tqdm(unit=" tiles", unit_scale=True, desc="embed", mininterval=5, disable=not ranks.is_first) as bar,
    ):
        for item in source:
            batch = item.batch if isinstance(item, StepInput) else item
            yield batch
            bar.update(len(batch.images))
