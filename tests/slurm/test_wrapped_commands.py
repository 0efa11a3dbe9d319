"""The tiny study on a real SLURM behind a site's wrappers: banners, and an sbatch whose answers get lost."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, until
from slurm.test_sweep import FEW, sweep

from harness.launch.slurm.book.submissions import Submissions

ONE_CELL = ["grid.models=[vit_s16]", FEW, "grid.untrained=false", "grid.pixel_statistics=false"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOISY = 'echo "** Welcome **"; echo; {real} "$@"; status=$?; echo "CLUSTER: nautilus"; exit $status'
LOSES_ANSWERS = """\
case "$1" in --*) exec {real} "$@" ;; esac
answer=$({real} "$@") || exit 1
[ -z "$KILL_SWEEP" ] || kill -9 $PPID
case "$1" in
  *-embed-*) echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1 ;;
  *-evaluate-*) exit 0 ;;
esac
echo "${{answer##* }}"
"""


def jobs(cluster: Cluster) -> set[str]:
    """Ids of all jobs that the cluster has had in the last ten minutes, those that ended too."""
    return {job.split("_")[0] for job, _ in cluster.queue()}


@pytest.fixture
def wrapped_cluster(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, for commands of this process behind wrappers."""
    folder = tmp_path / "wrappers"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "sinfo", "scontrol", "scancel"):
        text = (LOSES_ANSWERS if name == "sbatch" else NOISY).format(real=shutil.which(name))
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return cluster


def test_a_study_finishes_although_most_answers_of_sbatch_are_lost(
    wrapped_cluster: Cluster, slurm_recipe: Path
) -> None:
    """Also the report job runs in the wrappers' environment."""
    earlier = jobs(wrapped_cluster)
    ended = sweep(slurm_recipe, *ONE_CELL)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("submitted job") == 4, ended.stdout
    assert "submitted job" not in sweep(slurm_recipe, *ONE_CELL).stdout
    output = slurm_recipe.parent / "out"
    until(lambda: (output / "report" / "recall_versus_compute.png").exists(), 300, "the report")
    ended = sweep("status", slurm_recipe, *ONE_CELL)
    assert "1 cells: 1 done" in ended.stdout, ended.stdout + ended.stderr
    recorded = [str(entry.array) for entry in Submissions(output).entries]
    assert sorted(recorded) == sorted(jobs(wrapped_cluster) - earlier), "none is lost, and none submitted twice"


def test_the_job_of_a_run_that_died_at_sbatch_is_adopted_and_works(
    wrapped_cluster: Cluster, slurm_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = jobs(wrapped_cluster)
    monkeypatch.setenv("KILL_SWEEP", "1")
    assert sweep(slurm_recipe, *ONE_CELL).returncode == -signal.SIGKILL
    assert len(jobs(wrapped_cluster) - earlier) == 1
    monkeypatch.delenv("KILL_SWEEP")
    ended = sweep(slurm_recipe, *ONE_CELL)
    assert [line.split(": ")[1] for line in ended.stdout.splitlines() if "submitted job" in line] == [
        "embed of 1 cells", "evaluate of 1 cells", "report",
    ]  # fmt: skip
    ledger = slurm_recipe.parent / "out" / "ledger"
    until(lambda: list(ledger.glob("*/evaluate.json")), 300, "the cell is evaluated")
    assert len(jobs(wrapped_cluster) - earlier) == 4, "training was submitted once"
