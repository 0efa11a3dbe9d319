"""A well image as numbers and as a picture: what `shards.inspect` shows.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENTILES = (1.0, 50.0, 99.0, 99.9)
SHOWN = (0.5, 99.8)
"""Percentiles of a channel that are drawn black and white."""
PANEL = 512
"""At most this many pixels along a panel's longer side."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "dna": (0.1, 0.2, 1.0), "hoechst": (0.1, 0.2, 1.0), "dapi": (0.1, 0.2, 1.0), "nucle": (0.1, 0.2, 1.0),
    "er": (0.0, 0.6, 0.1), "conc": (0.0, 0.6, 0.1),
    "rna": (0.4, 0.5, 0.0), "syto": (0.4, 0.5, 0.0),
    "agp": (0.9, 0.3, 0.0), "actin": (0.9, 0.3, 0.0), "phall": (0.9, 0.3, 0.0), "wga": (0.8, 0.5, 0.2),
    "mito": (0.8, 0.0, 0.5),
}  # fmt: skip
"""Colour of a stain in the composite, by how its name begins."""
OTHERS = ((0.2, 0.4, 1.0), (0.1, 0.9, 0.2), (1.0, 0.1, 0.2), (0.9, 0.9, 0.1), (0.9, 0.2, 0.9), (0.1, 0.9, 0.9))
UNSTAINED = ("bright", "bf", "phase", "dic")


@dataclass(frozen=True)
class ChannelStatistics:
    """One channel of one well image, in the pixels' own units."""

    name: str
    mean: float
    std: float
    least: int
    most: int
    percentiles: tuple[float, ...]  # at PERCENTILES
    saturated: float  # share of pixels at the type's largest value


def statistics(image: NDArray[Any], channels: Sequence[str]) -> list[ChannelStatistics]:
    """Exact statistics of each channel of an image (C, H, W) of uint8 or uint16."""
    largest = np.iinfo(image.dtype).max
    return [
        ChannelStatistics(
            name=name,
            mean=float(channel.mean(dtype=np.float64)),
            std=float(channel.std(dtype=np.float64)),
            least=int(channel.min()),
            most=int(channel.max()),
            percentiles=tuple(float(value) for value in np.percentile(channel, PERCENTILES)),
            saturated=float((channel == largest).mean()),
        )
        for name, channel in zip(channels, image, strict=True)
    ]


def composite_colours(channels: Sequence[str]) -> list[tuple[float, float, float] | None]:
    """A colour for each channel, by the stain that its name begins with; None for unstained ones, left out."""
    free = itertools.cycle(OTHERS)
    colours: list[tuple[float, float, float] | None] = []
    for name in (channel.lower() for channel in channels):
        if name.startswith(UNSTAINED):
            colours.append(None)
            continue
        known = next((colour for start, colour in COLOURS.items() if name.startswith(start)), None)
        colours.append(known or next(free))
    return colours


def stretched(channel: NDArray[Any]) -> NDArray[np.float64]:
    """Map the SHOWN percentiles of a channel (H, W) to 0 and 1, and clip beyond; a flat channel is 0."""
    low, high = np.percentile(channel, SHOWN)
    return np.clip((channel - low) / max(high - low, 1e-9), 0, 1) if high > low else np.zeros(channel.shape)


def composite(image: NDArray[np.float64], channels: Sequence[str]) -> NDArray[np.float64]:  # (C, H, W) -> (H, W, 3)
    """Add up stretched channels in their colours, scaled so that few pixels are too bright to keep their hue."""
    out = np.zeros((*image.shape[1:], 3))
    for channel, colour in zip(image, composite_colours(channels), strict=True):
        if colour is not None:
            out += channel[..., None] * np.array(colour)
    brightest = float(np.percentile(out.max(axis=-1), SHOWN[1]))
    return np.clip(out / brightest, 0, 1) if brightest else out


def smaller(image: NDArray[Any]) -> NDArray[np.float64]:
    """Average squares of pixels of an image (C, H, W) until it fits a panel; edges that fill no square are cut."""
    step = math.ceil(max(image.shape[1:]) / PANEL)
    rows, columns = (size // step for size in image.shape[1:])
    cut = image[:, : rows * step, : columns * step].astype(np.float64)
    means: NDArray[np.float64] = cut.reshape(len(image), rows, step, columns, step).mean(axis=(2, 4))
    return means


def draw(image: NDArray[Any], channels: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG of every channel side by side, each stretched on its own, and their composite last."""
    from matplotlib.figure import Figure

    small = smaller(image)
    shown = np.stack([stretched(channel) for channel in small])
    panels = len(channels) + 1
    columns = min(panels, math.ceil(math.sqrt(panels * 1.5)))
    rows = math.ceil(panels / columns)
    height = 3.0 * small.shape[1] / small.shape[2] + 0.25
    figure = Figure(figsize=(3.0 * columns, height * rows + 0.4), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes:
        axis.set_axis_off()
    for axis, name, channel in zip(axes, channels, shown, strict=False):
        axis.imshow(channel, cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, fontsize=9)
    axes[len(channels)].imshow(composite(shown, channels))
    axes[len(channels)].set_title("composite", fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110, format="png")
