"""Features of every block of a vision transformer in one pass, for linear probes (`python -m harness.probe`).

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
    """Implements `harness.models.interface.NetworkConfig`."""

    crop: int
    mask_values: int
    noise_values: int
    embedding_width: int  # K · D


class EveryBlock(Network):
    """Wrap a masked autoencoder; `embed` concatenates the embeddings it would give if cut after each of its blocks."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.config = EveryBlockShape(
            config.crop, config.mask_values, config.noise_values, config.depth * config.embedding_width
        )

    def embed(self, images: Tensor) -> Tensor:
        """Self-standardised (B, C, S, S) → (B, K · D): the normed and pooled tokens of each block, in order."""
        encoder, embeddings = self.model.encoder, list[Tensor]()

        def keep(block: torch.nn.Module, inputs: object, tokens: Tensor) -> None:
            embeddings.append(pooled(encoder.norm(tokens), self.model.config.pool))

        hooks = [block.register_forward_hook(keep) for block in encoder.blocks]
        try:
            self.model.embed(images)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(embeddings, dim=1)
