"""Numbers that the device has computed, on the host, without waiting for what it computes after them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HostCopy:
    """Copies of tensors of one device as they are now. On a GPU they arrive in pinned memory while the device goes on;
    the tensors may be changed by later work of the same stream."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._arrived: torch.cuda.Event | None = None
        if tensors[0].device.type == "cuda":
            self._copies = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors]
            for copy, tensor in zip(self._copies, tensors, strict=True):
                copy.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.current_stream(tensors[0].device).record_event()
        else:
            self._copies = [tensor.clone() for tensor in tensors]

    def read(self) -> list[Tensor]:
        """The copies; waits for the device to come to the point at which they were made, and no further."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copies
