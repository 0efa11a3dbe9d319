"""Pools of runs to choose from, for `benchmarks.design`: published curves, and simulated studies whose law is known.

Simulated losses follow a power law, one with a plateau or one with a break; shares follow a line in logit or a law with
a ceiling. Noise is 0.3% to 3%. Finished runs are the cheapest, drawn at random among the cheaper, or spread; the budget
is 5, 10 or 30% of what all runs cost. A grid crosses a few model sizes with a few amounts of data, and its designs
scatter about the law as much as runs do.

Legend: n runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric
from benchmarks.laws import tasks

LOSS, SHARE = Metric("loss"), Metric("share")
FIRST, FIRST_OF_GRID = 6, 5  # finished runs
SIMULATIONS = 40
FEWEST_VISION, FEWEST_LANGUAGE = 20, 12  # runs of a curve
BUDGETS = (0.05, 0.1, 0.3)
STARTS = ("cheapest", "at random", "spread")

Truth = Callable[[Floats], Floats]  # of compute over the least: distance of the metric from its bound


@dataclass(frozen=True)
class Pool:
    """Runs to choose from, cheapest first, those that are finished, and the compute to predict at."""

    name: str
    runs: Points
    target: float
    truth: float  # the metric there
    metric: Metric = LOSS
    first: npt.NDArray[np.intp] = field(default_factory=lambda: np.arange(FIRST))
    share: float | None = None  # of the cost of all runs: its own budget, if it has one

    @property
    def cost(self) -> Floats:
        return self.runs.x[:, 0]

    @property
    def rest(self) -> npt.NDArray[np.intp]:
        """The runs that are not finished (n,), cheapest first."""
        return np.setdiff1d(np.arange(len(self.runs)), self.first)


def vision_curves(folder: Path) -> list[Pool]:
    """Every vision curve with at least 20 runs: training rows are the pool, the farthest held-out rows the truth."""
    return _curves(folder, FEWEST_VISION, vision=True)


def language_curves(folder: Path) -> list[Pool]:
    """The language curves with 12 runs or more whose first six are enough for a law."""
    return [pool for pool in _curves(folder, FEWEST_LANGUAGE, vision=False) if _enough(pool)]


def _enough(pool: Pool) -> bool:
    x = pool.cost[pool.first]
    return len(np.unique(x)) >= averages.FEWEST and float(np.ptp(np.log10(x))) >= averages.LEAST_DECADES


def _curves(folder: Path, fewest: int, *, vision: bool) -> list[Pool]:
    pools = []
    for task in tasks(folder):
        if (task.domain == "IC") != vision or len(task.train) < fewest:
            continue
        runs = task.train.subset(task.train.order)
        far = task.rest.subset(task.rest.order[-5:])  # five rows: a single one is mostly noise
        target, truth = np.exp(np.log(far.x[:, 0]).mean()), np.exp(np.log(far.y).mean())
        pools.append(Pool(f"{task.task} {task.model}", runs, float(target), float(truth)))
    return pools


def simulated_studies() -> list[Pool]:
    """Losses with a plateau, 1% noise: thirty computes over five decades, two runs each; the cheapest are finished."""
    pools = []
    for seed in range(SIMULATIONS):
        rng = np.random.default_rng(seed)
        x = np.geomspace(1e16, 1e21, 30).repeat(2)
        floor, exponent = rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.4)

        def law(at: Floats, floor: float = floor, exponent: float = exponent) -> Floats:
            return floor + (at / 1e16) ** -exponent

        runs = Points(x[:, None], law(x) * np.exp(0.01 * rng.normal(size=len(x))))
        pools.append(Pool(f"simulated {seed}", runs, 1e23, float(law(np.array(1e23)))))
    return pools


def power_law(rng: np.random.Generator) -> Truth:
    exponent, level = rng.uniform(0.05, 0.4), rng.uniform(1, 5)
    return lambda x: level * x**-exponent


def plateau(rng: np.random.Generator) -> Truth:
    floor, exponent = rng.uniform(0.05, 0.8), rng.uniform(0.1, 0.5)
    return lambda x: floor + x**-exponent


def broken(rng: np.random.Generator) -> Truth:
    """Slower before a break, half a decade to three decades above the least compute."""
    floor, slow, more = rng.uniform(0.0, 0.3), rng.uniform(0.02, 0.15), rng.uniform(0.1, 0.4)
    place, width = 10 ** rng.uniform(0.5, 3), rng.uniform(0.2, 1)
    return lambda x: floor + x**-slow * (1 + (x / place) ** (1 / width)) ** (-more * width)


def logit_line(rng: np.random.Generator) -> Truth:
    level, slope = rng.uniform(-2, 0), rng.uniform(0.2, 0.6)
    return lambda x: 1 / (1 + np.exp(level + slope * np.log10(x)))


def ceiling(rng: np.random.Generator) -> Truth:
    missing, exponent = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.4)
    return lambda x: missing + (0.95 - missing) * x**-exponent


TRUTHS: dict[str, tuple[Metric, Callable[[np.random.Generator], Truth]]] = {
    "a power law": (LOSS, power_law), "a plateau": (LOSS, plateau), "a break": (LOSS, broken),
    "a line in logit": (SHARE, logit_line), "a ceiling": (SHARE, ceiling),
}  # fmt: skip


def varied(seed: int, *, grid: bool) -> Pool:
    """A simulated study; truth, start and budget go through all combinations as the seed grows."""
    rng = np.random.default_rng(seed)
    truths = list(TRUTHS)
    name, start = truths[seed % len(truths)], STARTS[seed // len(truths) % len(STARTS)]
    share = BUDGETS[seed // (len(truths) * len(STARTS)) % len(BUDGETS)]
    metric, draw = TRUTHS[name]
    law, noise = draw(rng), 10 ** rng.uniform(np.log10(0.003), np.log10(0.03))
    x = _grid(rng) if grid else _even(rng)
    scatter = np.hypot(noise, noise if grid else 0.0)
    away = law(x) * np.exp(scatter * rng.normal(size=len(x)))
    target = float(x.max() * 10 ** rng.uniform(0.3, 2))
    far = float(law(np.array(target)))
    first = _first(start, len(x), FIRST_OF_GRID if grid else FIRST, rng)
    y, truth = (np.maximum(1 - away, 1e-3), 1 - far) if metric is SHARE else (away, far)
    least = 10 ** rng.uniform(14, 18)
    return Pool(f"{name}, {start}", Points(least * x[:, None], y), least * target, truth, metric, first, share)


def _even(rng: np.random.Generator) -> Floats:
    """Computes (n,) at even steps over 2.5 to 5.5 decades, each once or twice; over the least."""
    decades, runs, repeats = rng.uniform(2.5, 5.5), int(rng.integers(20, 61)), int(rng.integers(1, 3))
    return np.geomspace(1, 10**decades, max(runs // repeats, 8)).repeat(repeats)


def _grid(rng: np.random.Generator) -> Floats:
    """Computes (n,) of 3 to 5 sizes times 3 to 5 amounts of data, cheapest first; over the least."""
    sizes, amounts = (int(count) for count in rng.integers(3, 6, size=2))
    size, data = np.geomspace(1, 10 ** rng.uniform(1, 2.2), sizes), np.geomspace(1, 10 ** rng.uniform(1, 2.5), amounts)
    return np.sort(np.outer(size, data).ravel())


def _first(start: str, n: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    if start == "cheapest":
        return np.arange(count)
    if start == "at random":
        return np.sort(rng.choice(n - n // 4, min(count, n - n // 4 - 1), replace=False))
    return np.unique(np.round(np.linspace(0, 0.6 * (n - 1), count)).astype(np.intp))
