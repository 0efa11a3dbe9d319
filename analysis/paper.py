"""Redraw the paper's Figures 5 and 8 from Table 6 under every convention, and state what the data support.

    python -m analysis.paper --output FOLDER [--conventions touvron mae_train]

Only the masked autoencoders of Table 6 have a compute, and five of nine have only bounds. Bounds are drawn as bars, and
the interval of the fit draws a new compute between them in every resample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.arrays import Floats
from analysis.compute.flops import CONVENTIONS, flops_per_crop
from analysis.fitting.checklist import TwoFactors, two_factors
from analysis.reference.tables import IMAGES, PAPER_MODELS, table6

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCES = ("StringDB", "CORUM", "hu.MAP", "Reactome")  # Figure 5, then Figure 8
HELD_OUT = "RPI-93M"
RESAMPLES = 4000
LEVEL = 0.95
MODEL_COLOURS = {  # Okabe and Ito: one for each model, distinguishable for colour-blind readers
    "MAE ViT-S/16": "#0072B2", "MAE ViT-B/16": "#E69F00", "MAE ViT-B/8": "#D55E00", "MAE ViT-L/16": "#009E73",
    "MAE ViT-L/8+": "#CC79A7",
}  # fmt: skip
PATCH_MARKERS = {"16": "o", "8": "s", "8+": "P"}
DATASET_AREAS = {"RxRx3": 30.0, "RPI-52M": 80.0, "RPI-93M": 150.0}


@dataclass(frozen=True)
class Trend:
    """One source's line under one convention. Slopes are recall per decade, with 95% intervals."""

    source: str
    convention: str
    slope: float
    half_width: float  # of least squares with every unpinned compute at its upper bound
    slope_low: float  # of resampled models with unpinned computes drawn between their bounds
    slope_high: float
    intercept: float
    draws: Floats  # (K, 2) intercepts and slopes
    predicted: float  # recall of L/8+ on RPI-93M from the eight others
    measured: float
    ceiling: tuple[float, float]  # profile interval of an asymptote; (.., 1) where none is supported
    factors: TwoFactors  # cost per crop and images, in place of their product

    @property
    def supported(self) -> str:
        """What these nine points support, in words."""
        low, high = self.slope_low, self.slope_high
        rises = "rises with compute" if low > 0 else "need not rise with compute if its bounds are taken into account"
        cost, images = self.factors.slopes
        cost_half, images_half = self.factors.half_widths
        carried = (
            f"{cost:+.3f} ± {cost_half:.3f} per decade of cost per crop, {images:+.3f} ± {images_half:.3f} of images"
        )
        return (
            f"{self.source}: recall {rises}: {self.slope:+.4f} ± {self.half_width:.4f} per decade with RPI-52M at 50 "
            f"epochs, [{low:+.4f}, {high:+.4f}] with its compute drawn between one epoch and 50. In two factors: "
            f"{carried}; {self.factors.verdict}. The largest run was predicted at {self.predicted:.3f} and is "
            f"{self.measured:.3f}. A ceiling is {self._ceiling}."
        )

    @property
    def _ceiling(self) -> str:
        low, high = self.ceiling
        if high >= 1:
            return f"not identified: anything above {low:.2f} fits" if low > 0 else "not identified"
        return f"between {low:.2f} and {high:.2f}"


def masked_autoencoders(source: str) -> pd.DataFrame:
    """Table 6's nine masked autoencoders for one source."""
    table = table6()
    return table[(table["family"] == "MAE") & (table["benchmark"] == source)].reset_index(drop=True)


def trend(source: str, convention: str, seed: int = 0) -> Trend:
    """Fit one source under one convention.

    Raises:
        ValueError: the source is not in Table 6, or the convention is unknown.
    """
    points = masked_autoencoders(source)
    if points.empty:
        raise ValueError(f"Table 6 has no source {source!r}; it has {', '.join(SOURCES)}")
    recall = points["recall"].to_numpy()
    low, high = (np.log10(points[f"compute_{convention}_{end}"].to_numpy()) for end in ("low", "high"))
    intercept, slope, half = _line(high, recall)
    draws = _drawn_lines(low, high, recall, np.random.default_rng(seed))
    tail = (1 - LEVEL) / 2
    ends = np.quantile(draws[:, 1], [tail, 1 - tail])
    seen = points["train_dataset"] != HELD_OUT
    first, rise, _ = _line(high[seen], recall[seen])
    cost = [flops_per_crop(convention, PAPER_MODELS[key]) for key in points["key"]]
    images = [IMAGES[name] for name in points["train_dataset"]]
    factors = two_factors(("cost per crop", "images"), np.column_stack([cost, images]), recall)
    assert factors is not None  # nine points, both factors vary
    return Trend(
        source, convention, slope, half, float(ends[0]), float(ends[1]), intercept, draws,
        float(first + rise * high[~seen][0]), float(recall[~seen][0]), _ceiling(10**high, recall), factors,
    )  # fmt: skip


def _line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Intercept, slope, and half width of the slope's 95% interval, by least squares and normal theory."""
    from scipy import stats

    regression = stats.linregress(x, y)
    half = stats.t.ppf((1 + LEVEL) / 2, len(x) - 2) * regression.stderr
    return float(regression.intercept), float(regression.slope), float(half)


def _drawn_lines(low: Floats, high: Floats, recall: Floats, rng: np.random.Generator) -> Floats:
    """Lines (K, 2) through models drawn with replacement, compute drawn log-uniformly between its bounds."""
    from analysis.fitting.trend import weighted_lines

    n = len(recall)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    x = low + rng.random((RESAMPLES, n)) * (high - low)
    lines = [np.column_stack(weighted_lines(x[k], recall, drawn[k : k + 1]))[0] for k in range(RESAMPLES)]
    stacked = np.array(lines)
    return np.asarray(stacked[np.isfinite(stacked[:, 1])])


def _ceiling(compute: Floats, recall: Floats) -> tuple[float, float]:
    """Profile interval of the asymptote of recall = C - B x^-c."""
    from analysis.fitting.estimate import Points, fit_law
    from analysis.fitting.parameters import parameters
    from analysis.laws.catalogue import named_law
    from analysis.laws.metric import Metric

    points = Points(compute[:, None], recall)
    fitted = fit_law(named_law("saturating"), points, Metric("share"))
    ceiling = next(parameter for parameter in parameters(fitted, points, LEVEL) if parameter.name == "C")
    return max(ceiling.low, 0.0), min(ceiling.high, 1.0)


def figure(convention: str, trends: Sequence[Trend]) -> Figure:
    """Figures 5 and 8 as four panels: models as colours, patch as marker, training images as area.

    Raises:
        ValueError: a trend was fitted under another convention.
    """
    from matplotlib.figure import Figure

    from analysis.figures.style import compute_label, logarithmic_compute, outside_legend, styled

    if any(fitted.convention != convention for fitted in trends):
        raise ValueError(f"the figure counts in {convention}, but a trend was fitted in another convention")
    with styled():
        drawn = Figure(figsize=(7.6, 5.3), layout="constrained")
        panels = drawn.subplots(2, -(-len(trends) // 2), squeeze=False).ravel()
        for axes, fitted in zip(panels, trends, strict=False):
            _draw_points(axes, masked_autoencoders(fitted.source), convention)
            _draw_trend(axes, fitted)
            logarithmic_compute(axes)
            axes.margins(x=0.06, y=0.12)
        drawn.supxlabel(compute_label(convention))
        drawn.supylabel("Recall of known relationships (Table 6)")
        outside_legend(drawn, _legend())
    return drawn


def _draw_points(axes: Axes, points: pd.DataFrame, convention: str) -> None:
    for row in points.to_dict("records"):
        colour = MODEL_COLOURS[row["model"]]
        low, high = (row[f"compute_{convention}_{end}"] for end in ("low", "high"))
        axes.hlines(row["recall"], low, high, color=colour, linewidth=1.4, alpha=0.55, zorder=2)
        axes.scatter(
            high, row["recall"], s=DATASET_AREAS[row["train_dataset"]],
            marker=PATCH_MARKERS[row["model"].partition("/")[2]], color=colour if row["pinned"] else "white",
            edgecolors=colour, linewidths=1.2, zorder=3,
        )  # fmt: skip


def _draw_trend(axes: Axes, fitted: Trend) -> None:
    from analysis.figures.style import DARK, GREY

    low, high = axes.get_xlim()
    points = masked_autoencoders(fitted.source)
    low = points[f"compute_{fitted.convention}_low"].min()
    high = points[f"compute_{fitted.convention}_high"].max()
    grid = np.linspace(np.log10(low), np.log10(high), 60)
    tail = (1 - LEVEL) / 2
    band = np.quantile(fitted.draws[:, :1] + fitted.draws[:, 1:] * grid, [tail, 1 - tail], axis=0)
    axes.fill_between(10**grid, *band, color=GREY, alpha=0.2, linewidth=0, zorder=1)
    axes.plot(10**grid, fitted.intercept + fitted.slope * grid, color=DARK, linewidth=1.2, zorder=2)
    axes.set_title(fitted.source, loc="left", fontweight="bold", pad=26)
    interval = f"[{fitted.slope_low:+.3f}, {fitted.slope_high:+.3f}]"
    label = f"{fitted.slope:+.4f} ± {fitted.half_width:.4f} per decade\nwith bars: {interval}"
    axes.text(0, 1.02, label, transform=axes.transAxes, va="bottom", fontsize=7, color=DARK)


def _legend() -> list[tuple[str, list[Any]]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from analysis.figures.style import DARK, GREY

    def mark(label: str, marker: str, colour: str, area: float = 40.0, fill: str | None = None) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=area**0.5, label=label,
                      markerfacecolor=fill or colour)  # fmt: skip

    return [
        ("Model", [mark(name.removeprefix("MAE "), "o", colour) for name, colour in MODEL_COLOURS.items()]),
        ("Patch", [mark(patch, marker, GREY) for patch, marker in PATCH_MARKERS.items()]),
        ("Training images", [mark(name, "o", GREY, area) for name, area in DATASET_AREAS.items()]),
        ("Compute", [mark("known", "o", GREY), mark("upper bound, bar to lower", "o", GREY, fill="white")]),
        ("Lines", [Line2D([], [], color=DARK, linewidth=1.2, label="fit at upper bounds"),
                   Patch(color=GREY, alpha=0.2, linewidth=0, label="95%, bars included")]),
    ]  # fmt: skip


def statement(trends: Sequence[Trend]) -> str:
    """What Table 6 supports under one convention, as Markdown."""
    convention = CONVENTIONS[trends[0].convention]
    head = f"## Under `{convention.name}` ({convention.meaning}; {convention.unit})"
    return "\n".join([head, "", *(f"- {fitted.supported}" for fitted in trends), ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.paper", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for figures and the statement")
    parser.add_argument("--conventions", nargs="+", choices=list(CONVENTIONS), default=list(CONVENTIONS))
    options = parser.parse_args(arguments)
    from analysis.figures.save import replacing, save

    lines = ["# What Table 6 supports", ""]
    for name in options.conventions:
        trends = [trend(source, name) for source in SOURCES]
        for path in save(figure(name, trends), options.output / f"figures_5_and_8_{name}", ("png", "svg", "pdf")):
            print(f"wrote {path}")
        lines.append(statement(trends))
    path = options.output / "what_table6_supports.md"
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    print(f"wrote {path}\n\n" + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
