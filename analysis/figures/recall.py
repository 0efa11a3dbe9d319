"""Recall against compute, one panel per relationship source, like the paper's Figures 5 and 8."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.style import (
    AREAS,
    DARK,
    GREY,
    MANY,
    Encoding,
    LegendSection,
    Mark,
    choose_encoding,
    compute_label,
    logarithmic_compute,
    mark_models,
    open_section,
    outside_legend,
    patch_label,
    styled,
)
from analysis.fitting.annealing import unannealed
from analysis.fitting.trend import LogLinearFit

LINES = ("pixel_statistics", "imagenet", "profiles")  # kinds of baselines without training, drawn as lines
FACET = " · "  # between a source and its facet
CHANCE = 0.10  # two tails of 5%; used where no trained cell has a chance of its own
SEED_DODGE = 0.012  # of the axis: seeds of one cell share a compute and would overlap
INKS = ("#AA4499", "#882255", "#117733", "#999933")  # of the lines, in the order of the baselines
DASHES = ((6, 2, 1, 2), (6, 2), (3, 1.5), (8, 2, 1, 2, 1, 2))
DOTTED: dict[str, Any] = {"color": DARK, "linewidth": 0.9, "linestyle": (0, (1, 2))}
UNTRAINED: dict[str, Any] = {"color": "#56B4E9", "alpha": 0.25, "linewidth": 0}
TRAJECTORY: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.6, "linestyle": (0, (4, 2))}
INTERVAL: dict[str, Any] = {"color": GREY, "alpha": 0.22, "linewidth": 0}


def recall_versus_compute(
    points: pd.DataFrame,
    fits: Sequence[LogLinearFit],
    baselines: pd.DataFrame,
    convention: str,
    table6: pd.DataFrame | None = None,
) -> Figure:
    """Recall against compute, one panel per relationship source, with fits, baselines and, if given, Table 6.

    A source may have a facet after FACET (`CORUM · mask_ratio=0.5`), and then has a panel for each.

    Args:
        points: trained cells, one row per cell and source: cell, model, size, patch, dataset, dataset_rank, seed,
            source, recall, recall_low, recall_high, chance, compute, and, if known, annealed: a run that was not is
            drawn open. Seeds of one cell are drawn side by side.
        fits: at most one per source, in the same convention.
        baselines: models not trained in this study, same columns and `kind`: untrained models are drawn as a band, and
            those of the kinds in `LINES` as a horizontal line each.
        convention: name of the compute convention.
        table6: `reference.tables.table6()`, to overlay the paper's masked autoencoders on panels of the same source.

    Raises:
        ValueError: if a fit was made in another convention, or there is nothing to draw.
    """
    foreign = {fit.convention for fit in fits} - {convention}
    if foreign:
        raise ValueError(f"the figure counts in {convention}, but a fit was made in {', '.join(foreign)}")
    published = _published(table6, convention)
    drawn = {_base(source) for source in points["source"]}
    others = (name for name in published["benchmark"] if name not in drawn)
    sources = list(dict.fromkeys([*points["source"], *others]))
    if not sources:
        raise ValueError("no points to draw: neither trained cells nor Table 6")
    encoding, inks = choose_encoding(points, published["size"]), _inks(baselines)
    chance_drawn = False
    with styled():
        figure, panels = _panels(len(sources))
        for axes, source in zip(panels, sources, strict=True):
            title = source.replace(FACET, "\n", 1)
            axes.set_title(title, loc="left", fontweight="bold", pad=15, parse_math=False)
            _draw_table6(axes, published[published["benchmark"] == _base(source)], encoding)
            draw_points(axes, points[points["source"] == source], encoding, many=len(points) > MANY)
            for fit in fits:
                if fit.source == source:
                    draw_fit(axes, fit)
            _draw_baselines(axes, baselines[baselines["source"] == source], encoding, inks)
            chance_drawn |= _draw_chance(axes, points[points["source"] == source], is_facet=title != source)
            logarithmic_compute(axes)
        figure.supxlabel(compute_label(convention))
        figure.supylabel("Recall of known relationships")
        outside_legend(figure, _sections(encoding, points, fits, baselines, published, chance_drawn=chance_drawn))
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = count if count <= 3 else 2 if count == 4 else 3
    rows = -(-count // columns)
    figure = Figure(figsize=(1.4 + 2.9 * columns, max(0.3 + 2.5 * rows, 3.3)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in grid[count:]:
        spare.remove()
    return figure, grid[:count]


def draw_points(axes: Axes, points: pd.DataFrame, encoding: Encoding, *, many: bool = False) -> None:
    """The recall of trained cells with intervals, seeds side by side, and runs through their open points.

    Args:
        axes: of the panel.
        points: of its source.
        encoding: how runs look.
        many: whether the figure has so many that they are drawn together.
    """
    if points.empty:
        return
    _draw_trajectories(axes, points, encoding)
    span = np.log10(points["compute"].max() / points["compute"].min()) or 1.0
    places = {seed: place for place, seed in enumerate(sorted(points["seed"].unique()))}
    marks = []
    for row, is_open in zip(points.to_dict("records"), unannealed(points), strict=True):
        dodge = 10 ** (SEED_DODGE * span * (places[row["seed"]] - (len(places) - 1) / 2))
        marks.append(Mark(row["compute"] * dodge, row["recall"], row, is_open))
    for group in [marks] if many else [[mark] for mark in marks]:
        colours = [encoding.colours[mark.row["size"]] for mark in group]
        low, high = ([mark.row[end] for mark in group] for end in ("recall_low", "recall_high"))
        x = [mark.x for mark in group]
        axes.vlines(x, low, high, color=colours, linewidth=0.8, alpha=0.55)
    mark_models(axes, marks, encoding, many=many)


def _draw_trajectories(axes: Axes, points: pd.DataFrame, encoding: Encoding) -> None:
    """A line through the open points of each run, which it passed on its way, to its last one."""
    open_points = unannealed(points)
    if not open_points.any():
        return
    for _, run in points.assign(open=open_points).groupby(["model", "dataset", "seed"], sort=False, dropna=False):
        ordered = run.sort_values("compute")
        passed = ordered[ordered["open"] | (ordered["compute"] == ordered["compute"].max())]
        if passed["open"].any() and len(passed) > 1:
            colour = encoding.colours[ordered["size"].iloc[0]]
            axes.plot(passed["compute"], passed["recall"], color=colour, zorder=1.8, **TRAJECTORY)


def draw_fit(axes: Axes, fit: LogLinearFit) -> None:
    """A law with its interval, and its slope in words above the panel."""
    band = fit.band(np.geomspace(fit.compute_low, fit.compute_high, 60))
    axes.fill_between(band.compute, band.low, band.high, zorder=1, **INTERVAL)
    axes.plot(band.compute, band.centre, color=DARK, linewidth=1.3, zorder=2.5)
    slope = f"slope {fit.law.slope:+.3f} [{fit.slope.low:+.3f}, {fit.slope.high:+.3f}] per decade"
    axes.text(0, 1.02, slope, transform=axes.transAxes, va="bottom", fontsize=7, color=DARK)


def _inks(baselines: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How the line of each baseline is drawn, by model."""
    models = baselines.loc[baselines["kind"].isin(LINES), "model"].unique()
    return {
        str(model): {"color": INKS[n % len(INKS)], "linewidth": 1.0, "linestyle": (0, DASHES[n % len(DASHES)])}
        for n, model in enumerate(models)
    }


def _draw_baselines(
    axes: Axes, baselines: pd.DataFrame, encoding: Encoding, inks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Untrained models as a band from worst to best with their marks on the left edge; other baselines as lines."""
    untrained = baselines[~baselines["kind"].isin(LINES)]
    for model, ink in inks.items():
        for recall in baselines.loc[baselines["model"] == model, "recall"].unique():
            axes.axhline(recall, zorder=1.5, **ink)
    if untrained.empty:
        return
    axes.axhspan(untrained["recall"].min(), untrained["recall"].max(), zorder=0.8, **UNTRAINED)
    for row in untrained.to_dict("records"):
        axes.plot(
            [0.0],
            [row["recall"]],
            transform=axes.get_yaxis_transform(),
            marker=encoding.markers.get(patch_label(row["model"], row["patch"]), "o"),
            markersize=4,
            markerfacecolor="white",
            markeredgecolor=encoding.colours.get(row["size"], GREY),
            markeredgewidth=0.9,
            clip_on=False,
            zorder=4,
        )


def _draw_chance(axes: Axes, points: pd.DataFrame, *, is_facet: bool) -> bool:
    """Chance as a line if it is close to the data, else as a note: above the panel, or in it below a longer title."""
    chance = float(points["chance"].iloc[0]) if len(points) else CHANCE
    low, high = axes.get_ylim()
    within_reach = chance > low - 0.8 * (high - low)
    if within_reach:
        axes.axhline(chance, zorder=1.5, **DOTTED)
    elif is_facet:
        axes.text(
            1, 0.02, f"chance {chance:.2f} is below", transform=axes.transAxes, ha="right", fontsize=7, color=GREY
        )
    else:
        axes.set_title(f"chance {chance:.2f} is below", loc="right", pad=15, fontsize=7, color=GREY)
    return within_reach


def _base(source: str) -> str:
    """A source without its facet."""
    return source.partition(FACET)[0]


def _published(table6: pd.DataFrame | None, convention: str) -> pd.DataFrame:
    """Table 6's masked autoencoders with columns benchmark, recall, size, low, high and pinned."""
    if table6 is None:
        return pd.DataFrame({"benchmark": [], "size": []})
    published = table6[table6["family"] == "MAE"]
    ends = {f"compute_{convention}_{end}": end for end in ("low", "high")}
    return published.rename(columns=ends).assign(size=published["model"].str.extract(r"ViT-([A-Z])", expand=False))


def _draw_table6(axes: Axes, published: pd.DataFrame, encoding: Encoding) -> None:
    """The paper's points as diamonds at the upper bound of their compute, with a bar down to the lower bound."""
    for row in published.to_dict("records"):
        colour = encoding.colours[row["size"]]
        fill = colour if row["pinned"] else "white"
        axes.hlines(row["recall"], row["low"], row["high"], color=colour, linewidth=0.8, alpha=0.6, zorder=2)
        axes.scatter(
            row["high"],
            row["recall"],
            s=AREAS[1] * 0.7,
            marker="D",
            color=fill,
            edgecolors=colour,
            linewidths=1,
            zorder=3,
        )


def _sections(
    encoding: Encoding,
    points: pd.DataFrame,
    fits: Sequence[LogLinearFit],
    baselines: pd.DataFrame,
    published: pd.DataFrame,
    *,
    chance_drawn: bool,
) -> list[LegendSection]:
    """The legend: encodings, the lines that are drawn, Table 6."""
    lines: list[Artist] = []
    if fits:
        of_filled = " (filled marks)" if any(fit.left_out for fit in fits) else ""
        lines.append(Line2D([], [], color=DARK, linewidth=1.3, label=f"log-linear fit{of_filled}"))
        lines.append(Patch(label=f"{fits[0].slope.confidence:.0%} interval of the fit", **INTERVAL))
    if (~baselines["kind"].isin(LINES)).any():
        lines.append(Patch(label="untrained (marks on the edge)", **UNTRAINED))
    lines += [Line2D([], [], label=model.replace("_", " "), **ink) for model, ink in _inks(baselines).items()]
    if unannealed(points).any():
        lines.append(Line2D([], [], color=GREY, label="a run through its open points", **TRAJECTORY))
    if chance_drawn:
        lines.append(Line2D([], [], label="chance", **DOTTED))
    paper = [_diamond(GREY, "compute known"), _diamond("white", "upper bound, bar to lower")]
    marks = [*encoding.sections(), open_section(unannealed(points))]
    return [*marks, ("Lines", lines), ("Table 6 of the paper", paper if len(published) else [])]


def _diamond(fill: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="none", marker="D", color=GREY, markerfacecolor=fill, markersize=5, label=label)
