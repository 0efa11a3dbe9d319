"""A learning-rate sweep on a real SLURM: the same command submits, extends and at last reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, until

from harness.launch.tune import MOST_EXTENSIONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]


def tune(recipe: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.sweep", "tune", str(recipe), "--profile", "laptop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)


def test_the_same_command_goes_on_until_the_rate_is_read(cluster: Cluster, slurm_recipe: Path) -> None:
    words = ["--rates", "3", "--octaves", "8", "train.epochs=4"]
    output = slurm_recipe.parent / "out" / "tune" / "vit_s16"
    said, trained = "", 0
    for _ in range(MOST_EXTENSIONS + 2):
        ended = tune(slurm_recipe, *words)
        said = ended.stdout
        if "cells are not trained yet" not in said:
            break
        assert ended.returncode == 0, ended.stderr
        assert ": train of " in said, said
        trained += int(said.partition(" cells are not trained yet")[0].rpartition("\n")[2])
        done = trained
        until(lambda done=done: len(list(output.glob("ledger/*/train.json"))) == done, 400, "the rates of a sweep")
    assert "best learning rate by final validation loss:" in said
    assert ("learning_rate:" in said) == (ended.returncode == 0)
    assert trained >= 3
    assert not list(output.glob("ledger/*/embed.json"))
    again = tune(slurm_recipe, *words)
    assert again.stdout.splitlines()[-3:] == said.splitlines()[-3:]
    status = [sys.executable, "-m", "harness.sweep", "status", str(output / "recipe.yaml"), "--profile", "slurm"]
    assert f"{trained} done" in subprocess.run(status, capture_output=True, text=True, cwd=ROOT).stdout
