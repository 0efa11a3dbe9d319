"""The shape of a channel-agnostic masked autoencoder, in plain numbers: no torch here."""

from __future__ import annotations

from dataclasses import dataclass

from harness.models.config import FourierNorm, Pool

OPENPHENOM_CHANNELS = 11  # that its table of encoder positions has room for


@dataclass(frozen=True)
class ChannelAgnosticConfig:
    """Everything that shapes a CA-MAE and its loss; fields that a `MaeConfig` has too mean the same.

    Attributes:
        channels: of the images that training reads.
        trained: those of them, by number, that the model learns from, each with a decoder of its own.
        max_channels: of the encoder's table of positions. It repeats, so images may have more.

    Raises:
        ValueError: fields that make no network.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 16
    crop: int = 256
    channels: int = 6
    trained: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    max_channels: int = OPENPHENOM_CHANNELS
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    drop_path: float = 0.1
    layer_scale: float | None = 1e-4
    qk_norm: bool = True
    position_temperature: float = 10_000.0
    fourier_weight: float = 0.0
    fourier_norm: FourierNorm = "backward"
    pool: Pool = "mean"

    def __post_init__(self) -> None:
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")
        if len(set(self.trained)) < len(self.trained) or not set(self.trained) <= set(range(self.channels)):
            raise ValueError(f"trained {list(self.trained)} must be different numbers below channels, {self.channels}")
        if not 0 < round(self.tokens * (1 - self.mask_ratio)) < self.tokens:
            raise ValueError(f"mask_ratio {self.mask_ratio} hides none or all of {self.tokens} patches")
        if self.decoder_width % 8:
            raise ValueError(f"decoder_width {self.decoder_width} is not a multiple of the cross-attention's 8 heads")

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.crop // self.patch

    @property
    def places(self) -> int:
        """Patches of one channel."""
        return self.grid**2

    @property
    def decoders(self) -> int:
        """Channels with a decoder."""
        return len(self.trained)

    @property
    def tokens(self) -> int:
        """Patches that may be hidden: of all trained channels."""
        return self.decoders * self.places

    @property
    def noise_values(self) -> int:
        """One value per patch, and one per block under stochastic depth."""
        return self.tokens + (self.depth if self.drop_path else 0)

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        return self.width * (2 if self.pool == "mean_std" else 1)
