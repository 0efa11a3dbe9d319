"""Grids whose architectures scatter about a law: intervals with the scatter as a component of variance, and without.

    python -m benchmarks.scatter [--simulations 400] [--json]

Each grid has 3 to 8 architectures, each trained with 2 to 5 amounts of data, scatter between architectures of 0 to 6%,
noise of 0.3% to 3%, and a known law: a power law of 1 - recall, recall as a line in log compute, or a loss with a
plateau. The new run is of a new architecture unless it is said to be of a known one, at up to ten times the largest
compute. Intervals are of 90%, from `analysis.fitting.fit_curve` (the law named, and `auto`) and
`analysis.fitting.trend`; with architectures told, as independent runs, and with architectures resampled whole. The
width needed is that of an interval that knows the law and both variances. The peer is statsmodels' MixedLM, where it is
installed: REML and Wald intervals.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis.arrays import Floats
from analysis.fitting.estimate import Points
from analysis.fitting.fit_curve import FittedCurve, HeldOut, fit_points
from analysis.fitting.trend import fit_log_linear
from analysis.fitting.variance_components import Levels, same
from analysis.laws.metric import Metric

CONFIDENCE, LEAST, MOST = 0.9, 0.85, 0.95
LOSS, SHARE = Metric("loss"), Metric("share")
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
    known: str  # an architecture of the grid, and the deviation of one more run of it
    known_deviation: float
    scatter: float
    noise: float

    def needed(self, design: Floats, row: Floats, column: int, name: str | None = None) -> tuple[float, float]:
        """Half widths of a coefficient and of a run, with both variances known.

        Args:
            design: (n, p) of the grid's runs.
            row: (p,) of the run.
            column: of the coefficient.
            name: the run's architecture; None: a new one.
        """
        inverse = np.linalg.inv(self.noise**2 * np.eye(len(design)) + self.scatter**2 * same(self.names))
        shared = self.scatter**2 * same([name], self.names)[0]
        covariance, left = np.linalg.inv(design.T @ inverse @ design), row - shared @ inverse @ design
        run = self.scatter**2 + self.noise**2 - shared @ inverse @ shared + left @ covariance @ left
        return float(NORMAL * np.sqrt(covariance[column, column])), float(NORMAL * np.sqrt(run))


def straight(x: Floats | float, base: float) -> Floats:
    """The design (n, 2) of a line in the logarithm of compute."""
    u = np.log(np.atleast_1d(x)) / np.log(base)
    return np.column_stack([np.ones_like(u), u])


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
    levels = scatter * rng.normal(size=architectures)
    deviation = levels[which] + noise * rng.normal(size=len(x))
    place = float(x.max() * 10 ** rng.uniform(0, 1))
    own, chosen = scatter * rng.normal() + noise * rng.normal(), int(rng.integers(architectures))
    return Grid(
        x, tuple(f"model {number}" for number in which), deviation, place, float(own), f"model {chosen}",
        float(levels[chosen] + noise * rng.normal()), scatter, noise,
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Whether intervals contain the truth, and their widths over those needed."""

    slope: bool
    slope_width: float
    run: bool
    run_width: float


def power_law(study: Grid, law: str, told: str, *, known: bool = False) -> Outcome:
    """A power law of 1 - r, by `fit_points`; the run is of a known architecture, or of a new one."""
    z = np.log(START) + SLOPE * np.log(study.x) + study.deviation
    levels = Levels(study.names) if told == "component" else None
    points = Points(study.x[:, None], 1 - np.exp(z), study.names if told == "resampled" else (), levels=levels)
    name = study.known if known else None
    fitted = fit_points(
        points, SHARE, law, targets=np.array([[study.place]]), architecture=name, confidence=CONFIDENCE
    )  # fmt: skip
    needed = study.needed(straight(study.x, np.e), straight(study.place, np.e)[0], 1, name)
    deviation = study.known_deviation if known else study.new_deviation
    truth = 1 - np.exp(np.log(START) + SLOPE * np.log(study.place) + deviation)
    return _outcome(fitted, -SLOPE, float(truth), needed)


def plateau(study: Grid, law: str, told: str) -> Outcome:
    """A loss with a plateau, by `fit_points`; its first member's exponent."""
    rng = np.random.default_rng(int(1e6 * study.place))
    floor, exponent = rng.uniform(0, 1.5), rng.uniform(0.04, 0.4)
    x = np.append(study.x, study.place)
    loss, power = floor + 2 * x**-exponent, x**-exponent
    design = np.column_stack([1 / loss, power / loss, -2 * np.log(x) * power / loss])
    levels = Levels(study.names) if told == "component" else None
    points = Points(study.x[:, None], loss[:-1] * np.exp(study.deviation), levels=levels)
    fitted = fit_points(points, LOSS, law, targets=np.array([[study.place]]), confidence=CONFIDENCE)
    truth = loss[-1] * np.exp(study.new_deviation)
    return _outcome(fitted, exponent, float(truth), study.needed(design[:-1], design[-1], 2))


def _outcome(fitted: FittedCurve, exponent: float, truth: float, needed: tuple[float, float]) -> Outcome:
    """An exponent and a new run beside the truth; widths are in the logarithm of the distance."""
    found = next(parameter for parameter in fitted.parameters if parameter.name == "c")
    run, metric = fitted.predictions[0], fitted.law.metric
    ends = metric.to_space(np.array([run.low, run.high]), "log")
    return Outcome(
        found.low <= exponent <= found.high, (found.high - found.low) / (2 * needed[0]),
        bool(run.low <= truth <= run.high), float(np.ptp(ends)) / (2 * needed[1]),
    )  # fmt: skip


def line(study: Grid, told: str) -> Outcome:
    """Recall as a line in log compute, by `fit_log_linear`."""
    recall = LINE_START + LINE_SLOPE * np.log10(study.x) + study.deviation
    fitted = fit_log_linear(
        "x", "touvron", study.x, recall, confidence=CONFIDENCE,
        architectures=study.names if told == "component" else None,
        trunks=study.names if told == "resampled" else None,
    )  # fmt: skip
    run, truth = fitted.band(study.place, new_run=True), LINE_START + LINE_SLOPE * np.log10(study.place)
    needed = study.needed(straight(study.x, 10), straight(study.place, 10)[0], 1)
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
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
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
    needed = study.needed(straight(study.x, 10), straight(study.place, 10)[0], 1)
    if not np.isfinite(half + run):
        return None
    return Outcome(bool(abs(slope - LINE_SLOPE) <= half), half / needed[0], bool(abs(off) <= run), run / needed[1])


Measured = Callable[[Grid], Outcome | None]
METHODS: Mapping[str, Measured] = {
    "power law, architectures told": lambda study: power_law(study, "power_law", "component"),
    "power law, independent runs": lambda study: power_law(study, "power_law", ""),
    "power law, architectures resampled": lambda study: power_law(study, "power_law", "resampled"),
    "power law, a run of a known architecture": lambda study: power_law(study, "power_law", "component", known=True),
    "power law by auto, architectures told": lambda study: power_law(study, "auto", "component"),
    "power law by auto, independent runs": lambda study: power_law(study, "auto", ""),
    "loss with a plateau by auto, architectures told": lambda study: plateau(study, "auto", "component"),
    "loss with a plateau by auto, independent runs": lambda study: plateau(study, "auto", ""),
    "line, architectures told": lambda study: line(study, "component"),
    "line, independent runs": lambda study: line(study, ""),
    "line, architectures resampled": lambda study: line(study, "resampled"),
}
DEVELOPMENT = "development set"
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


def development(folder: Path) -> Iterator[dict[str, Any]]:
    """The development set of shares, 57 curves of OpenCLIP models: error and coverage with architectures told."""
    table = pd.read_csv(folder / "openclip_dev.csv")
    curves = [rows for _, rows in table.groupby(["upstream_dataset", "downstream_dataset"])]
    scores: dict[bool, list[HeldOut]] = {True: [], False: []}
    for curve in curves:
        for told, found in scores.items():
            train, rest = (_models(curve[curve["Training"] == part], told=told) for part in (1, 0))
            score = fit_points(train, SHARE, held_out=rest, confidence=CONFIDENCE).held_out
            found.extend([score] if score else [])
    for name, unit in (("rmse_log", "log(1 - r)"), ("coverage", "coverage at 90%")):
        told, untold = (float(np.mean([getattr(score, name) for score in scores[told]])) for told in (True, False))
        met = LEAST <= told <= MOST if name == "coverage" else told <= untold
        yield {"name": f"development set, {len(curves)} curves, architectures told: {name}", "unit": unit, "ours": told,
               "peer": untold, "peer_name": "independent runs", "ratio": told / untold, "goal": untold,
               "met": met}  # fmt: skip


def _models(rows: pd.DataFrame, *, told: bool) -> Points:
    levels = Levels(tuple(rows["arch"].astype(str))) if told else None
    return Points(rows[["gmacs_total"]].to_numpy(float), rows["acc1"].to_numpy(float), levels=levels)


def shown(entry: Mapping[str, Any]) -> str:
    verdict = "met" if entry["met"] else "NOT met"
    beside = (
        f"width {entry['peer']:.2f}" if "width" in entry["peer_name"] else f"{entry['peer_name']} {entry['peer']:.4f}"
    )
    return f"{entry['name']:<70}{entry['ours']:>7.3f}  {verdict:<8}{beside}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "scaling_laws"
    parser.add_argument("--data", type=Path, default=default, help="folder of the development set of shares")
    parser.add_argument("--simulations", type=int, default=200)
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
    if options.only in DEVELOPMENT and (options.data / "openclip_dev.csv").exists():
        found += development(options.data)
    elif options.only in DEVELOPMENT:
        print(f"no openclip_dev.csv in {options.data}: the development set is not measured", file=sys.stderr)
    print(json.dumps(found, indent=1) if options.json else "\n".join(map(shown, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
