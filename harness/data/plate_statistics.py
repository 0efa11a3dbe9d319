"""AdaBN at inference: the statistics of a well's plate, gathered before its crops are embedded (supplement A.3).

A plate's statistics come from the centre crops of all its wells in the shards, in the sub-batches of training, so an
embedding depends on the weights and the plate only: not on the batch, the ranks, or which wells are embedded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from harness.data.channels import ChannelOrder
from harness.data.labels import plates
from harness.data.to_device import to_model_input
from harness.data.wells import Wells
from harness.distributed.ranks import Ranks
from harness.grid.cell import Cell
from harness.models.interface import Network
from harness.models.layers.sub_batch_norm import plate_statistics
from shards.loader.batches import validation_batches
from shards.reader.shard_set import ShardSet

SUB_BATCHES = 4  # in one forward pass
SHUFFLE_SEED = 0  # wells are ordered by row and often by treatment: a sub-batch takes them from all over the plate


def by_plate(network: Network, shards: ShardSet, wells: Wells) -> list[Wells]:
    """The wells of each plate, for a network that adapts to plates; all of them at once for any other."""
    if not network.adaptive or not len(wells):
        return [wells]
    names = np.array(plates(shards, wells))
    return [wells[names == name] for name in dict.fromkeys(names.tolist())]


def adapted(
    network: Network, cell: Cell, shards: ShardSet, wells: Wells, channels: ChannelOrder, ranks: Ranks,
    precision: torch.autocast,
) -> AbstractContextManager[None]:  # fmt: skip
    """Inside, a network in eval mode that adapts to plates uses the statistics of the plate of `wells`.

    All ranks must enter together. For other networks nothing happens.
    """
    if not network.adaptive or not len(wells):
        return nullcontext()

    def run() -> None:
        for batch in _centres(network, shards, wells):
            with precision:
                network.embed(to_model_input(batch, cell, ranks, channels))

    return plate_statistics(network, run)


def _centres(network: Network, shards: ShardSet, wells: Wells) -> Iterator[torch.Tensor]:
    """Centre crops of all wells of a plate that fill complete sub-batches; of a smaller plate, all wells."""
    (name,) = set(plates(shards, wells))
    table = shards.wells
    on_plate = (table["experiment"].astype(str) + "/" + table["plate"].astype(str) == name).to_numpy(bool)
    shuffled = np.random.default_rng(SHUFFLE_SEED).permutation(table.index[on_plate].to_numpy(np.int64))
    count = len(shuffled) // network.group * network.group
    size = network.group * SUB_BATCHES
    for batch in validation_batches(shards, shuffled[: count or len(shuffled)], crop=network.config.crop, batch=size):
        yield batch.images
