"""The `ddp` engine: one copy of the model on each rank.

Shapes: N numbers of a bucket of gradients.
"""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future

from harness.distributed.engine import Engine
from harness.models.layers.initial_values import InitialValues


class Ddp(Engine):
    """DistributedDataParallel: gradients are averaged during the backward pass."""

    def prepare(self, initial: InitialValues | None) -> None:
        super().prepare(initial)
        ids = [self.ranks.device.index] if self.ranks.device.type == "cuda" else None
        self._wrapped = nn.parallel.DistributedDataParallel(
            self.model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        if self.options.ddp_gradients == "bf16":
            self._wrapped.register_comm_hook(None, mean_in_bf16)

    def accumulate(
        self, crops: Tensor, noise: Tensor, weight: float, *, last: bool, labels: Tensor | None = None
    ) -> Tensor:
        with nullcontext() if last else self._wrapped.no_sync():
            with self.autocast():
                loss: Tensor = self._wrapped(crops, noise, labels).loss
            weighted = loss * weight
            weighted.backward()  # type: ignore[no-untyped-call]
        return weighted.detach()


def mean_in_bf16(group: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Average a bucket (N,) over ranks in bfloat16, which halves the traffic; gradients stay in float32 elsewhere.

    A hook of DistributedDataParallel, which compares the types above with its own. Torch's hook of this kind refuses to
    run without NCCL.
    """
    halved = bucket.buffer().to(torch.bfloat16).div_(dist.get_world_size(group))
    sent = dist.all_reduce(halved, group=group, async_op=True).get_future()
    averaged: Future[Tensor] = sent.then(lambda done: bucket.buffer().copy_(done.value()[0]))
    return averaged
