"""Best rates of a table of runs: one sweep per size, and what each says, as data, as text and for a figure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.arrays import Floats
from analysis.design.rates.best_rate import SAME_RATE, BestRate, best_rates, to_minimise
from analysis.fitting import annealing
from analysis.fitting.read_results import ResultsTableError, numbers, place, train_mask
from analysis.laws.kinds import GroupValues, guess_metrics
from analysis.laws.metric import Metric
from analysis.tables.names import BLANK, names_of
from analysis.tables.series import column_of

if TYPE_CHECKING:
    import pandas as pd

LINE_POINTS = 60  # of a drawn parabola
BEYOND = 0.25  # of the distance to the neighbouring rate that a parabola is drawn beyond it
CLOSE = 1e-6  # of log rates


@dataclass(frozen=True)
class Sweep:
    """The runs of one size at several rates."""

    size: str
    rate: Floats  # (n,) positive
    y: Floats  # (n,) metric; not finite where a run diverged
    seeds: tuple[Hashable, ...]  # (n,)
    reading: BestRate | None
    failed: str = ""  # why there is no reading

    @property
    def text(self) -> str:
        """What the sweep says, in a sentence."""
        return self.reading.text if self.reading else f"{self.failed}: not enough to tell; run more rates"


def sweeps(
    sizes: Sequence[str], rate: Floats, y: Floats, metric: Metric, *, seeds: Sequence[Hashable] = (),
    confidence: float = 0.9,
) -> list[Sweep]:  # fmt: skip
    """The sweep of each size (arguments as for `best_rates`); one that cannot be read does not stop the others.

    Raises:
        ValueError: lengths differ.
    """
    labels = list(seeds) or [0] * len(sizes)
    if len({len(sizes), len(rate), len(y), len(labels)}) > 1:
        raise ValueError("sizes, rates, metric and seeds differ in length")
    found = []
    for size in dict.fromkeys(sizes):
        rows = [row for row, other in enumerate(sizes) if other == size]
        own = tuple(labels[row] for row in rows)
        reading, failed = None, ""
        try:
            (reading,) = best_rates([size] * len(rows), rate[rows], y[rows], metric, seeds=own, confidence=confidence)
        except ValueError as error:
            failed = str(error) if str(error).startswith(f"{size}: ") else f"{size}: {error}"
        found.append(Sweep(size, rate[rows], y[rows], own, reading, failed))
    return found


def read_sweeps(
    table: pd.DataFrame, rate: str, y: str, *, group: Sequence[str] = (), seed: str | None = None,
    where: str | None = None, metric: Metric | None = None, annealed: bool = True, confidence: float = 0.9,
) -> tuple[list[Sweep], Metric, list[str]]:  # fmt: skip
    """The sweeps of a table, the kind of its metric, and notes.

    Args:
        table: a row per run. A row without a finite metric is a run that diverged.
        rate: column of the rate.
        y: column of the metric.
        group: columns that together are the size.
        seed: column of the seed.
        where: an expression that selects rows.
        metric: its kind; default: guessed.
        annealed: leave out rows whose column `annealed` denies it.
        confidence: of the intervals.

    Raises:
        ValueError: a column that cannot be used, a rate that is not positive, or no row that is left.
    """
    rates, values = numbers(table, rate), numbers(table, y)
    stopped = annealing.unannealed(table) & annealed
    kept = np.flatnonzero(train_mask(table, where) & ~stopped)
    wrong = [row for row in kept if not (np.isfinite(rates[row]) and rates[row] > 0)]
    if wrong:
        raise ResultsTableError(f"{place(table, int(wrong[0]))}: column {rate!r}: every rate must be positive")
    finite = kept[np.isfinite(values[kept])]
    if not len(finite):
        raise ResultsTableError(f"no row that is left has a number in {y}")
    metric = metric or _kind(y, values[finite])
    labels = [names_of(column_of(table[name]), name) for name in group]
    sizes = [" / ".join(str(of[row]) or BLANK for of in labels) or "all" for row in kept]
    seeds = names_of(column_of(table[seed]), seed)[kept].tolist() if seed else ()
    lost = len(kept) - len(finite)
    notes = [f"{lost} rows without a finite {y} count as runs that diverged"] if lost else []
    notes += annealing.notes(int(stopped.sum()), 0, "rows", "--include-unannealed")
    found = sweeps(sizes, rates[kept], values[kept], metric, seeds=seeds, confidence=confidence)
    return found, metric, notes


def _kind(name: str, y: Floats) -> Metric:
    """The kind of a metric by its name and range: a rate has no trend that could tell."""
    (guess,) = guess_metrics(name, [GroupValues("", np.zeros(len(y)), y, y)])
    return guess.metric


@dataclass(frozen=True)
class RateTables:
    """What a figure of sweeps draws, as tables with a column `size`."""

    runs: pd.DataFrame  # size, rate, y: NaN where a run diverged
    lines: pd.DataFrame  # size, rate, y, parabola: whether it is one, or joins the means where there is no optimum
    optima: pd.DataFrame  # size, rate, y, low, high: within the sweep


def rate_tables(found: Sequence[Sweep], metric: Metric) -> RateTables:
    """Runs, parabolas and optima of sweeps, for `analysis.figures.best_rate`."""
    import pandas as pd

    runs = [(sweep.size, *run) for sweep in found for run in zip(sweep.rate, sweep.y, strict=True)]
    lines, optima = [], []
    for sweep in found:
        finite = np.isfinite(sweep.y)
        u, z = np.log(sweep.rate[finite]), to_minimise(sweep.y[finite], metric)
        if not len(u):
            continue
        places: Floats = np.unique(np.round(u, SAME_RATE))
        reading = sweep.reading
        if reading is None or reading.rate is None or reading.bend is None:
            drawn: Floats = places
            values: Floats = np.array([float(z[np.isclose(u, at)].mean()) for at in places])
        else:
            drawn, values, level = _parabola(reading, places, u, z)
            ends = max(reading.low, sweep.rate.min()), min(reading.high, sweep.rate.max())
            optima.append((sweep.size, reading.rate, float(_metric(level, metric)[0]), *ends))
        is_parabola = len(drawn) == LINE_POINTS
        lines += [
            (sweep.size, at, y, is_parabola) for at, y in zip(np.exp(drawn), _metric(values, metric), strict=True)
        ]
    return RateTables(
        pd.DataFrame(runs, columns=["size", "rate", "y"]),
        pd.DataFrame(lines, columns=["size", "rate", "y", "parabola"]),
        pd.DataFrame(optima, columns=["size", "rate", "y", "low", "high"]),
    )


def _parabola(reading: BestRate, places: Floats, u: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
    """Log rates and heights of a parabola around the best rate, and its height at the optimum (1,)."""
    assert reading.rate is not None
    assert reading.bend is not None
    at = int(np.argmin(np.abs(places - np.log(reading.best_run))))
    low, high = places[at - 1], places[at + 1]
    near = (u >= low - CLOSE) & (u <= high + CLOSE)
    optimum, bend = np.log(reading.rate), reading.bend
    level = np.array([np.mean(z[near] - bend * (u[near] - optimum) ** 2)])
    margin = BEYOND * (high - low) / 2
    drawn = np.linspace(low - margin, high + margin, LINE_POINTS)
    return drawn, level + bend * (drawn - optimum) ** 2, level


def _metric(z: Floats, metric: Metric) -> Floats:
    """Back from what is least at the best rate."""
    return metric.from_space(-z, "linear") if metric.kind == "score" else metric.from_space(z, "log")


def as_json(sweep: Sweep) -> dict[str, Any]:
    """One size's reading as data for JSON."""
    reading = asdict(sweep.reading) if sweep.reading else {}
    return {"size": sweep.size, **reading, "runs": len(sweep.rate), "says": sweep.text}


def text(result: Mapping[str, Any]) -> str:
    """What `python -m analysis.fit --best-rate` prints without --json."""
    head = f"{result['y']} by {result['best_rate']}: {result['metric']['meaning']}"
    lines = [head, f"optimum of a parabola in log rate, {result['confidence']:.0%} intervals", ""]
    lines += [f"   {size['says']}" for size in result["sizes"]]
    return "\n".join([*lines, *(f"   [ -- ] {note}" for note in result["notes"])])
