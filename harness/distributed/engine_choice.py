"""Which engine `launch.engine: auto` stands for. Apart from the engines, so that a plan need not import torch."""

from __future__ import annotations

from typing import Literal

EngineName = Literal["single", "ddp", "hsdp", "fsdp", "deepspeed"]

WEIGHTS_SHARE = 0.5  # of a device's memory that weights, gradients and optimiser may fill before they are sharded
BYTES_PER_PARAMETER = 16  # float32 weight and gradient, and at most two float32 moments


def choose_engine(wanted: str, world: int, parameters: int, device_bytes: float | None, shard: int) -> EngineName:
    """What `auto` stands for: single for one rank; ddp where a whole copy is small beside the device's memory; else
    hsdp where its shards (of `shard` ranks) are, and fsdp.

    Args:
        parameters: of the model.
        device_bytes: memory of one device; None where it is not known (a CPU), which counts as enough.
    """
    if wanted != "auto":
        return wanted  # type: ignore[return-value]
    if world == 1:
        return "single"
    room = WEIGHTS_SHARE * device_bytes if device_bytes else float("inf")
    if parameters * BYTES_PER_PARAMETER <= room:
        return "ddp"
    fits_a_few = parameters * BYTES_PER_PARAMETER <= room * shard
    return "hsdp" if fits_a_few and world > shard > 1 else "fsdp"
