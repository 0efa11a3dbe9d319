"""Style of every figure: colours for colour-blind readers too, markers, areas, one legend outside the data.

Size of a model gives the colour, its patch the marker, the size of its data set the marker's area.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.lines import Line2D
from matplotlib.offsetbox import OffsetBox
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.arrays import Floats, Mask
from analysis.compute.flops import named_convention

COLOURS = {"S": "#0072B2", "B": "#E69F00", "L": "#009E73"}  # Okabe and Ito's palette
OTHER_COLOURS = ("#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "P", "^", "v")  # coarsest patch first
AREAS = (13.0, 32.0, 62.0, 100.0, 150.0)  # points², by data set rank
LEGEND_ROW = 0.17  # inches
MANY = 300  # runs of a figure from which those that look alike are drawn together
GREY, DARK = "#8a8a8a", "#303030"

LegendSection = tuple[str, Sequence[Artist]]


@dataclass(frozen=True)
class Encoding:
    """Colours, markers and areas of the sizes, patches and data sets in one figure."""

    colours: Mapping[str, str]
    markers: Mapping[str, str]  # by patch label
    datasets: tuple[str, ...]  # smallest first

    def area(self, dataset: object) -> float:
        """Marker area in points² for a data set."""
        return AREAS[min(self.datasets.index(str(dataset)), len(AREAS) - 1)]

    def sections(self) -> list[LegendSection]:
        """The legend's entries for all three."""
        sizes = [_marker("o", colour, AREAS[1], size) for size, colour in self.colours.items()]
        patches = [_marker(marker, GREY, AREAS[1], label) for label, marker in self.markers.items()]
        datasets = [_marker("o", GREY, self.area(dataset), dataset) for dataset in self.datasets]
        return [("Model size", sizes), ("Patch", patches), ("Training data", datasets)]


def styled() -> AbstractContextManager[None]:
    """Matplotlib's settings for our figures, while drawing and while saving; global settings stay untouched."""
    return mpl.rc_context(
        {
            "font.size": 8,
            "axes.titlesize": 9,
            "axes.labelsize": 8.5,
            "axes.linewidth": 0.7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.labelsize": 7.5,
            "ytick.labelsize": 7.5,
            "legend.fontsize": 7.5,
            "legend.frameon": False,
            "figure.labelsize": 8.5,
            "savefig.dpi": 200,
            "text.usetex": False,  # users' names are no TeX
            "svg.hashsalt": "microscopy-scaling",  # element ids in SVG files are the same in every run
        }
    )


def choose_encoding(models: pd.DataFrame, further_sizes: Iterable[str] = ()) -> Encoding:
    """Assign colours, markers and areas.

    Args:
        models: rows with columns model, size, patch, dataset and dataset_rank.
        further_sizes: further sizes that the figure shows.
    """
    sizes = {*models["size"], *further_sizes}
    known = [size for size in COLOURS if size in sizes]
    others = sorted(sizes - set(known))
    if len(others) > len(OTHER_COLOURS):
        raise ValueError(f"{len(others)} sizes besides S, B and L, but only {len(OTHER_COLOURS)} colours: {others}")
    colours = {size: COLOURS[size] for size in known} | dict(zip(others, OTHER_COLOURS, strict=False))
    variants = {
        (0 if pd.isna(row["patch"]) else -int(row["patch"]), patch_label(row["model"], row["patch"]))
        for row in models.to_dict("records")
    }
    markers = {label: MARKERS[index % len(MARKERS)] for index, (_, label) in enumerate(sorted(variants))}
    ranks = models.drop_duplicates("dataset").sort_values("dataset_rank")
    return Encoding(colours, markers, tuple(ranks["dataset"].astype(str)))


def patch_label(model: str, patch: int | None) -> str:
    """The patch as models write it: "8", or "8+" for ViT-L/8+, which adds the Fourier loss; "none" for a U-net."""
    if pd.isna(patch):
        return "none"
    return f"{patch}+" if model.endswith("+") else f"{patch}"


def mark_model(
    axes: Axes, x: float | Floats, y: float | Floats, row: Mapping[Any, Any], encoding: Encoding, *,
    is_open: bool = False,
) -> None:  # fmt: skip
    """Mark one run with its model's colour and marker and its data set's area; open if it was not annealed."""
    colour = encoding.colours[row["size"]]
    axes.scatter(
        x,
        y,
        s=encoding.area(row["dataset"]),
        marker=encoding.markers[patch_label(row["model"], row["patch"])],
        color="white" if is_open else colour,
        edgecolors=colour if is_open else "white",
        linewidths=1.1 if is_open else 0.5,
        zorder=3,
    )


@dataclass(frozen=True)
class Mark:
    """Where a run is marked in a panel, and its row, which says how."""

    x: float
    y: float
    row: Mapping[Any, Any]
    is_open: bool


def mark_models(axes: Axes, marks: Sequence[Mark], encoding: Encoding, *, many: bool) -> None:
    """Mark runs as `mark_model` does; of many, those that look alike as one artist, which is drawn in far less time."""
    if not many:
        for mark in marks:
            mark_model(axes, mark.x, mark.y, mark.row, encoding, is_open=mark.is_open)
        return
    alike: dict[tuple[Any, ...], list[Mark]] = {}
    for mark in marks:
        row = mark.row
        look = row["size"], patch_label(row["model"], row["patch"]), row["dataset"], mark.is_open
        alike.setdefault(look, []).append(mark)
    for group in alike.values():
        x, y = np.array([(mark.x, mark.y) for mark in group]).T
        mark_model(axes, x, y, group[0].row, encoding, is_open=group[0].is_open)


def open_section(is_open: Mask) -> LegendSection:
    """The legend's entry for open marks, if there are any."""
    mark = _marker("o", GREY, AREAS[1], "not decayed")
    mark.set(markerfacecolor="white", markeredgewidth=1.1)
    return ("Learning rate", [mark] if is_open.any() else [])


def logarithmic_compute(axes: Axes) -> None:
    """Make the x axis logarithmic, with few labels."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=7))
    axes.xaxis.set_minor_formatter(NullFormatter())


def compute_label(convention: str) -> str:
    """Label of a compute axis."""
    return f"Training compute ({named_convention(convention).unit}, {convention} convention)"


def outside_legend(figure: Figure, sections: Iterable[LegendSection]) -> None:
    """One legend to the right of all panels, its sections under bold headings."""
    handles: list[Artist] = []
    for title, entries in sections:
        if entries:
            handles += [_Heading(title), *entries]
    labels = [str(handle.get_label()) for handle in handles]
    figure.set_figheight(max(figure.get_figheight(), LEGEND_ROW * len(handles) + 0.4))
    legend = figure.legend(
        handles,
        [label.lstrip("_") for label in labels],  # matplotlib leaves out what begins with an underscore
        loc="outside right upper",
        labelspacing=0.55,
        handlelength=1.8,
        handler_map={_Heading: _HeadingHandler()},
    )
    show_literally(legend, labels)
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if isinstance(handle, _Heading) else "normal")


def show_literally(legend: Legend, labels: Sequence[str] | None = None) -> None:
    """Show a legend's labels, or those given, as they are: dollar signs in users' names are no formulas."""
    for number, text in enumerate(legend.get_texts()):
        text.set(parse_math=False, text=text.get_text() if labels is None else labels[number])


class _Heading(Line2D):
    """A legend entry without a symbol."""

    def __init__(self, title: str) -> None:
        super().__init__([], [], label=title)


class _HeadingHandler(HandlerBase):
    """Gives the symbol's space to the text, so that headings start at the legend's left edge."""

    def legend_artist(self, legend: Legend, orig_handle: Artist, fontsize: float, handlebox: OffsetBox) -> Artist:
        handlebox.width = -legend.handletextpad * fontsize
        return orig_handle


def _marker(marker: str, colour: str, area: float, label: str) -> Line2D:
    return Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=area**0.5, label=label)
