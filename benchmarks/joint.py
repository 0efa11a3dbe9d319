"""Joint laws of model size and data at larger compute than was fitted, beside single fits: grids, Chinchilla's points.

    python -m benchmarks.joint [--data FOLDER] [--grids 36] [--json]

A third of the simulated grids follows the additive law, a third has a data term that depends on size, a third mixes the
terms (a power of their sum); half have scatter between sizes, half lack the corners far off the diagonal. The dearest
quarter is predicted. Chinchilla's points (digitised by Besiroglu et al. 2024) are cut at four computes, complete and
thinned. Errors are of the log loss; coverage is of 90% intervals.

Published grids that no choice was made on are measured if FOLDER has them: gadre.csv (Gadre et al. 2024, github.com/
mlfoundations/scaling), olmo_ladder.csv (Bhagia et al. 2024, github.com/allenai/OLMo-ladder) and farseer.csv (Li et al.
2025, github.com/Farseer-Scaling-Law/Farseer), with a row per run and the columns name (of the grid), params, tokens and
loss. The cheapest half of a grid's runs is fitted, then the cheapest three quarters, and the others are predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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
from benchmarks.laws import chinchilla, row
from benchmarks.shares import CONFIDENCE, LEAST, MOST, line

LOSS = Metric("loss")
KINDS = ("additive", "interacting", "mixed terms")
CUTS, KEPT = (19.3, 19.6, 20.0, 20.4), (1.0, 0.4, 0.2)  # log10 of Chinchilla's compute; shares of its points
FEWEST = 9
PUBLISHED = {"gadre.csv": "Gadre et al.", "olmo_ladder.csv": "OLMo ladder", "farseer.csv": "Farseer"}
COLUMNS = ("name", "params", "tokens", "loss")
CHEAPEST = (0.5, 0.75)  # shares of a published grid's runs that are fitted
PEERS = {"Huber": ("joint", averages.JOINT_HUBER), "squares": ("joint", None), "one exponent": ("joint_tied", None)}


@dataclass(frozen=True)
class Task:
    """Runs to fit, and dearer ones to predict."""

    train: Points
    rest: Points


def grid(seed: int) -> Task:
    """A simulated grid; law number seed % 3 of `KINDS`."""
    rng = np.random.default_rng(seed)
    sizes, amounts = (int(count) for count in rng.integers(4, 8, 2))
    ends = 10 ** rng.uniform(1.2, 3, 2)
    size, data = (
        one.ravel() for one in np.meshgrid(np.geomspace(1, ends[0], sizes), np.geomspace(1, ends[1], amounts))
    )
    noise = 10 ** rng.uniform(-3, -1.6)
    loss = _known(seed % len(KINDS), size, data, rng) * np.exp(noise * rng.normal(size=len(size)))
    loss = loss * np.exp(noise * rng.integers(2) * rng.normal(size=sizes)[np.tile(np.arange(sizes), amounts)])
    aside = np.abs(np.log(size) - np.log(data) - np.log(ends[0] / ends[1]) / 2)
    near = aside < rng.uniform(2, 6)
    kept = near if rng.random() < 0.5 and near.sum() >= 12 else np.ones(len(size), dtype=bool)
    points = Points(np.column_stack([size, data])[kept] * 1e8, loss[kept])
    compute = log_compute(points.x)
    cheap = compute < np.quantile(compute, 0.75)
    return Task(points.subset(cheap), points.subset(~cheap))


def _known(kind: int, size: Floats, data: Floats, rng: np.random.Generator) -> Floats:
    floor, (first, second), (alpha, beta) = rng.uniform(0, 1.8), rng.uniform(0.3, 2, 2), rng.uniform(0.15, 0.5, 2)
    if kind == 1:
        beta, second = beta * size ** rng.uniform(-0.06, 0.06), second * size ** rng.uniform(-0.08, 0.05)
    power = rng.uniform(0.5, 1.0) if kind == len(KINDS) - 1 else 1.0
    scale = 0.7 if power < 1 else 1.0
    return np.asarray(floor + (first * size ** (-alpha / scale) + second * data ** (-beta / scale)) ** power)


def cuts(folder: Path) -> list[Task]:
    """Chinchilla's points below some computes, and all above."""
    points, rng, tasks = chinchilla(folder), np.random.default_rng(5), []
    compute = (log_compute(points.x) + np.log(6)) / np.log(10)
    for cut in CUTS:
        for share in KEPT:
            cheap = (compute < cut) & (rng.random(len(points)) < share)
            if cheap.sum() >= FEWEST:
                tasks.append(Task(points.subset(cheap), points.subset(compute >= cut)))
    return tasks


def published(file: Path) -> list[Task]:
    """The grids of a table with columns `COLUMNS`, each cut at some computes.

    Raises:
        ValueError: a column is missing.
    """
    table = pd.read_csv(file)
    if lacking := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{file}: no column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}")
    tasks = []
    for _, runs in table.groupby("name", sort=False):
        points = Points(runs[["params", "tokens"]].to_numpy(float), runs["loss"].to_numpy(float))
        for share in CHEAPEST:
            first, rest = np.split(points.order, [round(share * len(points))])
            tasks.append(Task(points.subset(first), points.subset(rest)))
    return tasks


def rows(name: str, tasks: list[Task]) -> list[dict[str, Any]]:
    """Errors beside each peer, and coverage."""
    errors: dict[str, list[float]] = {peer: [] for peer in ("ours", *PEERS)}
    covered = []
    for task in tasks:
        z, law = np.log(task.rest.y), averages.fit(task.train, LOSS)
        off = np.abs(law.log_or_linear(task.rest.x) - z)
        rolling = rolling_origin(task.train, LOSS, "auto")
        scale = scale_at(law, task.train, task.rest.x, rolling, confidence=CONFIDENCE)
        covered.append(float(np.mean(off <= scale.half_width)))
        errors["ours"].append(float(np.sqrt(np.mean(off**2))))
        for peer, (form, huber) in PEERS.items():
            fitted = fit_law(named_law(form), task.train, LOSS, Settings(huber=huber))
            errors[peer].append(float(np.sqrt(np.mean((fitted.log_or_linear(task.rest.x) - z) ** 2))))
    means = {peer: float(np.mean(found)) for peer, found in errors.items()}
    ours, mean = means["ours"], float(np.mean(covered))
    found = [row(f"{name}: mean RMSE", "log loss", ours, means[peer], peer, means[peer], ours <= means[peer])
             for peer in PEERS]  # fmt: skip
    return [*found, row(f"{name}: 90% intervals", "coverage", mean, CONFIDENCE, "stated", LEAST, LEAST <= mean <= MOST)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "scaling_laws"
    parser.add_argument("--data", type=Path, default=default, help="folder of Chinchilla's points")
    parser.add_argument("--grids", type=int, default=36, help="simulated grids")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    if (options.data / "chinchilla_epoch.csv").exists():
        found += rows("Chinchilla's points", cuts(options.data))
    else:
        print(f"no chinchilla_epoch.csv in {options.data}; name the folder with --data", file=sys.stderr)
    for file, title in PUBLISHED.items():
        if (options.data / file).exists():
            tasks = published(options.data / file)
            found += rows(f"{title}, {len(tasks)} cuts", tasks)
        else:
            print(f"no {file} in {options.data}: {title} is not measured", file=sys.stderr)
    simulated = [grid(5000 + seed) for seed in range(options.grids)]
    for number, kind in enumerate(KINDS):
        found += rows(f"grids, {kind}", simulated[number :: len(KINDS)])
    print(json.dumps(found, indent=1) if options.json else "\n".join(map(line, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
