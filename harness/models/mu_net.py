"""Masked U-net (supplement A.2.2): a convolutional masked autoencoder, the paper's other self-supervised model.

The paper states mask ratios of 25, 50 and 75%, kernels of 3 and 5, and AdamW at 1e-3, but not the layout of the blocks.
This module uses pre-activation residual blocks (He et al. 2016) with GroupNorm, which does not depend on the batch;
`docs/models.md` compares the resulting parameter counts.

Shapes: B batch, C channels, H height, W width of an image, L maskable squares, N = C·P·P numbers in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.compute import systems
from harness.models.config import DEFAULT_POOL
from harness.models.interface import Network, Output
from harness.models.layers import losses
from harness.models.layers.blocks import patchify, unpatchify
from harness.models.layers.masking import random_masking
from harness.models.mae import MaeOutput, Reconstruction
from harness.recipe import models as sections
from harness.recipe.fields import default_of
from harness.recipe.models import Pool

GROUPS = 8  # maximum number of groups of a GroupNorm


@dataclass(frozen=True)
class MuNetConfig(systems.MuNetCost):
    """Configuration of a MU-net and its loss.

    Attributes:
        widths: channels of each scale, the finest first; each scale is half as large as the one before.
        blocks: residual blocks at each scale, on the way down and on the way up.
        kernel: side of their convolutions.
        mask_ratio, mask_patch: fraction of the squares that are masked, and their side in pixels.
        pool: pooling of the coarsest features. They have no class token, so "class" is the same as "mean".

    Raises:
        ValueError: the crop does not divide into squares or scales.
    """

    mask_ratio: float = default_of(sections.MuNetSection, "mask_ratio")
    mask_patch: int = default_of(sections.MuNetSection, "mask_patch")
    pool: Pool = DEFAULT_POOL

    def __post_init__(self) -> None:
        if self.crop % self.mask_patch or self.crop % 2 ** (len(self.widths) - 1):
            raise ValueError(
                f"crop {self.crop} must be a multiple of mask_patch {self.mask_patch} "
                f"and, for {len(self.widths)} scales, of {2 ** (len(self.widths) - 1)}"
            )
        if not 0 < self.visible_squares < self.mask_values:
            raise ValueError(f"mask_ratio {self.mask_ratio} hides none or all of {self.mask_values} squares")

    @property
    def mask_values(self) -> int:
        """Random numbers that rank the squares for masking: one per square."""
        return (self.crop // self.mask_patch) ** 2

    @property
    def noise_values(self) -> int:
        """As many as `mask_values`: nothing else is random."""
        return self.mask_values

    @property
    def visible_squares(self) -> int:
        """Squares that are left."""
        return round(self.mask_values * (1 - self.mask_ratio))

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        return self.widths[-1] * (2 if self.pool == "mean_std" else 1)


class ResidualBlock(nn.Module):
    """(B, W, H, W) → the same shape: norm, GELU, convolution, twice, added to the input."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(width), group_norm(width)
        self.conv1 = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.conv1(nn.functional.gelu(self.norm1(features)))
        output: Tensor = features + self.conv2(nn.functional.gelu(self.norm2(inner)))
        return output


class Down(nn.Module):
    """Step to the next coarser scale: a convolution with stride 2 (1 at the finest scale), then residual blocks."""

    def __init__(self, in_width: int, width: int, config: MuNetConfig, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, 3, stride=stride, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, config.kernel) for _ in range(config.blocks)))

    def forward(self, features: Tensor) -> Tensor:
        coarser: Tensor = self.blocks(self.conv(features))
        return coarser


class Up(nn.Module):
    """Step to the next finer scale: a transposed convolution, merged with the skip connection, then residual blocks."""

    def __init__(self, coarse: int, width: int, config: MuNetConfig) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(coarse, width, 2, stride=2)
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, config.kernel) for _ in range(config.blocks)))

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        finer: Tensor = self.blocks(self.merge(torch.cat([self.conv(features), skip], dim=1)))
        return finer


class MuNet(Network):
    """A U-net that predicts masked squares of self-standardised images; in its input they are 0, the channel's mean.

    state_dict keys, n counting scales from the finest in `down`, from the coarsest in `up`, m counting blocks:
        down.n.{conv, blocks.m.{norm1,norm2,conv1,conv2}}.{weight,bias}
        up.n.{conv, merge, blocks.m.{norm1,norm2,conv1,conv2}}.{weight,bias}
        norm.{weight,bias}, pred.{weight,bias}
    """

    config: MuNetConfig

    def __init__(self, config: MuNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        in_widths = (config.channels, *widths[:-1])
        self.down = nn.ModuleList(
            Down(in_width, width, config, stride=1 if n == 0 else 2)
            for n, (in_width, width) in enumerate(zip(in_widths, widths, strict=True))
        )
        self.up = nn.ModuleList(
            Up(coarse, width, config) for coarse, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.norm = group_norm(widths[0])
        self.pred = nn.Conv2d(widths[0], config.channels, 1)
        self.reset_parameters()

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> MaeOutput:
        """Run a training pass: images (B, C, H, W), noise (B, L). The squares with the most noise are masked.

        Raises:
            ValueError: the images' shape is not that of the configuration.
        """
        target = patchify(images, self.config.mask_patch)  # (B, L, N)
        prediction, mask = self._predict(images, noise)
        loss = losses.masked_mse(prediction, target, mask)
        return MaeOutput(loss, loss, None, prediction, mask)

    def blocks(self) -> list[nn.Module]:
        """The scales, on the way down and up."""
        return [*self.down, *self.up]

    def embed(self, images: Tensor) -> Tensor:
        """Embed images to (B, D): the coarsest features of the complete image, pooled over positions."""
        features = self._descend(images)[-1].flatten(2)  # (B, width, positions)
        spread = features.std(dim=-1, correction=0)
        pools = {"std": spread, "mean_std": torch.cat([features.mean(dim=-1), spread], dim=1)}
        return pools.get(self.config.pool, features.mean(dim=-1))

    def reconstruct(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """Predict the masked squares, for a figure. Arguments and errors as in `forward`."""
        prediction, mask = self._predict(images, noise)
        patch, target = self.config.mask_patch, patchify(images, self.config.mask_patch)
        merged = torch.where(mask.unsqueeze(-1), prediction.to(target.dtype), target)
        return Reconstruction(unpatchify(merged, patch), self._pixels(mask))

    def trivial_loss(self, images: Tensor, output: Output) -> Tensor:
        """Return the masked error of predicting each channel's mean."""
        assert isinstance(output, MaeOutput)
        return losses.mean_predictor_loss(images, output.mask, self.config.mask_patch)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set Kaiming-normal convolutions and zero biases; a block's last convolution is 0, so it is the identity."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif isinstance(part, nn.GroupNorm):
                part.reset_parameters()
        for part in self.modules():
            if isinstance(part, ResidualBlock):
                nn.init.zeros_(part.conv2.weight)

    def _predict(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prediction (B, L, N) for all squares and the mask (B, L), True where masked."""
        config = self.config
        if noise.shape != (len(images), config.mask_values):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}: these images take {(len(images), config.mask_values)}"
            )
        mask = random_masking(noise, config.visible_squares).mask
        *finer, features = self._descend(images.masked_fill(self._pixels(mask), 0))
        for up, skip in zip(self.up, reversed(finer), strict=True):
            features = up(features, skip)
        predicted = self.pred(nn.functional.gelu(self.norm(features)))
        return patchify(predicted, config.mask_patch), mask

    def _descend(self, images: Tensor) -> list[Tensor]:
        """Compute the features of every scale, the finest first."""
        expected = (len(images), self.config.channels, self.config.crop, self.config.crop)
        if images.shape != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}: this model takes {expected}")
        features, images = [], self.arranged(images)
        for down in self.down:
            images = down(images)
            features.append(images)
        return features

    def _pixels(self, mask: Tensor) -> Tensor:
        """Expand a mask of squares to pixels: (B, L) → (B, 1, H, W)."""
        return unpatchify(mask.unsqueeze(-1).expand(-1, -1, self.config.mask_patch**2), self.config.mask_patch)


def group_norm(width: int) -> nn.GroupNorm:
    """Build a GroupNorm of at most eight groups."""
    return nn.GroupNorm(max(g for g in range(1, GROUPS + 1) if width % g == 0), width)
