"""Which planes of a file are read: a file holds one plane, or a stack from which a build picks by its option `plane`.

Planes are counted from 1 in messages and options, and from 0 in the code. Shapes: H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from shards.errors import ImageError
from shards.images.grey import GreyImage

Plane = int | Literal["max"]
"""The number of a plane, from 1, or the maximum of all planes."""

UNKNOWN = "I"
"""The axis of planes of which their file does not say how they differ."""
NAMES = {UNKNOWN: "planes", "Z": "z-planes", "T": "time points", "P": "positions"}
CHANNELS = frozenset("CSEW")
"""Axes of channels, samples of a pixel, and wavelengths."""
MAX_CHANNELS = 16
"""The last axis of an array (H, W, N) of channels. Planes no wider than this, and higher, are slices of one."""
MAX_PLANE = 10**6
"""The greatest number of a plane."""


class PlanesDifferError(ImageError):
    """The planes of a stack differ in shape or pixel type."""


def planes_to_read(count: int, axes: str, plane: Plane | None) -> range:
    """Which of `count` planes make the image that is wanted, counted from 0.

    `axes` are those along which the planes differ: keys of NAMES, or other letters that tifffile uses. Raises
    ImageError, without the image's name, if the planes are no stack from which one can be picked, if none was chosen,
    or if there is no such plane.
    """
    if count < 1:
        raise ImageError("holds no plane")
    if count > 1:
        _check_stack(count, axes, plane)
    if not isinstance(plane, int):
        return range(count)
    if plane > count:
        raise ImageError(f"holds {count} {'planes' if count > 1 else 'plane'}, but plane {plane} was chosen")
    return range(plane - 1, plane)


def check_width(count: int, size: Sequence[int]) -> None:
    """Raise ImageError, without the image's name, if planes of this size (H, W) are slices of an array of channels."""
    height, width = size
    if height > width <= MAX_CHANNELS:
        raise ImageError(f"has shape {(count, height, width)}; one greyscale image per channel is needed")


def rows(planes: Iterator[GreyImage]) -> GreyImage:
    """An image (H, W) of planes (1, W) or (W, 1): a file of them holds an array with an axis of length one."""
    lines = list(planes)
    return GreyImage(np.stack([line.pixels.ravel() for line in lines]), any(line.turned for line in lines))


def single_axes(shape: Sequence[int]) -> frozenset[int]:
    """The axes of length one that an array of more than two axes can do without: leading ones first."""
    single = [axis for axis, size in enumerate(shape) if size == 1]
    leading = [axis for axis in single if all(size == 1 for size in shape[:axis])]
    return frozenset([*leading, *(axis for axis in reversed(single) if axis not in leading)][: max(0, len(shape) - 2)])


def _check_stack(count: int, axes: str, plane: Plane | None) -> None:
    if CHANNELS.intersection(axes):
        raise ImageError(
            f"holds {count} planes of several channels by its metadata, not a z-stack; one channel per file is needed"
        )
    if len(axes) > 1:
        raise ImageError(f"holds {count} planes along the axes {' and '.join(axes)}; planes along one axis are needed")
    number = "choose one with --plane N"
    if axes not in ("Z", UNKNOWN) and not isinstance(plane, int):
        raise ImageError(f"holds {count} {NAMES.get(axes, f'planes along axis {axes}')}, not a z-stack; {number}")
    if plane is None:
        raise ImageError(f"holds {count} {NAMES[axes]}; {number}, or their maximum with --plane max")


def maximum(planes: Iterator[GreyImage]) -> GreyImage:
    """The maximum of planes, at least one, in each pixel; PlanesDifferError if they do not agree.

    Two of them are in memory at a time.
    """
    highest = next(planes)
    pixels, turned = highest.pixels, highest.turned
    for plane in planes:
        if (plane.pixels.shape, plane.pixels.dtype) != (pixels.shape, pixels.dtype):
            raise PlanesDifferError(
                f"has planes of {pixels.shape} {pixels.dtype} and of {plane.pixels.shape} {plane.pixels.dtype}"
            )
        pixels, turned = np.maximum(pixels, plane.pixels), turned or plane.turned
    return GreyImage(pixels, turned)
