"""Gradient accumulation: a global batch in as many pieces as a device's memory asks for, with one and the same loss.

The loss of a step is the mean over all masked patches of the global batch. A micro-batch gives the mean over its own,
and ranks average their gradients, so each micro-batch counts by its share of the masked patches.
"""

from __future__ import annotations

from collections.abc import Sequence


def micro_batch(part: int, most: int | None, group: int = 1) -> int:
    """Crops in each micro-batch of a rank's `part` of the global batch: all, or the most that `most` allows.

    Micro-batches are of one size, so that shapes never change: the largest divisor of `part` that is at most `most`
    and a multiple of `group`, which divides `part`; at least one group.
    """
    if most is None or most >= part:
        return part
    return max((size for size in range(group, most + 1, group) if part % size == 0), default=group)


def loss_weights(masked: Sequence[int], total: int, world: int) -> list[float]:
    """The weight of each of a rank's micro-batches.

    With them, the mean over `world` ranks of each rank's sum of weight times mean loss is the mean over all masked
    patches, however unevenly they fall.

    Args:
        masked: masked patches of each of this rank's micro-batches.
        total: masked patches of the global batch.
    """
    return [count * world / total for count in masked]
