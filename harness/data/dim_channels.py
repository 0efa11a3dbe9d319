"""Channels that self-standardisation leaves below unit variance, because their pixels use little of the value range.
No torch at import.

Standardising divides by the root of the variance + 1e-5. A channel whose standard deviation is 100 of 65,535 levels
keeps a fifth of the variance that it should have, one of 20 levels a hundredth: a model learns next to nothing of it.

Shapes: B crops, C channels, S crop side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOO_DIM = 0.5  # of the variance 1


def dim_channels(crops: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The variance, over pixels and on average over crops, of the channels in which it is below TOO_DIM.

    Args:
        crops: self-standardised, (B, C, S, S). Reads from the device.
        names: of the channels, (C,).
    """
    variances = crops.float().var(dim=(2, 3), correction=0).mean(0).tolist()  # (C,)
    return {name: variance for name, variance in zip(names, variances, strict=True) if variance < TOO_DIM}


def warning(dim: dict[str, float]) -> str:
    """What to tell of dim channels: their variances, and what to change."""
    shown = ", ".join(f"{name} ({variance:.2g})" for name, variance in dim.items())
    text = f"standardised pixels have a variance of 1, those of the first batch less than half in {shown}"
    why = "they use little of the range that they are divided by"
    return f"{text}: {why}; set or lower mae.value_range (docs/datasets.md)"
