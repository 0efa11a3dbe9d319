"""Further options of sbatch on a real SLURM, and jobs that may not be requeued.

Exercises `launch.slurm.options`, and what `job`, `failures` and `report_job` of harness/launch/slurm make of a job that
is told to stop.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, until
from slurm.test_people import SLEEPING, job_of, submissions
from slurm.test_sweep import FEW, sweep
from slurm.test_wrapped_commands import ONE_CELL

from harness.launch.slurm.heartbeat import heartbeat, read_beat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMENT = 'it\'s "50%" $(touch stolen); `id` #1 ${HOME} *|ü'
LONG = [*ONE_CELL, "train.epochs=2000", "launch.checkpoint_minutes=0.02"]


def shown(cluster: Cluster, job: str) -> dict[str, str]:
    """What SLURM holds of a job, by its names."""
    return dict(re.findall(r"^ *(\w+)=(.*?)(?= \w+=|$)", cluster.run("scontrol", "show", "job", job), re.MULTILINE))


def test_options_arrive_whole_in_slurm(cluster: Cluster, slurm_recipe: Path) -> None:
    mail: dict[str, object] = {"mail_user": "me@x.ch", "mail-type": "FAIL"}
    options = {"comment": COMMENT, **mail, "gres": "gpu:2", "requeue": False, "nice": 7}
    ended = sweep(slurm_recipe, *SLEEPING, FEW, f"launch.slurm.options={json.dumps(options)}")
    assert ended.returncode == 0, ended.stderr
    ((cell, _), *_) = submissions(slurm_recipe).latest()
    train = shown(cluster, job_of(slurm_recipe, cell, "train"))
    assert train["Comment"].strip() == COMMENT
    assert (train["MailUser"], train["Requeue"], train["TresPerNode"]) == ("me@x.ch", "0", "gres:gpu:2")
    (report,) = (entry.array for entry in submissions(slurm_recipe).entries if entry.stage == "report")
    last = shown(cluster, str(report))
    assert (last["Comment"].strip(), last["Requeue"]) == (COMMENT, "0")
    assert "TresPerNode" not in last, "a job without GPUs"
    assert not (slurm_recipe.parent / "stolen").exists()


def test_an_option_that_the_cluster_refuses_is_named(cluster: Cluster, slurm_recipe: Path) -> None:
    for option in ("reservation: nowhere", "gres: 'gpu:h100:2'", "frobnicate: 3"):
        ended = sweep(slurm_recipe, f"launch.slurm.options={{{option}}}")
        assert ended.returncode == 2, ended.stdout
        assert "SLURM refuses jobs of " in ended.stderr
        assert f"launch.slurm.options.{option.split(':')[0]} in the recipe; nothing was" in ended.stderr
    assert not cluster.run("squeue", "-h")


def test_without_requeue_a_job_that_is_told_to_stop_is_submitted_again(cluster: Cluster, slurm_recipe: Path) -> None:
    """Twice, with one attempt at most: to be stopped is no failure. It goes on from its checkpoint."""
    settings = [*LONG, "launch.slurm.options={requeue: false}", "launch.slurm.attempts=1"]
    assert sweep(slurm_recipe, *settings).returncode == 0
    ((cell, _), *_) = submissions(slurm_recipe).latest()
    output = slurm_recipe.parent / "out"
    folder, log = output / "cells" / cell, output / "cells" / cell / "train.jsonl"

    def trains_again(attempt: int, rows: int) -> bool:
        submitted = submissions(slurm_recipe).latest()[cell, "train"]
        began = bool(read_beat(heartbeat(folder, "train"), submitted.job).job)
        return submitted.attempt == attempt and began and log.exists() and len(log.read_bytes().splitlines()) > rows

    rows = 50
    for attempt in (1, 2):
        until(lambda: trains_again(attempt, rows), 120, f"attempt {attempt} trains")  # noqa: B023
        cluster.run("scancel", "--signal=USR2", job_of(slurm_recipe, cell, "train"))
        until((folder / "failures" / f"train-{attempt}-0.json").exists, 60, f"attempt {attempt} ends")
        rows = len(log.read_bytes().splitlines()) + 50
    until(lambda: list(output.glob("ledger/*/evaluate.json")), 300, "the cell is evaluated")
    assert submissions(slurm_recipe).latest()[cell, "train"].attempt == 3
    steps = [row["step"] for row in map(json.loads, log.read_text().splitlines()) if row["kind"] == "train"]
    assert steps == sorted(set(steps)), "no step was logged twice"
    assert steps[-1] == 4000
    told = [json.loads((folder / "failures" / f"train-{n}-0.json").read_text())["message"] for n in (1, 2)]
    saved = [int(text.split("saved at step ")[1].split()[0]) for text in told]
    assert 0 < saved[0] < saved[1] < 4000
