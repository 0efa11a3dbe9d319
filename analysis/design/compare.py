"""Compute multipliers: how much more compute one variant of a recipe needs than another for the same metric.

The multiplier is the compute-equivalent gain of Davidson et al. (2023): the compute that the baseline needs over that
which the variant needs for the same loss or recall. Above 1 the variant is better. There are two fits: with a shared
exponent the multiplier is one number, with an exponent each it depends on compute. Both share the irreducible loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.design.gain import GainFit, fit_gain
from analysis.design.gene_noise import gene_noise
from analysis.design.pairs import FEWEST_PAIRS, SAME_COMPUTE, Rows, Variant, rows_of
from analysis.fitting.estimate import SPACES
from analysis.laws.catalogue import Law, named_law
from analysis.laws.metric import Metric
from analysis.laws.variants import COEFFICIENT, improves

FEWEST_COMPUTES = 3  # of each variant: two leave no residual to judge a law by
LAW_OF_KIND = {"loss": "power_offset", "share": "power_offset", "score": "log_linear"}
LARGEST = 300.0  # log of a ratio: as good as infinity, without overflow
ONE_CELL = 1.1  # factor by which the computes of one cell's seeds may differ
SAME_PLACE = 1e-6  # of log compute

Range = tuple[float, float]


@dataclass(frozen=True)
class Multiplier:
    """A ratio with its interval. An end that the runs do not bound is 0 or infinite."""

    value: float
    low: float
    high: float
    compute: float | None = None  # of the baseline, where the ratio depends on it
    extrapolated: bool = False  # whether the runs of one of the variants do not reach that metric

    @property
    def identified(self) -> bool:
        """Whether the runs bound it on both sides."""
        return bool(self.low > 0 and np.isfinite(self.high))

    @property
    def holds_one(self) -> bool:
        """Whether the interval contains 1: no difference is shown."""
        return self.low <= 1 <= self.high


@dataclass(frozen=True)
class Comparison:
    """Two variants compared. Multipliers are compute of the baseline over compute of the variant."""

    baseline: str
    variant: str
    law: str
    confidence: float
    shared: Multiplier  # with a shared exponent
    separate: tuple[Multiplier, ...]  # with an exponent each, at some computes
    exponents: Multiplier  # the variant's exponent over the baseline's
    pairs: int  # cells that both variants have; 0 where they are too few to be compared as pairs
    cells: int  # of both variants together
    runs: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def worse(self) -> str:
        """The one that needs more compute."""
        return self.baseline if self.shared.value >= 1 else self.variant


def compare(
    baseline: Variant, variant: Variant, metric: Metric, *, law: str = "auto", at: Sequence[float] = (),
    confidence: float = 0.9,
) -> Comparison:  # fmt: skip
    """How much more compute the baseline needs than the variant for the same metric, with intervals.

    Runs of both variants with the same cell and seed are pairs. The intervals cover what varies between seeds and
    between cells. Where recall is of a sample of genes, they cover the choice of that sample, which both variants
    share, if both tell which pairs they recall.

    Args:
        baseline: finished runs, at 3 different computes or more.
        variant: finished runs of the other variant, likewise.
        metric: what kind of number y is.
        law: a law of `analysis.laws.variants`; `auto`: a loss or share has a plateau, a score follows a line.
        at: computes of the baseline for the multiplier without a shared exponent, positive; default: the ends and the
            middle of what both variants cover.
        confidence: of every interval, between 0 and 1.

    Raises:
        ValueError: too few computes, values that the law cannot take, a cell of several computes, a metric that does
            not improve with compute, or an unknown law, place or confidence.
    """
    form = _law(law, metric)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence:g} is not between 0 and 1")
    if not all(0 < place < np.inf for place in at):
        raise ValueError(f"at {', '.join(f'{place:g}' for place in at)}: every compute must be positive and finite")
    for runs in (baseline, variant):
        _check(runs, metric, form)
    rows = rows_of(baseline, variant, metric, form.space)
    constant, changing = (fit_gain(form, rows, changes=changes) for changes in (False, True))
    if not improves(form, constant.theta[: constant.gain_column]):
        raise ValueError(f"{baseline.name}, {variant.name}: the metric does not improve with compute; none can make up")
    shared = replace(_ratio(constant, rows, constant.gain_column, confidence), extrapolated=_apart(rows))
    covered = _covered(changing, rows)
    places = np.log(np.asarray(at, dtype=np.float64)).tolist() if len(at) else _places(covered, rows)
    separate = tuple(_at(changing, rows, place, covered, confidence) for place in places)
    exponents = _ratio(changing, rows, changing.gain_column + 1, confidence)
    return Comparison(
        baseline.name, variant.name, form.name, confidence, shared, separate, exponents, rows.pairs, len(rows.z),
        rows.runs, (*_disagreement(separate, exponents), *_doubts(baseline, variant, shared)),
        tuple(_notes(rows, len(baseline) + len(variant), metric)),
    )  # fmt: skip


def _law(name: str, metric: Metric) -> Law:
    law = named_law(LAW_OF_KIND[metric.kind] if name == "auto" else name)
    if law.name not in COEFFICIENT:
        raise ValueError(f"a comparison of variants takes auto or one of {', '.join(COEFFICIENT)}, not {law.name}")
    return law


def _check(runs: Variant, metric: Metric, law: Law) -> None:
    """Raise if the runs of a variant cannot be compared."""
    n = len(runs)
    if {len(runs.compute), len(runs.cells or runs.y), len(runs.seeds or runs.y)} != {n}:
        raise ValueError(f"variant {runs.name}: compute, y, cells and seeds differ in length")
    if runs.outcomes and len(runs.outcomes) != n:
        raise ValueError(f"variant {runs.name}: outcomes of the pairs of {len(runs.outcomes)} of {n} runs")
    if not (np.isfinite(runs.compute).all() and (runs.compute > 0).all()):
        raise ValueError(f"variant {runs.name}: every compute must be positive and finite")
    with np.errstate(all="ignore"):
        lost = int(np.sum(~np.isfinite(metric.to_space(runs.y, law.space))))
    if lost:
        raise ValueError(f"variant {runs.name}: {lost} of {n} values of the metric have no {SPACES[law.space]}")
    _check_cells(runs)
    computes = len(np.unique(np.round(np.log(runs.compute), SAME_COMPUTE)))
    if computes < FEWEST_COMPUTES:
        raise ValueError(f"variant {runs.name}: {n} runs at {computes} distinct computes; a comparison needs at least "
                         f"{FEWEST_COMPUTES}")  # fmt: skip


def _check_cells(runs: Variant) -> None:
    """Raise if a cell holds runs of different length, such as checkpoints."""
    for cell, indices in runs.by_cell().items():
        low, high = runs.compute[indices].min(), runs.compute[indices].max()
        if high > ONE_CELL * low:
            raise ValueError(f"variant {runs.name}: runs of cell {cell} have computes from {low:.4g} to {high:.4g}; "
                "a cell is one design at one length: name more columns, or the run of each checkpoint")  # fmt: skip


def _ratio(fit: GainFit, rows: Rows, column: int, confidence: float) -> Multiplier:
    """The exponential of a column of theta, with its interval."""
    low, high = fit.interval(column, confidence)
    noise = gene_noise(fit, rows, column)
    if noise is not None:
        low, high = noise.widened(float(fit.theta[column]), (low, high), confidence)
    value, low, high = np.exp(np.clip([fit.theta[column], low, high], -LARGEST, LARGEST)).tolist()
    least, most = np.exp([-LARGEST, LARGEST]).tolist()
    return Multiplier(value, low if low > least else 0.0, high if high < most else np.inf)


def _at(fit: GainFit, rows: Rows, place: float, covered: Range, confidence: float) -> Multiplier:
    """The multiplier at one log compute of the baseline."""
    outside = not covered[0] - SAME_PLACE <= place <= covered[1] + SAME_PLACE
    there = fit.at(place)
    ratio = _ratio(there, rows, there.gain_column, confidence)
    return replace(ratio, compute=float(np.exp(place)), extrapolated=outside)


def _covered(fit: GainFit, rows: Rows) -> Range:
    """From where to where, in log compute of the baseline, both variants have runs; the larger number first if nowhere.

    The variant's runs count as those of the baseline at which the fit expects the same metric.
    """
    own = rows.log_compute[rows.is_variant == 0]
    others = rows.log_compute[rows.is_variant == 1] - fit.reference
    with np.errstate(over="ignore"):
        same = fit.reference + (others + fit.gain) * np.exp(fit.theta[-1])
    low, high = max(own.min(), same.min()), min(own.max(), same.max())
    return (float(low), float(high)) if np.isfinite([low, high]).all() else (float(own.min()), float(own.max()))


def _places(covered: Range, rows: Rows) -> list[float]:
    """Ends and middle of a range; of an empty one only the compute of the baseline that is nearest to the variant."""
    low, high = covered
    if high - low > SAME_PLACE:
        return [low, (low + high) / 2, high]
    own = rows.log_compute[rows.is_variant == 0]
    return [float(np.clip((low + high) / 2, own.min(), own.max()))]


def _apart(rows: Rows) -> bool:
    """Whether the metrics of the two variants do not overlap."""
    first, second = (rows.z[rows.is_variant == side] for side in (0, 1))
    return bool(first.max() < second.min() or second.max() < first.min())


def _disagreement(separate: Sequence[Multiplier], exponents: Multiplier) -> list[str]:
    """A warning if the fit with two exponents excludes a shared one."""
    if exponents.holds_one:
        return []
    first, last = separate[0], separate[-1]
    factor = f"{exponents.value:.3g} [{exponents.low:.3g}, {exponents.high:.3g}]"
    change = f": {first.value:.3g} at {first.compute:.3g}, {last.value:.3g} at {last.compute:.3g}"
    return [f"the two fits disagree: the exponents differ by a factor of {factor}, so the multiplier changes with "
            f"compute{change if first != last else ''}"]  # fmt: skip


def _doubts(baseline: Variant, variant: Variant, shared: Multiplier) -> list[str]:
    """Warnings that one multiplier is not measured."""
    doubts = []
    if shared.extrapolated:
        reach = " and ".join(f"{runs.y.min():.4g} to {runs.y.max():.4g} ({runs.name})" for runs in (baseline, variant))
        doubts.append(f"the metrics do not overlap, {reach}: the multiplier is extrapolated")
    if not shared.identified:
        doubts.append("the multiplier is not identified: the metric changes too little with compute for its noise")
    return doubts


def _notes(rows: Rows, runs: int, metric: Metric) -> list[str]:
    """What the intervals rest on."""
    if rows.pairs:
        notes = [f"{rows.pairs} pairs of cells, each a mean over its seeds"]
    else:
        notes = [f"fewer than {FEWEST_PAIRS} cells are in both variants: compared without pairs"]
    if rows.runs < runs:
        notes.append(f"{runs - rows.runs} runs left out: their cell has no run of the same seed in the other variant")
    if rows.pairs_noise is not None:
        notes.append("intervals cover seeds, cells and the choice of genes and complexes, which both variants share")
    elif metric.kind == "share":
        notes.append("intervals cover seeds and cells, not the choice of the genes or examples that a share is of")
    return notes
