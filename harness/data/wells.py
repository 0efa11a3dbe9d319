"""Which wells a grid cell reads, and in which order: the recipe's datasets and experiments as indices into shards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.data.shard_sets import check_experiments
from harness.recipe.data import Stream
from shards.order.random_order import Order, RandomOrder, nested_experiments
from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardSet, wells_per_shard

NESTING_SEED = 0  # one nesting order for all cells: each dataset size is a subset of the next
VALIDATION_SEED = 0  # every model of a study reconstructs the same masked patches
Wells = NDArray[np.int64]


def training_wells(shards: ShardSet, fraction: float) -> tuple[tuple[str, ...], Wells]:
    """The nested fraction of the training experiments, and the indices of their wells."""
    experiments = nested_experiments(shards.manifest.experiments["train"], fraction, NESTING_SEED)
    return experiments, shards.indices("train", experiments)


def training_order(shards: ShardSet, wells: Wells, stream: Stream | None, batch: int, seed: int) -> Order:
    """The order in which a cell sees its wells: random, or by streams.

    Raises:
        ValueError: the lanes do not divide the batch.
    """
    if stream is None:
        return RandomOrder(seed, len(wells))
    return StreamOrder(
        seed, wells_per_shard(shards, wells), batch, lanes=stream.lanes, crops=stream.crops, block=stream.block
    )


def validation_wells(shards: ShardSet, limit: int) -> Wells:
    """At most `limit` wells of experiments that no training saw, spread evenly over them.

    Raises:
        ValueError: the shards have no validation split.
    """
    wells = shards.indices("validation")
    if not len(wells):
        raise ValueError(f"{shards.folder}: no validation wells; build the shards with a validation split")
    return wells[np.linspace(0, len(wells) - 1, min(limit, len(wells))).round().astype(np.int64)]


def evaluation_wells(shards: ShardSet, experiments: list[str] | None) -> Wells:
    """The wells to embed: all, or those of the experiments named.

    Raises:
        ValueError: an experiment is not in the shards.
    """
    table = shards.table
    if experiments is None:
        return np.arange(len(table.codes))
    check_experiments(experiments, table.experiments, shards.folder)
    return np.flatnonzero(np.isin(np.array(table.experiments), experiments)[table.codes])
