"""Daemons of a real SLURM that do not answer: slurmctld is down or hangs, slurmdbd is down.

Exercises `status` and `last_answer`: what is shown meanwhile, and within which time.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from slurm.slurm_cluster import Cluster, until
from slurm.test_people import SLEEPING, job_of, json_rows, submissions, wait_until_running
from slurm.test_sweep import FEW, statuses, sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ONE = [*SLEEPING, FEW]
LONGEST = 25.0  # seconds for squeue, commands.BRIEF


def controller(cluster: Cluster) -> psutil.Process:
    return psutil.Process(int((cluster.folder / "run" / "slurmctld.pid").read_text()))


@contextmanager
def down(cluster: Cluster) -> Iterator[None]:
    """No controller, as while it is updated; it has saved its state."""
    process = controller(cluster)
    process.terminate()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 30, "slurmctld ends")
    try:
        yield
    finally:
        cluster.start_controller()
        until(
            lambda: cluster.run("sinfo", "-h", "-t", "idle,mix,alloc", "-p", "main", "-o", "%D").strip() == "4",
            60,
            "up",
        )


@contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    """A controller that takes connections, and does not answer: it is overloaded, or its disk hangs."""
    process = controller(cluster)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
        until(lambda: cluster.run("squeue", "-h"), 60, "it answers again")


@pytest.mark.parametrize("silenced", [down, stopped], ids=["down", "stopped"])
def test_without_the_controller_status_shows_the_last_answer(
    cluster: Cluster, slurm_recipe: Path, silenced: object
) -> None:
    assert sweep(slurm_recipe, *ONE).returncode == 0
    ((cell, _), *_) = submissions(slurm_recipe).latest()
    wait_until_running(cluster, job_of(slurm_recipe, cell, "train"))
    (before,) = json_rows(slurm_recipe, FEW)
    assert (before["state"], before["as_of"]) == ("running", None)
    with silenced(cluster):  # type: ignore[operator]
        began = time.monotonic()
        shown = sweep("status", slurm_recipe, *ONE)
        seconds = time.monotonic() - began
        print(f"status without a controller: {seconds:.1f} s")
        machine = sweep("status", slurm_recipe, *ONE, "--json")
    assert seconds < LONGEST + 5
    assert "SLURM does not answer; as of " in shown.stdout
    assert "1 cells: 1 running" in shown.stdout
    assert (shown.returncode, machine.returncode) == (1, 1)
    (row,) = json.loads(machine.stdout)
    assert {**row, "as_of": None} == before
    assert row["as_of"] is not None
    until(lambda: json_rows(slurm_recipe, FEW) == [before], 60, "the same, once it answers")


@contextmanager
def no_accounting(cluster: Cluster) -> Iterator[None]:
    """No slurmdbd: connections are refused."""
    cluster._kill_by_pid_file("slurmdbd")
    try:
        yield
    finally:
        cluster._start("slurmdbd", MYSQL_UNIX_PORT=str(cluster.folder / "run" / "my.sock"))
        until(lambda: cluster._answers("sacctmgr", "-n", "show", "cluster"), 30, "slurmdbd answers")


@contextmanager
def stopped_accounting(cluster: Cluster) -> Iterator[None]:
    """A slurmdbd that takes connections, and does not answer."""
    process = psutil.Process(int((cluster.folder / "run" / "slurmdbd.pid").read_text()))
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("silenced", [no_accounting, stopped_accounting], ids=["down", "stopped"])
def test_without_accounting_a_cancelled_cell_is_shown_as_such_at_once(
    cluster: Cluster, slurm_recipe: Path, silenced: object
) -> None:
    """It is running until SLURM has ended its job, after a save, or KillWait at the latest: 5 s here."""
    works = ["train.epochs=20000", *ONE[1:]]
    assert sweep(slurm_recipe, *works).returncode == 0
    ((cell, _), *_) = submissions(slurm_recipe).latest()
    log = slurm_recipe.parent / "out" / "cells" / cell / "train.jsonl"
    until(log.exists, 120, "it trains")
    with silenced(cluster):  # type: ignore[operator]
        began = time.monotonic()
        assert "cancelled 3 jobs" in sweep("cancel", slurm_recipe, *works, cell).stdout
        print(f"cancel without accounting: {time.monotonic() - began:.1f} s")
        (row,) = statuses(slurm_recipe, *works)
        assert str(row["reason"]).startswith("cancelled by ")
        print(f"{row['state']}: {row['reason']}")
        until(lambda: statuses(slurm_recipe, *works)[0]["state"] == "cancelled", 30, "it is cancelled")
        seconds = time.monotonic() - began
        print(f"shown as cancelled after {seconds:.1f} s")
        assert seconds < 25
