"""Jobs that hang or never begin, on a real SLURM: a stopped rank, and a setup line that fails.

Exercises `stalls.watch`, and `end_stalled` and `cause_of` of harness/launch/slurm.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest
from slurm.slurm_cluster import Cluster, until
from slurm.test_sweep import statuses, sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ONE_CELL = (
    "grid.models=[vit_s16]", "grid.datasets=[one]", "grid.untrained=false", "grid.pixel_statistics=false", "embed=null",
    "evaluate=null",
)  # fmt: skip
HANGS = (*ONE_CELL, "train.epochs=200", "launch.checkpoint_minutes=0.02", "launch.stall_minutes=0.5")


def ranks(cluster: Cluster, rank: int) -> list[psutil.Process]:
    """The processes of this cluster's jobs that have this rank in a cell's job of several."""
    found = []
    for process in psutil.process_iter(["environ", "cmdline"]):
        environment, command = process.info["environ"] or {}, process.info["cmdline"] or []
        is_cluster = environment.get("SLURM_CONF") == cluster.environment["SLURM_CONF"]
        if is_cluster and environment.get("SLURM_PROCID") == str(rank) and "submitit.core._submit" in command:
            found.append(process)
    return found


def test_a_stopped_rank_is_named_and_its_job_goes_on_after_a_requeue(cluster: Cluster, slurm_recipe: Path) -> None:
    assert sweep(slurm_recipe, *HANGS).returncode == 0
    output = slurm_recipe.parent / "out"
    until(lambda: list(output.glob("cells/*/checkpoints/latest")), 120, "a checkpoint")
    (stopped,) = ranks(cluster, 1)
    stopped.send_signal(signal.SIGSTOP)
    until(lambda: list(output.glob("cells/*/failures/train-1-*.json")), 240, "a rank records the stall")
    until(lambda: list(output.glob("ledger/*/train.json")), 300, "the requeued job ends the training")
    (log,) = output.glob("cells/*/train.jsonl")
    assert (
        any(json.loads(line)["kind"] == "resume" for line in log.read_text().splitlines()) or not stopped.is_running()
    )
    (failure,) = output.glob("cells/*/failures/train-1-*.json")  # not one of the stopped rank, which wakes to be ended
    assert f"pid {stopped.pid}) is not answering" in json.loads(failure.read_text())["message"]
    assert statuses(slurm_recipe, *HANGS)[0]["state"] == "done"


def test_a_setup_line_that_fails_is_the_reason_and_is_not_tried_again(cluster: Cluster, slurm_recipe: Path) -> None:
    words = (*ONE_CELL, "launch.slurm.setup=['echo module: no such module cuda/99 >&2', 'exit 1']")
    assert sweep(slurm_recipe, *words).returncode == 0
    until(lambda: not cluster.run("squeue", "-h"), 120, "the queue is empty")
    (row,) = statuses(slurm_recipe, *words)
    assert row["state"] == "failed"
    assert str(row["reason"]).startswith("failed before it began: module: no such module cuda/99")
    again = sweep(slurm_recipe, *words)
    assert ": train of" not in again.stdout
