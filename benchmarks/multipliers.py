"""Coverage of compute multipliers: how often 90% intervals contain the truth of simulated pairs of variants.

    python -m benchmarks.multipliers [--simulations 400] [--json]

Each study has two variants with one law (a loss with a plateau, or a recall with a ceiling) at a constant factor of
compute: 4 to 8 cells over two to four decades, 1 to 5 seeds, 0.2% to 3% noise. A run's noise is shared by both variants
of its cell and seed in part; cells differ from the law, also in part in both variants alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.design.compare import Comparison, Multiplier, compare
from analysis.design.pairs import Variant
from analysis.laws.metric import Metric
from benchmarks.coverage import CONFIDENCE, LEAST, LOSS, MOST, SHARE, row

STREAM = 1  # of random numbers; the test has another


@dataclass(frozen=True)
class Setting:
    """What is fixed in a simulated study; None: drawn."""

    cells: int | None = None
    seeds: int | None = None
    noise: float | None = None
    shared: float | None = None  # share of the variance that both runs of a pair have in common
    scatter: float | None = None  # of cells about the law, in units of the noise
    multiplier: float | None = None
    same_compute: bool = False  # whether a cell has the same compute in both variants
    paired: bool = True


SETTINGS: Mapping[str, Setting] = {
    "all drawn": Setting(),
    "A/A": Setting(multiplier=1.0, same_compute=True),
    "4 cells, 1 seed": Setting(cells=4, seeds=1),
    "8 cells, 5 seeds": Setting(cells=8, seeds=5),
    "noise 0.2%": Setting(noise=0.002),
    "noise 1%": Setting(noise=0.01),
    "noise 3%": Setting(noise=0.03),
    "nothing shared": Setting(shared=0.0),
    "nine tenths shared": Setting(shared=0.9),
    "cells scatter": Setting(scatter=1.0),
    "not paired": Setting(shared=0.0, paired=False),
}


@dataclass(frozen=True)
class Study:
    """Two variants and the multiplier between them."""

    baseline: Variant
    variant: Variant
    metric: Metric
    multiplier: float

    def compared(self) -> Comparison:
        return compare(self.baseline, self.variant, self.metric, confidence=CONFIDENCE)


def simulate(rng: np.random.Generator, setting: Setting) -> Study:
    """A study with a known multiplier."""

    def drawn(fixed: float | None, value: float) -> float:
        return value if fixed is None else fixed

    cells, seeds = int(drawn(setting.cells, rng.integers(4, 9))), int(drawn(setting.seeds, rng.integers(1, 6)))
    noise = drawn(setting.noise, 10 ** rng.uniform(-2.7, -1.5))
    shared, scatter = drawn(setting.shared, rng.uniform(0, 0.9)), drawn(setting.scatter, rng.uniform(0, 1))
    multiplier = drawn(setting.multiplier, float(np.exp(rng.uniform(-1.4, 1.4))))
    exponent, floor, metric = rng.uniform(0.04, 0.4), rng.uniform(0, 1.5), (LOSS, SHARE)[rng.integers(2)]
    scale = 1.0 if metric is LOSS else 0.9 / (floor + 4)  # a recall above 0
    compute = np.geomspace(1, 10 ** rng.uniform(2, 4), cells)
    cost = 1.0 if setting.same_compute else rng.uniform(0.6, 1.6)
    common = np.sqrt(shared) * noise * (rng.normal(size=(cells, seeds)) + scatter * rng.normal(size=(cells, 1)))
    variants = []
    for name, factor, gain in (("baseline", 1.0, 1.0), ("variant", cost, multiplier)):
        own = rng.normal(size=(cells, seeds)) + scatter * rng.normal(size=(cells, 1))
        spent = compute * factor
        fall = (spent * gain) ** -exponent
        distance = scale * (floor + 2 * fall)[:, None]
        distance = distance * np.exp(common + np.sqrt(1 - shared) * noise * own)
        y = (1 - distance if metric is SHARE else distance).ravel()
        label = "" if setting.paired else name
        keys = tuple(f"{label}{cell}" for cell in np.repeat(np.arange(cells), seeds))
        variants.append(
            Variant(name, np.repeat(spent, seeds), y, keys, tuple(np.tile(np.arange(seeds), cells).tolist()))
        )
    return Study(variants[0], variants[1], metric, multiplier)


def coverage(simulations: int) -> Iterator[dict[str, Any]]:
    """Coverage in each setting: with a shared exponent, an exponent each, and of the true ratio of exponents, 1."""
    for number, (name, setting) in enumerate(SETTINGS.items()):
        hits = []
        for seed in range(simulations):
            study = simulate(np.random.default_rng((STREAM, number, seed)), setting)
            found = study.compared()
            middle = found.separate[len(found.separate) // 2]
            hits.append([_holds(found.shared, study), _holds(middle, study), found.exponents.holds_one])
        shares = np.mean(hits, axis=0).tolist()
        for what, share in zip(("shared exponent", "exponent each", "exponents equal"), shares, strict=True):
            most = 1.0 if what == "exponents equal" else MOST  # fewer false warnings do no harm
            yield row(f"{name}: {what}", share, simulations, LEAST <= share <= most)


def _holds(multiplier: Multiplier, study: Study) -> bool:
    return multiplier.low <= study.multiplier <= multiplier.high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for entry in coverage(options.simulations):
        rows.append(entry)
        if not options.json:
            met = "met" if entry["met"] else "NOT met"
            print(f"{entry['name']:<60}{entry['ours']:>8.3f} {entry['unit']}  {met}", flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
