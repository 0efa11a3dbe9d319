"""What people do around a study on a real SLURM: they cancel, share an output, edit recipes and lose files.

Exercises `cancel`, `owner` and `book` of harness/launch. Jobs sleep before they begin, but where they have to work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, until
from slurm.test_sweep import ROOT, statuses, sweep

from harness.launch.slurm.book.submissions import Submissions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLEEPING = (
    'launch.slurm.setup=["case $SLURM_JOB_NAME in *-report-*) ;; *) sleep 600 ;; esac"]', "grid.models=[vit_s16]",
    "grid.untrained=false", "grid.pixel_statistics=false",
)  # fmt: skip
CAPABILITIES = "+dac_override,+dac_read_search"  # another user may read and write files, as in a shared group folder


def submissions(recipe: Path) -> Submissions:
    return Submissions(recipe.parent / "out")


def live(cluster: Cluster) -> set[str]:
    """Ids of the jobs and array tasks that are queued or running."""
    return {job for job, state in cluster.queue() if state in ("PENDING", "RUNNING", "COMPLETING")}


def job_of(recipe: Path, cell: str, task: str) -> str:
    return submissions(recipe).latest()[cell, task].job


def wait_until_running(cluster: Cluster, job: str) -> None:
    until(lambda: (job, "RUNNING") in set(cluster.queue()), 60, f"{job} runs")


def test_what_somebody_cancels_stays_cancelled_until_resume(cluster: Cluster, slurm_recipe: Path) -> None:
    """One cell by `cancel`, one by scancel. The report job, which submits failed cells again, runs after them."""
    assert sweep(slurm_recipe, *SLEEPING).returncode == 0
    by_cancel, by_scancel = sorted({cell for cell, _ in submissions(slurm_recipe).latest()})
    for cell in (by_cancel, by_scancel):
        wait_until_running(cluster, job_of(slurm_recipe, cell, "train"))
    assert "cancelled 3 jobs" in sweep("cancel", slurm_recipe, *SLEEPING, by_cancel).stdout
    cluster.run("scancel", job_of(slurm_recipe, by_scancel, "train"))
    until(lambda: not live(cluster), 120, "the report job is done")
    report = slurm_recipe.parent / "out" / "report" / "report.html"
    assert report.exists(), "the report job ran"

    def attempts() -> set[int]:
        return {submitted.attempt for submitted in submissions(slurm_recipe).latest().values()}

    assert attempts() == {1}, "nothing was submitted again"
    rows = {str(row["cell"]): row for row in json_rows(slurm_recipe)}
    assert {row["state"] for row in rows.values()} == {"cancelled"}
    assert str(rows[by_cancel]["reason"]).startswith("cancelled by ")
    assert rows[by_scancel]["reason"] == "cancelled; resume submits it again"
    again = sweep(slurm_recipe, *SLEEPING)
    assert again.stdout.count("held back ") == 2
    assert "submitted job" not in again.stdout
    job = job_of(slurm_recipe, by_scancel, "train")
    assert submissions(slurm_recipe).ended[job].was_cancelled, "also if SLURM forgets the job"
    resumed = sweep("resume", slurm_recipe, *SLEEPING)
    assert "submitted job" in resumed.stdout, resumed.stdout + resumed.stderr
    assert attempts() == {2}
    assert "cancelled 6 jobs" in sweep("cancel", slurm_recipe, *SLEEPING).stdout
    until(lambda: not live(cluster), 60, "everything is cancelled, the report job too")
    assert sweep(slurm_recipe, *SLEEPING).stdout.count("held back ") == 2


def json_rows(recipe: Path, *words: str) -> list[dict[str, object]]:
    return statuses(recipe, *SLEEPING, *words)


def test_a_damaged_or_lost_book_submits_nothing_twice(cluster: Cluster, slurm_recipe: Path) -> None:
    assert sweep(slurm_recipe, *SLEEPING).returncode == 0
    before, queued = submissions(slurm_recipe).entries, live(cluster)
    book = slurm_recipe.parent / "out" / "jobs" / "book.jsonl"

    def assert_nothing_is_submitted() -> str:
        ended = sweep("resume", slurm_recipe, *SLEEPING)
        assert "every missing cell is already queued or running" in ended.stdout, ended.stdout + ended.stderr
        assert live(cluster) == queued
        ids = {entry.name: (entry.array, entry.cells, entry.attempts) for entry in submissions(slurm_recipe).entries}
        assert ids == {entry.name: (entry.array, entry.cells, entry.attempts) for entry in before}
        return ended.stderr

    book.write_bytes(book.read_bytes()[: book.stat().st_size // 2])
    assert "not a line of a submissions file" in assert_nothing_is_submitted()
    book.unlink()
    assert_nothing_is_submitted()
    (book.parent / "book.json").write_text('{"version": 1, "entr')  # half a file of an earlier version
    book.unlink()
    assert_nothing_is_submitted()
    shutil.move(book.parent, book.parent.with_name("elsewhere"))
    lost = sweep("resume", slurm_recipe, *SLEEPING)
    assert lost.returncode == 2
    assert all(f"{entry.array} ({entry.name})" in lost.stderr for entry in before), lost.stderr
    assert live(cluster) == queued
    assert sweep("cancel", slurm_recipe, *SLEEPING).returncode == 0
    until(lambda: not live(cluster), 60, "the lost jobs are cancelled")


def test_jobs_of_cells_from_before_an_edit_are_shown_and_cancelled_by_name(
    cluster: Cluster, slurm_recipe: Path
) -> None:
    assert sweep(slurm_recipe, *SLEEPING).returncode == 0
    old = {str(row["cell"]) for row in json_rows(slurm_recipe)}
    edited = [*SLEEPING, "train.learning_rate=0.00031"]
    ended = sweep(slurm_recipe, *edited)
    assert "submitted job" in ended.stdout
    assert ended.stdout.count("still live, though the recipe does not have it: ") == 6
    assert "cancel --orphans ends them" in ended.stdout
    rows = statuses(slurm_recipe, *edited)
    assert {str(row["cell"]) for row in rows if row["orphan"]} == old
    new = {str(row["cell"]) for row in rows} - old
    assert len(new) == len(old) == 2
    assert "cancelled 6 jobs" in sweep("cancel", slurm_recipe, *edited, "--orphans").stdout
    latest = submissions(slurm_recipe).latest()
    until(
        lambda: (
            {job.split("_")[0] for job in live(cluster)}
            == {submitted.job.split("_")[0] for (cell, _), submitted in latest.items() if cell in new}
            | {report for report in live(cluster) if "_" not in report}
        ),
        60,
        "only the new cells' jobs are left",
    )
    assert not any(row["orphan"] for row in statuses(slurm_recipe, *edited))
    assert "cancelled 0 jobs" in sweep("cancel", slurm_recipe, *edited, "--orphans").stdout


def test_an_output_belongs_to_one_recipe_and_one_user_at_a_time(cluster: Cluster, slurm_recipe: Path) -> None:
    """The other user, whom SLURM shows no jobs of this one, is stopped by the book, a heartbeat and a fence."""
    works = ["train.epochs=2000", "grid.datasets=[one]", *SLEEPING[1:]]
    assert sweep(slurm_recipe, *works).returncode == 0
    ((cell, _), *_) = submissions(slurm_recipe).latest()
    folder, jobs = slurm_recipe.parent / "out" / "cells" / cell, slurm_recipe.parent / "out" / "jobs"
    until((folder / "heartbeat-train.json").exists, 120, "the cell trains")
    queued = live(cluster)

    copy = slurm_recipe.with_name("copy.yaml")
    shutil.copy(slurm_recipe, copy)
    for verb in ("run", "cancel"):
        refused = sweep(verb, copy, *works)
        assert refused.returncode == 2
        assert f"belongs to another recipe, {slurm_recipe}" in refused.stderr

    if os.getuid() == 0 and shutil.which("setpriv"):
        others = as_nobody("run", slurm_recipe, *works)
        assert others.returncode == 2, others.stdout
        assert "holds a study of root, whose jobs are not known to have ended: " in others.stderr
        away = jobs.with_name("elsewhere")
        shutil.move(jobs, away)
        beating = as_nobody("run", slurm_recipe, *works)
        assert f"{cell}: job {min(queued, key=int)} of root works on its stage train" in beating.stderr, beating.stderr
        for _ in range(5):  # the job writes its heartbeat again, perhaps before the other user's command has looked
            (folder / "heartbeat-train.json").unlink(missing_ok=True)
            fenced = as_nobody("run", slurm_recipe, *works)
            if not (folder / "heartbeat-train.json").exists():
                break
        assert "it was the last to start it, by " in fenced.stderr, fenced.stderr
        shutil.rmtree(jobs)
        shutil.move(away, jobs)
    locally = sweep(slurm_recipe, *works, "launch.executor=local")
    assert locally.returncode == 2
    assert "jobs of a cluster are live for " in locally.stderr
    assert live(cluster) == queued, "nothing was submitted, and nothing cancelled"


def as_nobody(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as the user nobody."""
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    user += [f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"]
    command = [*user, sys.executable, "-m", "harness.sweep", *map(str, arguments), "--profile", "laptop"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
