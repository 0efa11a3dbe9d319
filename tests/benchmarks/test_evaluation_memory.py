"""The benchmark of evaluation's memory: the slope and what it predicts, and a screen that evaluation can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import evaluation_memory as benchmark
from benchmarks.evaluation_memory import Evaluated, rows, write_screen
from harness.storage.embeddings import read_embeddings


@pytest.mark.parametrize(("per_well", "met"), [(5_000, True), (5_500, False)])
def test_the_slope_predicts_the_memory_of_a_study(per_well: int, met: bool) -> None:
    sizes = (20_000, 60_000, 400_000)
    measured = [Evaluated(wells, 1.0, 1.0, 0.5 + per_well * wells / 1e9, {}) for wells in sizes]
    *_, slope, study = rows(measured)
    assert slope["ours"] == pytest.approx(per_well)
    assert study["ours"] == pytest.approx(0.5 + 2_200_000 * per_well / 1e9, abs=1e-3)
    assert (study["goal"], study["met"]) == ("< 12 GB", met)


def test_a_screen_has_controls_and_guides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", 8), ("GENES", 20), ("EXPERIMENT_WELLS", 100), ("GROUP_WELLS", 150)):
        monkeypatch.setattr(benchmark, name, value)
    write_screen(tmp_path / "screen.parquet", 400)
    table, features = read_embeddings(tmp_path / "screen.parquet")
    assert features.shape == (400, 8)
    assert table["key"].is_unique
    control = table["treatment"] == "EMPTY_control"
    assert (table["gene"][control] == "").all()
    assert (table["gene"][~control].nunique(), table["experiment"].nunique()) == (20, 4)
    assert control.groupby(table["experiment"]).sum().min() >= 2
