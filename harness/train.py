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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.flops import VitMae, flops_per_crop
from harness import checkpoint
from harness.checkpoint import Progress
from harness.course import Course, config_of, course_of
from harness.crops import StepInput, prepare, steps_ahead
from harness.engines import Engine, EngineOptions, build_engine, choose_engine
from harness.grid import Cell, model_shape
from harness.meter import Machine, Meter
from harness.models.attention import attention_kernel, describe_choice
from harness.models.mae import MaskedAutoencoder
from harness.models.masking import masking_noise
from harness.optim import build_optimiser
from harness.pace import Agreement, collected_garbage
from harness.parallel import Ranks, ranks
from harness.preempt import Preempted, StopFlag, stop_on_signals
from harness.recipe import Recipe
from harness.validate import validate
from shards.loader import training_batches

CHECKPOINT, WEIGHTS = "checkpoint.pt", "model.safetensors"


def train_cell(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> dict[str, Any]:
    """Train one cell, or just initialise an untrained one, and return its ledger values.

    Leaves weights and a log in `folder`; resumes from the checkpoint where one is there.

    Raises:
        Preempted: a signal asked to stop; the checkpoint is written.
        ValueError: the shards or the engine do not fit the recipe.
    """
    with ranks(recipe.launch.device) as here, stop_on_signals() as stop:
        torch.manual_seed(cell.seed)
        model = MaskedAutoencoder(config_of(cell)).to(here.device)
        values: dict[str, Any] = {**_identity(cell), "parameters": sum(p.numel() for p in model.parameters())}
        weights = model.state_dict()
        if cell.training is not None:
            dtype = torch.bfloat16 if cell.training.settings["precision"] == "bf16" else torch.float32
            with attention_kernel(recipe.launch.attention, here.device, dtype) as kernel:
                values["attention"] = f"{kernel}: {describe_choice(model.config, here.device, dtype)}"
                run = _begin(recipe, cell, model, here, folder, fingerprint)
                _train(recipe, run, stop, folder, fingerprint)
            values |= _values(run)
            weights = run.engine.weights()
        if here.is_first:
            checkpoint.save_weights(folder / WEIGHTS, weights, {"cell": cell.id, "fingerprint": fingerprint})
            (folder / CHECKPOINT).unlink(missing_ok=True)
        here.wait()
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


@dataclass
class Run:
    """A cell in training: its parts, and how far it has come."""

    cell: Cell
    course: Course
    engine: Engine
    progress: Progress
    meter: Meter | None  # on the first rank
    here: Ranks
    losses: list[Tensor]  # of the steps since the last row of the log

    def at(self, every: int) -> bool:
        """Whether the step just done ends a stretch of `every` steps, or the run."""
        return self.progress.step % every == 0 or self.progress.step == self.course.steps

    @property
    def finished(self) -> bool:
        """All steps done, or no better validation for as long as early stopping's patience."""
        early = self.course.training.settings["early_stopping"]
        patient = early is None or self.progress.stale_validations < early["patience"]
        return self.progress.step >= self.course.steps or not patient

    def noise(self, step: int, count: int) -> Tensor:
        """What masks this rank's `count` crops of a step: (B, L), by their places in the order of training."""
        first = step * self.course.training.batch + self.here.rank * count
        return masking_noise(self.cell.seed, range(first, first + count), self.engine.model.config.tokens)

    def step(self, inputs: StepInput) -> None:
        """One update on this rank's crops."""
        step = self.progress.step
        # Stochastic depth draws from torch's global generator; crops and masks carry their own keys.
        torch.manual_seed(int(np.random.SeedSequence([self.cell.seed, step, self.here.rank]).generate_state(1)[0]))
        crops = prepare(inputs.batch.images, self.cell, self.here)  # (B, C, S, S)
        self.losses.append(self.engine.accumulate(crops, inputs.noise, 1.0, last=True))
        self.engine.step(self.course.learning_rate(step))
        self.progress.step += 1

    def log(self) -> None:
        """The mean loss since the last row."""
        mean = float(self.here.mean(torch.stack(self.losses).mean()))
        if self.meter:
            rate = self.course.learning_rate(self.progress.step - 1)
            values = {"loss": mean, "learning_rate": rate, "progress": self.progress.step / self.course.steps}
            self.meter.advance(len(self.losses), values, self.progress.step)
        self.losses.clear()

    def validate(self) -> None:
        """Measure, log, and count how long there was nothing better."""
        progress, early = self.progress, self.course.training.settings["early_stopping"]
        found = validate(self.engine, self.cell, self.course)
        loss = found["validation_loss"]
        better = loss < progress.best_loss - (early["min_delta"] if early else 0.0)
        progress.stale_validations = 0 if better else progress.stale_validations + 1
        progress.best_loss, progress.validation = min(progress.best_loss, loss), found
        if self.meter:
            crops = progress.step * self.course.training.batch
            self.meter.write({"kind": "validation", "step": progress.step, "crops": crops, **found})
            self.meter.pause()


def _train(recipe: Recipe, run: Run, stop: StopFlag, folder: Path, fingerprint: str) -> None:
    """Step until the run is finished.

    Raises:
        Preempted: all ranks agreed to stop, and saved.
    """
    began, saved, wanted = time.monotonic() - run.progress.seconds, time.monotonic(), False
    agree = Agreement(run.here)
    run.engine.model.train()
    log = closing(run.meter) if run.meter else nullcontext()
    with log, closing(_inputs(recipe, run)) as inputs, collected_garbage() as collect:
        while not run.finished:
            with run.meter.waiting() if run.meter else nullcontext():
                crops = next(inputs)
            run.step(crops)
            stopping, due = agree(bool(stop), time.monotonic() - saved > 60 * recipe.launch.checkpoint_minutes)
            if run.at(run.course.log_every) or stopping:
                run.log()
            if run.at(run.course.validate_every):
                run.validate()
            run.progress.seconds = time.monotonic() - began
            wanted = wanted or due
            if stopping or (wanted and not run.losses):
                checkpoint.save(folder / CHECKPOINT, fingerprint, run.engine, run.progress)
                saved, wanted = time.monotonic(), False
            if stopping and not run.finished:
                agree.close()
                reason = stop.reason or "another rank was told to stop"
                raise Preempted(f"{run.cell.id}: {reason}; saved at step {run.progress.step} of {run.course.steps}")
            collect(run.progress.step)
        agree.close()


def _begin(recipe: Recipe, cell: Cell, model: MaskedAutoencoder, here: Ranks, folder: Path, fingerprint: str) -> Run:
    """Everything in place, from the checkpoint where there is one."""
    course = course_of(recipe, cell)
    chosen, peak = course.training.settings["optimiser"], course.training.learning_rate
    engine = build_engine(
        model,
        lambda module: build_optimiser(
            module, chosen["name"], peak=peak, betas=tuple(chosen["betas"]), weight_decay=chosen["weight_decay"]
        ),
        here,
        _engine_options(recipe, cell, model, here),
    )
    progress = checkpoint.load(folder / CHECKPOINT, fingerprint, engine) or Progress()
    machine = Machine(here.device, here.world, flops_per_crop("mae_train", VitMae(**model_shape(cell))))
    meter = (
        Meter(folder, cell.id, course.steps, progress.step, course.training.batch, machine) if here.is_first else None
    )
    return Run(cell, course, engine, progress, meter, here, [])


def _engine_options(recipe: Recipe, cell: Cell, model: MaskedAutoencoder, here: Ranks) -> EngineOptions:
    assert cell.training is not None
    launch = recipe.launch
    shard = launch.shard_gpus or min(here.world, launch.gpus_per_node or here.world)
    memory = torch.cuda.get_device_properties(here.device).total_memory if here.device.type == "cuda" else None
    parameters = sum(p.numel() for p in model.parameters())
    name = choose_engine(launch.engine, here.world, parameters, memory, shard)
    return EngineOptions(name, cell.training.settings["precision"], shard)


def _inputs(recipe: Recipe, run: Run) -> Generator[StepInput]:
    """What the steps still to do take, on the device."""
    batches = training_batches(
        run.course.shards, run.course.wells, crop=run.engine.model.config.crop, batch=run.course.training.batch,
        seed=run.cell.seed, first_batch=run.progress.step, last_batch=run.course.steps, rank=run.here.rank,
        world=run.here.world, workers=recipe.launch.loader_workers,
    )  # fmt: skip
    return steps_ahead(batches, run.noise, run.progress.step, run.here.device)


def _values(run: Run) -> dict[str, Any]:
    progress, course = run.progress, run.course
    return {
        "crops": progress.step * course.training.batch,
        "steps": progress.step,
        "planned_steps": course.steps,
        "experiments": list(course.experiments),
        "wells": len(course.wells),
        "train_seconds": round(progress.seconds, 2),
        "best_validation_loss": progress.best_loss,
        **progress.validation,
    }
