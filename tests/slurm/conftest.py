"""One real SLURM cluster for the session, emptied between tests; skipped with a reason if SLURM is not installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, start, until


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    """Four nodes of four CPUs and eight fake GPUs, with accounting; arrays of at most 100."""
    cluster = start(max_array=101)
    yield cluster
    cluster.down()


@pytest.fixture
def cluster(session_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The session's cluster without jobs; commands of this process reach it too."""
    for name in ("SLURM_CONF", "PATH", "LC_ALL"):
        monkeypatch.setenv(name, session_cluster.environment[name])
    yield session_cluster
    subprocess.run(["scancel", "--me"], check=False)
    subprocess.run(["scancel", "--me", "--signal=KILL", "--full"], check=False, capture_output=True)
    until(lambda: not session_cluster.run("squeue", "-h"), 30, "the queue is empty")


@pytest.fixture
def slurm_recipe(write_tiny_recipe: Callable[[Path], Path], tmp_path: Path) -> Path:
    """The tiny study for SLURM: no GPUs used, 2 nodes × 2 tasks for one of its models."""
    path = write_tiny_recipe(tmp_path)
    text = (
        path.read_text().replace("executor: local", "executor: slurm").replace("gpus_per_node: 0", "gpus_per_node: 2")
    )
    path.write_text(text.replace("parallel: 2", "parallel: 4, nodes: {vit_s16: 1, vit_b8: 2}"))
    return path


@pytest.fixture(autouse=True)
def _no_logs_of_failed_tests_left(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.session.testsfailed == 0:
        shutil.rmtree(tmp_path, ignore_errors=True)
