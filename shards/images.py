"""Image files → arrays: one 2-D file per channel becomes one (C, H, W) array of a well.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PIXEL_TYPES = ("uint8", "uint16")


class ImageError(ValueError):
    """An image file cannot be used; the message names it."""


def read_image(path: Path) -> NDArray[np.generic]:
    """Read one greyscale image, (H, W) of uint8 or uint16 as stored; ImageError if it is anything else."""
    try:
        image = _decode(path)
    except FileNotFoundError:
        raise ImageError(f"image file {path} does not exist") from None
    except Exception as error:  # decoders raise whatever they like on damaged bytes; each means the same here
        raise ImageError(f"image file {path} cannot be decoded: {error}") from error
    if image.ndim != 2:
        raise ImageError(f"image file {path} has shape {image.shape}; one greyscale image per channel is needed")
    if image.dtype.name not in PIXEL_TYPES:
        raise ImageError(f"image file {path} holds {image.dtype.name} pixels; {' or '.join(PIXEL_TYPES)} is needed")
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def _decode(path: Path) -> NDArray[np.generic]:
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        return np.asarray(tifffile.imread(path))
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def read_well(paths: Sequence[Path]) -> NDArray[np.generic]:
    """Read a well's channels into one (C, H, W) array; ImageError if they disagree in shape or pixel type."""
    first, *others = [read_image(path) for path in paths]
    for path, image in zip(paths[1:], others, strict=True):
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            raise ImageError(
                f"image file {path} is {image.shape} {image.dtype}, but {paths[0]} is {first.shape} {first.dtype}; "
                "the channels of a well must agree"
            )
    return np.stack([first, *others])
