"""The `fsdp` and `hsdp` engines: FSDP2 (`fully_shard`) on a one- or two-dimensional mesh.

Every rank keeps a shard of each parameter and gathers a block's parameters when that block runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard

from harness.distributed.engine import Engine
from harness.distributed.recompute import blocks_of
from harness.models.layers.initial_values import InitialValues

if TYPE_CHECKING:
    from harness.models.interface import Network


class Fsdp(Engine):
    """`fully_shard` on every transformer block and on the rest of the model."""

    def prepare(self, initial: InitialValues | None) -> None:
        hybrid = self.options.name == "hsdp"
        self.mesh = self.ranks.mesh(self.options.shard if hybrid else self.ranks.world)
        shards = self.options.shard if hybrid else self.ranks.world
        shard_model(self.model, self.mesh, shards, self.options.gather)
        super().prepare(initial)  # after sharding, so that no rank ever holds the whole model

    def accumulate(
        self, crops: Tensor, noise: Tensor, weight: float, *, last: bool, labels: Tensor | None = None
    ) -> Tensor:
        assert isinstance(self.model, FSDPModule)
        # Without a sync, FSDP keeps whole gradients, 4 bytes a parameter; with one, this rank's shards of them.
        self.model.set_requires_gradient_sync(last or self.options.reduce_at == "pass")
        self.model.set_requires_all_reduce(last)  # of hsdp, between copies
        return super().accumulate(crops, noise, weight, last=last, labels=labels)


def shard_model(model: Network, mesh: DeviceMesh, shards: int, gather: str) -> None:
    """Shard the parameters of `model` over `mesh`, block by block.

    With `gather` bf16, parameters are gathered in bfloat16 and gradients summed in float32. Inputs are not cast:
    the patches are sorted by the masking noise, and rounding it would change their order.
    """
    bf16 = torch.bfloat16 if gather == "bf16" else None
    policy = MixedPrecisionPolicy(
        param_dtype=bf16, reduce_dtype=torch.float32 if bf16 else None, cast_forward_inputs=False
    )

    def place(parameter: nn.Parameter) -> Shard | None:
        return Shard(shard_dimension(tuple(parameter.shape), shards))

    blocks = [fully_shard(block, mesh=mesh, mp_policy=policy, shard_placement_fn=place) for block in blocks_of(model)]
    fully_shard(model, mesh=mesh, mp_policy=policy, shard_placement_fn=place)
    prefetch(blocks)
    for method in (name for name in ("embed", "reconstruct") if hasattr(model, name)):
        register_fsdp_forward_method(model, method)


def prefetch(blocks: Sequence[FSDPModule]) -> None:
    """Let each block gather the weights of the next one while it computes, forward and backward.

    FSDP's own order of the forward pass depends on how far the host is ahead of the device.
    """
    for before, after in pairwise(blocks):
        before.set_modules_to_forward_prefetch([after])
        after.set_modules_to_backward_prefetch([before])


def shard_dimension(shape: tuple[int, ...], shards: int) -> int:
    """Return the dimension to shard: the first, unless it is smaller than `shards` and another divides evenly.

    FSDP2 pads the first dimension to a multiple of the number of shards: a token of shape (1, 1, 1024) over 256 ranks
    would grow 256-fold. FSDP2 requires that any other dimension divides evenly.
    """
    if shape[0] >= shards:
        return 0
    return next((i for i, size in enumerate(shape) if size % shards == 0), 0)
