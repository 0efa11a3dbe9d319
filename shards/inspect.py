"""Show a shard set and one of its wells, as numbers and as a picture: `python -m shards.inspect DIR [KEY] [--out PNG]`.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.atomic import atomic_write
from shards.format.manifest import SPLITS
from shards.reader.shard_set import ShardSet
from shards.remote.store import source_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENTILES = (1.0, 50.0, 99.0, 99.9)
SHOWN = (0.5, 99.8)
"""Percentiles of a channel that are drawn black and white."""
PANEL = 512
"""At most this many pixels along a panel's longer side."""
TALLEST = 4.0
"""Height of a panel by its width, at most."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "dna": (0.1, 0.2, 1.0), "hoechst": (0.1, 0.2, 1.0), "dapi": (0.1, 0.2, 1.0), "nucle": (0.1, 0.2, 1.0),
    "er": (0.0, 0.6, 0.1), "conc": (0.0, 0.6, 0.1),
    "rna": (0.4, 0.5, 0.0), "syto": (0.4, 0.5, 0.0),
    "agp": (0.9, 0.3, 0.0), "actin": (0.9, 0.3, 0.0), "phall": (0.9, 0.3, 0.0), "wga": (0.8, 0.5, 0.2),
    "mito": (0.8, 0.0, 0.5),
}  # fmt: skip
"""Colour of a stain in the composite, by the beginning of its name."""
OTHERS = ((0.2, 0.4, 1.0), (0.1, 0.9, 0.2), (1.0, 0.1, 0.2), (0.9, 0.9, 0.1), (0.9, 0.2, 0.9), (0.1, 0.9, 0.9))
UNSTAINED = ("bright", "bf", "phase", "dic")


@dataclass(frozen=True)
class ChannelStatistics:
    """One channel of one well image, in the pixels' own units."""

    name: str
    mean: float
    std: float
    minimum: int
    maximum: int
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
            minimum=int(channel.min()),
            maximum=int(channel.max()),
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


def stretch_contrast(channel: NDArray[Any]) -> NDArray[np.float64]:
    """Map the SHOWN percentiles of a channel (H, W) to 0 and 1, and clip the rest; a flat channel is 0."""
    low, high = np.percentile(channel, SHOWN)
    return np.clip((channel - low) / max(high - low, 1e-9), 0, 1) if high > low else np.zeros(channel.shape)


def composite(image: NDArray[np.float64], channels: Sequence[str]) -> NDArray[np.float64]:  # (C, H, W) -> (H, W, 3)
    """Add up contrast-stretched channels in colour, scaled so that few pixels are too bright to keep their hue."""
    out = np.zeros((*image.shape[1:], 3))
    for channel, colour in zip(image, composite_colours(channels), strict=True):
        if colour is not None:
            out += channel[..., None] * np.array(colour)
    brightest = float(np.percentile(out.max(axis=-1), SHOWN[1]))
    return np.clip(out / brightest, 0, 1) if brightest else out


def downsample(image: NDArray[Any]) -> NDArray[np.float64]:
    """Average squares of pixels of an image (C, H, W) until it fits a panel; incomplete squares are cut off.

    A square is cut to the image's shorter side where it would be larger than that.
    """
    step = math.ceil(max(image.shape[1:]) / PANEL)
    down, across = (min(step, size) for size in image.shape[1:])
    rows, columns = image.shape[1] // down, image.shape[2] // across
    cut = image[:, : rows * down, : columns * across].astype(np.float64)
    means: NDArray[np.float64] = cut.reshape(len(image), rows, down, columns, across).mean(axis=(2, 4))
    return means


def draw(image: NDArray[Any], channels: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG of all channels side by side, each with its own contrast, and their composite last.

    Raises OSError for a path that cannot be written, or that names something else than a file.
    """
    from matplotlib.figure import Figure

    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
    small = downsample(image)
    shown = np.stack([stretch_contrast(channel) for channel in small])
    panels = len(channels) + 1
    columns = min(panels, math.ceil(math.sqrt(panels * 1.5)))
    rows = math.ceil(panels / columns)
    height = 3.0 * min(small.shape[1] / small.shape[2], TALLEST) + 0.25
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
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")


def number_of(shards: ShardSet, key: str | None) -> int:
    """The number of a well image by its key, the first of the set by default; ShardError names keys like it."""
    if key is None:
        return 0
    keys = shards.wells["key"].astype(str)
    matches = np.flatnonzero((keys == key).to_numpy())
    if not len(matches):
        import difflib

        near = difflib.get_close_matches(key, keys, n=3)
        raise ShardError(f"{shards.folder}: no well {key!r}; there is {', '.join(near or keys.head(3))}, ...")
    return int(matches[0])


def stored_bytes(shards: ShardSet, number: int) -> int:
    """Bytes that a well image takes in its shard, including its own index."""
    window = shards.windows(np.array([number]), np.zeros((1, 4), np.int64))
    return int(shards.reader.open_shard(int(window.shard[0])).index.records[int(window.position[0])]["length"])


def describe_set(shards: ShardSet) -> str:
    """What a set holds, in a few lines."""
    manifest = shards.manifest
    raw = int(shards.shapes.prod(axis=1).sum()) * len(manifest.channels) * np.dtype(manifest.pixel_type).itemsize
    size = sum(shard.bytes for shard in manifest.shards)
    parts = [f"{manifest.wells[s]} {s} wells of {len(manifest.experiments[s])} experiments" for s in SPLITS]
    return "\n".join(
        [
            f"{shards.folder}: {', '.join(parts)}",
            f"channels {', '.join(manifest.channels)}",
            f"{manifest.pixel_type}, {manifest.conversion or 'pixels as in their sources'}"
            + (f", {manifest.turned} images turned in which 0 was white" if manifest.turned else ""),
            f"{len(manifest.shards)} shards, {size / 1e6:.1f} MB, ratio {raw / size:.2f}: "
            f"{manifest.codec} in chunks of {manifest.chunk} pixels",
        ]
    )


def describe_well(shards: ShardSet, number: int, channels: Sequence[ChannelStatistics], raw: int) -> str:
    """Metadata, size and statistics of a well image."""
    stored = stored_bytes(shards, number)
    height, width = shards.shapes[number].tolist()
    head = f"{'channel':<14}{'mean':>9}{'std':>9}{'min':>7}" + "".join(f"{f'p{p:g}':>9}" for p in PERCENTILES)
    rows = [
        f"{channel.name[:13]:<14}{channel.mean:>9.1f}{channel.std:>9.1f}{channel.minimum:>7}"
        + "".join(f"{value:>9.0f}" for value in channel.percentiles)
        + f"{channel.maximum:>7}{channel.saturated:>11.3%}"
        for channel in channels
    ]
    metadata = {name: value for name, value in shards.metadata(number).items() if value not in ("", None)}
    return "\n".join(
        [
            json.dumps(metadata, ensure_ascii=False),
            f"{height} x {width}, {stored / 1e6:.2f} MB stored of {raw / 1e6:.2f} MB: ratio {raw / stored:.2f}",
            f"{head}{'max':>7}{'saturated':>11}",
            *rows,
        ]
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m shards.inspect", description="Show a well of a shard set.")
    add = arguments.add_argument
    add("place", metavar="DIR", help="folder or URL of the set")
    add("key", metavar="KEY", nargs="?", help="which well image (default: the first)")
    add("--out", type=Path, metavar="PNG", help="write a picture of its channels and their composite")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parser().parse_args(argv)
    try:
        shards = ShardSet.open(source_of(args.place))
        number = number_of(shards, args.key)
        image = shards.read_well(number)
        print(describe_set(shards))
        print(describe_well(shards, number, statistics(image, shards.manifest.channels), image.nbytes))
        if args.out:
            row = shards.wells.iloc[number]
            treatment = f", {row['treatment']}" if row.get("treatment") else ""
            draw(image, shards.manifest.channels, f"{row['key']}{treatment}", args.out)
            print(f"picture: {args.out}")
    except (ShardError, OSError, ValueError) as error:
        print(f"shards.inspect: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
