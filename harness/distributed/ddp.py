"""The `ddp` engine: one copy of the model on each rank."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor, nn

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

    def accumulate(
        self, crops: Tensor, noise: Tensor, weight: float, *, last: bool, labels: Tensor | None = None
    ) -> Tensor:
        with nullcontext() if last else self._wrapped.no_sync():
            with self.autocast():
                loss: Tensor = self._wrapped(crops, noise, labels).loss
            weighted = loss * weight
            weighted.backward()  # type: ignore[no-untyped-call]
        return weighted.detach()
