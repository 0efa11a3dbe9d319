"""Weakly supervised classifiers (supplement A.2.1): which perturbation does this crop show? Their trunk embeds.

timm's densenet161 for any number of channels, its batch normalisation by sub-batches (`norms.py`), or the encoder of
the MAE-ViTs. ImageNet weights come from a file (`pretrained.py`); nothing is ever downloaded.

Shapes: B batch, C channels, S crop side, D embedding width, K classes, N values of noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from analysis.compute import systems
from harness.models.config import EncoderConfig
from harness.models.interface import Network, Output
from harness.models.layers.blocks import initialise_weights, patchify
from harness.models.layers.losses import at_least_single
from harness.models.layers.sub_batch_norm import by_sub_batches, sub_batch_norms
from harness.models.layers.timm_import import import_timm
from harness.models.mae import Encoder, pooled
from harness.recipe import models as sections
from harness.recipe.fields import default_of


@dataclass(frozen=True)
class DenseNetConfig(systems.DenseNet161):
    """Everything that shapes a DenseNet classifier.

    Attributes:
        classes: perturbations to tell apart; 0 for a trunk alone, which embeds.
        embedding: width of a linear layer between the 2,208 features and the head, which then is the embedding.
        growth, layers: features that a layer adds (twice as many to begin with), layers of each block; DenseNet-161's.
        group: crops of a sub-batch of the normalisation; 16 in the paper.
        adaptive: AdaBN: statistics of a plate at inference.
    """

    group: int = default_of(sections.DenseNet, "group")
    adaptive: bool = default_of(sections.DenseNet, "adaptive")

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
        return self.embedding or self.features


@dataclass(frozen=True)
class VitClassifierConfig(EncoderConfig, systems.VitClassifier):
    """A classifier with the encoder of a MAE-ViT; `classes` as in `DenseNetConfig`."""

    classes: int = 0


class ClassifierOutput(NamedTuple):
    """What one pass gives."""

    loss: Tensor  # scalar: cross-entropy
    logits: Tensor  # (B, K)

    @property
    def validation_loss(self) -> Tensor:
        """The cross-entropy."""
        return self.loss


class Classifier(Network):
    """A trunk and a linear head. Training takes each crop's label; noise is for stochastic depth."""

    config: DenseNetConfig | VitClassifierConfig
    head: nn.Module

    def features(self, images: Tensor, depth_noise: Tensor | None = None) -> Tensor:
        """(B, C, S, S) → (B, D)."""
        raise TypeError(f"{type(self).__name__} has no trunk")

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> ClassifierOutput:
        """One pass: images (B, C, S, S), self-standardised; noise (B, N); labels (B,), class numbers.

        Raises:
            ValueError: a model without classes, or no labels.
        """
        if not self.config.classes:
            raise ValueError("this classifier has no classes: it embeds, and cannot be trained")
        if labels is None:
            raise ValueError("a classifier's training pass takes labels")
        logits = self.head(self.features(images, noise))
        return ClassifierOutput(nn.functional.cross_entropy(at_least_single(logits), labels), logits)

    def embed(self, images: Tensor) -> Tensor:
        """What the head decides from: (B, D)."""
        return self.features(images)

    def trivial_loss(self, images: Tensor, output: Output) -> Tensor:
        """The cross-entropy of holding every class for as likely as any other: log K."""
        return torch.full((), math.log(self.config.classes), device=images.device)


class DenseNetClassifier(Classifier):
    """timm's DenseNet-161. Keys: `trunk.` and timm's own, `neck.*` of the linear layer, `head.*`."""

    config: DenseNetConfig

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__()
        self.config = config
        trunk = import_timm().create_model(
            "densenet161", pretrained=False, in_chans=config.channels, num_classes=0,
            growth_rate=config.growth, block_config=config.layers,
        )  # fmt: skip
        self.trunk = by_sub_batches(trunk, config.group)
        self.neck = nn.Linear(config.features, config.embedding) if config.embedding else nn.Identity()
        self.head = linear_head(config.embedding_width, config.classes)
        self._norms = sub_batch_norms(self)
        self.group, self.adaptive = config.group, config.adaptive

    def features(self, images: Tensor, depth_noise: Tensor | None = None) -> Tensor:
        wanted = (len(images), self.config.channels, self.config.crop, self.config.crop)
        if images.shape != wanted:
            raise ValueError(f"images have shape {tuple(images.shape)}: this model takes {wanted}")
        found: Tensor = self.neck(self.trunk(images))
        return found

    def commit_statistics(self, skip: Tensor | None) -> None:
        for norm in self._norms:
            norm.commit_statistics(skip)

    @torch.no_grad()
    def sync_statistics(self, mean: Callable[[Tensor], Tensor]) -> None:
        for norm in self._norms:
            for running in (norm.running_mean, norm.running_var):
                running.copy_(mean(running))


class VitClassifier(Classifier):
    """The MAE encoder on all patches, and a head on its pooled tokens. Keys: `encoder.*` as a MAE's, `head.*`."""

    config: VitClassifierConfig

    def __init__(self, config: VitClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = linear_head(config.embedding_width, config.classes)
        with torch.no_grad():
            self.encoder.reset_parameters()
            initialise_weights(self.head)

    def features(self, images: Tensor, depth_noise: Tensor | None = None) -> Tensor:
        noise = depth_noise if self.training and self.config.noise_values else None
        return pooled(self.encoder(patchify(images, self.config.patch), depth_noise=noise), self.config.pool)


def linear_head(width: int, classes: int) -> nn.Module:
    """From an embedding to classes; nothing where there are none."""
    return nn.Linear(width, classes) if classes else nn.Identity()
