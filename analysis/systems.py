"""What the paper's other systems cost and weigh: closed forms beside those of `flops.VitMae`.

Each class gives multiply-accumulates (MACs) per crop of its convolutions, linear layers and attention, and its trained
parameters. Norms, activations and biases are below 1% and left out of the MACs, as in `flops.py`.

Legend: k kernel side, places pixels of a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MuNet:
    """A masked U-net (supplement A.2.2): residual blocks of two k x k convolutions at each scale, down and up."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    blocks: int = 6
    kernel: int = 3
    crop: int = 256
    channels: int = 6

    def _places(self, scale: int) -> int:
        return (self.crop >> scale) ** 2

    def dense_forward_macs(self) -> float:
        """The way down on the whole crop: what an embedding costs."""
        befores = (self.channels, *self.widths[:-1])
        entering = sum(
            conv_macs(3, before, width, self._places(n))
            for n, (before, width) in enumerate(zip(befores, self.widths, strict=True))
        )
        return entering + sum(self._blocks_macs(n) for n in range(len(self.widths)))

    def training_forward_macs(self) -> float:
        """Down and up again; hidden squares cost as much as others."""
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


def conv_macs(kernel: int, inputs: int, outputs: int, places: int) -> int:
    """MACs of a convolution that gives `places` outputs."""
    return kernel**2 * inputs * outputs * places


def conv_parameters(kernel: int, inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Weights and biases of a convolution."""
    return kernel**2 * inputs * outputs + bias * outputs
