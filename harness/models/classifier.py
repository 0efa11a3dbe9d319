"""Weakly supervised classifiers of a crop's perturbation (supplement A.2.1); their trunk gives the embeddings.

The trunk is timm's densenet161 for any number of channels, normalised by sub-batches (`layers/sub_batch_norm.py`), or
the encoder of the MAE-ViTs. ImageNet weights come from a file (`pretrained.py`); nothing is downloaded.

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
from harness.models.layers.blocks import ENCODER_SCHEME, initialise_weights, patchify
from harness.models.layers.losses import at_least_single
from harness.models.layers.parametrisation import scale_initial_values
from harness.models.layers.sub_batch_norm import by_sub_batches, sub_batch_norms
from harness.models.layers.timm_import import import_timm
from harness.models.mae import Encoder, pooled
from harness.recipe import models as sections
from harness.recipe.fields import default_of

BLOCKS = ("denseblock", "transition")  # timm's names


@dataclass(frozen=True)
class DenseNetConfig(systems.DenseNet161):
    """Configuration of a DenseNet classifier.

    Attributes:
        classes: number of perturbations; 0 for a trunk without a head, which only embeds.
        embedding: width of an optional linear layer from the 2,208 features to the head; its output is the embedding.
        growth, layers: features added per layer (the stem has twice as many), layers of each block; as DenseNet-161.
        group: crops in a sub-batch of the normalisation; 16 in the paper.
        adaptive: AdaBN: use the statistics of a plate at inference.
    """

    group: int = default_of(sections.DenseNetSection, "group")
    adaptive: bool = default_of(sections.DenseNetSection, "adaptive")

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
        return self.embedding or self.features


@dataclass(frozen=True)
class VitClassifierConfig(EncoderConfig, systems.VitClassifierCost):
    """Configuration of a classifier with the encoder of a MAE-ViT; `classes` as in `DenseNetConfig`."""

    classes: int = 0


class ClassifierOutput(NamedTuple):
    """Result of a forward pass."""

    loss: Tensor  # scalar: cross-entropy
    logits: Tensor  # (B, K)

    @property
    def validation_loss(self) -> Tensor:
        """The cross-entropy."""
        return self.loss


class Classifier(Network):
    """A trunk and a linear head. Training needs the label of each crop; noise is used for stochastic depth."""

    config: DenseNetConfig | VitClassifierConfig
    head: nn.Module

    def features(self, images: Tensor, depth_noise: Tensor | None = None) -> Tensor:
        """Compute the trunk's features: (B, C, S, S) → (B, D)."""
        raise TypeError(f"{type(self).__name__} has no trunk")

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> ClassifierOutput:
        """Run a training pass: images (B, C, S, S), self-standardised; noise (B, N); labels (B,), class numbers.

        Raises:
            ValueError: the model has no classes, or no labels are given.
        """
        if not self.config.classes:
            raise ValueError("this classifier has no classes: it only embeds and cannot be trained")
        if labels is None:
            raise ValueError("a classifier's training pass takes labels")
        logits = self.head(self.features(images, noise))
        return ClassifierOutput(nn.functional.cross_entropy(at_least_single(logits), labels), logits)

    def embed(self, images: Tensor) -> Tensor:
        """Return the features that the head classifies: (B, D)."""
        return self.features(images)

    def trivial_loss(self, images: Tensor, output: Output) -> Tensor:
        """Return the cross-entropy of a uniform prediction over the classes: log K."""
        return torch.full((), math.log(self.config.classes), device=images.device)


class DenseNetClassifier(Classifier):
    """timm's DenseNet-161. Keys: `trunk.` followed by timm's keys, `neck.*` of the linear layer, `head.*`."""

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

    def blocks(self) -> list[nn.Module]:
        """The dense blocks, and the transitions between them."""
        children = self.trunk.get_submodule("features").named_children()
        return [part for name, part in children if name.startswith(BLOCKS)]

    def features(self, images: Tensor, depth_noise: Tensor | None = None) -> Tensor:
        expected = (len(images), self.config.channels, self.config.crop, self.config.crop)
        if images.shape != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}: this model takes {expected}")
        features: Tensor = self.neck(self.trunk(self.arranged(images)))
        return features

    def commit_statistics(self, skip: Tensor | None) -> None:
        for norm in self._norms:
            norm.commit_statistics(skip)

    @torch.no_grad()
    def sync_statistics(self, mean: Callable[[Tensor], Tensor]) -> None:
        for norm in self._norms:
            for running in (norm.running_mean, norm.running_var):
                running.copy_(mean(running))


class VitClassifier(Classifier):
    """The MAE encoder on all patches, and a head on its pooled tokens. Keys: `encoder.*` as in a MAE, `head.*`."""

    config: VitClassifierConfig

    def __init__(self, config: VitClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        with torch.no_grad():
            self.encoder.reset_parameters()  # before the head is drawn: it does not depend on the number of classes
        self.head = linear_head(config.embedding_width, config.classes)
        with torch.no_grad():
            scheme = ENCODER_SCHEME[self.config.initialisation]
            initialise_weights(self.head, scheme)
            scale_initial_values(self, config, scheme, scheme)

    def features(self, images: Tensor, depth_noise: Tensor | None = None) -> Tensor:
        noise = depth_noise if self.training and self.config.noise_values else None
        return pooled(self.encoder(patchify(images, self.config.patch), depth_noise=noise), self.config.pool)


def linear_head(width: int, classes: int) -> nn.Module:
    """Build the layer from embedding to classes; the identity if there are no classes."""
    return nn.Linear(width, classes) if classes else nn.Identity()
