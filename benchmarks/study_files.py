"""The files of a large study as its commands leave them, written without training, and a SLURM that answers from files.

Of the trained cells, the first share is done, the next few run, one has failed, and the others wait in the queue. Each
done cell has ledger rows, a log and the reconstructed crops; a running one has a log and a heartbeat. The submissions
file has a job for each of them, and earlier attempts as padding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.grid.cell import Cell
from harness.grid.cell_folder import RECONSTRUCTIONS, TRAIN_LOG, cell_folder
from harness.grid.cells import cells
from harness.launch.slurm.book.entries import REPORT, SubmittedArray
from harness.launch.slurm.book.lines import Accepted, Planned, encoded
from harness.launch.slurm.heartbeat import heartbeat
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import missing_stages
from harness.storage import ledger
from harness.storage.ledger import STAGES, LedgerRow
from harness.storage.locks import user_name

MODELS = 5
DATASETS = 2
STEPS, BATCH = 10_000, 4096
LOG_ROWS, VALIDATIONS = 100, 10
FIRST_JOB = 1_000_000
PARALLEL = 40
SOURCES = ("CORUM", "HuMAP")
RECIPE = """\
name: large
output: {folder}/out
datasets:
  half: {{shards: {folder}/shards, fraction: 0.5}}
  all: {{shards: {folder}/shards}}
models:
  vit_s16: {{size: S, patch: 16, width: 384, depth: 12, heads: 6}}
  vit_s8: {{size: S, patch: 8, width: 384, depth: 12, heads: 6}}
  vit_b16: {{size: B, patch: 16, width: 768, depth: 12, heads: 12}}
  vit_b8: {{size: B, patch: 8, width: 768, depth: 12, heads: 12}}
  vit_l16: {{size: L, patch: 16, width: 1024, depth: 24, heads: 16}}
mae: {{crop: 64, channels: 6}}
train: {{epochs: 50, batch: {batch}, learning_rate: 1e-4}}
grid:
  models: [vit_s16, vit_s8, vit_b16, vit_b8, vit_l16]
  datasets: [half, all]
  seeds: {seeds}
  untrained: false
  pixel_statistics: false
{axes}
embed: {{shards: {folder}/shards}}
evaluate: {{relationships: {{CORUM: {folder}/pairs.csv, HuMAP: {folder}/pairs.csv}}}}
launch: {{gpus_per_node: 8, parallel: {parallel}}}
profiles: {{slurm: {{launch: {{executor: slurm}}}}, laptop: {{}}}}
"""


@dataclass(frozen=True)
class StudySize:
    """How large a study is.

    Attributes:
        seeds: and `rates`, values on an axis; there are ten trained cells for each pair of these.
        rates: 1 for a grid without axes.
        shards: in the set's manifest.
        done: the share of the cells that is done.
        entries: arrays in the submissions file; more than the study needs are earlier attempts.
    """

    seeds: int
    rates: int = 1
    shards: int = 1000
    done: float = 0.4
    entries: int = 0

    @property
    def cells(self) -> int:
        return MODELS * DATASETS * self.seeds * self.rates


def write_study(folder: Path, size: StudySize) -> Path:
    """Write the study's files, and return the path of its recipe."""
    _write_shards(folder / "shards", size.shards)
    (folder / "pairs.csv").write_text("entity1,entity2\nA,B\n")
    rates = [float(f"{rate:.4g}") for rate in np.geomspace(1e-5, 1e-3, size.rates)]
    axes = f"  axes: {{train.learning_rate: {rates}}}" if size.rates > 1 else ""
    path = folder / "large.yaml"
    path.write_text(
        RECIPE.format(folder=folder, batch=BATCH, parallel=PARALLEL, seeds=list(range(size.seeds)), axes=axes)
    )
    recipe = load(path, "slurm")
    grid = cells(recipe)
    done = round(size.done * len(grid))
    for number, cell in enumerate(grid[:done]):
        _finish(recipe, cell, number)
    running = grid[done : done + PARALLEL]
    _write_book(recipe, grid, done, size.entries)
    for number, cell in enumerate(running):
        _begin(recipe, cell, number)
    return path


def _write_shards(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    wells = {"train": 400 * count, "validation": 400}
    shards = [
        {"name": f"train-{n:06d}.tar", "split": "train", "wells": 400, "bytes": 40_960_000, "sha256": f"{n:064x}"}
        for n in range(count)
    ]
    channels = [f"channel {n}" for n in range(6)]
    (folder / "manifest.json").write_text(json.dumps({"channels": channels, "wells": wells, "shards": shards}))


def _finish(recipe: Recipe, cell: Cell, number: int) -> None:
    """The files of a cell that is done; its loss follows a power law of its rank, so that a law can be fitted."""
    draw = np.random.default_rng(number)
    prints = missing_stages(recipe, cell).fingerprints
    loss = 0.3 + 0.2 / (1 + number % MODELS) + float(draw.normal(0, 0.005))
    recall = 0.8 - loss
    _write_log(recipe, cell, loss, LOG_ROWS)
    train = {
        "crops": STEPS * BATCH, "steps": STEPS, "planned_steps": STEPS, "annealed": True, "validation_loss": loss,
        "wells": 400_000, "train_seconds": 3600.0, "stage_seconds": 3700.0,
    }  # fmt: skip
    found = {"recall": recall, "recall_low": recall - 0.02, "recall_high": recall + 0.02, "chance": 0.1, "pairs": 99}
    evaluate = {
        "protocol": ledger.RECALL_PROTOCOL, "genes": 500, "recall": dict.fromkeys(SOURCES, found),
        "stage_seconds": 36.0,
    }  # fmt: skip
    values: dict[ledger.Stage, dict[str, Any]] = {
        "train": train,
        "embed": {"stage_seconds": 99.0},
        "evaluate": evaluate,
    }
    for stage, value in values.items():
        path = ledger.row_path(recipe.output, cell.id, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        row = LedgerRow(cell.id, stage, prints[stage], value)
        path.write_text(json.dumps(row.__dict__, indent=1))
        _beat(recipe, cell, stage, "1", 0.0)
    crop = draw.normal(size=(1, 6, 32, 32)).astype(np.float32)
    np.savez(
        cell_folder(recipe, cell) / RECONSTRUCTIONS, wells=np.array(["w"]), original=crop, reconstruction=crop / 2,
        mask=np.ones((1, 1, 32, 32), dtype=bool), channels=np.array(list("abcdef")),
    )  # fmt: skip


def _begin(recipe: Recipe, cell: Cell, number: int) -> None:
    _write_log(recipe, cell, 0.4, LOG_ROWS // 2)
    _beat(recipe, cell, "train", str(FIRST_JOB + number), time.time())


def _beat(recipe: Recipe, cell: Cell, task: str, job: str, seconds: float) -> None:
    path = heartbeat(cell_folder(recipe, cell), task)
    path.write_text(json.dumps({"job": job, "time": seconds, "restart": 0, "user": user_name(), "host": "node"}))


def _write_log(recipe: Recipe, cell: Cell, loss: float, rows: int) -> None:
    path = cell_folder(recipe, cell) / TRAIN_LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in _log_rows(loss, rows)))


def _log_rows(loss: float, rows: int) -> Iterator[dict[str, Any]]:
    for number in range(1, rows + 1):
        step = number * STEPS // LOG_ROWS
        yield {
            "kind": "train", "step": step, "progress": step / STEPS, "loss": loss + 1 / number, "gradient_norm": 0.5,
            "learning_rate": 1e-4, "crops": step * BATCH, "crops_per_second": 4000.5, "step_seconds": 1.01,
            "data_wait": 0.001, "seconds_left": 100.0, "peak_memory_gb": 30.1,
        }  # fmt: skip
        if number % (LOG_ROWS // VALIDATIONS) == 0:
            found = loss * (1 + (1 - number / LOG_ROWS))
            yield {"kind": "validation", "step": step, "crops": step * BATCH, "validation_loss": found}


def _write_book(recipe: Recipe, grid: Sequence[Cell], done: int, entries: int) -> None:
    """The newest jobs of each open cell and the report job; before them, earlier attempts of all cells."""
    opened = grid[done:]
    padding = max(0, entries - len(STAGES) * len(opened) - 1)
    arrays = [
        _array(recipe, "train", grid[number % len(grid)], 1 + number // len(grid), 1 + number)
        for number in range(padding)
    ]
    attempt = 2 + padding // len(grid)
    arrays += [
        _array(recipe, stage, cell, attempt, FIRST_JOB + place * len(opened) + number)
        for place, stage in enumerate(STAGES)
        for number, cell in enumerate(opened)
    ]
    arrays.append(_array(recipe, REPORT, None, 1, FIRST_JOB + len(STAGES) * len(opened)))
    written = [line for array in arrays for line in (Planned(replace(array, array=None)), _accepted(array))]
    path = recipe.output / "jobs" / "book.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(map(encoded, written)))


def _accepted(array: SubmittedArray) -> Accepted:
    assert array.array is not None
    return Accepted(array.name, array.array)


def _array(recipe: Recipe, task: str, cell: Cell | None, attempt: int, job: int) -> SubmittedArray:
    name = f"large-{task}-{job:08x}"
    cells_of, attempts = ((cell.id,), (attempt,)) if cell is not None else ((), ())
    folder = str(recipe.output / "jobs" / name)
    return SubmittedArray(name, task, cells_of, attempts, folder, PARALLEL, str(job), user_name())


SQUEUE = """#!/bin/sh
echo squeue >> {folder}/calls
case "$*" in *%j*) echo "ARRAY_JOB_ID|NAME|COMMAND";; *) cat {folder}/queue;; esac
"""
SACCT = """#!/bin/sh
echo sacct >> {folder}/calls
case "$*" in *JobName*) exit 0;; esac
asked="$*"
echo "${{asked##*--jobs }}" | tr , '\n' | awk -F'|' 'NR==FNR {{asked[$1]; next}} $1 in asked' - {folder}/accounting
"""


def write_slurm(folder: Path, recipe: Recipe, size: StudySize) -> Path:
    """A folder for PATH whose squeue and sacct answer from files: the first jobs run, the others are queued."""
    binaries = folder / "bin"
    binaries.mkdir()
    count = len(cells(recipe))
    opened = count - round(size.done * count)
    jobs = range(FIRST_JOB, FIRST_JOB + len(STAGES) * opened + 1)
    states = {job: "RUNNING" if job < FIRST_JOB + PARALLEL else "PENDING" for job in jobs}
    failed = FIRST_JOB + opened - 1
    rows = [f"{job}|{job}|{state}|None" for job, state in states.items() if job != failed]
    (binaries / "queue").write_text("\n".join(["JOBID|ARRAY_JOB_ID|STATE|REASON", *rows]) + "\n")
    ended = [f"{job}|COMPLETED" for job in range(1, 1 + max(0, size.entries - len(jobs)))]
    (binaries / "accounting").write_text("\n".join([*ended, f"{failed}|FAILED"]) + "\n")
    for name, text in (("squeue", SQUEUE), ("sacct", SACCT)):
        (binaries / name).write_text(text.format(folder=binaries))
    for name in ("sbatch", "sinfo", "scontrol", "scancel"):
        (binaries / name).write_text("#!/bin/sh\nexit 0\n")
    for path in binaries.iterdir():
        path.chmod(0o755)
    return binaries
