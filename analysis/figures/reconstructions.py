"""Figures of reconstructions, like the paper's Figure 7: original, masked input, reconstruction.

Legend: C channels, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.figures.style import styled

# Hues that add up to white light, in the order of the channels: nucleus, ER, actin, nucleoli, mitochondria, Golgi in
# the usual order of Cell Painting, then two more for assays of eight channels.
HUES = (
    (0.15, 0.35, 1.0),
    (0.1, 0.9, 0.2),
    (1.0, 0.15, 0.1),
    (0.0, 0.75, 0.8),
    (0.9, 0.1, 0.8),
    (0.9, 0.8, 0.1),
    (1.0, 0.55, 0.1),
    (0.5, 0.5, 0.5),
)
BRIGHTFIELD = "bright"  # channels with this in their name are drawn separately, in grey: they would hide fluorescence
MASKED_GREY = 0.8  # lighter than any background, dark or grey
GAMMA = 0.7  # brightens dim cytoplasm, as seen at a microscope
LIGHT = 1.3  # largest sum of all hues in one primary
DARKEST, BRIGHTEST = 1.0, 99.7  # percentiles of the original that become black and full colour
GAPS, QUALITY = 32, 85  # crop widths per gap of a strip; JPEG quality

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReconstructionRow:
    """One crop: original and reconstruction (C, H, W) in the same unit; mask true where masked, (H, W) or (C, H, W)."""

    label: str
    original: npt.NDArray[np.floating]
    mask: npt.NDArray[np.bool_]
    reconstruction: npt.NDArray[np.floating]


def reconstructions(rows: Sequence[ReconstructionRow], channels: Sequence[str]) -> Figure:
    """Colour composites of crops: original, masked, reconstruction, one row per crop.

    Black and white points come from the original, so that the three images of a row are comparable. Channels
    with "bright" in their name get a row of their own in grey.

    Args:
        rows: at least one crop.
        channels: C names.

    Raises:
        ValueError: if there is no row, shapes disagree, or there are more than 8 channels in one composite.
    """
    check(rows, channels)
    groups = _channel_groups(channels)
    panels = [(row, name, indices) for row in rows for name, indices in groups]
    with styled():
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
        figure = Figure(figsize=(5.1, 0.25 + 1.58 * len(panels)), layout=layout)
        grid = figure.subplots(len(panels), 3, squeeze=False)
        for line, (row, name, indices) in zip(grid, panels, strict=True):
            for axes, image in zip(line, _triptych(row, indices, grey=name == "brightfield"), strict=True):
                axes.imshow(image, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            label = row.label if len(groups) == 1 else f"{row.label}\n{name}"
            line[0].set_ylabel(label, parse_math=False)
        for axes, title in zip(grid[0], ("Original", "Masked", "Reconstruction"), strict=True):
            axes.set_title(title)
    return figure


def strip(row: ReconstructionRow, channels: Sequence[str]) -> bytes:
    """One crop as a small JPEG: original, masked and reconstruction side by side, in fluorescence if there is any.

    Raises:
        ValueError: as `reconstructions`.
    """
    from matplotlib.image import imsave

    check([row], channels)
    name, indices = _channel_groups(channels)[0]
    images = _triptych(row, indices, grey=name == "brightfield")
    gap = np.ones((images[0].shape[0], max(1, images[0].shape[1] // GAPS), 3), dtype=np.float32)
    file = BytesIO()
    together = np.concatenate([images[0], gap, images[1], gap, images[2]], axis=1)
    imsave(file, together, format="jpeg", pil_kwargs={"quality": QUALITY})
    return file.getvalue()


def check(rows: Sequence[ReconstructionRow], channels: Sequence[str]) -> None:
    """Whether crops can be drawn.

    Raises:
        ValueError: there is no row, a crop is empty, its values are no numbers, shapes disagree, or there are more than
            8 channels in one composite.
    """
    if not rows:
        raise ValueError("no crops to draw")
    _channel_groups(channels)
    for row in rows:
        shape = row.original.shape
        fits = row.reconstruction.shape == shape and row.mask.shape in (shape, shape[1:])
        if len(shape) != 3 or shape[0] != len(channels) or not fits or 0 in shape:
            raise ValueError(
                f"{row.label}: original {shape}, reconstruction {row.reconstruction.shape} and mask {row.mask.shape} "
                f"must be (C, H, W), (C, H, W) and (H, W) or (C, H, W) of {len(channels)} channels"
            )
        for values in (row.original, row.reconstruction):
            if not (np.issubdtype(values.dtype, np.number) and np.isfinite(values).all()):
                raise ValueError(f"{row.label}: its pixels are not finite numbers")


def _channel_groups(channels: Sequence[str]) -> list[tuple[str, list[int]]]:
    bright = [index for index, name in enumerate(channels) if BRIGHTFIELD in name.lower()]
    stained = [index for index in range(len(channels)) if index not in bright]
    if len(stained) > len(HUES):
        raise ValueError(f"{len(stained)} channels in one composite, but only {len(HUES)} hues")
    return [(name, group) for name, group in (("fluorescence", stained), ("brightfield", bright)) if group]


def _triptych(row: ReconstructionRow, indices: list[int], *, grey: bool) -> tuple[Image, Image, Image]:
    """Original, masked and reconstruction as RGB (H, W, 3)."""
    original = row.original[indices].astype(np.float32)
    black, white = np.percentile(original, [DARKEST, BRIGHTEST], axis=(1, 2), keepdims=True)
    span = np.maximum(white - black, np.finfo(np.float32).tiny)
    levels, filled = (
        np.clip((image - black) / span, 0, 1).astype(np.float32) for image in (original, row.reconstruction[indices])
    )
    # A channel-agnostic model masks each channel separately.
    hidden = np.broadcast_to(row.mask, row.original.shape)[indices]
    seen = _composite(np.where(hidden, np.float32(0), levels), grey=grey)
    masked = np.where(np.all(hidden, axis=0, keepdims=True).transpose(1, 2, 0), np.float32(MASKED_GREY), seen)
    return _composite(levels, grey=grey), masked, _composite(filled, grey=grey)


def _composite(levels: Image, *, grey: bool) -> Image:
    """Levels (C, H, W) in [0, 1] as RGB: the mean in grey, or the sum of each channel in its hue."""
    if grey:
        return np.repeat(levels.mean(axis=0)[:, :, None], 3, axis=2)
    hues = np.array(HUES[: len(levels)], dtype=np.float32)
    gain = min(1.0, LIGHT / float(hues.sum(axis=0).max()))  # avoids clipping with many channels
    light = np.einsum("chw,cr->hwr", levels**GAMMA, hues) * gain
    result: Image = np.clip(light, 0, 1)
    return result
