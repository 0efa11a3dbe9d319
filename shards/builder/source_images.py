"""Read the images of a well, with the states of the files that these pixels are of.

A file may be replaced, rewritten or cut short while it is read. Its state is taken before and after, and the images
are read again if it has changed, so that a record never states another version of a file than the one it holds.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.errors import ImageError
from shards.images.decode import read_well_image
from shards.images.locations import files_of, state
from shards.images.planes import Plane
from shards.images.regular_files import FileState

ATTEMPTS = 3
CLOCK_TICK = 20_000_000
"""Nanoseconds. Linux stamps files with a clock that advances at most every 10 ms: two changes may share a stamp."""

States = tuple[FileState | None, ...]
"""The state of each channel's file or files, one after another; None for one that is absent or remote."""


@dataclass(frozen=True, eq=False)
class SourceImages:
    """The images of a well, (C, H, W), or why they cannot be used; and the states of their files.

    `turned` of these images were stored with 0 as white.
    """

    states: States
    image: NDArray[np.generic] | None = None
    turned: int = 0
    error: str = ""


def states_of(images: Sequence[str]) -> States:
    """The states of the channels' files now."""
    return tuple(map(state, _files(images)))


def read_source_images(images: Sequence[str], eight_bit: str | None, plane: Plane | None = None) -> SourceImages:
    """Read the channels of a well by `shards.images.decode.read_well_image`, again if a file changes meanwhile.

    Never raises for what is wrong with an image: a file that changes in all ATTEMPTS is an error, too.
    """
    after = states_of(images)
    for _ in range(ATTEMPTS):
        before = _after_tick(images, after)
        try:
            well = read_well_image(images, eight_bit, plane)
            result = SourceImages(before, well.pixels, well.turned)
        except ImageError as error:
            result = SourceImages(before, error=str(error))
        after = states_of(images)
        if after == before:
            return result
    states = zip(_files(images), before, after, strict=True)
    changed = next(location for location, old, new in states if old != new)
    return SourceImages(before, error=f"image file {changed} changed while it was being read, {ATTEMPTS} times")


def _files(images: Sequence[str]) -> list[str]:
    return [file for location in images for file in files_of(location)]


def _after_tick(images: Sequence[str], states: States) -> States:
    """The states once a further change of these files would get another time than the last one had."""
    newest = max((max(known[1:3]) for known in states if known is not None), default=0)
    age = time.time_ns() - newest
    if not 0 <= age < CLOCK_TICK:
        return states
    time.sleep((CLOCK_TICK - age) / 1e9)
    return states_of(images)
