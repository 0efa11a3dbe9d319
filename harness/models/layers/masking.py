"""Which patches the encoder sees, and which blocks it leaves out: random, but a pure function of a seed and a sample's
place in the order.

Shapes: B batch, L tokens (patches), V visible tokens, D width.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_MASKING_STREAM = 0x6D61736B  # sets these draws apart from any other use of the same seed and position


class Masking(NamedTuple):
    """A choice of patches for each sample."""

    visible: Tensor  # (B, V) indices of the visible patches, in the order in which the encoder gets them
    mask: Tensor  # (B, L) bool, True where masked


def masking_noise(seed: int, positions: Iterable[int], values: int) -> Tensor:
    """Noise (B, values) in [0, 1) on the CPU, one row per sample; a shorter row is the beginning of a longer one.

    A row depends on the seed and its sample's position in the training order alone, never on the batch around it, so
    that any number of ranks, and a run resumed on another number of them, masks alike.

    Args:
        seed: non-negative.
        positions: each sample's place in the order of training, counted over all epochs; non-negative.
        values: L for the patches; in training `MaeConfig.noise_values`.
    """
    return torch.stack([_row(seed, position, values) for position in positions])


def random_masking(noise: Tensor, visible_tokens: int) -> Masking:
    """Keep the patches with the least noise: per sample a random choice without replacement (He et al. 2021, 3)."""
    visible = noise.argsort(dim=1, stable=True)[:, :visible_tokens]
    mask = torch.ones_like(noise, dtype=torch.bool).scatter_(1, visible, False)
    return Masking(visible, mask)


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, L, D) at index (B, V) → (B, V, D)."""
    return tokens.gather(1, _over_features(index, tokens))


def place_tokens(tokens: Tensor, index: Tensor, background: Tensor) -> Tensor:
    """Lay tokens (B, V, D) at places index (B, V), no place twice, over a background (B, L, D) → (B, L, D).

    A scatter and not a gather of tokens by place: its gradient is a plain gather, where that of a gather which reads
    the one mask token three times in four would add up by atomics, in an order that changes from run to run.
    """
    return background.scatter(1, _over_features(index, tokens), tokens)


def _over_features(index: Tensor, tokens: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])


def _row(seed: int, position: int, values: int) -> Tensor:
    key = np.array([seed, position], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, _MASKING_STREAM], dtype=np.uint64))
    return torch.from_numpy(np.random.Generator(bits).random(values, dtype=np.float32))
