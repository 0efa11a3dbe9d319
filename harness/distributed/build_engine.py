"""Build the engine that trains a grid cell, from its recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from harness.distributed.ddp import Ddp
from harness.distributed.engine import Engine, EngineOptions, MakeOptimiser
from harness.distributed.engine_choice import check_compile, choose_engine
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks
from harness.distributed.recompute import compile_for, set_up_blocks
from harness.distributed.stalls.slow_ranks import time_forward
from harness.grid.cell import Cell
from harness.models.layers.initial_values import InitialValues
from harness.models.layers.parametrisation import scaling_of
from harness.recipe.schema import Recipe

if TYPE_CHECKING:
    from harness.models.interface import Network


def engine_for_cell(
    recipe: Recipe, cell: Cell, model: Network, ranks: Ranks, initial: InitialValues | None = None
) -> Engine:
    """Build the engine that the recipe sets for `cell`. `model` as for `build_engine`.

    Raises:
        ValueError, RuntimeError: as `build_engine`.
    """
    assert cell.training is not None
    launch, peak = recipe.launch, cell.training.learning_rate
    on_gpu = ranks.device.type == "cuda"
    shard = launch.shard_gpus or min(ranks.world, launch.gpus_per_node or ranks.world)
    memory = torch.cuda.get_device_properties(ranks.device).total_memory if on_gpu else None
    name = choose_engine(launch.engine, ranks.world, sum(p.numel() for p in model.parameters()), memory, shard)
    compiled = compile_for(launch.compile, ranks.device)
    check_compile(compiled, name, launch.zero_stage)
    set_up_blocks(model, launch.recompute, compiled)
    model.channels_last = launch.channels_last
    timer = time_forward(model, ranks, is_whole=compiled == "whole")
    optimiser = cell.training.optimiser

    def make_optimiser(module: nn.Module) -> Optimizer:
        return build_optimiser(
            module, optimiser.name, peak=peak, betas=optimiser.betas, momentum=optimiser.momentum_used,
            weight_decay=optimiser.weight_decay, rest=optimiser.rest,
            scaling=scaling_of(model.config, optimiser.name),
        )  # fmt: skip

    precision = cell.training.settings.precision
    options = EngineOptions(
        name=name,
        precision=precision,
        shard=shard,
        zero_stage=launch.zero_stage,
        gather=precision if on_gpu else "fp32",
        reduce_at=launch.reduce_at,
        ddp_gradients=launch.ddp_gradients,
    )
    engine = build_engine(model, make_optimiser, ranks, options, initial)
    engine.timer = timer
    return engine


def build_engine(
    model: Network, make_optimiser: MakeOptimiser, ranks: Ranks, options: EngineOptions,
    initial: InitialValues | None = None,
) -> Engine:  # fmt: skip
    """Build the engine named in `options`. `model` is on this rank's device, or has no values but `initial`.

    Raises:
        ValueError: the engine does not support this number of ranks.
        RuntimeError: DeepSpeed is requested but not installed.
    """
    if options.name == "single":
        if ranks.world > 1:
            raise ValueError(f"launch.engine is single, but {ranks.world} ranks run: use ddp, hsdp, fsdp or deepspeed")
        return Engine(model, make_optimiser, ranks, options, initial)
    if ranks.world == 1:
        raise ValueError(f"launch.engine is {options.name}, but there is one rank: use single or auto")
    if options.name == "ddp":
        return Ddp(model, make_optimiser, ranks, options, initial)
    if options.name == "deepspeed":
        from harness.distributed.deepspeed import Zero

        return Zero(model, make_optimiser, ranks, options, initial)
    from harness.distributed.fsdp import Fsdp

    return Fsdp(model, make_optimiser, ranks, options, initial)
