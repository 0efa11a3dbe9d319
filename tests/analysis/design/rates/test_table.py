"""Sweeps of a table: one reading per size, and one that cannot be read does not stop the others."""

import numpy as np
import pandas as pd
import pytest

from analysis.design.rates.table import read_sweeps, sweeps
from analysis.fitting.read_results import ResultsTableError
from analysis.laws.metric import Metric

RATES = 1e-4 * 2.0 ** np.arange(5)


def table(**best):
    parts = [
        pd.DataFrame({"model": size, "lr": RATES, "loss": 2 * np.exp(0.02 * np.log(RATES / optimum) ** 2)})
        for size, optimum in best.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_each_group_has_its_sweep_in_the_order_of_the_table():
    found, metric, notes = read_sweeps(table(L=3e-4, S=6e-4), "lr", "loss", group=["model"])
    assert (metric.kind, notes) == ("loss", [])
    assert [sweep.size for sweep in found] == ["L", "S"]
    assert [sweep.reading.rate for sweep in found] == pytest.approx([3e-4, 6e-4])


def test_a_size_with_two_rates_says_how_many_it_needs_and_the_others_are_read():
    rows = table(S=4e-4, B=4e-4).drop(index=[0, 1, 2])
    found = read_sweeps(rows, "lr", "loss", group=["model"])[0]
    assert found[0].reading is None
    assert found[0].text == (
        "S: 2 rates at which no run diverged; a parabola needs 3: not enough to tell; run more rates"
    )
    assert found[1].reading.rate == pytest.approx(4e-4)


def test_rows_that_diverged_count_and_those_that_stopped_early_do_not():
    rows = table(S=4e-4).assign(annealed=[True, True, True, True, False])
    rows.loc[3, "loss"] = np.nan
    (sweep,), _, notes = read_sweeps(rows, "lr", "loss")
    assert sweep.reading.edge == "diverged"
    assert len(sweep.rate) == 4
    assert notes[0] == "1 rows without a finite loss count as runs that diverged"
    assert notes[1].startswith("1 rows left out")
    assert len(read_sweeps(rows, "lr", "loss", annealed=False)[0][0].rate) == 5


def test_a_rate_that_is_not_positive_is_named_with_its_line():
    rows = table(S=4e-4)
    rows.loc[1, "lr"] = 0.0
    with pytest.raises(ResultsTableError, match="line 3: column 'lr': every rate must be positive"):
        read_sweeps(rows, "lr", "loss")


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="differ in length"):
        sweeps(["S"], RATES, RATES, Metric("loss"))
