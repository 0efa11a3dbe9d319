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
SHARES = (0.05, 0.5, 0.95, 0.999)  # percentiles that the manifest has
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
    """The values of some images, as a shard's record keeps them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    images: int
    counts: tuple[tuple[int, ...], ...]  # (C, K): pixels by bin, without the zeros at the end
    sums: tuple[tuple[float, ...], ...]  # (C, 3): over the images, of `PixelRange.standardised` and `spread`


@dataclass
class PixelRanges:
    """Counts of the 16-bit images that were added."""

    images: int = 0
    counts: NDArray[np.int64] | None = None  # (C, K)
    sums: NDArray[np.float64] | None = None  # (C, 3)

    def add(self, image: NDArray[np.generic]) -> None:
        """Count some pixels of an image (C, H, W); nothing of one of 8 bits."""
        if image.dtype != np.uint16:
            return
        channels, height, width = image.shape
        step = max(1, math.isqrt(height * width // SAMPLE))
        sample = image[:, step // 2 :: step, step // 2 :: step]
        bins = BIN_OF[sample].astype(np.int64) + BINS * np.arange(channels)[:, None, None]
        counts = np.bincount(bins.ravel(), minlength=channels * BINS).reshape(channels, BINS)
        kept = [_standardised(sample, max(2, side // step)) for side in SIDES]
        low, high = _percentiles(counts, (0.05, 0.95)).T  # (C,) each
        self._add(1, counts, np.stack([*kept, high - low], axis=1))

    def merge(self, counted: PixelCounts) -> None:
        """Add what a record says."""
        counts = np.zeros((len(counted.counts), BINS), np.int64)
        for row, values in zip(counts, counted.counts, strict=True):
            row[: len(values)] = values
        self._add(counted.images, counts, np.array(counted.sums))

    def _add(self, images: int, counts: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        self.images += images
        self.counts = counts if self.counts is None else self.counts + counts
        self.sums = sums if self.sums is None else self.sums + sums

    def counted(self) -> PixelCounts | None:
        """For a record; None if no image had 16 bits."""
        if self.counts is None or self.sums is None:
            return None
        rows = tuple(tuple(np.trim_zeros(row, "b").tolist()) for row in self.counts)
        return PixelCounts(images=self.images, counts=rows, sums=tuple(map(tuple, self.sums.tolist())))

    def by_channel(self, names: Sequence[str]) -> dict[str, PixelRange]:
        """The range of each channel; empty if no image had 16 bits."""
        if self.counts is None or self.sums is None:
            return {}
        places, means = _percentiles(self.counts, SHARES).tolist(), (self.sums / self.images).tolist()
        return {name: _range(*of_channel) for name, *of_channel in zip(names, places, means, strict=True)}


def _standardised(sample: NDArray[np.generic], side: int) -> NDArray[np.float64]:
    """The variance that parts of `side` samples keep if they are divided by LEVELS - 1 and standardised, (C,)."""
    channels, height, width = sample.shape
    rows, columns = max(1, height // side), max(1, width // side)
    down, across = min(side, height), min(side, width)
    parts = sample[:, : rows * down, : columns * across].reshape(channels, rows, down, columns, across)
    variance = parts.var(axis=(2, 4), dtype=np.float32)  # (C, rows, columns)
    share = variance / (variance + EPSILON * (LEVELS - 1) ** 2)
    kept: NDArray[np.float64] = share.mean(axis=(1, 2), dtype=np.float64)
    return kept


def _percentiles(counts: NDArray[np.int64], shares: Sequence[float]) -> NDArray[np.int64]:
    """The values below which these shares of the pixels are, of counts by bin (C, K): (C, shares)."""
    below = counts.cumsum(axis=1)
    return np.stack([LARGEST[np.searchsorted(row, np.array(shares) * row[-1])] for row in below])


def _range(places: Sequence[int], means: Sequence[float]) -> PixelRange:
    low, median, high, brightest = places
    *kept, spread = means
    standardised = {side: round(share, 4) for side, share in zip(SIDES, kept, strict=True)}
    return PixelRange(
        low=low, median=median, high=high, brightest=brightest, spread=max(1, round(spread)), standardised=standardised
    )
