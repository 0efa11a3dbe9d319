"""Two panels for each source: recall with that of the initialisation, and the gain with its interval."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.figures.gain import gain_versus_compute
from analysis.fitting.trend import fit_log_linear

MODEL = {"cell": "c", "model": "vit_s16", "size": "S", "patch": 16, "dataset": "d", "dataset_rank": 0, "seed": 0,
         "annealed": True, "chance": 0.1}  # fmt: skip


def test_the_gain_stands_beside_the_recall_that_it_is_of() -> None:
    rows = [
        MODEL | {"source": source, "compute": 10.0**power, "recall": 0.3 + 0.05 * power, "recall_low": 0.2,
                 "recall_high": 0.9, "gain": 0.1 + 0.05 * power, "low": 0.0, "high": 0.6, "initial": 0.2}
        for source in ("CORUM", "hu.MAP") for power in (1, 2, 3)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    fit = fit_log_linear("CORUM", "touvron", [10.0, 100.0, 1000.0], [0.15, 0.2, 0.25], replicates=50)
    figure = gain_versus_compute(table, table, [fit], "touvron")
    assert len(figure.axes) == 4
    assert [axes.get_ylabel() for axes in figure.axes[:2]] == ["Recall", "Gain over own initialisation"]
    assert any("slope +0.050" in text.get_text() for text in figure.axes[1].texts)
    with pytest.raises(ValueError, match="no gains to draw"):
        gain_versus_compute(table, table.iloc[:0], [], "touvron")
