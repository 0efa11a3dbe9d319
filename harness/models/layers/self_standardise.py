"""Standardise raw crops as a module, for users of an exported encoder.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from shards.loader.transform import self_standardise


class SelfStandardise(nn.Module):
    """Standardise pixels (B, C, H, W) or (C, H, W) as in training: every image and channel to mean 0 and variance 1
    (`shards.loader.transform.self_standardise`). The input is raw pixels, neither scaled nor clipped.

    `positions` says which channel of the input is each of the encoder's; None: it has them in the encoder's order."""

    def __init__(
        self, value_range: float | Sequence[float] | None = None, positions: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.value_range, self.positions = value_range, positions

    def forward(self, images: Tensor) -> Tensor:
        """Standardise images; ValueError for floating point images if no value range is known."""
        batch = images if images.ndim == 4 else images.unsqueeze(0)
        if self.positions is not None:
            batch = batch[:, list(self.positions)]
        standardised = self_standardise(batch, self.value_range)
        return standardised if images.ndim == 4 else standardised[0]
