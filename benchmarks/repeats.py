"""Laws for data seen many times, beside Muennighoff et al.'s: simulated grids, and published runs.

    python -m benchmarks.repeats [--runs FILE] [--grids 40] [--json]

A quarter of the simulated grids has repeats that lose value, a quarter repeats that hurt until the data are memorised,
a quarter both, and a quarter a penalty that grows without end (Lovelace et al. 2026). The dearest quarter of each is
predicted. --runs is a table of published runs with the columns params, unique, tokens and loss (229 runs of Muennighoff
et al. 2023 are listed in plotstables/return_alloc.ipynb of huggingface/datablations). They are split by compute, by
repeats and at random, and so is each half of their model sizes. Errors are of the log loss; coverage is of 90%
intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.estimate import Points, Settings, fit_law, log_compute
from analysis.fitting.intervals import rolling_origin, scale_at
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric
from benchmarks.laws import row
from benchmarks.repeats_peer import both_factors
from benchmarks.shares import CONFIDENCE, LEAST, MOST, line

LOSS = Metric("loss")
KINDS = ("repeats lose value", "repeats hurt", "both", "a penalty without end")
LEAST_RUNS, DEAREST = 16, 0.75  # of a grid; quantile of compute from which grids are predicted
CHEAPEST, FEWEST = (0.5, 0.7), (0.6, 0.8)  # shares of published runs to fit, by compute and by repeats
FOLDS = 5
BOTH, DATA = "Muennighoff et al., both factors", "their data factor alone, by squares"


@dataclass(frozen=True)
class Task:
    """Runs to fit, and runs to predict."""

    split: str
    train: Points
    rest: Points


def grid(seed: int) -> Task:
    """A simulated grid of sizes, unique data and epochs; law number seed % 4 of `KINDS`."""
    rng = np.random.default_rng(seed)
    sizes, uniques, longest = int(rng.integers(3, 6)), int(rng.integers(2, 5)), int(rng.integers(4, 8))
    places = np.meshgrid(
        np.geomspace(1, 10 ** rng.uniform(1, 2.3), sizes), np.geomspace(1, 10 ** rng.uniform(0.8, 2), uniques),
        2.0 ** np.arange(0, longest + 1), indexing="ij",
    )  # fmt: skip
    size, unique, epochs = (one.ravel() for one in places)
    noise = 10 ** rng.uniform(-2.5, -1.6)
    loss = _known(seed % len(KINDS), size, unique, unique * epochs, rng) * np.exp(noise * rng.normal(size=len(size)))
    scatter = noise * rng.integers(2) * rng.normal(size=sizes)
    points = Points(np.column_stack([size * 1e6, unique * 1e4, unique * epochs * 1e4]),
                    loss * np.exp(np.repeat(scatter, len(size) // sizes)))  # fmt: skip
    points = points.subset(rng.permutation(len(points)) < max(LEAST_RUNS, rng.uniform(0.3, 1) * len(points)))
    compute = log_compute(points.x)
    cheap = compute < np.quantile(compute, DEAREST)
    return Task("larger compute", points.subset(cheap), points.subset(~cheap))


def _known(kind: int, size: Floats, unique: Floats, seen: Floats, rng: np.random.Generator) -> Floats:
    """The loss of law number `kind`; size and unique data begin at 1."""
    floor, (first, second), (alpha, beta) = rng.uniform(0.2, 1.8), rng.uniform(0.3, 2, 2), rng.uniform(0.15, 0.5, 2)
    repeats, worth = seen / unique - 1, 10 ** rng.uniform(0.5, 1.7)
    faded = unique * (1 + worth * -np.expm1(-repeats / worth)) if kind in (0, 2) else seen
    height, kappa, delta = 10 ** rng.uniform(-2.5, -0.5), rng.uniform(0.3, 1.0), rng.uniform(0.8, 2.5)
    half = 10 ** rng.uniform(1, 2.2)
    crowded = height * (size / unique) ** kappa
    with np.errstate(divide="ignore"):
        hurt = crowded / (1 + (repeats / half) ** -delta) if kind in (1, 2) else 0.0
    endless = crowded * (repeats / half) ** min(delta, 1.2) if kind == len(KINDS) - 1 else 0.0
    return np.asarray(floor + first * size**-alpha + second * faded**-beta + hurt + endless)


def published(table: pd.DataFrame) -> Iterator[Task]:
    """The runs split by compute, by repeats, and at random."""
    points = Points(table[["params", "unique", "tokens"]].to_numpy(float), table["loss"].to_numpy(float))
    repeats, compute = points.x[:, 2] / points.x[:, 1], log_compute(points.x)
    for split, by, shares in (("larger compute", compute, CHEAPEST), ("more repeats", repeats, FEWEST)):
        for share in shares:
            first = by < np.quantile(by, share)
            yield Task(split, points.subset(first), points.subset(~first))
    fold = np.random.default_rng(0).permutation(len(points)) % FOLDS
    yield from (Task("at random", points.subset(fold != i), points.subset(fold == i)) for i in range(FOLDS))


def rows(name: str, tasks: list[Task]) -> list[dict[str, Any]]:
    """Errors beside each peer, and coverage."""
    errors: dict[str, list[float]] = {"ours": [], BOTH: [], DATA: []}
    covered = []
    for task in tasks:
        z, law = np.log(task.rest.y), averages.fit(task.train, LOSS)
        off = np.abs(law.log_or_linear(task.rest.x) - z)
        scale = scale_at(law, task.train, task.rest.x, rolling_origin(task.train, LOSS, "auto"), confidence=CONFIDENCE)
        covered.append(float(np.mean(off <= scale.half_width)))
        data = fit_law(named_law("data_constrained"), task.train, LOSS, Settings())
        found = (off, both_factors(task.train)(task.rest.x) - z, data.log_or_linear(task.rest.x) - z)
        for peer, gap in zip(errors, found, strict=True):
            errors[peer].append(float(np.sqrt(np.mean(gap**2))))
    means = {peer: float(np.mean(values)) for peer, values in errors.items()}
    ours, mean = means["ours"], float(np.mean(covered))
    found_rows = [row(f"{name}: mean RMSE", "log loss", ours, means[peer], peer, means[peer], ours <= means[peer])
                  for peer in (BOTH, DATA)]  # fmt: skip
    stated = row(f"{name}: 90% intervals", "coverage", mean, CONFIDENCE, "stated", LEAST, LEAST <= mean <= MOST)
    return [*found_rows, stated]


def runs_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """All published runs, and each half of their model sizes, by kind of split."""
    sizes = sorted(table["params"].unique())
    parts = {
        "all": table, "odd sizes": table[table["params"].isin(sizes[::2])],
        "even sizes": table[table["params"].isin(sizes[1::2])],
    }  # fmt: skip
    found = []
    for part, runs in parts.items():
        tasks = list(published(runs))
        for split in dict.fromkeys(task.split for task in tasks):
            found += rows(f"{len(runs)} runs, {part}, {split}", [task for task in tasks if task.split == split])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="table of published runs")
    parser.add_argument("--grids", type=int, default=40, help="simulated grids")
    parser.add_argument("--seed", type=int, default=1000, help="of the first grid")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tasks = [grid(seed) for seed in range(options.seed, options.seed + options.grids)]
    found = []
    for kind, name in enumerate(KINDS):
        found += rows(name, tasks[kind :: len(KINDS)])
    if options.runs:
        found += runs_rows(pd.read_csv(options.runs))
    else:
        print("no published runs: name their table with --runs", file=sys.stderr)
    print(json.dumps(found, indent=1) if options.json else "\n".join(map(line, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
