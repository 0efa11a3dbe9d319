"""Covers `shared_failure`: a sweep stops at what every cell would fail of, and goes on after what one failed of."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.launch.local import progress
from harness.launch.local.processes import Outcome
from harness.launch.local.shared_failure import SharedFailure
from harness.recipe.load import load


def trained(recipe_file: Path, *words: str) -> list[Cell]:
    grid = cells(load(recipe_file, "laptop", words))
    return [cell for cell in grid if cell.kind == "trained"]


@pytest.mark.parametrize(
    "error",
    ["ModuleNotFoundError: No module named 'lion_pytorch'", "OSError: [Errno 28] No space left on device: '/data/x'"],
    ids=["module", "disk"],
)
def test_what_no_cell_can_pass_stops_at_once_also_when_others_are_done(tiny_recipe_file: Path, error: str) -> None:
    first, second, *_ = pending = trained(tiny_recipe_file)
    shared = SharedFailure(pending)
    assert shared.reason_to_stop(first, None) is None
    assert "every cell would fail of this" in str(shared.reason_to_stop(second, error))


def test_one_failure_of_two_models_and_datasets_is_shared_whatever_its_numbers_and_paths(
    tiny_recipe_file: Path,
) -> None:
    """The grid: vit_s16 and vit_b8 on the datasets one and two."""
    pending = trained(tiny_recipe_file)
    by_place = {(cell.model, cell.dataset): cell for cell in pending}
    shared = SharedFailure(pending)
    ends = [("vit_s16", "one"), ("vit_s16", "two"), ("vit_b8", "one")]
    reasons = []
    for number, place in enumerate(ends):
        cell = by_place[place]
        error = f"ValueError: /out/cells/{cell.id}/embeddings.parquet: {number} of 96 wells have no plate"
        reasons.append(shared.reason_to_stop(cell, error))
    assert reasons == [None, None, "3 cells failed alike and none is done"]


def test_a_failure_of_one_model_or_beside_a_cell_that_is_done_is_not_shared(tiny_recipe_file: Path) -> None:
    pending = trained(tiny_recipe_file)
    memory = "OutOfMemoryError: CUDA out of memory"
    shared = SharedFailure(pending)
    assert [shared.reason_to_stop(cell, memory) for cell in pending if cell.model == "vit_b8"] == [None, None]
    shared = SharedFailure(pending)
    assert shared.reason_to_stop(pending[0], None) is None
    assert [shared.reason_to_stop(cell, memory) for cell in pending[1:]] == [None] * 3


def test_seeds_of_one_model_and_dataset_need_two_failures(tiny_recipe_file: Path) -> None:
    words = ("grid.models=[vit_s16]", "grid.datasets=[two]", "grid.seeds=[0,1,2]")
    first, second, _ = pending = trained(tiny_recipe_file, *words)
    shared = SharedFailure(pending)
    assert shared.reason_to_stop(first, "Diverged: loss is nan at step 3") is None
    assert shared.reason_to_stop(second, "Diverged: loss is nan at step 9") == "2 cells failed alike and none is done"


def test_a_sweep_stops_and_says_how_much_it_did_not_try(
    tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load(tiny_recipe_file, "laptop", ["datasets.one.images=8", "datasets.two.images=16"])
    pending, started, is_closed = cells(recipe), [], []

    def fail_all(recipe, waiting, watch):
        try:
            for cell in waiting:
                started.append(cell)
                yield Outcome(cell, "ImportError: libcudart.so.13: cannot open shared object file", Path("log"))
        finally:
            is_closed.append(True)

    monkeypatch.setattr(progress, "run_local", fail_all)
    assert progress.run_with_progress(recipe, pending) == 1
    assert (len(started), is_closed) == (1, [True])
    told = capsys.readouterr().err
    assert "stopped: every cell would fail of this (ImportError)" in told
    assert f"{len(pending) - 1} cells were not tried" in told
