"""A vision transformer that learnt from ImageNet, as a baseline: timm's own, fitted to crops of any size and channels.

It is never trained here. Its weights come from a file (`pretrained.py`), its positions are interpolated to the crop's
grid, and its first convolution is spread over the channels. It takes what all networks of a study take, crops
self-standardised to mean 0 and variance 1, where timm's recipe for these weights shifts and scales pixels to [-1, 1].

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
    """The shape of the transformer, and of the crops that it is given; `pool` as in `EncoderConfig`."""

    pool: Pool = DEFAULT_POOL

    @property
    def mask_values(self) -> int:
        """No patch is ever hidden."""
        return 0

    @property
    def noise_values(self) -> int:
        """Nothing is random."""
        return 0

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        return self.width * (2 if self.pool == "mean_std" else 1)


class ImagenetVit(Network):
    """timm's `VisionTransformer`, without a head. Keys: `trunk.` and timm's own."""

    config: ImagenetConfig

    def __init__(self, config: ImagenetConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = import_timm().models.vision_transformer.VisionTransformer(
            img_size=config.crop, patch_size=config.patch, in_chans=config.channels, num_classes=0, global_pool="token",
            embed_dim=config.width, depth=config.depth, num_heads=config.heads, mlp_ratio=MLP_RATIO,
        )  # fmt: skip

    def embed(self, images: Tensor) -> Tensor:
        """One vector per crop, (B, C, S, S) → (B, D), or (B, 2·D) for "mean_std": the normed tokens, pooled.

        Raises:
            ValueError: images of another shape than the configuration's.
        """
        wanted = (len(images), self.config.channels, self.config.crop, self.config.crop)
        if images.shape != wanted:
            raise ValueError(f"images have shape {tuple(images.shape)}: this model takes {wanted}")
        return pooled(self.trunk.forward_features(images), self.config.pool)
