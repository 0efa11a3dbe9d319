"""Decode images: one 2-D image per channel becomes one (C, H, W) array of a well, with 8 or 16 bits.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.errors import ImageError
from shards.images.headers import (
    JPEG2000_BYTES,
    MAX_FILE_BYTES,
    MAX_WELL_BYTES,
    check_header,
    jpeg2000_header,
    npy_header,
)
from shards.images.locations import read_bytes

RANGE = re.compile(r"(\d{1,5}):(\d{1,5})")
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PCX", "PPM", "SGI", "TGA")
"""What Pillow may open: formats of pixels only. Some others run programs or open further files."""
PILLOW_TYPES = {"L": "uint8", "P": "uint8", "I;16": "uint16", "I;16L": "uint16", "I;16B": "uint16"}
MAX_MESSAGE = 300
"""Characters of a decoder's own message that are repeated."""


@dataclass(frozen=True)
class EightBit:
    """A rule that turns 16-bit pixels into 8-bit ones: `shift`, or a range such as `0:4095`.

    shift: v >> 8, which keeps the type's full range. low:high: values up to low become 0, values from high on 255,
    linear in between, rounded to the nearest, halves up. Raises ValueError for any other rule.
    """

    rule: str

    def __post_init__(self) -> None:
        limits = RANGE.fullmatch(self.rule)
        if self.rule != "shift" and not (limits and int(limits[1]) < int(limits[2]) <= 65535):
            raise ValueError(
                f"8-bit rule {self.rule!r}: expected 'shift', or LOW:HIGH with 0 <= LOW < HIGH <= 65535, such as 0:4095"
            )

    @property
    def statement(self) -> str:
        """The rule as a formula, for the manifest."""
        if self.rule == "shift":
            return "uint8 = uint16 >> 8"
        low, high = self.rule.split(":")
        return f"uint8 = floor(255 * (clip(uint16, {low}, {high}) - {low}) / ({high} - {low}) + 1/2)"

    def apply(self, image: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Convert an image of any shape; ImageError if it is not 16-bit."""
        if image.dtype != np.uint16:
            raise ImageError(f"8-bit rule {self.rule!r} needs uint16 pixels, but these are {image.dtype}")
        if self.rule == "shift":
            return (image.astype(np.uint16, copy=False) >> 8).astype(np.uint8)
        converted: NDArray[np.uint8] = self._table[image]
        return converted

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        low, high = map(int, self.rule.split(":"))
        span = high - low
        return ((510 * (np.arange(65536).clip(low, high) - low) + span) // (2 * span)).astype(np.uint8)


def read_image(location: str, limit: int = MAX_WELL_BYTES) -> NDArray[np.generic]:
    """Read one greyscale image, (H, W) of uint8 or uint16 as stored; ImageError if it is anything else.

    TIFF, JPEG 2000, NumPy's .npy, PNG and the other PILLOW_FORMATS, recognised by their first bytes. An image that
    claims more than `limit` bytes, or whose file has more than MAX_FILE_BYTES, is refused before it is decoded.
    """
    try:
        data = read_bytes(location, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise ImageError(f"image file {location} does not exist") from None
    except OSError as error:
        raise ImageError(f"image file {location} cannot be read: {error}") from error
    try:
        image = decode(data, limit)
        check_header(image.shape, image.dtype.name, limit)
    except ImageError as error:
        raise ImageError(f"image file {location} {error}") from None
    except Exception as error:  # decoders raise many kinds of errors on damaged bytes; all mean the same here
        said = " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__
        raise ImageError(f"image file {location} cannot be decoded: {said}") from error
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def decode(data: bytes, limit: int = MAX_WELL_BYTES) -> NDArray[np.generic]:
    """Decode an image of any format that `read_image` lists, of at most `limit` bytes.

    Raises ImageError, without the image's name, for what its header claims, and whatever a decoder raises.
    """
    if data[:6] == b"\x93NUMPY":
        return _decode_npy(data, limit)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        from shards.images.tiff import decode_tiff

        return decode_tiff(data, limit)
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:8] == b"jP  ":
        import imagecodecs

        check_header(*jpeg2000_header(data), limit, JPEG2000_BYTES)
        return np.asarray(imagecodecs.jpeg2k_decode(data))
    return _decode_pillow(data, limit)


def _decode_pillow(data: bytes, limit: int) -> NDArray[np.generic]:
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except UnidentifiedImageError:  # whose message has an address, and would differ from run to run
        raise ValueError("its format is unknown") from None
    with opened as image:
        bands, size = image.getbands(), (image.height, image.width)
        shape = size if len(bands) == 1 else (*size, len(bands))
        check_header(shape, PILLOW_TYPES.get(image.mode, image.mode), limit)
        return np.asarray(image)


def _decode_npy(data: bytes, limit: int) -> NDArray[np.generic]:
    shape, pixel_type = npy_header(data)
    if pixel_type != "object":  # which NumPy refuses, with a reason
        check_header(shape, pixel_type, limit)
    stored: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    return stored


def read_well(locations: Sequence[str], rule: str | None = None) -> NDArray[np.generic]:
    """Read a well's channels into one (C, H, W) array, by an 8-bit rule if one is given.

    Raises ImageError if a channel cannot be read, if they disagree in shape or pixel type, or if together they claim
    more than MAX_WELL_BYTES.
    """
    limit = MAX_WELL_BYTES // len(locations)
    first = read_image(locations[0], limit)
    well = np.empty((len(locations), *first.shape), first.dtype)
    well[0] = first
    for channel, location in enumerate(locations[1:], start=1):
        image = read_image(location, limit)
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            raise ImageError(
                f"image file {location} is {image.shape} {image.dtype}, but {locations[0]} is "
                f"{first.shape} {first.dtype}; the channels of a well must agree"
            )
        well[channel] = image
    if rule is None:
        return well
    try:
        return eight_bit_rule(rule).apply(well)
    except ImageError as error:
        raise ImageError(f"image file {locations[0]}: {error}") from None


@lru_cache
def eight_bit_rule(rule: str) -> EightBit:
    """The rule that this text names; its lookup table is built once."""
    return EightBit(rule)
