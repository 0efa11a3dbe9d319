"""Coverage on simulated studies with a known law: how often 90% intervals contain the true value.

    python -m benchmarks.coverage [--simulations 500] [--json]

Predictions: each study draws a law (a loss with a plateau, a learning curve that starts flat, a recall with a ceiling),
its exponent, noise, number of runs and range; the default average predicts one new run up to ten times the largest x.
Parameters: each law is fitted to its own simulated points, and its profile intervals are compared with the true values.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.estimate import JOINT_HUBER, Points, Settings, fit_law
from analysis.fitting.intervals import interval, rolling_origin, scale_at
from analysis.fitting.parameters import parameters
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric

CONFIDENCE = 0.9
LEAST, MOST = 0.85, 0.95  # of parameters: the standard error over 500 simulations is 1.3 points
LOSS, SHARE = Metric("loss"), Metric("share")
CORRELATION, CORRELATED_LEAST = 0.9, 0.8  # of neighbouring residuals; the goal there
FARTHEST = 10.0  # times the largest x


@dataclass(frozen=True)
class Simulated:
    """A study whose law is known: what was measured, and one new run beyond it."""

    points: Points
    metric: Metric
    average: str
    place: Floats  # (1, 1)
    measured: float  # the new run


def _loss(rng: np.random.Generator) -> Simulated:
    """y = E + B x^-c over compute, exponents as published."""
    exponent, plateau = rng.uniform(0.04, 0.4), rng.uniform(0, 1.5)
    return _study(rng, LOSS, "auto", lambda x: plateau + 2 * x**-exponent)


def _learning_curve(rng: np.random.Generator) -> Simulated:
    """An error that starts flat and ends in a plateau, over examples seen."""
    exponent, plateau, knee = rng.uniform(0.3, 0.8), rng.uniform(0.02, 0.3), 10 ** rng.uniform(0.3, 1.5)
    return _study(rng, LOSS, "learning_curve", lambda x: plateau + 0.7 * (1 + x / knee) ** -exponent)


def _recall(rng: np.random.Generator) -> Simulated:
    """r = C - B x^-c over compute."""
    exponent, ceiling = rng.uniform(0.05, 0.4), rng.uniform(0.4, 0.95)
    return _study(rng, SHARE, "auto", lambda x: ceiling - 0.8 * ceiling * x**-exponent)


def _study(rng: np.random.Generator, metric: Metric, average: str, law: Callable[[Floats], Floats]) -> Simulated:
    """Runs at even steps in log x over two to five decades, noise of 0.2% to 3% in the log of the metric's distance."""
    runs, decades, noise = int(rng.integers(6, 31)), rng.uniform(2, 5), 10 ** rng.uniform(-2.7, -1.5)
    x = np.append(np.geomspace(1, 10**decades, runs), 10**decades * FARTHEST ** rng.uniform(0, 1))
    distance = metric.distance(law(x)) * np.exp(noise * rng.normal(size=runs + 1))
    y = 1 - distance if metric.kind == "share" else distance
    return Simulated(Points(x[:-1, None], y[:-1]), metric, average, x[-1:, None], float(y[-1]))


STUDIES = {"loss with a plateau": _loss, "learning curve": _learning_curve, "recall with a ceiling": _recall}


def covers(study: Simulated) -> bool:
    """Whether the default average's interval contains the new run."""
    law = averages.fit(study.points, study.metric, study.average)
    rolling = rolling_origin(study.points, study.metric, study.average)
    scale = scale_at(law, study.points, study.place, rolling, confidence=CONFIDENCE)
    low, high = interval(law, study.place, scale)
    return bool(low[0] <= study.measured <= high[0])


def predictions(simulations: int) -> Iterator[dict[str, Any]]:
    """Coverage of new runs, each kind of study taking its turn; and over all of them."""
    hits: dict[str, list[bool]] = {name: [] for name in STUDIES}
    for seed in range(simulations):
        name = list(STUDIES)[seed % len(STUDIES)]
        hits[name].append(covers(STUDIES[name](np.random.default_rng(seed))))
    hits["all"] = [hit for group in hits.values() for hit in group]
    for name, outcomes in hits.items():
        share = float(np.mean(outcomes))
        yield row(f"new run, {name}", share, len(outcomes), share >= LEAST)


@dataclass(frozen=True)
class KnownLaw:
    """A law with its true parameters, and the points where it is measured."""

    law: str
    parameters: dict[str, float]
    x: Floats  # (n, d)
    y: Floats  # (n,)
    metric: Metric = LOSS


def known_laws() -> list[KnownLaw]:
    x = np.geomspace(1, 1e6, 24)
    size, data = (grid.ravel() for grid in np.meshgrid(np.geomspace(1, 1e3, 6), np.geomspace(1, 1e3, 6)))
    return [
        KnownLaw("power_law", {"c": 0.12}, x[:, None], 3 * x**-0.12),
        KnownLaw("power_offset", {"E": 0.4, "c": 0.28}, x[:, None], 0.4 + 0.9 * x**-0.28),
        KnownLaw("log_linear", {"b": 0.03}, x[:, None], 0.2 + 0.03 * np.log10(x), SHARE),
        KnownLaw("joint", {"E": 1.7, "alpha": 0.34, "beta": 0.28}, np.column_stack([size, data]),
              1.7 + 2 * size**-0.34 + 2 * data**-0.28),
    ]  # fmt: skip


def _noise(rng: np.random.Generator, count: int, correlation: float) -> Floats:
    """Standard normal noise (count,) whose neighbours correlate: AR(1)."""
    fresh = rng.normal(size=count)
    noise = fresh.copy()
    for place in range(1, count):
        noise[place] = correlation * noise[place - 1] + np.sqrt(1 - correlation**2) * fresh[place]
    return noise


def profiles(known: KnownLaw, simulations: int, correlation: float = 0.0) -> Iterator[dict[str, Any]]:
    """Coverage of each parameter's interval, with 1% noise, or 0.01 where the metric itself is fitted."""
    law, covered = named_law(known.law), dict.fromkeys(known.parameters, 0)
    settings = Settings(huber=JOINT_HUBER) if law.inputs > 1 else Settings()
    for seed in range(simulations):
        noise = 0.01 * _noise(np.random.default_rng(seed), len(known.y), correlation)
        points = Points(known.x, known.y + noise if law.space == "linear" else known.y * np.exp(noise))
        estimates = parameters(fit_law(law, points, known.metric, settings), points, CONFIDENCE)
        fitted = {parameter.name: parameter for parameter in estimates}
        for name, value in known.parameters.items():
            covered[name] += fitted[name].low <= value <= fitted[name].high
    for name, count in covered.items():
        share = count / simulations
        label = f"{known.law}: {name}" + (f", AR(1) {correlation:g}" if correlation else "")
        least, most = (CORRELATED_LEAST, 1.0) if correlation else (LEAST, MOST)
        yield row(label, share, simulations, least <= share <= most, least)


def row(name: str, ours: float, simulations: int, met: bool, goal: float = LEAST) -> dict[str, Any]:
    return {"name": f"{name} ({simulations} simulations)", "unit": "coverage at 90%", "ours": ours, "peer": CONFIDENCE,
            "peer_name": "stated", "ratio": ours / CONFIDENCE, "goal": goal, "met": bool(met)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [*predictions(options.simulations)]
    for known in known_laws():
        rows += profiles(known, options.simulations)
        if known.x.shape[1] == 1:
            rows += profiles(known, options.simulations, CORRELATION)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        for entry in rows:
            print(f"{entry['name']:<52}{entry['ours']:>8.3f} {entry['unit']}  {'met' if entry['met'] else 'NOT met'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
