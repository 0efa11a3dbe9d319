"""Choose the engine for `launch.engine: auto`, and say what it can compile.

Separate from the engines, so that a plan need not import torch.
"""

from __future__ import annotations

from typing import Literal

EngineName = Literal["single", "ddp", "hsdp", "fsdp", "deepspeed"]
ReduceAt = Literal["step", "pass"]
Compile = Literal["none", "blocks", "whole", "reduce-overhead"]

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


def check_compile(compiled: Compile, engine: EngineName, zero_stage: int) -> None:
    """Refuse to compile across what an engine does between blocks.

    Raises:
        ValueError: the engine gathers weights inside of the network, or a CUDA graph would hold its communication.
    """
    gathers = engine in ("hsdp", "fsdp") or (engine == "deepspeed" and zero_stage == 3)
    shown = f"deepspeed with zero_stage {zero_stage}" if engine == "deepspeed" else engine
    if compiled in ("whole", "reduce-overhead") and gathers:
        raise ValueError(
            f"launch.compile is {compiled}, but {shown} gathers weights block by block: use blocks or none"
        )
    if compiled == "reduce-overhead" and engine != "single":
        raise ValueError(f"launch.compile is reduce-overhead, which has no communication, but {engine} does: use whole")
