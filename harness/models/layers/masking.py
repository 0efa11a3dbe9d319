"""Random masks and noise for stochastic depth.

Both are a pure function of a seed and a sample's position in the training order.

Shapes: B batch, L tokens (patches), V visible tokens, D width.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.models.layers.philox import uniform

_MASKING_STREAM = 0x6D61736B  # separates these draws from other uses of the same seed and position


class Masking(NamedTuple):
    """The visible and masked patches of each sample."""

    visible: Tensor  # (B, V) indices of the visible patches, in the order of the encoder's input
    mask: Tensor  # (B, L) bool, True where masked


def masking_noise(seed: int, positions: Iterable[int], values: int) -> Tensor:
    """Draw noise (B, values) in [0, 1) on the CPU, one row per sample; a shorter row is a prefix of a longer one.

    A row depends only on the seed and its sample's position in the training order, not on the rest of the batch: masks
    are the same for any number of ranks, also if a run is resumed on a different number of them.

    Args:
        seed: non-negative.
        positions: each sample's position in the training order, counted over all epochs; non-negative.
        values: numbers per row: L for the masks alone, `MaeConfig.noise_values` in training.
    """
    return torch.from_numpy(uniform(seed, np.fromiter(positions, np.uint64), values, _MASKING_STREAM))


def random_masking(noise: Tensor, visible_tokens: int) -> Masking:
    """Keep the patches with the least noise: random, without replacement, per sample (He et al. 2021, section 3)."""
    visible = noise.argsort(dim=1, stable=True)[:, :visible_tokens]
    mask = torch.ones_like(noise, dtype=torch.bool).scatter_(1, visible, False)
    return Masking(visible, mask)


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather tokens (B, L, D) at index (B, V) → (B, V, D)."""
    return tokens.gather(1, _over_features(index, tokens))


def place_tokens(tokens: Tensor, index: Tensor, background: Tensor) -> Tensor:
    """Scatter tokens (B, V, D) to distinct positions index (B, V) of a background (B, L, D) → (B, L, D).

    A scatter has a plain gather as its gradient. A gather would read the same mask token for most positions, and its
    gradient would be summed with atomics, in an order that changes from run to run.
    """
    return background.scatter(1, _over_features(index, tokens), tokens)


def _over_features(index: Tensor, tokens: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
