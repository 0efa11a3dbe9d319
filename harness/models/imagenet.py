"""Baseline: timm's vision transformer with ImageNet weights, adapted to any crop size and number of channels.

This package does not train it. Its weights come from a file (`pretrained.py`), its positions are interpolated to the
crop's grid, and its first convolution is repeated over the channels. Its input is the same as for all networks of a
study, crops self-standardised to mean 0 and variance 1; timm's transform for these weights scales pixels to [-1, 1].

Shapes: B batch, C channels, S crop side, L tokens (patches), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from analysis.compute.systems import PlainVit
from harness.models.config import DEFAULT_POOL
from harness.models.interface import Network
from harness.models.layers.blocks import MLP_RATIO
from harness.models.layers.timm_import import import_timm
from harness.models.mae import pooled
from harness.recipe.models import Pool


@dataclass(frozen=True)
class ImagenetConfig(PlainVit):
    """Size of the transformer and of its input crops; `pool` as in `EncoderConfig`."""

    pool: Pool = DEFAULT_POOL

    @property
    def mask_values(self) -> int:
        """0: no patch is masked."""
        return 0

    @property
    def noise_values(self) -> int:
        """0: nothing is random."""
        return 0

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        return self.width * (2 if self.pool == "mean_std" else 1)


class ImagenetVit(Network):
    """timm's `VisionTransformer`, without a head. Keys: `trunk.` followed by timm's keys."""

    config: ImagenetConfig

    def __init__(self, config: ImagenetConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = import_timm().models.vision_transformer.VisionTransformer(
            img_size=config.crop, patch_size=config.patch, in_chans=config.channels, num_classes=0, global_pool="token",
            embed_dim=config.width, depth=config.depth, num_heads=config.heads, mlp_ratio=MLP_RATIO,
        )  # fmt: skip

    def embed(self, images: Tensor) -> Tensor:
        """Embed crops, (B, C, S, S) → (B, D), or (B, 2·D) for "mean_std": the normed tokens, pooled.

        Raises:
            ValueError: the images' shape is not that of the configuration.
        """
        expected = (len(images), self.config.channels, self.config.crop, self.config.crop)
        if images.shape != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}: this model takes {expected}")
        return pooled(self.trunk.forward_features(images), self.config.pool)
