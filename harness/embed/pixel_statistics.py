"""Mean and standard deviation of each channel: the baseline without a network."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from harness.embed.wells import Features
from shards.reader.shard_set import ShardSet


def pixel_statistics(shards: ShardSet, wells: Iterable[int]) -> Features:
    """Mean and standard deviation of each channel of each raw well: (W, 2 C)."""
    rows = []
    for well in wells:
        sums = np.zeros((len(shards.manifest.channels), 2), np.uint64)
        pixels = shards.read_well(int(well), sums=sums)  # (C, H, W)
        mean, square = (sums / pixels[0].size).T
        rows.append(np.concatenate([mean, np.sqrt(np.maximum(square - mean**2, 0))]))
    return np.stack(rows).astype(np.float32)
