"""Log-linear trends: recall as a straight line in log compute, per source, with intervals (Figures 5, 8).

Where several runs share a model, their residuals share a level: the line is then one of generalised least squares, with
the scatter between models as a component of variance (`variance_components`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.arrays import Floats
from analysis.compute.flops import named_convention
from analysis.fitting import annealing
from analysis.fitting.annealing import TRUNK
from analysis.fitting.variance_components import Deviation, Levels, MixedFit, mixed_fit

REPLICATES = 2000
MINIMUM_COMPUTES = 3  # two points leave no residual to judge a line by
MOST_RUNS = 300  # of a source that a law is fitted to
MODEL = "model"  # column: the architecture of each run, with its patch size
FEWEST_TRUNKS = 3  # that are drawn whole; of fewer, their branches are drawn


@dataclass(frozen=True)
class LogLinear:
    """recall = intercept + slope * log10(compute), the trend drawn in the paper's Figures 5 and 8."""

    intercept: float  # recall at a compute of 1
    slope: float  # recall per decade of compute

    def predict(self, compute: npt.ArrayLike) -> Floats:
        """Recall at the given compute, in the unit the law was fitted in."""
        result: Floats = self.intercept + self.slope * np.log10(np.asarray(compute, dtype=np.float64))
        return result


@dataclass(frozen=True)
class Interval:
    """Ends of an interval and its confidence."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Band:
    """A law and its interval over a grid of compute; all (n,)."""

    compute: Floats
    centre: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class LogLinearFit:
    """A log-linear law fitted to one source's runs, with draws of it."""

    source: str
    convention: str
    law: LogLinear
    slope: Interval
    intercept: Interval
    runs: int
    computes: int  # distinct ones
    compute_low: float
    compute_high: float
    residual_deviation: float  # standard deviation of runs about the law, n - 2 degrees of freedom
    draws: Floats = field(repr=False, compare=False)  # (K, 2) intercepts and slopes
    noise: Floats = field(repr=False, compare=False)  # (K,) the residual of a new run, of a new model, with each
    scatter: Deviation | None = None  # of models about the law and of runs within them, where it can be told
    untold: str | None = None  # why it cannot, where models are told
    left_out: int = 0  # runs that stopped before their learning rate had decayed
    unknown: int = 0  # runs that are fitted although they do not say whether it had
    drawn_from: int = 0  # runs of which the fitted ones were drawn at random; 0 if all are fitted

    def band(self, compute: npt.ArrayLike, *, new_run: bool = False) -> Band:
        """The law over a grid with its interval: of the law itself, or of one new run."""
        grid = np.atleast_1d(np.asarray(compute, dtype=np.float64))
        replicates = self.draws[:, :1] + self.draws[:, 1:] * np.log10(grid)  # (K, n)
        if new_run:
            replicates = replicates + self.noise[:, None]
        tail = (1 - self.slope.confidence) / 2
        low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
        return Band(grid, self.law.predict(grid), low, high)

    def summary(self) -> dict[str, str | float | int]:
        """The fit as one flat row for a table or JSON."""
        return {
            "source": self.source,
            "convention": self.convention,
            "convention_version": named_convention(self.convention).version,
            "law": "log_linear",
            "slope": self.law.slope,
            "slope_low": self.slope.low,
            "slope_high": self.slope.high,
            "intercept": self.law.intercept,
            "intercept_low": self.intercept.low,
            "intercept_high": self.intercept.high,
            "confidence": self.slope.confidence,
            "runs": self.runs,
            "left_out": self.left_out,
            "unknown": self.unknown,
            "computes": self.computes,
            "compute_low": self.compute_low,
            "compute_high": self.compute_high,
            "residual_deviation": self.residual_deviation,
            **self._scatter(),
            **({"drawn_from": self.drawn_from} if self.drawn_from else {}),
        }

    def _scatter(self) -> dict[str, str | float | int]:
        """Standard deviations between models and within, as far as they are known."""
        if self.scatter is None:
            return {"scatter": self.untold} if self.untold else {}
        return {
            "models": self.scatter.architectures,
            "between_models": self.scatter.between,
            "between_models_low": self.scatter.low,
            "between_models_high": self.scatter.high,
            "within_models": self.scatter.within,
        }


def fit_log_linear(
    source: str,
    convention: str,
    compute: npt.ArrayLike,
    recall: npt.ArrayLike,
    *,
    trunks: Sequence[str] | None = None,
    architectures: Sequence[str] | None = None,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    seed: int = 0,
) -> LogLinearFit:
    """Fit recall = a + b log10(compute), by least squares.

    Runs of one architecture share a level, where architectures are told and some have several runs: the fit is one of
    generalised least squares, and its intervals allow for few architectures. Branches of one trunk then share a level
    within it. Else intervals are percentiles of resampled runs: each seed is a run of its own, and branches of one
    trunk are drawn together. Replicates in which fewer than two distinct computes were drawn define no line and are
    drawn again. With fewer than about ten runs such intervals are too narrow rather than too wide.

    Args:
        source: name of the relationship source.
        convention: name of the compute convention that `compute` is in.
        compute: (n,) compute of each run, positive.
        recall: (n,) recall of each run.
        trunks: (n,) what each run began as; None: all have beginnings of their own.
        architectures: (n,) architecture of each run; None: they are not told.

    Raises:
        ValueError: if the convention is unknown, values are not finite or compute not positive, or the runs have fewer
            than 3 distinct computes.
    """
    named_convention(convention)
    x, y = _checked(source, compute, recall)
    rng, levels = np.random.default_rng(seed), Levels(tuple(architectures)) if architectures is not None else None
    if levels is None or levels.unknown:
        line = _resampled(x, y, _together(trunks, len(x)), replicates, confidence, rng)
    else:
        line = _mixed(x, y, levels, trunks, replicates, confidence, rng)
    residuals = y - line.law.predict(10**x)
    return LogLinearFit(
        source=source,
        convention=convention,
        law=line.law,
        slope=line.slope,
        intercept=line.intercept,
        runs=len(x),
        computes=len(np.unique(x)),
        compute_low=float(np.min(compute)),
        compute_high=float(np.max(compute)),
        residual_deviation=float(np.sqrt(np.sum(residuals**2) / (len(x) - 2))),
        draws=line.draws,
        noise=line.noise,
        scatter=line.scatter,
        untold=levels.unknown if levels else None,
    )


@dataclass(frozen=True)
class _Line:
    """A line with intervals; its fields are those of `LogLinearFit`."""

    law: LogLinear
    slope: Interval
    intercept: Interval
    draws: Floats  # (K, 2)
    noise: Floats  # (K,)
    scatter: Deviation | None = None


def _resampled(
    x: Floats, y: Floats, together: Floats, replicates: int, confidence: float, rng: np.random.Generator
) -> _Line:
    """Ordinary least squares, with groups of runs drawn with replacement."""
    intercept, slope = (values.item() for values in weighted_lines(x, y, np.ones((1, len(x)))))
    draws, tail = _bootstrap(x, y, together, replicates, rng), (1 - confidence) / 2
    ends = np.quantile(draws, [tail, 1 - tail], axis=0)
    first, second = (Interval(ends[0, column].item(), ends[1, column].item(), confidence) for column in (0, 1))
    residuals = y - (intercept + slope * x)
    noise = rng.choice(residuals * np.sqrt(len(x) / (len(x) - 2)), size=replicates)
    return _Line(LogLinear(intercept, slope), second, first, draws, noise)


def _mixed(
    x: Floats, y: Floats, levels: Levels, trunks: Sequence[str] | None, replicates: int, confidence: float,
    rng: np.random.Generator,
) -> _Line:  # fmt: skip
    """Generalised least squares, with a level for each architecture and, where branches share one, for each trunk."""
    nested = trunks if trunks is not None and len(set(trunks)) < len(trunks) else None
    middle = float(x.mean())
    fit: MixedFit = mixed_fit(y, np.column_stack([np.ones_like(x), x - middle]), levels.names, nested)
    both = fit.contrast(np.array([[1.0, -middle], [0.0, 1.0]]))
    (intercept, slope), half = both.centre.tolist(), both.half_width(confidence)
    first, second = (
        Interval(float(value - width), float(value + width), confidence)
        for value, width in zip((intercept, slope), half, strict=True)
    )
    drawn, noise = fit.draws(replicates, rng)
    draws = np.column_stack([drawn[:, 0] - middle * drawn[:, 1], drawn[:, 1]])
    return _Line(LogLinear(intercept, slope), second, first, draws, noise, fit.deviation(confidence))


def fit_sources(
    points: pd.DataFrame,
    convention: str,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    include_unannealed: bool = False,
) -> list[LogLinearFit]:
    """One fit per relationship source over the trained runs of `points`, in the order the sources appear.

    Args:
        points: one row per run and source, with columns source, trained, compute and recall, and, if known, annealed,
            trunk, and model, whose runs share a level.
        include_unannealed: fit runs too that stopped before their learning rate had decayed.

    Raises:
        ValueError: as `fit_log_linear`, naming the source.
    """
    trained = points[points["trained"].astype(bool)]
    fits = []
    for source, runs in trained.groupby("source", sort=False):
        left_out = np.zeros(len(runs), dtype=bool) if include_unannealed else annealing.unannealed(runs)
        known = runs[~left_out]
        kept = drawn(known, seed)
        trunks, models = (kept[name].astype(str).tolist() if name in kept else None for name in (TRUNK, MODEL))
        fit = fit_log_linear(
            str(source), convention, kept["compute"], kept["recall"],
            trunks=trunks, architectures=models, confidence=confidence, seed=seed,
        )  # fmt: skip
        drawn_from = len(known) if len(known) > len(kept) else 0
        unknown = int(annealing.unknown(kept).sum())
        fits.append(replace(fit, left_out=int(left_out.sum()), unknown=unknown, drawn_from=drawn_from))
    return fits


def drawn(runs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The runs; of more than `MOST_RUNS`, so many drawn at random, in their order: levels need all pairs of runs."""
    if len(runs) <= MOST_RUNS:
        return runs
    places = np.random.default_rng(seed).choice(len(runs), MOST_RUNS, replace=False)
    return runs.iloc[np.sort(places)]


def _checked(source: str, compute: npt.ArrayLike, recall: npt.ArrayLike) -> tuple[Floats, Floats]:
    """log10(compute) and recall, both (n,)."""
    x, y = np.asarray(compute, dtype=np.float64), np.asarray(recall, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{source}: compute {x.shape} and recall {y.shape} must be vectors of one length")
    bad = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y) & (x > 0)))
    if bad.size:
        raise ValueError(f"{source}: run {bad[0]} has compute {x[bad[0]]} and recall {y[bad[0]]}; both must be finite")
    distinct = len(np.unique(x))
    if distinct < MINIMUM_COMPUTES:
        raise ValueError(
            f"{source}: {len(x)} runs at {distinct} distinct computes; a law needs at least {MINIMUM_COMPUTES}"
        )
    return np.log10(x), y


def _together(trunks: Sequence[str] | None, runs: int) -> Floats:
    """Which runs are drawn together: (groups, runs), ones and zeros."""
    names = list(range(runs)) if trunks is None or len(set(trunks)) < FEWEST_TRUNKS else trunks
    distinct = dict.fromkeys(names)
    return np.array([[float(name == group) for name in names] for group in distinct])


def _bootstrap(x: Floats, y: Floats, together: Floats, replicates: int, rng: np.random.Generator) -> Floats:
    """Intercepts and slopes (K, 2) of lines through groups of runs drawn with replacement."""
    fitted, groups = np.empty((0, 2)), len(together)
    while len(fitted) < replicates:
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=replicates).astype(np.float64)
        lines = np.column_stack(weighted_lines(x, y, drawn @ together))
        fitted = np.concatenate([fitted, lines[np.isfinite(lines[:, 1])]])
    return fitted[:replicates]


def weighted_lines(log_compute: Floats, recall: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted least squares of recall on log10(compute), once per row of weights.

    Args:
        log_compute: (n,) log10 of compute per run.
        recall: (n,) recall per run.
        weights: (K, n), for example how often each run was drawn.

    Returns:
        Intercepts (K,) and slopes (K,); NaN where the weighted runs have a single compute.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    centre = share @ log_compute  # (K,)
    deviation = log_compute - centre[:, None]  # (K, n)
    spread = np.sum(share * deviation**2, axis=1)
    identified = spread > 1e-12 * np.maximum(centre**2, 1)  # less is the rounding of one repeated compute
    slope = np.sum(share * deviation * recall, axis=1) / np.where(identified, spread, np.nan)
    return share @ recall - slope * centre, slope
