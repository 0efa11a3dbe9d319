"""A sweep on this machine, watched, cancelled, killed and resumed from another process: `status`, `cancel`, `logs`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from harness.launch.owner import keep_recipe
from harness.recipe.load import KEPT, load, load_kept

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = ["train.epochs=4000", "launch.parallel=1", "launch.cells_per_job=1", "grid.seeds=[0]"]
Sweep = Callable[..., subprocess.CompletedProcess[str]]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "harness.sweep", *map(str, words)]


@pytest.fixture
def running(tiny_recipe_file: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep of long runs in a process group of its own, whose first trained cell has begun."""
    words = command(tiny_recipe_file, "--profile", "laptop", *LONG)
    default_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job would ignore it
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, preexec_fn=default_sigint,
    )  # fmt: skip
    try:
        until(lambda: any(row["step"] for row in status(output_of(tiny_recipe_file))), "a cell trains")
        yield process
    finally:
        with_group(process, signal.SIGKILL)
        process.communicate()


def with_group(process: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def is_in_group(process: psutil.Process, group: int) -> bool:
    """Whether a process, which may just have ended, belongs to a group and runs."""
    with suppress(psutil.Error, ProcessLookupError):
        return process.status() != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group
    return False


def output_of(recipe: Path) -> Path:
    return load(recipe, "laptop", LONG).output


def sweep(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, timeout=120)


def status(output: Path) -> list[dict[str, object]]:
    done = sweep("status", output, "--json") if (output / KEPT).exists() else None
    try:
        return json.loads(done.stdout) if done is not None and done.returncode == 0 else []
    except json.JSONDecodeError:  # it is still preparing
        return []


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.5)


def by_state(output: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in status(output):
        found.setdefault(str(row["state"]), []).append(str(row["cell"]))
    return found


def test_a_cancelled_cell_ends_stays_so_and_goes_on_after_resume(
    running: subprocess.Popen[str], tiny_recipe_file: Path
) -> None:
    output = output_of(tiny_recipe_file)
    (row,) = [row for row in status(output) if row["state"] == "running"]
    assert by_state(output)["queued"], "others wait"
    assert isinstance(row["steps"], int)
    assert row["steps"] > 1000
    assert row["eta_seconds"]
    assert "running on this machine since" in sweep("logs", output, row["cell"]).stdout
    done = sweep("cancel", output, row["cell"])
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0, "cancelled 1 cell of the sweep on this machine; what is cancelled stays so until resume",
    )  # fmt: skip
    assert by_state(output)["cancelled"] == [row["cell"]]
    until(lambda: by_state(output).get("running", [row["cell"]]) != [row["cell"]], "the next cell runs")
    done = sweep("cancel", output)
    assert done.returncode == 0
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 0, "cancelled cells have not failed"
    assert f"cancelled {row['cell']}; resume runs it" in out
    assert set(by_state(output)) <= {"cancelled", "done"}
    again = sweep(output)
    assert again.returncode == 0
    assert "left out; resume runs what was cancelled" in again.stdout
    assert (output / "cells" / str(row["cell"]) / "train.jsonl").exists()
    words = [*LONG, "train.epochs=1", "evaluate=null", "embed=null"]
    resumed = sweep("resume", tiny_recipe_file, "--profile", "laptop", *words)
    assert "left out" not in resumed.stdout


def test_what_a_killed_sweep_left_is_stopped(running: subprocess.Popen[str], tiny_recipe_file: Path) -> None:
    output = output_of(tiny_recipe_file)
    with_group(running, signal.SIGKILL)
    running.wait()
    states = by_state(output)
    assert set(states) <= {"stopped", "done", "never"}, states
    reasons = [str(row["reason"]) for row in status(output) if row["state"] == "stopped"]
    assert any(reason.startswith("its sweep has ended; run goes on at step ") for reason in reasons), reasons


def test_what_goes_on_without_its_sweep_is_running(running: subprocess.Popen[str], tiny_recipe_file: Path) -> None:
    output = output_of(tiny_recipe_file)
    running.kill()
    running.wait()
    (row,) = [row for row in status(output) if row["state"] == "running"]
    reason = r"its sweep has ended, and process (\d+) of .* goes on with it; `kill -KILL \1` ends it"
    assert re.fullmatch(reason, str(row["reason"])), row


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_prints_one_line_and_leaves_no_process(running: subprocess.Popen[str], times: int) -> None:
    """A second one does not wait for a save."""
    for _ in range(times):
        with_group(running, signal.SIGINT)
        time.sleep(0.3)
    _, errors = running.communicate(timeout=60)
    assert not [process for process in psutil.process_iter() if is_in_group(process, running.pid)]
    assert running.returncode == 130
    assert "Traceback" not in errors
    assert errors.rstrip().splitlines()[-1] == "stopped; the same command resumes from here"


def test_the_output_is_named_in_place_of_the_recipe(tiny_recipe_file: Path, tmp_path: Path) -> None:
    done = sweep("status", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {tmp_path} is a folder without resolved.yaml: name a recipe, or the output of"
    )
    recipe = load(tiny_recipe_file, "laptop", LONG)
    keep_recipe(recipe)
    assert load_kept(recipe.output) == recipe
    assert load_kept(recipe.output, ["train.epochs=2"]).train.epochs == 2
    done = sweep("status", recipe.output, "--profile", "laptop")
    assert done.stderr == f"error: --profile is of a recipe; that in {recipe.output} is resolved already\n"
