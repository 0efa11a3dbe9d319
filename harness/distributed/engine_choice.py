"""Choose the engine for `launch.engine: auto`. Separate from the engines, so that a plan need not import torch."""

from __future__ import annotations

from typing import Literal

EngineName = Literal["single", "ddp", "hsdp", "fsdp", "deepspeed"]
ReduceAt = Literal["step", "pass"]

WEIGHTS_SHARE = 0.5  # of device memory that weights, gradients and optimiser state may use before they are sharded
BYTES_PER_PARAMETER = 16  # float32 weight and gradient, and at most two float32 moments


def choose_engine(engine: str, world: int, parameters: int, device_bytes: float | None, shard: int) -> EngineName:
    """Return `engine`, or for `auto` the simplest engine that fits.

    That is single for one rank; ddp if a full copy uses at most `WEIGHTS_SHARE` of a device's memory; hsdp if a shard
    over `shard` ranks does and there are more ranks than that; otherwise fsdp.

    Args:
        parameters: the number of parameters of the model.
        device_bytes: memory of one device; None if it is unknown (a CPU), which counts as enough.
    """
    if engine != "auto":
        return engine  # type: ignore[return-value]
    if world == 1:
        return "single"
    budget = WEIGHTS_SHARE * device_bytes if device_bytes else float("inf")
    if parameters * BYTES_PER_PARAMETER <= budget:
        return "ddp"
    shard_fits = parameters * BYTES_PER_PARAMETER <= budget * shard
    return "hsdp" if shard_fits and world > shard > 1 else "fsdp"
