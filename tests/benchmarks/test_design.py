"""Pools and policies of the benchmark on the choice of runs."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws.metric import Metric
from benchmarks.design import MOST, POLICIES, rows
from benchmarks.design_pools import BUDGETS, STARTS, TRUTHS, varied

SEEDS = range(len(TRUTHS) * len(STARTS) * len(BUDGETS))


@pytest.mark.parametrize("grid", [False, True], ids=["curves", "grids"])
def test_varied_studies_go_through_all_truths_starts_and_budgets(grid: bool) -> None:
    pools = [varied(seed, grid=grid) for seed in SEEDS]
    assert {(pool.name, pool.share) for pool in pools} == {
        (f"{truth}, {start}", share) for truth in TRUTHS for start in STARTS for share in BUDGETS
    }
    for pool in pools:
        assert (np.diff(pool.cost) >= 0).all()
        assert pool.target > pool.cost[-1]
        assert len(set(pool.first.tolist()) | set(pool.rest.tolist())) == len(pool.runs)
        if pool.metric == Metric("share"):
            assert 0 < pool.truth < 1
            assert pool.runs.y.max() <= 1


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_stays_within_the_budget_and_runs_nothing_twice(name: str) -> None:
    for pool in (varied(3, grid=False), varied(1, grid=True)):
        budget = 0.1 * pool.cost.sum()
        chosen = POLICIES[name](pool, budget, np.random.default_rng(0))
        assert pool.cost[chosen].sum() <= budget * (1 + 1e-9)
        assert len(set(chosen)) == len(chosen) <= MOST
        assert set(chosen) <= set(pool.rest.tolist())


def test_a_row_compares_with_the_best_peer_and_one_with_random() -> None:
    errors = {policy: np.full(4, 0.2) for policy in POLICIES} | {"all runs": np.zeros(4), "none": np.ones(4)}
    errors |= {"ours": np.full(4, 0.104), "D-optimal": np.full(4, 0.1)}
    best, chance, stated = rows("simulated", errors, 0.1)
    assert (best["peer_name"], best["goal"], best["met"]) == ("D-optimal", pytest.approx(0.105), True)
    assert (chance["peer_name"], chance["met"]) == ("random", True)
    assert (stated["goal"], stated["met"]) == (0.056, False)
