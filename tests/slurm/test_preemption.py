"""Preemption that cancels jobs instead of requeuing them, on a real SLURM: PreemptMode=CANCEL.

Exercises what `failures`, `job_chains` and `report_job` of harness/launch/slurm make of it. test_sweep.py has the kind
that requeues.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, until
from slurm.test_options import LONG
from slurm.test_people import SLEEPING, job_of, json_rows, submissions, wait_until_running
from slurm.test_sweep import FEW, sweep

from harness.launch.slurm.job_states import states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHEAP = "launch.slurm.partition=cheap"  # 30 s from SIGTERM to the end
USER_SIGNAL = "SlurmctldParameters=preempt_send_user_signal"


@pytest.fixture
def sigterm_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, which preempts with SIGTERM only, as is SLURM's default."""
    path = cluster.folder / "slurm.conf"
    before = path.read_text()
    path.write_text(before.replace(USER_SIGNAL, ""))
    cluster.run("scontrol", "reconfigure")
    yield cluster
    path.write_text(before)
    cluster.run("scontrol", "reconfigure")


def preempt(cluster: Cluster) -> None:
    """Let a job of a higher priority take all nodes for a second."""
    cluster.run("sbatch", "--partition=main", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")


def attempt(recipe: Path, cell: str) -> int:
    return submissions(recipe).latest()[cell, "train"].attempt


def test_a_job_that_is_cancelled_by_preemption_saves_and_is_submitted_again(
    sigterm_cluster: Cluster, slurm_recipe: Path
) -> None:
    """With one attempt at most: it has saved in time, so that nothing failed."""
    settings = [*LONG, CHEAP, "launch.slurm.attempts=1"]
    assert sweep(slurm_recipe, *settings).returncode == 0
    ((cell, _), *_) = submissions(slurm_recipe).latest()
    folder, job = slurm_recipe.parent / "out" / "cells" / cell, job_of(slurm_recipe, cell, "train")
    until(lambda: (folder / "train.jsonl").exists(), 120, "it trains")
    preempt(sigterm_cluster)
    until(lambda: attempt(slurm_recipe, cell) == 2, 120, "the report job submits it again")
    ended = submissions(slurm_recipe).ended[job]
    assert ended.state in ("FAILED", "PREEMPTED"), "SLURM 22.05 says FAILED where the job ends before the grace time"
    assert "SIGTERM; saved at step " in (folder / "failures" / "train-1-0.json").read_text()
    until(lambda: list(folder.parents[1].glob("ledger/*/evaluate.json")), 300, "the cell is evaluated")


def test_a_job_that_preemption_kills_is_not_taken_for_cancelled(sigterm_cluster: Cluster, slurm_recipe: Path) -> None:
    settings = [*SLEEPING, FEW, CHEAP]
    assert sweep(slurm_recipe, *settings).returncode == 0
    ((cell, _), *_) = submissions(slurm_recipe).latest()
    job = job_of(slurm_recipe, cell, "train")
    wait_until_running(sigterm_cluster, job)
    preempt(sigterm_cluster)
    until(lambda: states([job])[job].state == "PREEMPTED", 60, "it is preempted")
    assert not states([job])[job].was_cancelled
    until(lambda: attempt(slurm_recipe, cell) == 2, 120, "the report job submits it again")
    (row,) = json_rows(slurm_recipe, FEW, CHEAP)
    assert row["state"] in ("queued", "running")
    assert submissions(slurm_recipe).ended[job].state == "PREEMPTED"
    sweep("cancel", slurm_recipe, *settings)
