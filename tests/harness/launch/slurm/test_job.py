"""Covers `job` and `heartbeat`: a job records its failure, and requeues itself only after SIGUSR2.

tests/slurm/test_sweep.py preempts, kills and requeues real jobs.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from harness.distributed.preemption import Preempted, RunControl, StopFlag
from harness.distributed.stalls.pulse import ENDED, Ending
from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.launch.slurm import commands, job
from harness.launch.slurm.failures import first_failure, stops
from harness.launch.slurm.heartbeat import heartbeat, job_id
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage.fencing import Fenced


@pytest.fixture
def recipe(tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The tiny study, in the environment of array task 3 of job 12, restarted once."""
    variables = {
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_PROCID": "0",
        "SLURM_RESTART_COUNT": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(job, "start_heartbeat", lambda path: path.write_text("{}"))
    monkeypatch.setattr(job, "REQUEUE_SECONDS", 0)
    return load(tiny_recipe_file, "laptop")


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of requeued jobs."""
    jobs: list[str] = []
    monkeypatch.setattr(commands, "requeue", jobs.append)
    return jobs


def test_an_exception_is_recorded_with_its_rank_and_attempt(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(recipe: Recipe, cell: Cell, task: str, control: RunControl) -> None:
        raise ValueError("no images")

    monkeypatch.setattr(job.shared_embedding, "run_task", fail)
    cell = cells(recipe)[0]
    with pytest.raises(ValueError, match="no images"):
        job.run_task(recipe.model_dump_json(), cell.id, "embed", 2)
    folder = cell_folder(recipe, cell)
    failure = first_failure(folder, "embed", 2)
    assert failure is not None
    assert (failure.rank, failure.job, failure.kind, failure.message) == (0, "12_3", "ValueError", "no images")
    assert "Traceback" in failure.trace
    assert heartbeat(folder, "embed").exists()
    assert json.loads((folder / "fence-embed.json").read_text()) == {"attempt": 2, "restart": 1, "job": "12_3"}


def stopped_by(number: signal.Signals, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cell whose job gets a signal, and stops as it should."""

    def stop(recipe: Recipe, cell: Cell, task: str, control: RunControl) -> None:
        os.kill(os.getpid(), number)
        assert control.stop
        raise Preempted(str(control.stop))

    monkeypatch.setattr(job.shared_embedding, "run_task", stop)
    cell = cells(recipe)[0]
    with pytest.raises(Preempted):
        job.run_task(recipe.model_dump_json(), cell.id, "embed", 1)
    return cell_folder(recipe, cell)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGUSR2, ["12_3"]), (signal.SIGTERM, [])])
def test_only_sigusr2_requeues_the_job(
    recipe: Recipe, requeued: list[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, expected: list[str]
) -> None:
    """A job that does not requeue itself leaves a record, which is removed when SLURM starts it again."""
    folder = stopped_by(number, recipe, monkeypatch)
    assert requeued == expected
    failure = first_failure(folder, "embed", 1)
    assert (failure and (failure.kind, failure.message)) == (None if expected else ("Preempted", "SIGTERM"))
    assert stops(folder, "embed") == (0 if expected else 1)
    monkeypatch.setattr(job.shared_embedding, "run_task", lambda *_: None)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    job.run_task(recipe.model_dump_json(), folder.name, "embed", 1)
    assert stops(folder, "embed") == 0


def test_without_requeue_a_job_that_is_told_to_stop_ends_after_its_save(
    tiny_recipe_file: Path, recipe: Recipe, requeued: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = load(tiny_recipe_file, "laptop", ["launch.slurm.options={requeue: false}"])
    folder = stopped_by(signal.SIGUSR2, never, monkeypatch)
    assert requeued == []
    assert stops(folder, "embed") == 1


def test_a_job_that_slurm_refuses_to_requeue_ends_after_its_save(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(job_: str) -> None:
        raise commands.SlurmError("Requested operation is presently disabled")

    monkeypatch.setattr(commands, "requeue", refuse)
    monkeypatch.setattr(job, "REQUEUE_SECONDS", 3600)
    folder = stopped_by(signal.SIGUSR2, recipe, monkeypatch)
    assert stops(folder, "embed") == 1
    assert "not requeued: Requested operation is presently disabled" in capfd.readouterr().err


def test_an_older_start_is_fenced_off(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.shared_embedding, "run_task", lambda *_: None)
    cell = cells(recipe)[0]
    job.run_task(recipe.model_dump_json(), cell.id, "embed", 2)
    with pytest.raises(Fenced):
        job.run_task(recipe.model_dump_json(), cell.id, "embed", 1)


def test_the_job_id_is_that_of_the_array_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job_id() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    assert job_id() == "15"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id() == "12_3"


@pytest.mark.parametrize(
    ("told", "signalled", "speaks", "expected"),
    [
        (False, None, True, ["12_3"]),
        (False, None, False, []),
        (True, "SIGUSR2", True, ["12_3"]),
        (True, "SIGTERM", True, []),
    ],
    ids=["limit", "limit-other-rank", "SIGUSR2", "SIGTERM"],
)
def test_a_stalled_job_is_requeued_by_one_rank_unless_it_was_cancelled(
    recipe: Recipe, requeued: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *,
    told: bool, signalled: str | None, speaks: bool, expected: list[str],
) -> None:  # fmt: skip
    exits = list[int]()
    monkeypatch.setattr(job.os, "_exit", exits.append)
    stop = StopFlag()
    stop.reason = signalled
    job.end_stalled(tmp_path, "train", 1, 0, stop)(Ending("rank 3 is not answering", speaks, told))
    assert (requeued, exits) == (expected, [ENDED])
    failure = first_failure(tmp_path, "train", 1)
    assert (failure is not None) == speaks
    if failure is not None:
        assert (failure.kind, failure.message, failure.job) == ("Stalled", "rank 3 is not answering", "12_3")


def test_a_job_that_hangs_each_time_at_the_same_step_is_requeued_twice(
    recipe: Recipe, requeued: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Progress between two stalls gives it two more."""
    monkeypatch.setattr(job.os, "_exit", lambda status: None)
    end = job.end_stalled(tmp_path, "train", 1, 0, StopFlag())
    for step, count in ((7, 1), (7, 2), (7, 2), (9, 3), (8, 4), (9, 4)):
        end(Ending("rank 3 is not answering", True, False, step))
        assert len(requeued) == count


def test_a_stalled_job_that_slurm_does_not_requeue_ends_all_the_same(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(job_: str) -> None:
        raise commands.SlurmError("requeue is disabled")

    exits = list[int]()
    monkeypatch.setattr(commands, "requeue", refuse)
    monkeypatch.setattr(job.os, "_exit", exits.append)
    job.end_stalled(tmp_path, "train", 1, 0, StopFlag())(Ending("rank 3 is not answering", True, False))
    assert exits == [ENDED]
    assert "not requeued: requeue is disabled" in capfd.readouterr().err
