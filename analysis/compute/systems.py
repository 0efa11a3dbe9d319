"""Compute and parameter counts of the paper's other systems, in closed form like `flops.VitMae`.

Each class gives multiply-accumulates (MACs) per crop of its convolutions, linear layers and attention, and its trained
parameters. Norms, activations and biases are below 1% and left out of the MACs, as in `flops.py`.

Legend: k kernel side; places are the pixels of a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.compute.flops import Vit, VitMae, block_macs, encoder_parameters


@dataclass(frozen=True)
class MuNetCost:
    """A masked U-net (supplement A.2.2): residual blocks of two k x k convolutions at each scale, down and up."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    blocks: int = 6
    kernel: int = 3
    crop: int = 256
    channels: int = 6

    def _places(self, scale: int) -> int:
        return (self.crop >> scale) ** 2

    def dense_forward_macs(self) -> float:
        """The downsampling path on the complete crop, which is what an embedding costs."""
        befores = (self.channels, *self.widths[:-1])
        entering = sum(
            conv_macs(3, before, width, self._places(n))
            for n, (before, width) in enumerate(zip(befores, self.widths, strict=True))
        )
        return entering + sum(self._blocks_macs(n) for n in range(len(self.widths)))

    def training_forward_macs(self) -> float:
        """Both paths; masked squares cost as much as visible ones."""
        up = 0
        for n, (width, coarse) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            # A transposed convolution of stride 2 and kernel 2 does one product per output place and pair of channels.
            up += (coarse * width + 2 * width * width) * self._places(n) + self._blocks_macs(n)
        return self.dense_forward_macs() + up + conv_macs(1, self.widths[0], self.channels, self._places(0))

    def _blocks_macs(self, scale: int) -> int:
        width = self.widths[scale]
        return 2 * self.blocks * conv_macs(self.kernel, width, width, self._places(scale))

    def parameters(self) -> int:
        """All trained parameters."""
        befores = (self.channels, *self.widths[:-1])
        total = sum(conv_parameters(3, before, width) for before, width in zip(befores, self.widths, strict=True))
        total += sum(self._blocks_parameters(width) for width in self.widths)
        for width, coarse in zip(self.widths, self.widths[1:], strict=False):
            total += conv_parameters(2, coarse, width) + conv_parameters(1, 2 * width, width)
            total += self._blocks_parameters(width)
        return total + 2 * self.widths[0] + conv_parameters(1, self.widths[0], self.channels)

    def _blocks_parameters(self, width: int) -> int:
        return self.blocks * 2 * (conv_parameters(self.kernel, width, width) + 2 * width)


@dataclass(frozen=True)
class ChannelAgnosticCost(Vit):
    """A channel-agnostic MAE: tokens of every channel in one encoder, a decoder for each trained channel.

    Masked patches cost nothing, not even their embedding. `patches` are those of one channel.

    Attributes:
        train_channels: numbers of the channels that it learns from; None for all `channels`.
    """

    train_channels: tuple[int, ...] | None = None
    decoder_width: int = VitMae.decoder_width
    decoder_depth: int = VitMae.decoder_depth
    decoder_heads: int = VitMae.decoder_heads
    mask_ratio: float = VitMae.mask_ratio

    @property
    def decoders(self) -> int:
        """Channels with a decoder: those that it learns from."""
        return self.channels if self.train_channels is None else len(self.train_channels)

    def encoder_macs(self, patches: int) -> float:
        """Forward MACs of the encoder on this many patches of any channels, and the class token."""
        embedding = patches * self.patch**2 * self.width
        return embedding + self.depth * block_macs(self.width, patches + 1)

    def dense_forward_macs(self) -> float:
        """The encoder on all tokens of all trained channels: grows with channels times patches, and their square."""
        return self.encoder_macs(self.decoders * self.patches)

    def training_forward_macs(self) -> float:
        """The encoder on visible tokens; projection, shared cross-attention and MLP, each channel's blocks, pixels."""
        tokens, width = self.decoders * self.patches, self.decoder_width
        visible = round(tokens * (1 - self.mask_ratio))
        projection = (visible + 1) * self.width * width
        cross = 4 * tokens * width**2 + 2 * tokens**2 * width + 8 * tokens * width**2
        blocks = self.decoders * self.decoder_depth * block_macs(width, self.patches)
        return self.encoder_macs(visible) + projection + cross + blocks + tokens * width * self.patch**2

    def parameters(self) -> int:
        """Trained parameters, without positions, the placeholder and OpenPhenom's unused last norm."""
        single_channel = Vit(self.width, self.depth, self.heads, self.patch, self.crop, channels=1)
        width = self.decoder_width
        block = 12 * width**2 + 13 * width  # two norms, attention and MLP with biases
        shared = (4 * width**2 + width) + (8 * width**2 + 5 * width) + 3 * 2 * width
        tokens = width * (1 + self.decoders)
        ends = (self.width * width + width) + (width * self.patch**2 + self.patch**2)
        encoder = encoder_parameters(single_channel) - 2 * self.width  # no final norm
        return encoder + self.decoders * self.decoder_depth * block + shared + tokens + ends


@dataclass(frozen=True)
class DenseNet161:
    """DenseNet-161 (Huang et al. 2017): growth 48, blocks of 6, 12, 36 and 24 layers. Other numbers: related nets."""

    crop: int = 256
    channels: int = 6
    classes: int = 0
    embedding: int | None = None
    growth: int = 48
    layers: tuple[int, ...] = (6, 12, 36, 24)

    @property
    def stem(self) -> int:
        """Features of the first convolution."""
        return 2 * self.growth

    def dense_forward_macs(self) -> float:
        """Trunk, and the linear layer to the embedding."""
        width, places = self.stem, (self.crop // 4) ** 2
        total = conv_macs(7, self.channels, self.stem, (self.crop // 2) ** 2)
        for n, layers in enumerate(self.layers):
            for _ in range(layers):
                total += conv_macs(1, width, 4 * self.growth, places)
                total += conv_macs(3, 4 * self.growth, self.growth, places)
                width += self.growth
            if n < len(self.layers) - 1:  # a transition halves features, then sides
                total += conv_macs(1, width, width // 2, places)
                width, places = width // 2, places // 4
        return total + width * (self.embedding or 0)

    def training_forward_macs(self) -> float:
        """The same, and the head."""
        return self.dense_forward_macs() + (self.embedding or self.features) * self.classes

    def parameters(self) -> int:
        """All trained parameters; convolutions have no bias, a normalisation has two numbers per feature."""
        width = self.stem
        total = 49 * self.channels * self.stem + 2 * self.stem
        for n, layers in enumerate(self.layers):
            for _ in range(layers):
                inner = 4 * self.growth
                total += 2 * width + width * inner + 2 * inner + 9 * inner * self.growth
                width += self.growth
            if n < len(self.layers) - 1:
                total += 2 * width + width * (width // 2)
                width //= 2
        total += 2 * width
        neck = (width + 1) * self.embedding if self.embedding else 0
        return total + neck + (self.embedding or width) * self.classes + self.classes

    @property
    def features(self) -> int:
        """Number of features at the end of the trunk."""
        width = self.stem
        for n, layers in enumerate(self.layers):
            width += layers * self.growth
            width = width // 2 if n < len(self.layers) - 1 else width
        return width


@dataclass(frozen=True)
class VitClassifierCost(Vit):
    """A MAE-ViT's encoder on all of its tokens; the head is below a thousandth of it and left out."""

    def training_forward_macs(self) -> float:
        """The encoder on all tokens: nothing is masked."""
        return self.dense_forward_macs()

    def parameters(self) -> int:
        """Parameters of the encoder."""
        return encoder_parameters(self)


@dataclass(frozen=True)
class PlainVit(Vit):
    """A vision transformer as timm has them by default, on all of its tokens; without its head.

    Sequential blocks cost the same as parallel ones.
    """

    def training_forward_macs(self) -> float:
        """The encoder on all tokens: nothing is masked."""
        return self.dense_forward_macs()

    def parameters(self) -> int:
        """Biases everywhere, two norms a block, learnt positions; neither QK-norm nor LayerScale."""
        width = self.width
        embedding = (self.pixels_per_patch + 1) * width
        positions = (2 + self.patches) * width  # and the class token, with a position of its own
        return embedding + positions + self.depth * (12 * width**2 + 13 * width) + 2 * width


def conv_macs(kernel: int, inputs: int, outputs: int, places: int) -> int:
    """MACs of a convolution that gives `places` outputs."""
    return kernel**2 * inputs * outputs * places


def conv_parameters(kernel: int, inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Weights and biases of a convolution."""
    return kernel**2 * inputs * outputs + bias * outputs
