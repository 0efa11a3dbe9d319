"""Covers `cancel`: which jobs are cancelled, in which order, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_stubs import Stubs

from harness.launch.slurm.book.entries import SubmittedArray
from harness.launch.slurm.book.evidence import UnaccountedError
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.cancel import CancelResult, cancel, cancel_orphans
from harness.launch.slurm.job_states import JobState
from harness.recipe.load import load
from harness.recipe.schema import Recipe

GRID = ["a", "b", "c"]
JOBS = {"5_0": "RUNNING", "5_1": "PENDING", "6": "PENDING", "7": "RUNNING", "8": "PENDING", "9": "FAILED"}


@pytest.fixture
def recipe(tiny_recipe_file: Path, stubs: Stubs) -> Recipe:
    """Live jobs of a, b and an old cell, a report, and one that is lost; d, and another user's job of c, have ended."""
    recipe = load(tiny_recipe_file, "laptop", ["launch.executor=slurm"])
    submissions = Submissions(recipe.output)
    for number, stage, cells, user in (
        ("5", "train", ("a", "b"), ""), ("6", "embed", ("a",), ""), ("7", "train", ("old",), ""),
        ("8", "report", (), ""), ("9", "train", ("c",), "alice"), ("10", "train", ("d",), ""),
    ):  # fmt: skip
        name = f"study-{number}"
        submissions.plan(SubmittedArray(name, stage, cells, (1,) * len(cells), f"/jobs/{name}", 4, user=user))
        submissions.submitted(name, number)
    lost = recipe.output.resolve() / "jobs" / "study-11" / "submission.sh"
    live = "\n".join(f"{job}|{job if '_' in job else job + '_N/A'}|{state}|None" for job, state in JOBS.items())
    stubs.script(
        "squeue",
        f'case "$*" in *%o*) printf "ARRAY_JOB_ID|NAME|COMMAND\\n11|study-11|{lost}\\n" ;;\n'
        f'*) printf "JOBID|ARRAY_JOB_ID_ARRAY_TASK_ID|STATE|REASON\\n{live}\\n10|10_N/A|COMPLETED|None\\n" ;; esac',
    )
    for name in ("sacct", "scancel"):
        stubs.answer(name)
    return recipe


def test_of_a_study_the_report_is_cancelled_first_and_every_cell_stays_cancelled(recipe: Recipe, stubs: Stubs) -> None:
    result = cancel(recipe, GRID)
    assert stubs.calls("scancel") == ["8", "5_0 5_1 6 7 11"]
    assert result == CancelResult(5, ("a", "b", "old"))
    stored = Submissions(recipe.output)
    assert stored.cancelled.keys() == {"a", "b", "c", "old"}
    assert stored.ended == {"9": JobState("FAILED", "None"), "10": JobState("COMPLETED", "None")}


def test_of_cells_only_their_jobs_are_cancelled(recipe: Recipe, stubs: Stubs) -> None:
    assert cancel(recipe, GRID, ["b"]).jobs == 1
    assert stubs.calls("scancel") == ["5_1"]
    assert cancel(recipe, GRID, ["c"]).jobs == 0, "a cell without a live job"
    assert Submissions(recipe.output).cancelled.keys() == {"b", "c"}, "is not submitted by the report job either"


def test_it_is_recorded_before_a_job_is_cancelled(recipe: Recipe, stubs: Stubs) -> None:
    """Else the report job could submit it again, if this process were killed between the two."""
    stubs.answer("scancel", messages="scancel: error: Access/permission denied\n", status=1)
    with pytest.raises(RuntimeError, match="permission denied"):
        cancel(recipe, GRID, ["b"])
    assert Submissions(recipe.output).cancelled.keys() == {"b"}


def test_orphans_are_cancelled_alone(recipe: Recipe, stubs: Stubs) -> None:
    assert cancel_orphans(recipe, GRID) == CancelResult(1, ("old",))
    assert stubs.calls("scancel") == ["7"]


def test_jobs_of_another_user_are_not_cancelled_and_neither_are_their_cells(recipe: Recipe, stubs: Stubs) -> None:
    script = (stubs.folder / "squeue").read_text()
    (stubs.folder / "squeue").write_text(script.replace("9|9_N/A|FAILED", "9|9_N/A|RUNNING"))
    with pytest.raises(UnaccountedError, match=r"of alice, .*: 9; nothing was cancelled\. alice can cancel them"):
        cancel(recipe, GRID)
    assert stubs.calls("scancel") == []
    assert not Submissions(recipe.output).cancelled


def test_without_jobs_slurm_is_not_asked_and_the_cells_are_cancelled(tiny_recipe_file: Path, stubs: Stubs) -> None:
    recipe = load(tiny_recipe_file, "laptop")
    assert cancel(recipe, GRID, ["a"]) == CancelResult(0, ())
    assert set(Submissions(recipe.output).cancelled) == {"a"}
    assert cancel(recipe, GRID) == CancelResult(0, ())
    assert set(Submissions(recipe.output).cancelled) == {*GRID, "a"}
