"""Activation checkpointing and compilation of each transformer block.

Both replace the block's `forward`, so that state_dict names do not change. Apply both before an engine shards
the block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]
COMPILED_VARIANTS = 256  # each block has its own drop-path rate, so it is its own variant of one compiled function

aten = torch.ops.aten
PRODUCTS = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    }
)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks: the modules inside an `nn.ModuleList`."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for modules in lists for block in modules if not isinstance(block, nn.ModuleList)]


def set_up_blocks(model: nn.Module, recompute: Recompute, compiled: bool) -> None:
    """Apply activation checkpointing (Chen et al. 2016) and compilation to every block, as set.

    `full` keeps only a block's input; `selective` also keeps the outputs of matrix products and attention, and
    recomputes the inexpensive rest. Neither changes the results.
    """
    if compiled:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_VARIANTS)
    for block in blocks_of(model):
        if recompute != "none":
            block.forward = _recomputing(block.forward, recompute)
        if compiled:
            block.forward = torch.compile(block.forward)


def _recomputing(forward: Callable[..., Any], recompute: Recompute) -> Callable[..., Any]:
    if recompute == "full":
        return partial(checkpoint, forward, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, _keep_products)
    return partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)


def _keep_products(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:  # noqa: ANN401
    return CheckpointPolicy.MUST_SAVE if operator in PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
