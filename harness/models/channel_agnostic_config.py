"""Configuration of the channel-agnostic masked autoencoder. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.compute.systems import ChannelAgnosticCost
from harness.models.config import EncoderConfig
from harness.recipe.fields import default_of
from harness.recipe.models import ChannelAgnosticSection, FourierNorm, Mae

OPENPHENOM_CHANNELS = 11  # channels in OpenPhenom's table of encoder positions
CROSS_ATTENTION_HEADS = 8


@dataclass(frozen=True)
class ChannelAgnosticConfig(EncoderConfig, ChannelAgnosticCost):
    """Configuration of a CA-MAE and its loss; fields shared with `MaeConfig` have the same meaning.

    Attributes:
        channels: number of channels of the training images.
        train_channels: numbers of the channels that the model is trained on, each with its own decoder; None: all.
        max_channels: channels in the encoder's table of positions. The table repeats, so images may have more.

    Raises:
        ValueError: no network can be built from these fields.
    """

    max_channels: int = OPENPHENOM_CHANNELS
    fourier_weight: float = default_of(ChannelAgnosticSection, "fourier_weight")
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
        """Numbers of the channels that the model is trained on."""
        return tuple(range(self.channels)) if self.train_channels is None else self.train_channels

    @property
    def mask_values(self) -> int:
        """Random numbers that rank the patches for masking: one for each patch of the trained channels."""
        return self.decoders * self.patches
