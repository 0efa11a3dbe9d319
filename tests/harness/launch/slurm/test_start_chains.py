"""Covers the part of `job_chains` that orders cells which start from others, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.launch.slurm.book.entries import Submitted, SubmittedArray
from harness.launch.slurm.failures import Failure, record_failure
from harness.launch.slurm.job_chains import HeldBack, JobChain, array_groups, by_level, decide_all
from harness.launch.slurm.job_states import JobState
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork, stages_of

ENDS = "train.schedule={name: warmup_stable_decay, ends: [0.25, 0.5, 1.0]}"
ALL = {"train": "f", "embed": "f", "evaluate": "f"}


@pytest.fixture
def recipe(tiny_recipe_file: Path) -> Recipe:
    """Two runs: for each two segments A and B, and three branches, of which a starts from A, b and c from B."""
    return load(tiny_recipe_file, "laptop", [ENDS, "grid.models=[vit_s16]", "grid.seeds=[0, 1]", "grid.datasets=[two]"])


@pytest.fixture
def grid(recipe: Recipe) -> list[Cell]:
    return [cell for cell in cells(recipe) if cell.training is not None]


def work_of(recipe: Recipe, grid: list[Cell], done: tuple[Cell, ...] = ()) -> list[CellWork]:
    trained = {cell.id for cell in done}
    return [CellWork(cell, ALL, () if cell.id in trained else stages_of(recipe, cell)) for cell in grid]


def decided(
    recipe: Recipe, grid: list[Cell], states: dict[str, str], done: tuple[Cell, ...] = ()
) -> dict[str, JobChain | HeldBack]:
    """Decisions by cell, where each cell in `states` has one job of each of its stages in that state."""
    jobs, known = {}, {}
    for cell in grid:
        if cell.id in states:
            jobs[cell.id] = {stage: Submitted(f"{stage}:{cell.id}", 1, Path()) for stage in stages_of(recipe, cell)}
            known |= {job.job: JobState(states[cell.id]) for job in jobs[cell.id].values()}
    decisions = decide_all(recipe, work_of(recipe, grid, done), jobs, known, force=False)
    return {decision.cell.id: decision for decision in decisions}


def test_everything_is_submitted_at_once_each_level_after_the_one_it_starts_from(
    recipe: Recipe, grid: list[Cell]
) -> None:
    """Both runs share arrays: the segments A; then the segments B and the branches a; then b, and c apart from them."""
    chains = [chain for chain in decided(recipe, grid, {}).values() if isinstance(chain, JobChain)]
    levels = by_level(chains)
    assert [len(level) for level in levels] == [2, 4, 4]
    submitted: dict[str, tuple[SubmittedArray, int]] = {}
    groups = []
    for number, level in enumerate(levels):
        for group in array_groups(recipe, level, submitted, 100):
            names = tuple(chain.cell.id for chain in group.chains)
            entry = SubmittedArray(f"{number}{len(groups)}", "train", names, (1,) * len(names), "", 1, str(len(groups)))
            submitted |= {name: (entry, position) for position, name in enumerate(names)}
            groups.append((sorted({name.split("-")[3] for name in names}), [n.split("-")[2] for n in names], group))
    assert [(ends, seeds, group.condition) for ends, seeds, group in groups] == [
        (["until0.2"], ["s0", "s1"], None),
        (["until0.4"], ["s0", "s1"], "aftercorr:0"),
        (["end0.25"], ["s0", "s1"], "aftercorr:0"),
        (["end0.5"], ["s0", "s1"], "aftercorr:1"),
        (["end1"], ["s0", "s1"], "aftercorr:1"),
    ]


def test_a_branch_whose_segment_runs_waits_for_that_job_alone(recipe: Recipe, grid: list[Cell]) -> None:
    first, second, a, *_ = grid
    decisions = decided(recipe, grid[:5], {first.id: "COMPLETED", second.id: "RUNNING"}, done=(first,))
    assert decisions.keys() == {cell.id for cell in grid[2:5]}
    of_a, of_b = (decisions[cell.id] for cell in (a, grid[3]))
    assert isinstance(of_a, JobChain)
    assert isinstance(of_b, JobChain)
    assert (of_a.after, of_a.start) == ((), None)
    assert (of_b.after, of_b.start) == ((f"train:{second.id}",), None)


def test_jobs_that_wait_for_a_failed_segment_are_replaced_with_it(recipe: Recipe, grid: list[Cell]) -> None:
    """SLURM never starts them, or starts them too early if it forgets the job that they wait for."""
    first = grid[0]
    states = {cell.id: "PENDING" for cell in grid[:5]} | {first.id: "NODE_FAIL"}
    decisions = decided(recipe, grid[:5], states)
    assert decisions.keys() == {cell.id for cell in grid[:5]}
    for cell in grid[1:5]:
        chain = decisions[cell.id]
        assert isinstance(chain, JobChain)
        assert cell.start is not None
        assert chain.start == cell.start.id
        assert set(chain.replaced) == {f"{stage}:{cell.id}" for stage in stages_of(recipe, cell)}


def test_what_starts_from_a_held_back_segment_is_held_back_with_its_reason(recipe: Recipe, grid: list[Cell]) -> None:
    first = grid[0]
    failure = Failure("train", 1, 0, "1", "ValueError", "no such shards", "")
    record_failure(cell_folder(recipe, first), failure)
    decisions = decided(recipe, grid[:5], {first.id: "FAILED"})
    assert all(isinstance(decision, HeldBack) for decision in decisions.values())
    of_branch = decisions[grid[2].id]
    assert isinstance(of_branch, HeldBack)
    assert of_branch.cause.text.startswith(f"starts from {first.id}: ")
    assert "no such shards" in of_branch.cause.text


def test_a_part_of_an_array_is_waited_for_job_by_job(recipe: Recipe, grid: list[Cell]) -> None:
    """Of two segments in one array only one has branches left, so no branch may wait for the other."""
    chains = [chain for chain in decided(recipe, grid, {}).values() if isinstance(chain, JobChain)]
    a_of_seed_1 = next(chain for chain in chains if chain.cell.id.startswith("vit_s16-two-s1-end0.25"))
    array = SubmittedArray("x", "train", (grid[0].id, a_of_seed_1.start or ""), (1, 1), "", 1, "7")
    submitted = {cell: (array, position) for position, cell in enumerate(array.cells)}
    (group,) = array_groups(recipe, [a_of_seed_1], submitted, 100)
    assert group.condition == "afterok:7_1"
