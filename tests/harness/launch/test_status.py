"""Covers `status` and `status_table`: each cell's state from the ledger, submissions, SLURM, heartbeats and train logs.

tests/harness/stages/test_shared_embedding.py covers stages that several jobs share.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from printed import read_table

from harness.data.prepare import prepare
from harness.grid.cell import Cell
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.grid.cells import cells
from harness.launch import status, status_table
from harness.launch.cell_status import CellStatus
from harness.launch.slurm.book import evidence
from harness.launch.slurm.book.entries import Submitted, SubmittedArray
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.commands import NoAnswerError
from harness.launch.slurm.failures import Failure, record_failure
from harness.launch.slurm.heartbeat import SILENT_SECONDS, heartbeat
from harness.launch.slurm.job_states import UNKNOWN, JobState
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import missing_stages
from harness.storage import ledger
from harness.storage.atomic import write_json
from harness.storage.health.sessions import Spent
from harness.storage.health.slow_nodes import SlowNode, record_slow_node
from harness.storage.ledger import LedgerRow

JOB = "7_0"
StatusOf = Callable[[JobState], CellStatus]


@pytest.fixture
def cell(tiny_recipe: Recipe) -> Cell:
    return next(cell for cell in cells(tiny_recipe) if cell.kind == "trained")


@pytest.fixture
def status_of(tiny_recipe: Recipe, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> StatusOf:
    """The cell's status if SLURM has its training, task 0 of array 7, in the given state."""
    other = next(other for other in cells(tiny_recipe) if other.id != cell.id)
    submissions = Submissions(tiny_recipe.output)
    submissions.plan(SubmittedArray("seven", "train", (cell.id, other.id), (1, 1), "/jobs/seven", 4))
    submissions.submitted("seven", "7")

    def status_in(state: JobState) -> CellStatus:
        monkeypatch.setattr(evidence, "states", lambda jobs, *_: dict.fromkeys(jobs, state))
        return next(row for row in status.statuses(tiny_recipe) if row.cell == cell.id)

    return status_in


@pytest.mark.parametrize(
    ("state", "expected", "reason"),
    [
        (JobState("PENDING", "Resources"), "queued", "Resources"),
        (JobState("PENDING", "DependencyNeverSatisfied"), "never", "a job that it depends on failed"),
        (JobState("NODE_FAIL"), "failed", "a node failed"),
        (JobState("OUT_OF_MEMORY"), "failed", "out of memory; resume --force tries again"),
        (JobState("HIBERNATING", "None"), "running", "squeue lists it as 'HIBERNATING'"),
        (UNKNOWN, "lost", "lost: SLURM no longer knows the job"),
    ],
)
def test_a_submitted_task_has_its_jobs_state(status_of: StatusOf, state: JobState, expected: str, reason: str) -> None:
    row = status_of(state)
    assert (row.stage, row.state, row.job, row.reason) == ("train", expected, JOB, reason)


def test_a_running_cell_shows_its_step_rate_and_eta(tiny_recipe: Recipe, cell: Cell, status_of: StatusOf) -> None:
    folder = cell_folder(tiny_recipe, cell)
    folder.mkdir(parents=True)
    log = {"kind": "train", "step": 50, "progress": 0.25, "crops_per_second": 20.0}
    (folder / TRAIN_LOG).write_text(json.dumps(log) + "\n")
    write_json(heartbeat(folder, "train"), {"job": JOB, "restart": 2, "time": 0.0})
    row = status_of(JobState("RUNNING"))
    assert (row.state, row.step, row.steps, row.restarts) == ("running", 50, 200, 2)
    assert row.eta_seconds == 150 * 8 / 20  # 150 steps of 8 crops


def test_without_accounting_a_recent_heartbeat_means_running(
    tiny_recipe: Recipe, cell: Cell, status_of: StatusOf
) -> None:
    path = heartbeat(cell_folder(tiny_recipe, cell), "train")
    path.parent.mkdir(parents=True)
    write_json(path, {"job": JOB, "restart": 0, "time": time.time()})
    assert status_of(UNKNOWN).state == "running"
    write_json(path, {"job": JOB, "restart": 0, "time": time.time() - 2 * SILENT_SECONDS})
    assert status_of(UNKNOWN).state == "lost"
    write_json(path, {"job": "6_0", "restart": 0, "time": time.time()})  # of an earlier job
    assert status_of(UNKNOWN).state == "lost"


@pytest.mark.parametrize(
    ("state", "expected", "reason"),
    [
        (JobState("CANCELLED", "None"), "cancelled", "cancelled; resume submits it again"),
        (JobState("CANCELLED", "DependencyNeverSatisfied"), "never", "a job that it depends on failed"),
        (JobState("CANCELLED", "Replaced"), "failed", "replaced by a newer submission"),
    ],
)
def test_what_somebody_cancelled_is_told_from_what_slurm_or_a_newer_submission_ended(
    status_of: StatusOf, state: JobState, expected: str, reason: str
) -> None:
    row = status_of(state)
    assert (row.state, row.reason) == (expected, reason)


def test_a_cell_that_is_recorded_as_cancelled_is_so_even_if_slurm_has_forgotten_its_job(
    tiny_recipe: Recipe, cell: Cell, status_of: StatusOf
) -> None:
    Submissions(tiny_recipe.output).cancel([cell.id])
    row = status_of(UNKNOWN)
    assert row.state == "cancelled"
    assert row.reason.startswith("cancelled by ")
    assert row.reason.endswith("; resume submits it again")
    assert status_of(JobState("RUNNING")).state == "running", "SLURM has not ended it yet"


def test_a_live_job_of_a_cell_that_the_recipe_no_longer_has_is_shown_apart(
    tiny_recipe: Recipe, cell: Cell, status_of: StatusOf
) -> None:
    submissions = Submissions(tiny_recipe.output)
    submissions.plan(SubmittedArray("old", "train", ("vit_s16-one-s0-00000000",), (1,), "/jobs/old", 4))
    submissions.submitted("old", "3")
    status_of(JobState("PENDING"))  # every job is
    rows = status.statuses(tiny_recipe)
    (orphan,) = [row for row in rows if row.orphan]
    assert (orphan.cell, orphan.state, orphan.job) == ("vit_s16-one-s0-00000000", "queued", "3")
    assert "cancel --orphans" in orphan.reason
    total = status_table.table(rows).splitlines()[-1]
    assert total.startswith(f"{len(rows) - 1} cells: ")
    assert total.endswith("; 1 live jobs of cells that the recipe does not have")
    status_of(JobState("COMPLETED"))
    assert not any(row.orphan for row in status.statuses(tiny_recipe))


def test_jobs_of_another_user_that_slurm_does_not_show_are_not_called_lost_by_slurm(
    tiny_recipe: Recipe, cell: Cell, status_of: StatusOf
) -> None:
    submissions = Submissions(tiny_recipe.output)
    submissions.plan(SubmittedArray("theirs", "train", (cell.id,), (2,), "/jobs/theirs", 4, user="alice"))
    submissions.submitted("theirs", "8")
    assert status_of(UNKNOWN).reason.startswith("SLURM does not show jobs of alice to ")


def test_a_damaged_line_is_named_and_costs_nothing_else(
    tiny_recipe: Recipe, status_of: StatusOf, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Submissions(tiny_recipe.output).path
    path.write_bytes(b"[" * 100_000 + b"\n" + path.read_bytes())
    assert status_of(JobState("RUNNING")).state == "running"
    assert f"note: {path}:1: not a line of a submissions file (" in capsys.readouterr().err


def test_without_an_answer_the_last_one_is_shown_and_as_of_when(
    tiny_recipe: Recipe, cell: Cell, status_of: StatusOf, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def silent(*_: object) -> dict[str, JobState]:
        raise NoAnswerError("Socket timed out")

    assert status_of(JobState("PENDING", "Resources")).as_of is None
    monkeypatch.setattr(evidence, "states", silent)
    rows = status.statuses(tiny_recipe)
    row = next(row for row in rows if row.cell == cell.id)
    assert (row.state, row.reason) == ("queued", "Resources")
    assert datetime.now().astimezone() - datetime.fromisoformat(str(row.as_of)) < timedelta(seconds=60)
    assert re.match(r"SLURM does not answer; as of (\d{4}-\d\d-\d\d )?\d\d:\d\d\n", status_table.table(rows))
    assert json.loads(status_table.as_json(rows))[0]["as_of"] == row.as_of
    assert capsys.readouterr().err == "note: Socket timed out\n"
    earlier = [replace(row, as_of="2026-01-31 12:31:05+00:00")]
    assert status_table.table(earlier).startswith("SLURM does not answer; as of 2026-01-31 12:31\n")


def test_an_exception_is_the_reason_of_a_failure(tiny_recipe: Recipe, cell: Cell, status_of: StatusOf) -> None:
    failure = Failure("train", 1, 0, JOB, "ValueError", "no images\ndetails", "Traceback ...")
    record_failure(cell_folder(tiny_recipe, cell), failure)
    assert status_of(JobState("FAILED")).reason == "ValueError: no images; resume --force tries again"


def test_the_table_has_a_row_per_cell_and_counts_states() -> None:
    rows = [
        CellStatus("a", "train", "running", "1", step=1500, steps=3000, crops_per_second=1234.5, eta_seconds=3725),
        CellStatus("b", "", "done"),
        CellStatus("c", "embed", "missing"),
        CellStatus("d", "", "done"),
    ]
    lines = status_table.table(rows).splitlines()
    assert lines[1].split() == ["a", "train", "running", "1,500/3,000", "1,234", "1:02:05"]
    everything = CellStatus("c" * 50, "train", "running", "1", 1_234_567, 9_999_999, 12.0, 61.0, 2, "its reason")
    (row,) = read_table(status_table.table([everything]), "cell")
    assert list(row) == ["cell", "stage", "state", "step", "crops/s", "ETA", "restarts", "reason"]
    values = ["c" * 50, "train", "running", "1,234,567/9,999,999", "12", "1:01", "2", "its reason"]
    assert list(row.values()) == values
    assert lines[-1] == "4 cells: 2 done, 1 running, 1 missing"
    assert [row["state"] for row in json.loads(status_table.as_json(rows))] == ["running", "done", "missing", "done"]


def test_goodput_is_shown_for_cells_and_for_all_of_them() -> None:
    rows = [
        CellStatus("a", "train", "running", spent=Spent(2.0, 1.5, 0.1, 0.1, 0.3, 1)),
        CellStatus("b", "", "done", spent=Spent(6.0, 5.7, 0.2, 0.1, 0.0, 0)),
        CellStatus("c", "", "missing"),
    ]
    text = status_table.table(rows)
    assert [line.split()[3:] for line in text.splitlines()[1:4]] == [["75%"], [], []]
    assert text.splitlines()[2].split() == ["b", "done", "95%"]
    assert text.splitlines()[-1] == (
        "training took 8.00 GPU or process hours: 90.0% useful, start-up 3.8%, saves 2.5%, lost 3.8%; 1 start failed"
    )
    assert json.loads(status_table.as_json(rows))[0]["spent"]["lost"] == 0.3


def test_a_slow_node_is_shown_with_what_leaves_it_out(tiny_recipe: Recipe) -> None:
    assert status_table.slow_nodes(tiny_recipe) == []
    record_slow_node(tiny_recipe.output, SlowNode("gpu-07", "vit", 1.6, "node gpu-07 is slow: rank 3", time.time()))
    (line,) = status_table.slow_nodes(tiny_recipe)
    assert line.startswith("node gpu-07 is slow: rank 3 (vit, 20")
    assert line.endswith("; launch.slurm.exclude_slow=true leaves it out from now on")


ODD_BEATS = [
    b"[]", b"7", b'{"job": "7_0"}', b'{"job": "7_0", "time": "now", "restart": 0}', b"[" * 100_000, b"\xff",
    b'{"job": "7_0", "time": 1e999, "restart": 0}', b'{"job": "7_0", "time": 1, "restart": []}',
]  # fmt: skip


@pytest.mark.parametrize("content", ODD_BEATS, ids=range(len(ODD_BEATS)))
def test_a_heartbeat_that_no_job_writes_is_no_sign_of_life(
    tiny_recipe: Recipe, cell: Cell, status_of: StatusOf, content: bytes
) -> None:
    path = heartbeat(cell_folder(tiny_recipe, cell), "train")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert status_of(UNKNOWN).state == "lost"


@pytest.mark.parametrize("fields", ['"progress": 0.5', '"progress": 0.5, "crops_per_second": "fast"', '"progress": 9'])
def test_a_log_without_a_rate_shows_no_eta(tiny_recipe: Recipe, cell: Cell, status_of: StatusOf, fields: str) -> None:
    folder = cell_folder(tiny_recipe, cell)
    folder.mkdir(parents=True)
    (folder / TRAIN_LOG).write_text(f'{{"kind": "train", "step": 50, {fields}}}\n')
    row = status_of(JobState("RUNNING"))
    assert (row.state, row.crops_per_second, row.eta_seconds) == ("running", None, None)
    status_table.table([row])


def test_the_time_left_counts_validations(tiny_recipe: Recipe, cell: Cell, status_of: StatusOf) -> None:
    folder = cell_folder(tiny_recipe, cell)
    folder.mkdir(parents=True)
    log = {"kind": "train", "step": 50, "progress": 0.25, "crops_per_second": 20.0, "seconds_left": 90.0}
    (folder / TRAIN_LOG).write_text(json.dumps(log) + "\n")
    assert status_of(JobState("RUNNING")).eta_seconds == 90.0


def test_what_starts_from_a_failed_segment_says_so(tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = "train.schedule={name: warmup_stable_decay, ends: [0.25, 0.5, 1.0]}"
    recipe = load(tiny_recipe_file, "laptop", [ends, "grid.models=[vit_s16]", "grid.datasets=[two]"])
    prepare(recipe)
    first, second, *branches = [cell for cell in cells(recipe) if cell.training is not None]
    latest = {(first.id, "train"): Submitted(JOB, 1, Path())}
    monkeypatch.setattr(status.Submissions, "latest", lambda submissions: latest)
    monkeypatch.setattr(evidence, "states", lambda jobs, *_: dict.fromkeys(jobs, JobState("OUT_OF_MEMORY")))
    rows = {row.cell: row for row in status.statuses(recipe)}
    assert (rows[first.id].state, rows[first.id].reason) == ("failed", "out of memory; resume --force tries again")
    for cell in (second, *branches):
        assert (rows[cell.id].state, rows[cell.id].reason) == ("never", f"starts from {first.id}, which failed")


def test_the_rows_of_the_trunk_are_not_the_progress_of_a_branch(tiny_recipe_file: Path) -> None:
    schedule = "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}"
    recipe = load(tiny_recipe_file, "laptop", [schedule, "grid.models=[vit_s16]", "grid.datasets=[two]"])
    trunk, branch, _ = [cell for cell in cells(recipe) if cell.training is not None]
    ledger.record(recipe.output, LedgerRow(trunk.id, "train", "x", {"steps": 19}))
    log = cell_folder(recipe, branch) / "train.jsonl"
    log.parent.mkdir(parents=True)
    shown = []
    for step, progress in ((19, 1.0), (20, 20 / 24)):
        log.write_text(json.dumps({"kind": "train", "step": step, "progress": progress}) + "\n")
        row = status._running(recipe, branch, "train", "1", 0)
        shown.append((row.state, row.step, row.steps))
    assert shown == [("running", None, None), ("running", 20, 24)]


def test_a_running_cell_shows_where_its_loss_will_end_and_what_is_in_doubt(
    tiny_recipe: Recipe, cell: Cell, status_of: StatusOf
) -> None:
    """A log as training writes it, of half a run; a finished cell of the same task has half of its loss."""
    trained = [other for other in cells(tiny_recipe) if other.kind == "trained" and other.model == cell.model]
    best = next(other for other in trained if other.id != cell.id)
    for run, last, scale in ((cell, 10, 1.0), (best, 20, 0.5)):
        rows: list[dict[str, float | str]] = []
        for number in range(1, last + 1):
            loss = scale * (0.6 + 0.4 * (number / 20) ** -0.4)
            rows.append({"kind": "train", "step": number, "progress": number / 20, "loss": loss, "learning_rate": 1e-4})
            rows.append({"kind": "validation", "step": number, "crops": number * 8, "validation_loss": loss})
        log = cell_folder(tiny_recipe, run) / TRAIN_LOG
        log.parent.mkdir(parents=True)
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = status_of(JobState("RUNNING"))
    assert row.outlook is not None
    assert row.outlook.low is not None
    assert row.outlook.high is not None
    assert row.outlook.low < 1.0 < row.outlook.high
    assert row.outlook.frontier is None
    fingerprint = missing_stages(tiny_recipe, best).fingerprints["train"]
    values = {"crops": 160, "steps": 20, "planned_steps": 20, "annealed": True, "validation_loss": 0.5}
    ledger.record(tiny_recipe.output, LedgerRow(best.id, "train", fingerprint, values))
    row = status_of(JobState("RUNNING"))
    assert row.outlook is not None
    assert row.outlook.frontier is not None
    assert (row.outlook.frontier.cell, row.outlook.siblings) == (best.id, 1)
    assert row.outlook.verdict == "cannot reach the frontier"
    shown = status_table.table([row]).splitlines()
    assert "final loss" in shown[0]
    assert f"{row.outlook.final:.4g} [{row.outlook.low:.4g}, {row.outlook.high:.4g}]" in shown[1]
    assert "cannot reach the frontier: at 50% of its schedule" in shown[1]
    assert json.loads(status_table.as_json([row]))[0]["outlook"]["frontier"]["loss"] == 0.5
