"""Covers `run`: the stages of a cell run once, in order, and a failing cell does not stop the next.

tests/harness/test_sweep.py runs complete cells in processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.distributed.preemption import Preempted, RunControl
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.schema import Recipe
from harness.stages import run as module
from harness.stages.run import read_outcome, run_cell, run_cells
from harness.storage import ledger


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Cells and stages in the order in which they start; stages only record that they ran."""
    log: list[tuple[str, str]] = []

    def runner(stage: str) -> Any:
        def run(stage_run: StageRun, control: RunControl | None) -> dict[str, Any]:
            log.append((stage_run.cell.id, stage))
            return {"ran": stage}

        return run

    monkeypatch.setattr(module, "_RUN", {stage: runner(stage) for stage in ledger.STAGES})
    return log


def test_the_missing_stages_run_once_and_in_order(tiny_recipe: Recipe, started: list[tuple[str, str]]) -> None:
    cell = next(cell for cell in cells(tiny_recipe) if cell.kind == "trained")
    assert run_cell(tiny_recipe.model_dump_json(), cell.id) == ["train", "embed", "evaluate"]
    assert started == [(cell.id, stage) for stage in ("train", "embed", "evaluate")]
    row = ledger.read(tiny_recipe.output, cell.id, "embed")
    assert row is not None
    assert row.values["ran"] == "embed"
    assert row.values["stage_seconds"] >= 0
    assert run_cell(tiny_recipe.model_dump_json(), cell.id) == []
    assert len(started) == 3


def test_ranks_other_than_the_first_record_nothing(
    tiny_recipe: Recipe, started: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    cell = next(cell for cell in cells(tiny_recipe) if cell.kind == "trained")
    assert run_cell(tiny_recipe.model_dump_json(), cell.id) == ["train", "embed", "evaluate"]
    assert ledger.read(tiny_recipe.output, cell.id, "train") is None


def test_a_failing_cell_leaves_its_error_and_the_next_one_runs(
    tiny_recipe: Recipe, started: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = [cell.id for cell in cells(tiny_recipe) if cell.kind == "trained"][:2]

    def fail_for_first(recipe_json: str, cell_id: str) -> list[str]:
        if cell_id == first:
            raise ValueError("no images")
        return run_cell(recipe_json, cell_id)

    monkeypatch.setattr(module, "run_cell", fail_for_first)
    assert read_outcome(tmp_path, first) is None
    run_cells(tiny_recipe.model_dump_json(), [first, second], tmp_path)
    failed = read_outcome(tmp_path, first)
    assert failed is not None
    assert failed["error"] == "ValueError: no images"
    assert "in fail_for_first\n    raise ValueError(" in (failed["trace"] or "")
    assert read_outcome(tmp_path, second) == {"error": None, "trace": ""}
    assert {cell for cell, _ in started} == {second}


def test_a_stop_signal_ends_the_process_and_not_only_the_cell(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(recipe_json: str, cell_id: str) -> list[str]:
        raise Preempted("SIGTERM")

    monkeypatch.setattr(module, "run_cell", stop)
    with pytest.raises(Preempted):
        run_cells(tiny_recipe.model_dump_json(), ["a", "b"], tmp_path)
    assert read_outcome(tmp_path, "a") is None
