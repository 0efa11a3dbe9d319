"""Activation checkpointing of each block, and compilation of each block or of the whole network.

Both replace a `forward`, so that state_dict names do not change. Apply both before an engine shards the blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from harness.distributed.engine_choice import Compile

if TYPE_CHECKING:
    from harness.models.interface import Network

Recompute = Literal["none", "selective", "full"]
COMPILED_VARIANTS = 256  # each block has its own drop-path rate, so it is its own variant of one compiled function

aten = torch.ops.aten
PRODUCTS = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.convolution.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    }
)


def blocks_of(model: Network) -> list[nn.Module]:
    """Return the blocks of a network.

    Raises:
        ValueError: it declares none, so it could be neither recomputed, nor compiled, nor sharded in parts.
    """
    blocks = model.blocks()
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} declares no blocks to recompute, compile or shard: see Network.blocks"
        )
    return blocks


def compile_for(choice: Compile | None, device: torch.device) -> Compile:
    """What `launch.compile` comes to on a device: without a choice, blocks on a GPU and nothing elsewhere."""
    return choice or ("blocks" if device.type == "cuda" else "none")


def set_up_blocks(model: Network, recompute: Recompute, compiled: Compile = "none") -> None:
    """Apply activation checkpointing (Chen et al. 2016) to every block, and compile each block or the whole network.

    `full` keeps only a block's input; `selective` also keeps the outputs of matrix products, convolutions and
    attention, and recomputes the inexpensive rest. Neither changes the results. `reduce-overhead` replays the whole
    network as CUDA graphs.

    Raises:
        ValueError: the network has no blocks, or does not support the mode.
    """
    if recompute != "none":
        for block in blocks_of(model):
            block.forward = _recomputing(block.forward, recompute)
    if compiled == "blocks":
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_VARIANTS)
        for block in blocks_of(model):
            block.forward = torch.compile(block.forward)
    elif compiled == "whole":
        model.forward = torch.compile(model.forward, fullgraph=True)
    elif compiled == "reduce-overhead":
        if model.group > 1:
            raise ValueError(
                f"launch.compile is reduce-overhead, but {type(model).__name__} keeps statistics between passes, which "
                "a CUDA graph would overwrite: use blocks or whole"
            )
        model.forward = torch.compile(model.forward, fullgraph=True, mode=compiled)


def _recomputing(forward: Callable[..., Any], recompute: Recompute) -> Callable[..., Any]:
    if recompute == "full":
        return partial(checkpoint, forward, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, _keep_products)
    return partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)


def _keep_products(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:  # noqa: ANN401
    return CheckpointPolicy.MUST_SAVE if operator in PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
