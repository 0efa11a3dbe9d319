"""What the loop asks of a network, whatever its kind: a loss, embeddings, and how many numbers come with each crop.

Shapes: B batch, C channels, S crop side, N values of noise, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn


class NetworkConfig(Protocol):
    """What the loop needs to know of a network's configuration."""

    @property
    def crop(self) -> int:
        """Side of a square crop, pixels."""
        ...

    @property
    def mask_values(self) -> int:
        """Values of noise that a crop takes outside of training: one for each patch that may be hidden."""
        ...

    @property
    def noise_values(self) -> int:
        """Values of noise that a crop takes in training; the first of them are the `mask_values`."""
        ...

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        ...


class Output(Protocol):
    """What one pass gives."""

    @property
    def loss(self) -> Tensor:
        """Scalar to minimise: a mean over the crops."""
        ...

    @property
    def validation_loss(self) -> Tensor:
        """Scalar that all networks of a family are compared by."""
        ...


class Network(nn.Module):
    """A network that the loop can train. `forward(images, noise, labels)` gives an `Output`.

    Randomness follows from `noise` alone (`masking.masking_noise`), so that any number of ranks computes the same.
    `labels` are the class numbers of the crops; only classifiers have and use them.
    """

    config: NetworkConfig
    group: int = 1  # crops that a forward pass in training needs together
    adaptive: bool = False  # whether inference takes the statistics of a plate (`data/plate_statistics.py`)

    def embed(self, images: Tensor) -> Tensor:
        """One vector per crop: self-standardised (B, C, S, S) → (B, D). Call it in eval mode."""
        raise TypeError(f"{type(self).__name__} embeds nothing")

    def trivial_loss(self, images: Tensor, output: Output) -> Tensor:
        """The validation loss of predicting nothing in particular: what any training must beat. A scalar."""
        raise TypeError(f"{type(self).__name__} has no trivial loss")

    def commit_statistics(self, skip: Tensor | None) -> None:
        """Called after each update: take over what forward passes gathered, unless `skip`, a bool scalar, is True."""

    def sync_statistics(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Replace what ranks gathered each for itself by its `mean` over ranks. All ranks must call it."""
