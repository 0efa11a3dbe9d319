"""The configuration of a channel-agnostic masked autoencoder, in plain numbers: no torch here."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.compute.systems import ChannelAgnosticMae
from harness.models.config import EncoderConfig
from harness.recipe.fields import default_of
from harness.recipe.models import ChannelAgnostic, FourierNorm, Mae

OPENPHENOM_CHANNELS = 11  # entries of its table of encoder positions
CROSS_ATTENTION_HEADS = 8


@dataclass(frozen=True)
class ChannelAgnosticConfig(EncoderConfig, ChannelAgnosticMae):
    """Everything that shapes a CA-MAE and its loss; fields that a `MaeConfig` has too mean the same.

    Attributes:
        channels: of the images that training reads.
        train_channels: those of them, by number, that the model learns from, each with a decoder of its own; None: all.
        max_channels: of the encoder's table of positions. It repeats, so images may have more.

    Raises:
        ValueError: fields that make no network.
    """

    max_channels: int = OPENPHENOM_CHANNELS
    fourier_weight: float = default_of(ChannelAgnostic, "fourier_weight")
    fourier_norm: FourierNorm = default_of(Mae, "fourier_norm")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.learned)) < len(self.learned) or not set(self.learned) <= set(range(self.channels)):
            raise ValueError(
                f"train_channels {list(self.learned)} must be different numbers below channels, {self.channels}"
            )
        if not 0 < round(self.mask_values * (1 - self.mask_ratio)) < self.mask_values:
            raise ValueError(f"mask_ratio {self.mask_ratio} hides none or all of {self.mask_values} patches")
        if self.decoder_width % CROSS_ATTENTION_HEADS:
            raise ValueError(f"decoder_width {self.decoder_width} is not a multiple of the cross-attention's 8 heads")

    @property
    def learned(self) -> tuple[int, ...]:
        """The channels that the model learns from, by number."""
        return tuple(range(self.channels)) if self.train_channels is None else self.train_channels

    @property
    def mask_values(self) -> int:
        """One for each patch that may be hidden: those of all trained channels."""
        return self.decoders * self.patches
