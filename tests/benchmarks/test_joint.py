"""Grids of model size and data: what is held out, and the law of simulated ones that is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.estimate import log_compute
from benchmarks.joint import _known, grid, published


def test_the_dearest_quarter_of_a_grid_is_held_out() -> None:
    for seed in range(30):
        task = grid(seed)
        assert log_compute(task.train.x).max() <= log_compute(task.rest.x).min()
        assert len(task.train) >= 9
        assert 0.15 < len(task.rest) / (len(task.train) + len(task.rest)) < 0.45


def test_only_the_additive_law_has_terms_that_add() -> None:
    """Its second difference over size and data is 0; those of the other two laws are not."""
    size, data = np.array([1.0, 100.0, 1.0, 100.0]), np.array([1.0, 1.0, 100.0, 100.0])
    for kind, adds in ((0, True), (1, False), (2, False)):
        loss = _known(kind, size, data, np.random.default_rng(1))
        assert (abs(loss[0] - loss[1] - loss[2] + loss[3]) < 1e-12) == adds


def test_a_published_grid_is_cut_at_its_cheapest_half_and_three_quarters(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    sizes, tokens = np.repeat([1e7, 1e8, 1e9, 1e10], 4), np.tile([1e9, 1e10, 1e11, 1e12], 4)
    runs = {"name": "one", "params": sizes, "tokens": tokens, "loss": 1 + sizes**-0.1 + tokens**-0.1}
    pd.DataFrame(runs).assign(seed=1).to_csv(file, index=False)
    tasks = published(file)
    assert [(len(task.train), len(task.rest)) for task in tasks] == [(8, 8), (12, 4)]
    for task in tasks:
        assert log_compute(task.train.x).max() <= log_compute(task.rest.x).min()


def test_a_published_grid_without_a_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    pd.DataFrame({"name": ["a"], "params": [1.0], "loss": [2.0]}).to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"grid\.csv: no column tokens; it needs name, params, tokens, loss"):
        published(file)
