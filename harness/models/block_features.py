"""A vision transformer that gives the features of every block at once: what probes and searches for a block read.

Shapes: B batch, C channels, S crop side, L tokens, D embedding width, K blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.models.interface import Network
from harness.models.mae import MaskedAutoencoder, pooled


@dataclass(frozen=True)
class EveryBlockShape:
    """As `harness.models.interface.NetworkConfig` asks."""

    crop: int
    mask_values: int
    noise_values: int
    embedding_width: int  # K · D


class EveryBlock(Network):
    """Wraps a masked autoencoder; `embed` gives what it would give cut after each of its blocks in turn."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model
        shape = model.config
        self.config = EveryBlockShape(
            shape.crop, shape.mask_values, shape.noise_values, shape.depth * shape.embedding_width
        )

    def embed(self, images: Tensor) -> Tensor:
        """Self-standardised (B, C, S, S) → (B, K · D): each block in turn, its tokens normed and pooled."""
        encoder, found = self.model.encoder, list[Tensor]()

        def keep(block: torch.nn.Module, given: object, tokens: Tensor) -> None:
            found.append(pooled(encoder.norm(tokens), self.model.config.pool))

        hooks = [block.register_forward_hook(keep) for block in encoder.blocks]
        try:
            self.model.embed(images)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(found, dim=1)
