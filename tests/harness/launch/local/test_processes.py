"""Covers `local` and `progress`: batches of cells, the environment and the errors of processes, lines for ended cells.

tests/harness/test_sweep.py runs real processes, kills them, and interrupts them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from harness.data.prepare import prepare
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.launch.local import processes
from harness.launch.local.processes import Outcome, batch_size, devices, next_batch, run_local, without_start
from harness.launch.local.progress import Watch, describe
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
    assert shared_out(pending, batch_size(len(pending), recipe.launch)) == [pending[:4], pending[4:]]
    assert [len(batch) for batch in shared_out(pending[:3], batch_size(3, recipe.launch))] == [2, 1]


def shared_out(pending: list[Cell], size: int) -> list[list[Cell]]:
    """The batches of a sweep whose processes end in the order of their start."""
    waiting, shared = list(pending), []
    while batch := next_batch(waiting, [], size):
        shared.append(batch)
    return shared


def test_a_cell_waits_for_the_one_that_it_starts_from_unless_that_is_before_it_in_its_process(
    tiny_recipe_file: Path,
) -> None:
    """A trunk of two segments, A then B; branch a starts from A, b and c start from B."""
    schedule = "train.schedule={name: warmup_stable_decay, ends: [0.25, 0.5, 1.0]}"
    grid = cells(load(tiny_recipe_file, "laptop", [schedule]))
    first, second, *branches = [cell for cell in grid if cell.seed == 0 and cell.training is not None][:5]
    assert [cell.start and cell.start.id for cell in branches] == [first.id, second.id, second.id]
    waiting = [second, *branches, first]
    assert next_batch(list(waiting), [], 1) == [first]
    assert next_batch(list(waiting), [], 3) == [first, second, branches[0]]
    assert next_batch([second, *branches], [first], 4) == []
    assert next_batch([*branches], [second], 4) == [branches[0]]


def test_each_process_has_a_gpu_of_its_own(tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    launch = load(tiny_recipe_file, "laptop", ["launch.gpus_per_node=2", "launch.parallel=4"]).launch
    on_gpu = launch.model_copy(update={"device": "auto"})
    assert devices(on_gpu) == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert devices(on_gpu) == [3, 5]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5d1c")
    with pytest.raises(ValueError, match=r"CUDA_VISIBLE_DEVICES is 'GPU-5d1c': list GPUs by their numbers"):
        devices(on_gpu)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices(on_gpu) == [None] * 4
    assert devices(launch.model_copy(update={"device": "cpu"})) == [None] * 4
    assert devices(launch.model_copy(update={"device": "auto", "gpus_per_node": 0})) == [None] * 4


@pytest.mark.slow
def test_no_two_processes_that_run_at_a_time_see_the_same_gpu(
    tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes in turn on two GPUs, which a machine without any names as well; the networks then use its CPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = ["launch.device=auto", "launch.gpus_per_node=2", "launch.parallel=4", "launch.cells_per_job=1"]
    recipe = load(tiny_recipe_file, "laptop", [*words, "evaluate=null", "embed=null"])
    prepare(recipe)
    pending = [cell for cell in cells(recipe) if cell.training is not None][:3]
    seen: dict[str, set[str]] = {}

    def watch(running: Sequence[Cell]) -> None:
        children = psutil.Process().children(recursive=True)
        found = [of_child(child) for child in children if "submitit.core._submit" in command(child)]
        shown = [gpu for gpu in found if gpu is not None]
        assert len(set(shown)) == len(shown) <= 2, shown
        for cell in running:
            seen.setdefault(cell.id, set()).update(shown)

    assert [outcome.error for outcome in run_local(recipe, pending, watch)] == [None] * 3
    assert set().union(*seen.values()) == {"0", "1"}


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def of_child(process: psutil.Process) -> str | None:
    """The GPUs that a process sees; None if it has ended."""
    try:
        return process.environ().get("CUDA_VISIBLE_DEVICES")
    except psutil.Error:
        return None


def test_what_starts_from_a_segment_that_fails_fails_with_it_also_when_it_was_trained_before(
    tiny_recipe_file: Path,
) -> None:
    """Its row is there, and its state is not: it was to be trained again."""
    schedule = "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}"
    recipe = load(tiny_recipe_file, "laptop", [schedule])
    segment, *branches = [cell for cell in cells(recipe) if cell.training is not None][:3]
    ledger.record(recipe.output, LedgerRow(segment.id, "train", "x", {"steps": 9}))
    waiting = list(branches)
    failed = list(without_start(recipe, Outcome(segment, "ValueError: no images", Path("log")), waiting))
    assert [(outcome.cell.id, outcome.error) for outcome in failed] == [
        (cell.id, f"{segment.id}, from which it starts, failed") for cell in branches
    ]
    assert waiting == []


def test_jobs_get_their_number_of_threads_and_the_environment_is_restored(
    tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with processes._threads(load(tiny_recipe_file, "laptop", ["launch.cpus_per_task=3"]).launch):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "3")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_exception_is_taken_from_submitits_message() -> None:
    rule = "-" * 40
    message = (
        f"Job (task=0) failed during processing with trace:\n{rule}\nTraceback:\n  ...\nOSError: disk full\n\n{rule}\n"
    )
    assert processes._last_line_of_trace(f"{message}You can check full logs with ...") == "OSError: disk full"
    assert processes._last_line_of_trace("killed\n") == "killed"


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
