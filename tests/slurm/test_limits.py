"""A study that is larger than the number of jobs which SLURM allows a user, on a real SLURM with accounting.

Exercises `arrays/submitter` and `report_job` of harness/launch/slurm.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, start, until
from slurm.test_people import SLEEPING, submissions
from slurm.test_sweep import FEW, statuses, sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = "QOSMaxSubmitJobPerUserLimit"
CELLS = ["grid.models=[vit_s16]", FEW, "grid.seeds=[0,1,2,3,4]", "grid.untrained=false", "grid.pixel_statistics=false"]


@pytest.fixture(scope="module")
def limited_cluster() -> Iterator[Cluster]:
    """A cluster of its own, which enforces limits: those of the quality of service, which come before others."""
    cluster = start(enforce=True, nodes=2, port=12_000 + os.getpid() % 40 * 100)
    try:
        runs = ["maxjobsperuser=1000", "maxwall=100000"]
        cluster.run("sacctmgr", "-i", "-Q", "modify", "qos", "normal", "set", *runs)
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def strict_cluster(limited_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The same without jobs; commands of this process reach it too."""
    for name in ("SLURM_CONF", "PATH", "LC_ALL"):
        monkeypatch.setenv(name, limited_cluster.environment[name])
    yield limited_cluster
    limited_cluster.run("scancel", "--me")
    until(lambda: not limited_cluster.run("squeue", "-h"), 30, "the queue is empty")


def allow(cluster: Cluster, jobs: int) -> None:
    """Let each user have at most so many jobs, running or queued."""
    cluster.run("sacctmgr", "-i", "-Q", "modify", "qos", "normal", "set", f"maxsubmitjobsperuser={jobs}")

    def takes(count: int) -> bool:
        return cluster._answers("sbatch", "--test-only", f"--array=1-{count}", "--wrap=true")

    until(lambda: takes(jobs) and not takes(jobs + 1), 30, "the limit is known")


def completed(cluster: Cluster) -> int:
    """How many jobs of cells have completed, by accounting."""
    lines = cluster.run("sacct", "-X", "-n", "-P", "-o", "jobname,state").splitlines()
    return sum(line.endswith("|COMPLETED") and "-report-" not in line for line in lines)


def queued(cluster: Cluster) -> int:
    return sum(state in ("PENDING", "RUNNING", "COMPLETING") for _, state in cluster.queue())


def test_a_study_larger_than_the_limit_finishes_unattended(strict_cluster: Cluster, slurm_recipe: Path) -> None:
    """15 jobs and a report job, at most four at one time: the report job submits the rest, several times."""
    allow(strict_cluster, 4)
    ended = sweep(slurm_recipe, *CELLS)
    assert ended.returncode == 0, ended.stderr
    assert f"5 cells wait for a place ({LIMIT}); the report job submits the rest" in ended.stdout
    assert queued(strict_cluster) <= 4
    again = sweep(slurm_recipe, *CELLS)
    assert again.returncode == 0, again.stderr
    until(lambda: {row["state"] for row in statuses(slurm_recipe, *CELLS)} == {"done"}, 600, "all cells are done")
    tasks = Counter((cell, entry.stage) for entry in submissions(slurm_recipe).entries for cell in entry.cells)
    assert len(tasks) == 15
    until(lambda: queued(strict_cluster) == 0, 120, "the last report is drawn")
    until(lambda: completed(strict_cluster) >= 15, 30, "all are accounted for")
    assert completed(strict_cluster) == 15, "none runs twice"


def test_without_a_place_the_limit_is_named(strict_cluster: Cluster, slurm_recipe: Path) -> None:
    allow(strict_cluster, 2)
    strict_cluster.run("sbatch", "--array=0-1", "--output=/dev/null", "--wrap=sleep 600")
    ended = sweep(slurm_recipe, *SLEEPING, FEW)
    assert ended.returncode == 2, ended.stdout
    assert f"{LIMIT} leaves no place for any job; nothing was submitted" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert submissions(slurm_recipe).entries == []
    strict_cluster.run("scancel", "--me")
    until(lambda: queued(strict_cluster) == 0, 30, "they have ended")
    assert "submitted job" in sweep(slurm_recipe, *SLEEPING, FEW).stdout
