"""Measure which values the pixels of each channel have, on a grid of pixels of every image, while they are in memory.

16-bit screens use a part of 65,536 levels, and another one in each channel. Who trains on them divides by what they use
(`mae.value_range` of a recipe, docs/datasets.md), so the manifest says it. 8-bit sets are divided by 255.

Counts are kept in bins that are exact below 256 and at most a 128th of their value wide above. So those of all shards
add up, whatever the number of workers: a percentile is the upper end of its bin, at most 0.8% above the true one.

Shapes: C channels, H height, W width, K bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from shards.format.manifest import PixelRange

SAMPLE = 1 << 14  # pixels of each channel of an image, about
LEVELS = 1 << 16
SIDES = (64, 256)  # of the parts whose variance is measured, in pixels: as crops of small and of large studies
EPSILON = 1e-5  # as of `shards.loader.transform`, which needs torch
STEPS = 128  # bins of an octave


def _bins() -> NDArray[np.uint16]:
    """The bin of each value."""
    values = np.arange(LEVELS)
    shift = np.maximum(0, np.floor(np.log2(np.maximum(values, 1))).astype(np.int64) - int(math.log2(STEPS)))
    bins: NDArray[np.uint16] = (STEPS * shift + (values >> shift)).astype(np.uint16)
    return bins


BIN_OF = _bins()  # (LEVELS,)
BINS = int(BIN_OF[-1]) + 1
LARGEST = np.searchsorted(BIN_OF, np.arange(BINS), side="right") - 1  # (K,): the largest value of each bin


class PixelCounts(BaseModel):
    """The values of some images, as a shard's record keeps them: for each channel, counts by bin and moments."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    images: int
    counts: tuple[tuple[int, ...], ...]  # (C, K), without the zeros at the end
    standardised: tuple[tuple[float, ...], ...]  # (C, 2): `PixelRange.standardised`, summed over the images


@dataclass
class PixelRanges:
    """Counts of the 16-bit images that were added."""

    images: int = 0
    counts: NDArray[np.int64] | None = None  # (C, K)
    standardised: NDArray[np.float64] | None = None  # (C, 2)

    def add(self, image: NDArray[np.generic]) -> None:
        """Count some pixels of an image (C, H, W); nothing of one of 8 bits."""
        if image.dtype != np.uint16:
            return
        channels, height, width = image.shape
        step = max(1, math.isqrt(height * width // SAMPLE))
        sample = image[:, step // 2 :: step, step // 2 :: step]
        bins = BIN_OF[sample].astype(np.int64) + BINS * np.arange(channels)[:, None, None]
        counted = np.bincount(bins.ravel(), minlength=channels * BINS).reshape(channels, BINS)
        self._add(1, counted, np.stack([_standardised(sample, max(2, side // step)) for side in SIDES], axis=1))

    def merge(self, counted: PixelCounts) -> None:
        """Add what a record says."""
        counts = np.zeros((len(counted.counts), BINS), np.int64)
        for row, values in zip(counts, counted.counts, strict=True):
            row[: len(values)] = values
        self._add(counted.images, counts, np.array(counted.standardised))

    def _add(self, images: int, counts: NDArray[np.int64], standardised: NDArray[np.float64]) -> None:
        self.images += images
        self.counts = counts if self.counts is None else self.counts + counts
        self.standardised = standardised if self.standardised is None else self.standardised + standardised

    def counted(self) -> PixelCounts | None:
        """For a record; None if no image had 16 bits."""
        if self.counts is None or self.standardised is None:
            return None
        rows = tuple(tuple(np.trim_zeros(row, "b").tolist()) for row in self.counts)
        return PixelCounts(images=self.images, counts=rows, standardised=tuple(map(tuple, self.standardised.tolist())))

    def by_channel(self, names: Sequence[str]) -> dict[str, PixelRange]:
        """The range of each channel; empty if no image had 16 bits."""
        if self.counts is None or self.standardised is None:
            return {}
        return {
            name: _range(row, (standardised / self.images).tolist())
            for name, row, standardised in zip(names, self.counts, self.standardised, strict=True)
        }


def _standardised(sample: NDArray[np.generic], side: int) -> NDArray[np.float64]:
    """The variance that parts of `side` samples keep if they are divided by LEVELS - 1 and standardised, (C,)."""
    channels, height, width = sample.shape
    rows, columns = max(1, height // side), max(1, width // side)
    down, across = min(side, height), min(side, width)
    parts = sample[:, : rows * down, : columns * across].reshape(channels, rows, down, columns, across)
    variance = parts.var(axis=(2, 4), dtype=np.float32)  # (C, rows, columns)
    kept: NDArray[np.float64] = (variance / (variance + EPSILON * (LEVELS - 1) ** 2)).mean(
        axis=(1, 2), dtype=np.float64
    )
    return kept


def _range(counts: NDArray[np.int64], kept: Sequence[float]) -> PixelRange:
    below = np.cumsum(counts)
    places = [LARGEST[np.searchsorted(below, share * below[-1])] for share in (0.05, 0.5, 0.95, 0.999)]
    low, median, high, brightest = map(int, places)
    standardised = {side: round(share, 4) for side, share in zip(SIDES, kept, strict=True)}
    return PixelRange(low=low, median=median, high=high, brightest=brightest, standardised=standardised)
