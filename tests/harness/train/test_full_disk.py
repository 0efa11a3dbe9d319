"""A real disk that is full: training goes on while it may, ends with one clear error, and is resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.data.prepare import prepare
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.storage.train_log import scan_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CELL = "vit_s16-one-s0"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


TRAIN = """
import sys
from harness.checkpoint import checkpoints
from harness.train import session
from harness.train.run import Run
from harness.stages.run import run_cell
from harness.checkpoint.facts import CheckpointError
from pathlib import Path

recipe, cell, fill, at, free = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
session.RETRY_SECONDS = 0.0
real = Run.step
def step(run, *inputs):
    real(run, *inputs)
    run.checkpoints.wait()
    if run.progress.step == at:
        with fill.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    if run.progress.step == free:
        fill.unlink()
Run.step = step
try:
    run_cell(recipe, cell)
except CheckpointError as error:
    sys.exit(f"ended: {error}")
"""


def train(recipe: Path, output: Path, *, full_at: int, free_at: int) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Train a cell that saves after each step, on a disk that is full between two steps; its result and folder."""
    words = [f"output={output}", "train.epochs=30", "embed=null", "evaluate=null", "launch.checkpoint_minutes=1e-6"]
    loaded = load(recipe, "laptop", words)
    prepare(loaded)
    cell = next(cell for cell in cells(loaded) if cell.id.startswith(CELL))
    words = [loaded.model_dump_json(), cell.id, str(output / "fill"), str(full_at), str(free_at)]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *words],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done, cell_folder(loaded, cell)


def steps(folder: Path) -> list[int]:
    rows, problems = scan_log(folder / "train.jsonl")
    assert problems == []
    return [row["step"] for row in rows if row["kind"] == "train"]


def test_a_disk_that_is_full_for_some_steps_costs_saves_and_no_rows_of_the_log(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, small_disk: Path
) -> None:
    recipe = write_tiny_recipe(tmp_path)
    done, folder = train(recipe, small_disk / "out", full_at=7, free_at=9)
    assert done.returncode == 0, done.stderr
    assert "warning: the checkpoint of step" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    found = steps(folder)
    assert found == sorted(set(found))
    assert (folder / "model.safetensors").exists()
    plain, other = train(recipe, tmp_path / "plain", full_at=-1, free_at=-1)
    assert plain.returncode == 0
    assert found == steps(other)


def test_a_disk_that_stays_full_ends_the_run_with_one_error_and_keeps_the_last_checkpoint(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, small_disk: Path
) -> None:
    recipe = write_tiny_recipe(tmp_path)
    done, folder = train(recipe, small_disk / "out", full_at=7, free_at=-1)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("ended: ")]
    assert f"ended: {folder}/checkpoints: 3 times in a row, the checkpoint of step " in last
    assert "No space left on device" in last
    assert "GB are free in" in last
    assert "is kept" in last
    latest = json.loads((folder / "checkpoints" / "latest").read_text())
    assert "step-00000000" in json.dumps(latest)
    (small_disk / "out" / "fill").unlink()
    again, folder = train(recipe, small_disk / "out", full_at=-1, free_at=-1)
    assert again.returncode == 0, again.stderr
    found = steps(folder)
    assert found == sorted(set(found))
