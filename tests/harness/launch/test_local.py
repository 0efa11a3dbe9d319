"""Covers `local` and `progress`: batches of cells, the environment and the errors of processes, lines for ended cells.

tests/harness/test_sweep.py runs real processes, kills them, and interrupts them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.grid.cells import Cell, cells
from harness.launch import local
from harness.launch.local import Outcome, batches
from harness.launch.progress import Watch, describe
from harness.plan.cost import plan_cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.ledger import LedgerRow


def trained_cell(recipe: Recipe) -> Cell:
    return next(cell for cell in cells(recipe) if cell.kind == "trained")


def test_cells_are_shared_out_in_order_and_no_process_is_idle(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop", ["launch.cells_per_job=4"])
    pending = cells(recipe)
    assert [len(batch) for batch in batches(pending, recipe.launch)] == [4, 3]
    assert [cell for batch in batches(pending, recipe.launch) for cell in batch] == list(pending)
    assert [len(batch) for batch in batches(pending[:3], recipe.launch)] == [2, 1]


def test_jobs_get_their_number_of_threads_and_the_environment_is_restored(
    tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with local._threads(load(tiny_recipe_file, "laptop", ["launch.cpus_per_task=3"]).launch):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "3")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_exception_is_taken_from_submitits_message() -> None:
    rule = "-" * 40
    message = (
        f"Job (task=0) failed during processing with trace:\n{rule}\nTraceback:\n  ...\nOSError: disk full\n\n{rule}\n"
    )
    assert local._last_line_of_trace(f"{message}You can check full logs with ...") == "OSError: disk full"
    assert local._last_line_of_trace("killed\n") == "killed"


def test_an_ended_cell_is_described_by_its_loss_and_recall(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop")
    cell = trained_cell(recipe)
    ledger.record(recipe.output, LedgerRow(cell.id, "train", "f", {"validation_loss": 0.61234}))
    recall = {"complexes": {"recall": 0.31}, "pathways": {"recall": 0.1524}}
    ledger.record(recipe.output, LedgerRow(cell.id, "evaluate", "f", {"recall": recall}))
    assert describe(recipe, Outcome(cell, None, Path("log"))) == (
        f"done   {cell.id}: validation loss 0.6123; complexes 0.310, pathways 0.152"
    )
    failed = describe(recipe, Outcome(cell, "ValueError: no images", Path("log")))
    assert failed == f"FAILED {cell.id}: ValueError: no images\n       log: log"


def test_the_bar_is_full_when_all_cells_have_ended(tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    pending = cells(tiny_recipe)
    watch = Watch(tiny_recipe, pending, plan_cells(tiny_recipe, pending))
    watch(pending[:1])
    for cell in pending:
        watch.ended(Outcome(cell, "ValueError: no images", Path("log")))
    watch.close()
    printed = capsys.readouterr()
    assert printed.out.count("FAILED") == len(pending)
    assert "100%" in printed.err
