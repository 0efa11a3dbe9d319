"""Covers `job_chains`, and the checks of `submit` that need no cluster.

tests/harness/stages/test_shared_embedding.py covers cells that several jobs embed; tests/slurm/test_sweep.py submits
arrays to a real SLURM.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.launch.slurm import commands
from harness.launch.slurm.book import submissions
from harness.launch.slurm.book.entries import Submitted
from harness.launch.slurm.book.lines import Cancelled
from harness.launch.slurm.failures import STOPPED, Cause, Failure, record_failure
from harness.launch.slurm.job_chains import HeldBack, JobChain, decide, decide_all
from harness.launch.slurm.job_states import NEVER, REPLACED, UNKNOWN, JobState
from harness.launch.slurm.report_job import report_and_resume
from harness.launch.slurm.submit import submit
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage.ledger import Stage

STAGES: tuple[Stage, ...] = ("train", "embed", "evaluate")


@pytest.fixture
def recipe(tiny_recipe_file: Path) -> Recipe:
    return load(tiny_recipe_file, "laptop", ["launch.slurm.attempts=2"])


@pytest.fixture
def cell(recipe: Recipe) -> Cell:
    return next(cell for cell in cells(recipe) if cell.kind == "trained")


def decision(
    recipe: Recipe,
    cell: Cell,
    *,
    attempt: int = 1,
    force: bool = False,
    resume: bool = False,
    missing: tuple[Stage, ...] = STAGES,
    **jobs: str,
) -> JobChain | HeldBack | None:
    """What is decided for a cell whose jobs, named for their stages, are in these states."""
    submitted = {stage: Submitted(stage, attempt, Path()) for stage in jobs}
    known = {stage: JobState(state) for stage, state in jobs.items()}
    return decide(recipe, CellWork(cell, dict.fromkeys(STAGES, "f"), missing), submitted, known, force, resume=resume)


def test_a_new_cell_is_submitted_completely_and_a_live_one_not_at_all(recipe: Recipe, cell: Cell) -> None:
    assert decision(recipe, cell) == JobChain(cell, (("train",), ("embed",), ("evaluate",)), (), (), ())
    assert decision(recipe, cell, train="RUNNING", embed="PENDING", evaluate="PENDING") is None


def test_a_cancelled_stage_that_is_resumed_waits_for_the_live_one_and_replaces_the_one_after(
    recipe: Recipe, cell: Cell
) -> None:
    held = decision(recipe, cell, train="RUNNING", embed="CANCELLED", evaluate="PENDING")
    assert isinstance(held, HeldBack)
    assert (held.task, held.cause) == ("embed", Cause("cancelled", "cancelled"))
    chain = decision(recipe, cell, resume=True, train="RUNNING", embed="CANCELLED", evaluate="PENDING")
    assert chain == JobChain(cell, (("embed",), ("evaluate",)), ("train",), (), ("evaluate",))


def test_transient_failures_are_retried_until_the_attempts_are_used_up(recipe: Recipe, cell: Cell) -> None:
    assert isinstance(decision(recipe, cell, train="NODE_FAIL"), JobChain)
    held = decision(recipe, cell, attempt=2, train="NODE_FAIL")
    assert isinstance(held, HeldBack)
    assert (held.task, held.cause.text) == ("train", "a node failed; 2 attempts")
    assert isinstance(decision(recipe, cell, attempt=2, resume=True, train="CANCELLED"), JobChain)


def test_only_resume_submits_again_what_somebody_cancelled(recipe: Recipe, cell: Cell) -> None:
    """Not what SLURM cancelled because a dependency failed, nor what a newer submission replaced."""
    work = CellWork(cell, dict.fromkeys(STAGES, "f"), STAGES)
    jobs = {"train": Submitted("1", 1, Path())}
    for reason, is_held in (("None", True), ("JobHeldUser", True), (NEVER, False), (REPLACED, False)):
        known = {"1": JobState("CANCELLED", reason)}
        for force in (False, True):
            assert isinstance(decide(recipe, work, jobs, known, force), HeldBack) == is_held, reason
        assert isinstance(decide(recipe, work, jobs, known, False, resume=True), JobChain)


def test_a_cell_that_is_recorded_as_cancelled_is_held_back_whatever_its_jobs(recipe: Recipe, cell: Cell) -> None:
    """Also one without a job, and what starts from it."""
    mark = Cancelled((cell.id,), "alice", "2026-11-27 12:31:05")
    work = CellWork(cell, dict.fromkeys(STAGES, "f"), STAGES)
    for jobs, state in (({}, UNKNOWN), ({cell.id: {"train": Submitted("1", 1, Path())}}, JobState("NODE_FAIL"))):
        (held,) = decide_all(recipe, [work], jobs, {"1": state}, force=True, cancelled={cell.id: mark})
        assert isinstance(held, HeldBack)
        assert (held.task, held.cause.text) == ("train", "cancelled by alice, 2026-11-27 12:31:05")
    done = CellWork(cell, dict.fromkeys(STAGES, "f"), ())
    assert decide_all(recipe, [done], {}, {}, force=False, cancelled={cell.id: mark}) == []


def test_attempts_that_were_told_to_stop_are_not_counted(recipe: Recipe, cell: Cell) -> None:
    """Three of the attempts were stopped after a save. Two failures are the most that this recipe allows."""
    for attempt in (1, 3, 4):
        record_failure(cell_folder(recipe, cell), Failure("train", attempt, 0, "1", STOPPED, "saved at step 7", ""))
    assert isinstance(decision(recipe, cell, attempt=4, train="TIMEOUT"), JobChain)
    held = decision(recipe, cell, attempt=5, train="TIMEOUT")
    assert isinstance(held, HeldBack)
    assert held.cause.text == "the time limit; 2 attempts"


def test_permanent_failures_are_held_back_unless_forced(recipe: Recipe, cell: Cell) -> None:
    record_failure(cell_folder(recipe, cell), Failure("embed", 1, 0, "1", "ValueError", "no wells", "Traceback ..."))
    left: tuple[Stage, ...] = ("embed", "evaluate")
    held = decision(recipe, cell, missing=left, embed="FAILED")
    assert isinstance(held, HeldBack)
    assert held.cause.text == "ValueError: no wells"
    assert isinstance(decision(recipe, cell, missing=left, force=True, embed="FAILED"), JobChain)


def test_a_refused_request_or_time_limit_submits_nothing(
    recipe: Recipe, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [CellWork(cell, dict.fromkeys(STAGES, "f"), STAGES)]
    monkeypatch.setattr(submissions, "submitted_from", lambda folder: {})
    monkeypatch.setattr(commands, "longest_minutes", lambda partition: 30.0)
    with pytest.raises(commands.SlurmError, match=r"end after 0\.5 hours: set launch\.slurm\.hours"):
        submit(recipe, work, report_and_resume)
    monkeypatch.setattr(commands, "longest_minutes", lambda partition: float("inf"))
    monkeypatch.setattr(commands, "refusal", lambda options: "invalid account or account/partition combination")
    with pytest.raises(commands.SlurmError, match=r"set launch\.slurm\.(partition|account) in the recipe; nothing was"):
        submit(recipe, work, report_and_resume)
    assert not (recipe.output / "jobs" / "book.jsonl").exists()
