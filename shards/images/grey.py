"""Grey values of decoded images: palettes looked up, and images in which 0 is white turned.

Shapes: H height, W width, E entries of a palette.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.errors import ImageError


@dataclass(frozen=True, eq=False)
class GreyImage:
    """An image, (H, W) in the byte order of this machine, in which larger values are brighter.

    `turned` if it was stored the other way.
    """

    pixels: NDArray[np.generic]
    turned: bool = False

    def __post_init__(self) -> None:
        native = self.pixels.astype(self.pixels.dtype.newbyteorder("="), copy=False)
        object.__setattr__(self, "pixels", native)


def turned(stored: NDArray[np.generic], bits: int) -> GreyImage:
    """An image of samples of this many bits in which 0 is white: the largest sample less each value."""
    return GreyImage(np.subtract((1 << bits) - 1, stored, dtype=stored.dtype), turned=True)


def looked_up(indices: NDArray[np.generic], palette: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """The grey values, (H, W) of the palette's type, of indices (H, W) into a palette (E, 3) of red, green and blue.

    Raises ImageError if a pixel has an index beyond the palette, or one whose entry is not grey.
    """
    is_used = np.zeros(1 << 16, bool)
    for row in indices:  # one at a time: NumPy makes 8 bytes of each index
        is_used[row] = True
    used = np.flatnonzero(is_used)
    if used[-1] >= len(palette):
        raise ImageError(f"uses entry {used[-1]} of a palette of {len(palette)} entries")
    coloured = used[(palette[used] != palette[used, :1]).any(axis=1)]
    if len(coloured):
        red, green, blue = palette[coloured[0]].tolist()
        raise ImageError(
            f"has a palette of colours, entry {coloured[0]} is ({red}, {green}, {blue}); "
            "one greyscale image per channel is needed"
        )
    table = _narrow(palette)[:, 0]
    values = np.empty(indices.shape, table.dtype)
    for row, value in zip(indices, values, strict=True):
        value[:] = table[row]
    return values


def _narrow(palette: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """16-bit entries as 8-bit ones if they were made of such: by v * 257 or, in some programs, by v * 256 or v.

    All entries decide, used or not, so that images with the same palette have the same pixel type.
    """
    if palette.dtype == np.uint16:
        if not (palette % 257).any() or not (palette % 256).any():
            return (palette >> 8).astype(np.uint8)
        if palette.max() < 256:
            return palette.astype(np.uint8)
    return palette
