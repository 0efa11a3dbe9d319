"""Does choosing runs by design pay? Ours beside random, cheapest, D-optimal, V-optimal and buying everything.

    python -m benchmarks.design [--data FOLDER] [--share 0.1] [--json]

A pool of runs costs what it computes. The cheapest six are there; each policy buys from the rest within one budget, a
share of what the whole pool costs. Then the law is fitted and the farthest held-out point predicted. Pools: the vision
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
FIRST = 6  # runs that are there
MOST = 40  # runs that a policy may buy
SEEDS = 3  # draws of the random policy
SIMULATIONS = 40


@dataclass(frozen=True)
class Pool:
    """Runs that can be bought, cheapest first, and the place to predict."""

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
    chosen: list[int] = []
    for index in order:
        if pool.cost[index] <= budget and len(chosen) < MOST:
            chosen.append(index)
            budget -= pool.cost[index]
    return chosen


def start(pool: Pool) -> tuple[Points, Average]:
    points = pool.runs.subset(np.arange(FIRST))
    return points, averages.fit(points, LOSS)


def ours(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    points, law = start(pool)
    rest = range(FIRST, len(pool.runs))
    options = [Candidate(str(index), float(pool.cost[index]), float(pool.cost[index])) for index in rest]
    chosen = next_runs(law, points, options, pool.target, budget=budget, count=MOST)
    return [int(one.candidate.name) for one in chosen]


def at_random(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return affordable(pool, rng.permutation(np.arange(FIRST, len(pool.runs))).tolist(), budget)


def cheapest(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return affordable(pool, range(FIRST, len(pool.runs)), budget)


def dearest(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return affordable(pool, range(len(pool.runs) - 1, FIRST - 1, -1), budget)


def by_jacobian(pool: Pool, budget: float, gain: Callable[[Floats, Floats, Floats], Floats]) -> list[int]:
    """Greedy in the linearised power law with offset, not counting cost beyond the budget."""
    points, _ = start(pool)
    fitted = fit_law(named_law("power_offset"), points, LOSS)
    place = np.append(pool.cost, pool.target)[:, None]
    jacobian = fitted.law.form(fitted.theta[None], fitted.coordinates.inputs(place)[None])[1][0]
    information = jacobian[:FIRST].T @ jacobian[:FIRST] + 1e-6 * np.eye(3)
    chosen: list[int] = []
    while len(chosen) < MOST:
        open_ = [i for i in range(FIRST, len(pool.runs)) if i not in chosen and pool.cost[i] <= budget]
        if not open_:
            break
        worth = gain(np.linalg.inv(information), jacobian[open_], jacobian[-1])
        best = open_[int(np.argmax(worth))]
        chosen.append(best)
        information += np.outer(jacobian[best], jacobian[best])
        budget -= pool.cost[best]
    return chosen


def d_optimal(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    return by_jacobian(pool, budget, lambda inverse, rows, _: np.einsum("ij,jk,ik->i", rows, inverse, rows))


def v_optimal(pool: Pool, budget: float, rng: np.random.Generator) -> list[int]:
    def gain(inverse: Floats, rows: Floats, target: Floats) -> Floats:
        return (rows @ inverse @ target) ** 2 / (1 + np.einsum("ij,jk,ik->i", rows, inverse, rows))

    return by_jacobian(pool, budget, gain)


POLICIES: dict[str, Policy] = {
    "ours": ours, "random": at_random, "cheapest": cheapest, "dearest first": dearest, "D-optimal": d_optimal,
    "V-optimal": v_optimal,
}  # fmt: skip


def error(pool: Pool, chosen: Sequence[int]) -> float:
    """|log error| at the target of the law fitted to the first runs and those bought."""
    rows = np.array(sorted([*range(FIRST), *chosen]))
    law = averages.fit(pool.runs.subset(rows), LOSS)
    return float(abs(np.log(law.predict(np.array([[pool.target]]))[0] / pool.truth)))


def curve_pools(folder: Path) -> list[Pool]:
    """Every vision curve with at least 20 runs: training rows are the pool, the farthest held-out rows the truth."""
    found = []
    for task in tasks(folder):
        if task.domain != "IC" or len(task.train) < 20:
            continue
        runs = task.train.subset(task.train.order)
        far = task.rest.subset(task.rest.order[-5:])  # five rows: one alone is mostly noise
        target, truth = np.exp(np.log(far.x[:, 0]).mean()), np.exp(np.log(far.y).mean())
        found.append(Pool(f"{task.task} {task.model}", runs, float(target), float(truth)))
    return found


def simulated_pools() -> list[Pool]:
    """Known laws with noise: thirty computes over five decades, two runs each."""
    found = []
    for seed in range(SIMULATIONS):
        rng = np.random.default_rng(seed)
        x = np.geomspace(1e16, 1e21, 30).repeat(2)
        floor, exponent = rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.4)

        def law(at: Floats, floor: float = floor, exponent: float = exponent) -> Floats:
            return floor + (at / 1e16) ** -exponent

        runs = Points(x[:, None], law(x) * np.exp(0.01 * rng.normal(size=len(x))))
        found.append(Pool(f"simulated {seed}", runs, 1e23, float(law(np.array(1e23)))))
    return found


def compare(pools: Sequence[Pool], share: float) -> dict[str, Floats]:
    """Errors (pools,) per policy, and with the whole pool bought and with nothing bought."""
    found: dict[str, list[float]] = {name: [] for name in [*POLICIES, "all", "nothing"]}
    for pool in pools:
        budget = share * pool.cost.sum()
        for name, policy in POLICIES.items():
            draws = SEEDS if name == "random" else 1
            errors = [error(pool, policy(pool, budget, np.random.default_rng(seed))) for seed in range(draws)]
            found[name].append(float(np.mean(errors)))
        found["all"].append(error(pool, range(FIRST, len(pool.runs))))
        found["nothing"].append(error(pool, []))
    return {name: np.array(values) for name, values in found.items()}


def rows(name: str, found: dict[str, Floats], share: float) -> list[dict[str, Any]]:
    mine = float(found["ours"].mean())
    listed = []
    for peer, errors in found.items():
        if peer == "ours":
            continue
        theirs = float(errors.mean())
        listed.append({"name": f"{name}, {share:.0%} of the budget", "unit": "mean |log error| at the target",
                       "ours": mine, "peer": theirs, "peer_name": peer, "ratio": mine / theirs, "goal": 1.0,
                       "met": mine <= theirs})  # fmt: skip
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "scaling_laws"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--share", type=float, default=0.1, help="of what the whole pool costs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pools = {"simulated": simulated_pools()}
    if (options.data / "benchmark.vision.csv").exists():
        pools["vision curves"] = curve_pools(options.data)
    else:
        print(f"no benchmark.vision.csv in {options.data}: simulated studies alone", file=sys.stderr)
    listed = [row for name, some in pools.items() for row in rows(name, compare(some, options.share), options.share)]
    if options.json:
        print(json.dumps(listed, indent=1))
    else:
        for one in listed:
            print(f"{one['name']:<38}ours {one['ours']:.4f}  {one['peer_name']:<14}{one['peer']:.4f}  "
                  f"ratio {one['ratio']:.2f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
