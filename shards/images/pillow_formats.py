"""Decode PNG, JPEG, BMP, GIF, PCX, PGM, SGI and TGA files with Pillow, as grey values.

Shapes: H height, W width.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from shards.errors import ImageError
from shards.images.grey import GreyImage, looked_up
from shards.images.headers import check_header

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PCX", "PPM", "SGI", "TGA")
"""What Pillow may open: formats of pixels only. Some others run programs or open further files."""
PIXEL_TYPES = {
    "L": "uint8", "P": "uint8", "I;16": "uint16", "I;16L": "uint16", "I;16B": "uint16", "1": "1-bit", "I": "int32",
    "F": "float32",
}  # fmt: skip
"""Pixel type by Pillow's name of a mode with one band."""


def decode_pillow(data: bytes, limit: int) -> GreyImage:
    """An image (H, W) of at most `limit` bytes.

    Raises ImageError for what is not one greyscale image, or whatever Pillow raises for damaged bytes.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # whose message has an address, and would differ from run to run
        raise ValueError("its format is unknown") from None
    with opened as image:
        _check(image, data, limit)
        if image.mode != "P":
            return GreyImage(np.asarray(image))
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return GreyImage(looked_up(np.asarray(image), palette))


def _check(image: PillowImage, data: bytes, limit: int) -> None:
    bands, size = image.getbands(), (image.height, image.width)
    shape = size if len(bands) == 1 else (*size, len(bands))
    check_header(shape, PIXEL_TYPES.get(image.mode, image.mode), limit)
    if getattr(image, "is_animated", False):
        raise ImageError("is an animation of several frames; one greyscale image per channel is needed")
    if image.format == "SGI" and data[3] != 1:
        raise ImageError(f"is an SGI file of {8 * data[3]} bits per sample; only those of 8 bits can be read in full")
