"""Metric against rate: the parabola's lowest point is at the optimum, and sizes without one are dotted."""

import numpy as np
import pandas as pd
import pytest

from analysis.design.rates.table import rate_tables, sweeps
from analysis.figures.best_rate import metric_against_rate
from analysis.laws.metric import Metric

RATES = 1e-4 * 2.0 ** np.arange(5)


def drawn(metric, y, sizes=("S",)):
    rates = np.tile(RATES, len(sizes))
    found = sweeps(np.repeat(sizes, len(RATES)).tolist(), rates, np.concatenate(y), metric)
    drawn = rate_tables(found, metric)
    return metric_against_rate(drawn.runs, drawn.lines, drawn.optima, rate="$rate$", y="y").axes[0]


@pytest.mark.parametrize(("metric", "sign"), [(Metric("loss"), 1), (Metric("share"), -1), (Metric("score"), -1)],
                         ids=["loss", "share", "score"])  # fmt: skip
def test_the_parabola_is_best_at_the_optimum_and_goes_through_the_runs(metric, sign):
    away = 0.02 * np.log(RATES / 5e-4) ** 2
    y = {"loss": 0.5 * np.exp(away), "share": 1 - 0.5 * np.exp(away), "score": 3 - away}[metric.kind]
    axes = drawn(metric, [y])
    line = next(line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2)
    x, values = line.get_data()
    assert x[np.argmin(sign * values)] == pytest.approx(5e-4, rel=0.03)
    at = np.interp(np.log(4e-4), np.log(x), values)
    assert at == pytest.approx(y[2], abs=1e-4)
    assert axes.get_xlabel() == "$rate$"


def test_a_size_whose_best_rate_is_the_last_is_dotted_and_runs_that_diverged_are_crosses():
    edge, lost = 2 * np.exp(0.02 * np.log(RATES / 1e-2) ** 2), np.full(5, 1.0)
    lost[4] = np.nan
    axes = drawn(Metric("loss"), [edge, lost], ("S", "B"))
    assert [line.get_linestyle() for line in axes.lines] == [":", ":"]
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert labels == ["Size", "S", "B", "Parabola in log rate", "no optimum shown", "diverged"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no run with a finite metric"):
        metric_against_rate(pd.DataFrame({"y": [np.nan]}), pd.DataFrame(), pd.DataFrame(), rate="r", y="y")
