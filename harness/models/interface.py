"""Interface between the training loop and the networks: configuration, output of a forward pass, and base class.

Shapes: B batch, C channels, S crop side, N values of noise, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class NetworkConfig(Protocol):
    """The properties of a network's configuration that the training loop reads."""

    @property
    def crop(self) -> int:
        """Side of a square crop, in pixels."""
        ...

    @property
    def mask_values(self) -> int:
        """Values of noise per crop outside training: one for each patch that can be masked."""
        ...

    @property
    def noise_values(self) -> int:
        """Values of noise per crop in training; the first `mask_values` of them are for the mask."""
        ...

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        ...


class Output(Protocol):
    """Result of a forward pass."""

    @property
    def loss(self) -> Tensor:
        """Scalar to minimise: a mean over the crops."""
        ...

    @property
    def validation_loss(self) -> Tensor:
        """Scalar on which all networks of a family are compared."""
        ...


class Network(nn.Module):
    """Base class of the networks that the loop can train. `forward(images, noise, labels)` returns an `Output`.

    Random choices depend only on `noise` (`layers.masking.masking_noise`), so that results do not depend on the number
    of ranks. `labels` are the class numbers of the crops; only classifiers use them.
    """

    config: NetworkConfig
    group: int = 1  # a training batch must be a multiple of this many crops
    adaptive: bool = False  # whether inference uses the statistics of a plate (`data/plate_statistics.py`)
    channels_last: bool = False  # the memory format of a convolutional network's features; no other one reads it

    def blocks(self) -> list[nn.Module]:
        """Return the parts that are compiled, recomputed and sharded each as one, in the order of the forward pass.

        By default what is in an `nn.ModuleList`. They call no other part of the network.
        """
        lists = [module for module in self.modules() if isinstance(module, nn.ModuleList)]
        return [block for modules in lists for block in modules if not isinstance(block, nn.ModuleList)]

    def embed(self, images: Tensor) -> Tensor:
        """Embed self-standardised crops: (B, C, S, S) → (B, D). Call it in eval mode."""
        raise TypeError(f"{type(self).__name__} has no embedding")

    def trivial_loss(self, images: Tensor, output: Output) -> Tensor:
        """Return the validation loss of a trivial predictor, which a trained network must beat. A scalar."""
        raise TypeError(f"{type(self).__name__} has no trivial loss")

    def arranged(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) in the memory format of the features; convolutions pass it on."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def commit_statistics(self, skip: Tensor | None) -> None:
        """Commit the statistics of the step's forward passes, unless `skip`, a bool scalar, is True.

        The loop calls this after each update.
        """

    def sync_statistics(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Replace the statistics of this rank by their `mean` over ranks. All ranks must call it."""
