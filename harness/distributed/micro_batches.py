"""Gradient accumulation: the size and the loss weight of each micro-batch.

The loss of a step is the mean over all masked patches of the global batch, however many micro-batches it is split into.
A micro-batch gives the mean over its own patches, and ranks average their gradients, so each micro-batch is weighted by
its share of the masked patches.
"""

from __future__ import annotations

from collections.abc import Sequence


def micro_batch(part: int, max_crops: int | None, group: int = 1) -> int:
    """Return the number of crops per micro-batch, for a rank that has `part` crops of the global batch.

    All micro-batches have the same size, so that tensor shapes never change: the largest divisor of `part` that is at
    most `max_crops` and a multiple of `group`. At least one group; `group` must divide `part`.
    """
    if max_crops is None or max_crops >= part:
        return part
    return max((size for size in range(group, max_crops + 1, group) if part % size == 0), default=group)


def uneven_batch(batch: int, world: int, group: int = 1) -> str | None:
    """Why a global batch cannot be shared by `world` ranks of groups of `group` crops; None if it can."""
    if batch % (world * group) == 0:
        return None
    nearest = max(1, round(batch / (world * group))) * world * group
    if group == 1:
        return f"train.batch {batch} does not divide over {world} ranks; {nearest} would"
    return f"train.batch {batch} over {world} ranks does not divide into groups of {group}; {nearest} would"


def loss_weights(masked: Sequence[int], total: int, world: int) -> list[float]:
    """Return the loss weight of each of a rank's micro-batches.

    Each rank sums weight times mean loss over its micro-batches. The mean of these sums over `world` ranks is the mean
    over all masked patches, even if micro-batches have different numbers of them.

    Args:
        masked: the number of masked patches in each of this rank's micro-batches.
        total: the number of masked patches in the global batch.
    """
    return [count * world / total for count in masked]
