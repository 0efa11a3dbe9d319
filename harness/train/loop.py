"""The training loop, readable top to bottom.

A step is a pure function of the state before it and (seed, step): its crops, masks and dropped paths all follow from
the position in the order. So a run that was killed and resumed on one process ends bit for bit like one that was not.
The loop never asks the device for a number but where a row of the log is written.

Shapes: B crops of this rank's part of the global batch, C channels, S crop side, L tokens.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from harness.data.labels import class_count
from harness.data.to_device import StepInput, prefetch_to_device
from harness.distributed.agreement import Agreement
from harness.distributed.preemption import Preempted, StopFlag, stop_on_signals
from harness.distributed.ranks import process_group
from harness.grid.cell_folder import WEIGHTS
from harness.grid.cells import Cell
from harness.models.architecture import build, initialise
from harness.models.config import MaeConfig
from harness.models.layers.attention import attention_kernel, describe_choice
from harness.recipe.schema import Recipe
from harness.storage.weights import save_weights
from harness.train.garbage import collected_garbage
from harness.train.run import Run, begin_run


def train_cell(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> dict[str, Any]:
    """Train one cell, or just initialise an untrained one, and return its ledger values.

    Leaves weights, a log and its checkpoints in `folder`; resumes from the last whole checkpoint where one is there.

    Raises:
        Preempted: a signal asked to stop; the checkpoint is written.
        Diverged: a step that the recipe does not allow; the checkpoint before it stays.
        ValueError: the shards or the engine do not fit the recipe.
    """
    with process_group(recipe.launch.device) as ranks, stop_on_signals() as stop:
        torch.manual_seed(cell.seed)
        model = build(cell, classes=class_count(recipe, cell)).to(ranks.device)
        initialise(model, recipe, cell)
        values: dict[str, Any] = {**_identity(cell), "parameters": sum(p.numel() for p in model.parameters())}
        weights = model.state_dict()
        if cell.training is not None:
            dtype = torch.bfloat16 if cell.training.settings["precision"] == "bf16" else torch.float32
            with attention_kernel(recipe.launch.attention, ranks.device, dtype) as kernel:
                if isinstance(model.config, MaeConfig):
                    values["attention"] = f"{kernel}: {describe_choice(model.config, ranks.device, dtype)}"
                run = begin_run(recipe, cell, model, ranks, folder, fingerprint)
                with closing(run.checkpoints):
                    _train(recipe, run, stop)
            values |= _values(run)
            weights = run.engine.weights()
        if ranks.is_first:
            save_weights(folder / WEIGHTS, weights, {"cell": cell.id, "fingerprint": fingerprint})
        ranks.wait()
    return values


def _identity(cell: Cell) -> dict[str, Any]:
    architecture = cell.architecture or {}
    return {
        "kind": cell.kind,
        "model": cell.model,
        "size": architecture.get("size"),
        "patch": architecture.get("patch"),
        "dataset": cell.dataset,
        "seed": cell.seed,
        "crops": 0,
    }


def _train(recipe: Recipe, run: Run, stop: StopFlag) -> None:
    """Step until the run is finished.

    Raises:
        Preempted: all ranks agreed to stop, and saved.
    """
    launch, progress = recipe.launch, run.progress
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    agree = Agreement(run.ranks)
    run.engine.model.train()
    log = closing(run.metrics) if run.metrics else nullcontext()
    with log, closing(_inputs(recipe, run)) as inputs, collected_garbage() as collect:
        while not run.finished:
            if not run.validation_due:  # else a stop came in the midst of it
                with run.metrics.waiting() if run.metrics else nullcontext():
                    crops = next(inputs)
                run.step(crops)
                if run.at(run.spec.log_every):
                    run.look()
                    run.log()
            stopping, due = agree(bool(stop), time.monotonic() - saved > 60 * launch.checkpoint_minutes)
            if run.validation_due and not stopping:
                run.look()
                stopping = not run.validate(stop)
            progress.seconds = time.monotonic() - began
            best = launch.checkpoint_best and run.is_best
            if stopping and not run.finished:
                run.look()
                run.save(now=True, best=best)
                agree.close()
                raise Preempted(f"{run.cell.id}: {stop}; saved at step {progress.step} of {run.spec.steps}")
            if due or best:
                run.look()
                run.save(best=best)
                saved = time.monotonic()
            collect(progress.step)
        agree.close()


def _inputs(recipe: Recipe, run: Run) -> Generator[StepInput]:
    """What the steps still to do take, on the device."""
    crop = run.engine.model.config.crop
    batches = run.spec.batches(run.progress.step, crop, run.cell.seed, run.ranks, recipe.launch)
    return prefetch_to_device(batches, run.noise, run.progress.step, run.ranks.device)


def _values(run: Run) -> dict[str, Any]:
    progress, spec = run.progress, run.spec
    return {
        "crops": progress.step * spec.training.batch,
        "steps": progress.step,
        "planned_steps": spec.steps,
        "experiments": list(spec.experiments),
        "wells": len(spec.wells),
        "train_seconds": round(progress.seconds, 2),
        "best_validation_loss": progress.best_loss,
        **progress.validation,
    }
