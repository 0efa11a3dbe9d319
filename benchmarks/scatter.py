"""Grids whose architectures scatter about a law: intervals with the scatter as a component of variance, and without.

    python -m benchmarks.scatter [--simulations 400] [--json]

Each grid has 3 to 8 architectures, each trained with 2 to 5 amounts of data, scatter between architectures of 0 to 6%,
noise of 0.3% to 3%, and a known law: a power law of 1 - recall, or recall as a line in log compute. The new run is of a
new architecture, at up to ten times the largest compute. Intervals are of 90%, from `analysis.fitting.fit_curve` (the
law named, and `auto`) and `analysis.fitting.trend`; with architectures told, as independent runs, and with
architectures resampled whole. The width needed is that of an interval that knows both variances. The peer is
statsmodels' MixedLM, where it is installed: REML and Wald intervals.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from analysis.arrays import Floats
from analysis.fitting.estimate import Points
from analysis.fitting.fit_curve import fit_points
from analysis.fitting.trend import fit_log_linear
from analysis.fitting.variance_components import Levels, same
from analysis.laws.metric import Metric

CONFIDENCE, LEAST, MOST = 0.9, 0.85, 0.95
SHARE = Metric("share")
SCATTERS = (0.0, 0.003, 0.01, 0.03, 0.06)  # one for each grid in turn
SLOPE, START = -0.1, 0.7  # of log(1 - r) per factor e of compute; 1 - r at a compute of 1
LINE_SLOPE, LINE_START = 0.05, 0.2  # of recall per decade; recall at a compute of 1
WIDEST = 2.0  # times the width that is needed
NORMAL = float(ndtri((1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class Grid:
    """A simulated grid about straight lines, and a run of a new architecture beyond it."""

    x: Floats  # (n,) compute
    names: tuple[str, ...]  # architecture of each run
    deviation: Floats  # (n,) of each run from the law
    place: float
    new_deviation: float
    scatter: float
    noise: float

    def needed(self, slope_per: float) -> tuple[float, float]:
        """Half widths of the slope (per factor `slope_per` of compute) and of the new run, with variances known."""
        u = np.log(self.x) / np.log(slope_per)
        design, row = np.column_stack([np.ones_like(u), u]), np.array([1.0, np.log(self.place) / np.log(slope_per)])
        covariance = self.noise**2 * np.eye(len(u)) + self.scatter**2 * same(self.names)
        inverse = np.linalg.inv(design.T @ np.linalg.solve(covariance, design))
        run = row @ inverse @ row + self.scatter**2 + self.noise**2
        return float(NORMAL * np.sqrt(inverse[1, 1])), float(NORMAL * np.sqrt(run))


def grid(seed: int) -> Grid:
    """A simulated grid; its scatter is number seed % 5 of `SCATTERS`."""
    rng = np.random.default_rng(seed)
    architectures, amounts = int(rng.integers(3, 9)), int(rng.integers(2, 6))
    size, data = 10 ** rng.uniform(0, 2, architectures), np.geomspace(1, 10 ** rng.uniform(0.5, 2), amounts)
    which = np.repeat(np.arange(architectures), amounts)
    x, scatter, noise = (
        size[which] * np.tile(data, architectures),
        SCATTERS[seed % len(SCATTERS)],
        10 ** rng.uniform(-2.5, -1.5),
    )
    deviation = scatter * rng.normal(size=architectures)[which] + noise * rng.normal(size=len(x))
    place = float(x.max() * 10 ** rng.uniform(0, 1))
    own = scatter * rng.normal() + noise * rng.normal()
    return Grid(x, tuple(f"model {number}" for number in which), deviation, place, float(own), scatter, noise)


@dataclass(frozen=True)
class Outcome:
    """Whether intervals contain the truth, and their widths over those needed."""

    slope: bool
    slope_width: float
    run: bool
    run_width: float


def power_law(study: Grid, law: str, told: str) -> Outcome:
    """A power law of 1 - r, by `fit_points`."""
    z = np.log(START) + SLOPE * np.log(study.x) + study.deviation
    levels = Levels(study.names) if told == "component" else None
    points = Points(study.x[:, None], 1 - np.exp(z), study.names if told == "resampled" else (), levels=levels)
    fitted = fit_points(points, SHARE, law, targets=np.array([[study.place]]), confidence=CONFIDENCE)
    exponent = next(parameter for parameter in fitted.parameters if parameter.name == "c")
    run, truth = fitted.predictions[0], np.log(START) + SLOPE * np.log(study.place) + study.new_deviation
    low, high = np.log(1 - run.high), np.log(1 - run.low)
    needed = study.needed(np.e)
    return Outcome(
        exponent.low <= -SLOPE <= exponent.high, (exponent.high - exponent.low) / (2 * needed[0]),
        bool(low <= truth <= high), float((high - low) / (2 * needed[1])),
    )  # fmt: skip


def line(study: Grid, told: str) -> Outcome:
    """Recall as a line in log compute, by `fit_log_linear`."""
    recall = LINE_START + LINE_SLOPE * np.log10(study.x) + study.deviation
    groups = (
        {"architectures": study.names}
        if told == "component"
        else {"trunks": study.names}
        if told == "resampled"
        else {}
    )
    fitted = fit_log_linear("x", "touvron", study.x, recall, confidence=CONFIDENCE, **groups)
    run, truth = fitted.band(study.place, new_run=True), LINE_START + LINE_SLOPE * np.log10(study.place)
    needed = study.needed(10.0)
    return Outcome(
        fitted.slope.low <= LINE_SLOPE <= fitted.slope.high, (fitted.slope.high - fitted.slope.low) / (2 * needed[0]),
        bool(run.low[0] <= truth + study.new_deviation <= run.high[0]),
        float((run.high[0] - run.low[0]) / (2 * needed[1])),
    )  # fmt: skip


def peer(study: Grid) -> Outcome | None:
    """The same line by statsmodels' MixedLM; None where it does not converge."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    u = np.log10(study.x)
    recall, design = LINE_START + LINE_SLOPE * u + study.deviation, np.column_stack([np.ones_like(u), u])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fitted = MixedLM(recall, design, groups=np.array(study.names)).fit(reml=True)
            covariance = np.asarray(fitted.cov_params())[:2, :2]
        except (np.linalg.LinAlgError, ValueError):
            return None
    row, (start, slope) = np.array([1.0, np.log10(study.place)]), fitted.fe_params
    half = NORMAL * np.sqrt(np.diag(covariance)[1])
    run = NORMAL * np.sqrt(row @ covariance @ row + fitted.cov_re[0, 0] + fitted.scale)
    off = start + slope * row[1] - (LINE_START + LINE_SLOPE * row[1] + study.new_deviation)
    needed = study.needed(10.0)
    if not np.isfinite(half + run):
        return None
    return Outcome(bool(abs(slope - LINE_SLOPE) <= half), half / needed[0], bool(abs(off) <= run), run / needed[1])


Measured = Callable[[Grid], Outcome | None]
METHODS: Mapping[str, Measured] = {
    "power law, architectures told": lambda study: power_law(study, "power_law", "component"),
    "power law, independent runs": lambda study: power_law(study, "power_law", ""),
    "power law, architectures resampled": lambda study: power_law(study, "power_law", "resampled"),
    "auto, architectures told": lambda study: power_law(study, "auto", "component"),
    "auto, independent runs": lambda study: power_law(study, "auto", ""),
    "line, architectures told": lambda study: line(study, "component"),
    "line, independent runs": lambda study: line(study, ""),
    "line, architectures resampled": lambda study: line(study, "resampled"),
}
PEER = "line, MixedLM of statsmodels"


def rows(name: str, scatter: str, outcomes: list[Outcome]) -> Iterator[dict[str, Any]]:
    """Coverage of the slope and of the new run, each beside its median width in widths needed."""
    for what in ("slope", "run"):
        covered = float(np.mean([getattr(outcome, what) for outcome in outcomes]))
        width = float(np.median([getattr(outcome, f"{what}_width") for outcome in outcomes]))
        met = LEAST <= covered <= MOST and width <= WIDEST
        yield {"name": f"{name}: {'slope' if what == 'slope' else 'new run'}, {scatter}", "unit": "coverage at 90%",
               "ours": covered, "peer": width, "peer_name": "median width over that needed",
               "ratio": covered / CONFIDENCE, "goal": LEAST, "met": met}  # fmt: skip


def measured(methods: Mapping[str, Measured], simulations: int) -> Iterator[dict[str, Any]]:
    """Each method over all grids, and over those of each scatter."""
    studies = [grid(seed) for seed in range(simulations)]
    for name, method in methods.items():
        found = [(study, outcome) for study in studies if (outcome := method(study)) is not None]
        yield from rows(name, f"all ({len(found)} grids)", [outcome for _, outcome in found])
        for scatter in SCATTERS:
            part = [outcome for study, outcome in found if study.scatter == scatter]
            yield from rows(name, f"scatter {scatter:.1%}", part)


def shown(entry: Mapping[str, Any]) -> str:
    verdict = "met" if entry["met"] else "NOT met"
    return f"{entry['name']:<64}{entry['ours']:>7.3f}  width {entry['peer']:>5.2f}  {verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--only", metavar="TEXT", default="", help="methods whose name has this text")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    methods = dict(METHODS)
    if importlib.util.find_spec("statsmodels"):
        methods[PEER] = peer
    else:
        print("statsmodels is not installed: its MixedLM is not measured", file=sys.stderr)
    chosen = {name: method for name, method in methods.items() if options.only in name}
    found = list(measured(chosen, options.simulations))
    print(json.dumps(found, indent=1) if options.json else "\n".join(map(shown, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
