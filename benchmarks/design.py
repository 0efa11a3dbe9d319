"""Choice of the next runs: ours compared with random, cheapest, largest, D-optimal, V-optimal and all runs.

    python -m benchmarks.design [--data FOLDER] [--share 0.1] [--json]

A run costs its compute. The cheapest six of a pool are finished; each policy picks from the rest within one budget, a
share of the cost of all runs. Then the law is fitted and the farthest held-out point predicted. Pools: the vision
curves of Alabdulmohsin et al. (2022), and simulated studies with a known law.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.arrays import Floats
from analysis.design.next_runs import Candidate, next_runs
from analysis.fitting import averages
from analysis.fitting.estimate import Average, Points, fit_law
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric
from benchmarks.laws import tasks

LOSS = Metric("loss")
FIRST = 6  # finished runs
MOST = 40  # runs that a policy may pick
SEEDS = 3  # draws of the random policy
SIMULATIONS = 40


@dataclass(frozen=True)
class Pool:
    """Runs to choose from, cheapest first, and the compute to predict at."""

    name: str
    runs: Points
    target: float
    truth: float  # the metric there

    @property
    def cost(self) -> Floats:
        return self.runs.x[:, 0]


Policy = Callable[[Pool, float, np.random.Generator], list[int]]


def affordable(pool: Pool, order: Sequence[int], budget: float) -> list[int]:
    """Runs in this order, skipping what no longer fits the budget."""
    selected: list[int] = []
    for index in order:
        if pool.cost[index] <= budget and len(selected) < MOST:
            selected.append(index)
            budget -= pool.cost[index]
    return selected


def start(pool: Pool) -> tuple[Points, Average]:
    points = pool.runs.subset(np.arange(FIRST))
    return points, averages.fit(points, LOSS)


def ours(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    points, law = start(pool)
    rest = range(FIRST, len(pool.runs))
    options = [Candidate(str(index), float(pool.cost[index]), float(pool.cost[index])) for index in rest]
    proposed = next_runs(law, points, options, pool.target, budget=budget, count=MOST)
    return [int(run.candidate.name) for run in proposed]


def at_random(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return affordable(pool, rng.permutation(np.arange(FIRST, len(pool.runs))).tolist(), budget)


def cheapest(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return affordable(pool, range(FIRST, len(pool.runs)), budget)


def largest(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return affordable(pool, range(len(pool.runs) - 1, FIRST - 1, -1), budget)


def by_jacobian(pool: Pool, budget: float, gain: Callable[[Floats, Floats, Floats], Floats]) -> list[int]:
    """Greedy in the linearised power law with offset, not counting cost beyond the budget."""
    points, _ = start(pool)
    fitted = fit_law(named_law("power_offset"), points, LOSS)
    place = np.append(pool.cost, pool.target)[:, None]
    jacobian = fitted.law.form(fitted.theta[None], fitted.coordinates.inputs(place)[None])[1][0]
    information = jacobian[:FIRST].T @ jacobian[:FIRST] + 1e-6 * np.eye(3)
    selected: list[int] = []
    while len(selected) < MOST:
        available = [i for i in range(FIRST, len(pool.runs)) if i not in selected and pool.cost[i] <= budget]
        if not available:
            break
        worth = gain(np.linalg.inv(information), jacobian[available], jacobian[-1])
        best = available[int(np.argmax(worth))]
        selected.append(best)
        information += np.outer(jacobian[best], jacobian[best])
        budget -= pool.cost[best]
    return selected


def d_optimal(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return by_jacobian(pool, budget, lambda inverse, rows, _: np.einsum("ij,jk,ik->i", rows, inverse, rows))


def v_optimal(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    def gain(inverse: Floats, rows: Floats, target: Floats) -> Floats:
        return (rows @ inverse @ target) ** 2 / (1 + np.einsum("ij,jk,ik->i", rows, inverse, rows))

    return by_jacobian(pool, budget, gain)


POLICIES: dict[str, Policy] = {
    "ours": ours, "random": at_random, "cheapest": cheapest, "largest first": largest, "D-optimal": d_optimal,
    "V-optimal": v_optimal,
}  # fmt: skip


def error(pool: Pool, selected: Sequence[int]) -> float:
    """|log error| at the target of the law fitted to the first runs and the selected ones."""
    rows = np.array(sorted([*range(FIRST), *selected]))
    law = averages.fit(pool.runs.subset(rows), LOSS)
    return float(abs(np.log(law.predict(np.array([[pool.target]]))[0] / pool.truth)))


def curve_pools(folder: Path) -> list[Pool]:
    """Every vision curve with at least 20 runs: training rows are the pool, the farthest held-out rows the truth."""
    pools = []
    for task in tasks(folder):
        if task.domain != "IC" or len(task.train) < 20:
            continue
        runs = task.train.subset(task.train.order)
        far = task.rest.subset(task.rest.order[-5:])  # five rows: a single one is mostly noise
        target, truth = np.exp(np.log(far.x[:, 0]).mean()), np.exp(np.log(far.y).mean())
        pools.append(Pool(f"{task.task} {task.model}", runs, float(target), float(truth)))
    return pools


def simulated_pools() -> list[Pool]:
    """Known laws with noise: thirty computes over five decades, two runs each."""
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


def compare(pools: Sequence[Pool], share: float) -> dict[str, Floats]:
    """Errors (pools,) per policy, with the complete pool, and with the first runs only."""
    errors_of: dict[str, list[float]] = {name: [] for name in [*POLICIES, "all", "nothing"]}
    for pool in pools:
        budget = share * pool.cost.sum()
        for name, policy in POLICIES.items():
            draws = SEEDS if name == "random" else 1
            errors = [error(pool, policy(pool, budget, np.random.default_rng(seed))) for seed in range(draws)]
            errors_of[name].append(float(np.mean(errors)))
        errors_of["all"].append(error(pool, range(FIRST, len(pool.runs))))
        errors_of["nothing"].append(error(pool, []))
    return {name: np.array(values) for name, values in errors_of.items()}


def rows(name: str, errors_of: dict[str, Floats], share: float) -> list[dict[str, Any]]:
    our_error = float(errors_of["ours"].mean())
    listed = []
    for peer, errors in errors_of.items():
        if peer == "ours":
            continue
        peer_error = float(errors.mean())
        listed.append({"name": f"{name}, {share:.0%} of the budget", "unit": "mean |log error| at the target",
                       "ours": our_error, "peer": peer_error, "peer_name": peer, "ratio": our_error / peer_error,
                       "goal": 1.0, "met": our_error <= peer_error})  # fmt: skip
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "scaling_laws"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--share", type=float, default=0.1, help="share of the cost of all runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pools = {"simulated": simulated_pools()}
    if (options.data / "benchmark.vision.csv").exists():
        pools["vision curves"] = curve_pools(options.data)
    else:
        print(f"no benchmark.vision.csv in {options.data}: simulated studies only", file=sys.stderr)
    listed = [row for name, group in pools.items() for row in rows(name, compare(group, options.share), options.share)]
    if options.json:
        print(json.dumps(listed, indent=1))
    else:
        for entry in listed:
            print(f"{entry['name']:<38}ours {entry['ours']:.4f}  {entry['peer_name']:<14}{entry['peer']:.4f}  "
                  f"ratio {entry['ratio']:.2f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
