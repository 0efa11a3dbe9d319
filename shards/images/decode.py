"""Decode images: one 2-D image per channel becomes one (C, H, W) array of a well, with 8 or 16 bits.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.errors import ImageError
from shards.images.grey import GreyImage
from shards.images.headers import (
    JPEG2000_BYTES,
    MAX_FILE_BYTES,
    MAX_WELL_BYTES,
    check_header,
    jpeg2000_header,
    jpeg2000_palette_columns,
    npy_header,
)
from shards.images.locations import plane_files, read_bytes
from shards.images.planes import UNKNOWN, Plane, PlanesDifferError, check_width, maximum, planes_to_read, single_axes

RANGE = re.compile(r"(\d{1,5}):(\d{1,5})")
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


@dataclass(frozen=True, eq=False)
class WellImage:
    """The channels of a well, (C, H, W), and how many of them were stored with 0 as white."""

    pixels: NDArray[np.generic]
    turned: int


def read_image(location: str, limit: int = MAX_WELL_BYTES, plane: Plane | None = None) -> NDArray[np.generic]:
    """Read one greyscale image, (H, W) of uint8 or uint16; ImageError if it is anything else.

    TIFF, JPEG 2000, NumPy's .npy, PNG and the other `shards.images.pillow_formats`, recognised by their first bytes.
    Samples are returned as stored, but grey values for the indices of a palette, and turned where 0 is white. `plane`
    picks one of a stack, or the maximum. An image that claims more than `limit` bytes, or whose file has more than
    MAX_FILE_BYTES, is refused before it is decoded.
    """
    return read_grey(location, limit, plane).pixels


def read_grey(location: str, limit: int = MAX_WELL_BYTES, plane: Plane | None = None) -> GreyImage:
    """Read one image as `read_image` does, and whether it was turned.

    A location of several files (`shards.images.locations`) is their maximum: `plane` was applied when it was made.
    """
    files = plane_files(location)
    if not files:
        return _read_file(location, limit, plane)
    try:
        return maximum(_read_file(file, limit, None) for file in files)
    except PlanesDifferError as error:
        raise ImageError(f"image file {files[0]} and the other planes of its field: {error}") from None


def _read_file(location: str, limit: int, plane: Plane | None) -> GreyImage:
    try:
        data = read_bytes(location, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise ImageError(f"image file {location} does not exist") from None
    except OSError as error:
        raise ImageError(f"image file {location} cannot be read: {error}") from error
    try:
        image = decode(data, limit, plane)
        check_header(image.pixels.shape, image.pixels.dtype.name, limit)
    except ImageError as error:
        raise ImageError(f"image file {location} {error}") from None
    except Exception as error:  # decoders raise many kinds of errors on damaged bytes; all mean the same here
        said = " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__
        raise ImageError(f"image file {location} cannot be decoded: {said}") from error
    return image


def decode(data: bytes, limit: int = MAX_WELL_BYTES, plane: Plane | None = None) -> GreyImage:
    """Decode an image of any format that `read_image` lists, of at most `limit` bytes.

    Raises ImageError, without the image's name, for what its header claims, and whatever a decoder raises.
    """
    if data[:6] == b"\x93NUMPY":
        return _decode_npy(data, limit, plane)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        from shards.images.tiff import decode_tiff

        return decode_tiff(data, limit, plane)
    planes_to_read(1, "", plane)  # the other formats hold one
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:8] == b"jP  ":
        return _decode_jpeg2000(data, limit)
    from shards.images.pillow_formats import decode_pillow

    return decode_pillow(data, limit)


def _decode_jpeg2000(data: bytes, limit: int) -> GreyImage:
    """One component, or one that a palette of grey makes three: OpenJPEG looks the palette up by itself."""
    import imagecodecs

    columns = jpeg2000_palette_columns(data)
    check_header(*jpeg2000_header(data), limit, JPEG2000_BYTES * max(1, columns))
    image: NDArray[np.generic] = np.asarray(imagecodecs.jpeg2k_decode(data))
    if columns < 2:
        return GreyImage(image)
    if image.ndim != 3 or (image != image[..., :1]).any():
        raise ImageError("has a palette of colours; one greyscale image per channel is needed")
    return GreyImage(np.ascontiguousarray(image[..., 0]))


def _decode_npy(data: bytes, limit: int, plane: Plane | None) -> GreyImage:
    """An array (H, W) or (N, H, W) of N planes, with any axes of length one."""
    shape, pixel_type = npy_header(data)
    if pixel_type == "object":
        np.load(io.BytesIO(data), allow_pickle=False)  # which refuses it, with a reason
    single = single_axes(shape)
    sizes = [size for axis, size in enumerate(shape) if axis not in single]
    if len(sizes) == 3:
        check_width(sizes[0], sizes[1:])
    else:
        check_header(tuple(sizes), pixel_type, limit)
    check_header(tuple(sizes[-2:]), pixel_type, limit)
    chosen = planes_to_read(sizes[0] if len(sizes) == 3 else 1, UNKNOWN, plane)
    if math.prod(shape) * np.dtype(pixel_type).itemsize > len(data):
        raise ValueError("it is cut short")
    stored: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    planes = stored.reshape(-1, *sizes[-2:])
    return maximum(GreyImage(planes[number]) for number in chosen)


def read_well(locations: Sequence[str], rule: str | None = None, plane: Plane | None = None) -> NDArray[np.generic]:
    """Read a well's channels into one (C, H, W) array; see `read_well_image`."""
    return read_well_image(locations, rule, plane).pixels


def read_well_image(locations: Sequence[str], rule: str | None = None, plane: Plane | None = None) -> WellImage:
    """Read a well's channels, of stacks the plane that is given, by an 8-bit rule if one is given.

    Raises ImageError if a channel cannot be read, if they disagree in shape or pixel type, or if together they claim
    more than MAX_WELL_BYTES.
    """
    limit = MAX_WELL_BYTES // len(locations)
    image = read_grey(locations[0], limit, plane)
    first, turned = image.pixels, int(image.turned)
    well = np.empty((len(locations), *first.shape), first.dtype)
    well[0] = first
    for channel, location in enumerate(locations[1:], start=1):
        image = read_grey(location, limit, plane)
        if (image.pixels.shape, image.pixels.dtype) != (first.shape, first.dtype):
            raise ImageError(
                f"image file {_file(location)} is {image.pixels.shape} {image.pixels.dtype}, but {_file(locations[0])} "
                f"is {first.shape} {first.dtype}; the channels of a well must agree"
            )
        well[channel], turned = image.pixels, turned + image.turned
    if rule is None:
        return WellImage(well, turned)
    try:
        return WellImage(eight_bit_rule(rule).apply(well), turned)
    except ImageError as error:
        raise ImageError(f"image file {_file(locations[0])}: {error}") from None


def _file(location: str) -> str:
    """The name of a location in a message: of several files the first."""
    return next(iter(plane_files(location)), location)


@lru_cache
def eight_bit_rule(rule: str) -> EightBit:
    """The rule that this text names; its lookup table is built once."""
    return EightBit(rule)
