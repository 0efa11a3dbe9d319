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

from analysis.compute.flops import flops_per_crop
from harness.checkpoint.checkpoints import Checkpoints, Progress, say
from harness.data.labels import class_count
from harness.data.to_device import StepInput, prepare, steps_ahead
from harness.distributed.engine import Engine, engine_of
from harness.distributed.micro_batches import loss_weights, micro_batch
from harness.distributed.preemption import Preempted, StopFlag, stop_on_signals
from harness.distributed.ranks import Ranks, ranks
from harness.grid.cells import Cell
from harness.models.architecture import build, cost_of, initialise
from harness.models.config import MaeConfig
from harness.models.interface import Network
from harness.models.layers.attention import attention_kernel, describe_choice
from harness.models.layers.masking import masking_noise
from harness.recipe.fields import per_name
from harness.recipe.schema import Recipe
from harness.stages.missing import WEIGHTS
from harness.storage.weights import save_weights
from harness.train.divergence import Guard, Policy
from harness.train.garbage import Agreement, collected_garbage
from harness.train.metrics import Machine, Meter
from harness.train.run_spec import Course, course_of
from harness.train.validate import validate


def train_cell(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> dict[str, Any]:
    """Train one cell, or just initialise an untrained one, and return its ledger values.

    Leaves weights, a log and its checkpoints in `folder`; resumes from the last whole checkpoint where one is there.

    Raises:
        Preempted: a signal asked to stop; the checkpoint is written.
        Diverged: a step that the recipe does not allow; the checkpoint before it stays.
        ValueError: the shards or the engine do not fit the recipe.
    """
    with ranks(recipe.launch.device) as here, stop_on_signals() as stop:
        torch.manual_seed(cell.seed)
        model = build(cell, classes=class_count(recipe, cell)).to(here.device)
        initialise(model, recipe, cell)
        values: dict[str, Any] = {**_identity(cell), "parameters": sum(p.numel() for p in model.parameters())}
        weights = model.state_dict()
        if cell.training is not None:
            dtype = torch.bfloat16 if cell.training.settings["precision"] == "bf16" else torch.float32
            with attention_kernel(recipe.launch.attention, here.device, dtype) as kernel:
                if isinstance(model.config, MaeConfig):
                    values["attention"] = f"{kernel}: {describe_choice(model.config, here.device, dtype)}"
                run = _begin(recipe, cell, model, here, folder, fingerprint)
                with closing(run.checkpoints):
                    _train(recipe, run, stop)
            values |= _values(run)
            weights = run.engine.weights()
        if here.is_first:
            save_weights(folder / WEIGHTS, weights, {"cell": cell.id, "fingerprint": fingerprint})
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
    guard: Guard
    checkpoints: Checkpoints
    meter: Meter | None  # on the first rank
    here: Ranks
    most: int | None  # crops in one forward pass
    logged: int  # the step of the last row of the log, or of the start

    def at(self, every: int) -> bool:
        """Whether the step just done ends a stretch of `every` steps, or the run."""
        return self.progress.step % every == 0 or self.progress.step == self.course.steps

    @property
    def validation_due(self) -> bool:
        """Whether this step's validation is still to do; also after a stop in the midst of it."""
        return self.progress.validated < self.progress.step and self.at(self.course.validate_every)

    @property
    def finished(self) -> bool:
        """All steps done and validated, or no better validation for as long as early stopping's patience."""
        early = self.course.training.settings["early_stopping"]
        patient = early is None or self.progress.stale_validations < early["patience"]
        return (self.progress.step >= self.course.steps or not patient) and not self.validation_due

    def noise(self, step: int, wells: Tensor) -> Tensor:
        """This rank's part of a step's noise, (B, `noise_values`), by its crops' places in the order of training."""
        first = step * self.course.training.batch + self.here.rank * len(wells)
        places = range(first, first + len(wells))
        drawn = masking_noise(self.cell.seed, places, self.engine.model.config.noise_values)
        return self.course.with_labels(wells, drawn)

    def step(self, inputs: StepInput) -> None:
        """One update on this rank's crops, in micro-batches of at most `most`."""
        step = self.progress.step
        # Stochastic depth draws from torch's global generator; crops and masks carry their own keys.
        torch.manual_seed(int(np.random.SeedSequence([self.cell.seed, step, self.here.rank]).generate_state(1)[0]))
        loss = self._accumulate(inputs)
        skip = self.guard.judge(loss, step)
        skip_update = skip if self.guard.policy.skips else None
        self.engine.step(self.course.learning_rate(step), skip_update)
        self.engine.model.settle(skip_update)
        self.progress.step += 1

    def _accumulate(self, inputs: StepInput) -> Tensor:
        """The gradient of the global batch's loss, and this rank's part of that loss."""
        size = micro_batch(len(inputs), self.most, self.engine.model.group)
        count = len(inputs) // size
        # Every crop hides equally many patches, so crops may be counted in place of them.
        weights = loss_weights([size] * count, self.course.training.batch, self.here.world)
        loss = torch.zeros((), device=self.here.device)
        for number, weight in enumerate(weights):
            part = inputs.part(number * size, (number + 1) * size)
            crops = prepare(part.batch.images, self.cell, self.here)  # (size, C, S, S)
            loss = loss + self.engine.accumulate(crops, part.noise, weight, last=number == count - 1)
        return loss

    def look(self) -> None:
        """Say which steps were bad since the last look, and end the run if the recipe does not allow them."""
        found = self.guard.look()
        for bad in found:
            if self.meter:
                say(f"{self.cell.id}: {bad}")
                crops = {rank: self._crops(bad.step, rank) for rank in bad.suspects}
                self.meter.write(bad.row(self.guard.names, crops))
        self.guard.enforce(found, self.checkpoints.last)

    def _crops(self, step: int, rank: int) -> list[str]:
        part = self.course.training.batch // self.here.world
        first = step * self.course.training.batch + rank * part
        return self.course.crops(self.cell.seed, first, part, self.engine.model.config.crop)

    def log(self) -> None:
        """The mean loss and gradient norm of the sound steps since the last row, if there was one."""
        loss, norm, sound = self.guard.window.tolist()
        if self.meter and sound:
            step, rate = self.progress.step, self.course.learning_rate(self.progress.step - 1)
            values = {"loss": loss / sound, "gradient_norm": norm / sound, "learning_rate": rate}
            self.meter.advance(step - self.logged, {**values, "progress": step / self.course.steps}, step)
            self.logged = step
        self.guard.window.zero_()

    def validate(self, stop: StopFlag) -> bool:
        """Measure, log, and count how long there was nothing better; whether it went through without a stop."""
        progress, early = self.progress, self.course.training.settings["early_stopping"]
        self.engine.model.agree(self.here.mean)
        try:
            found = validate(self.engine, self.cell, self.course, stop)
        except Preempted:
            return False
        loss, best = found["validation_loss"], progress.best_loss
        better = best is None or loss < best - (early["min_delta"] if early else 0.0)
        progress.stale_validations = 0 if better else progress.stale_validations + 1
        progress.best_loss = loss if best is None else min(best, loss)
        progress.validated, progress.validation = progress.step, found
        if self.meter:
            crops = progress.step * self.course.training.batch
            self.meter.write({"kind": "validation", "step": progress.step, "crops": crops, **found})
            self.meter.pause()
        return True

    @property
    def is_best(self) -> bool:
        """Whether the validation of this very step is the best so far."""
        return self.progress.validated == self.progress.step and self.progress.stale_validations == 0

    def save(self, *, now: bool = False, best: bool = False) -> None:
        """Save what the next step depends on: in the background, or before this returns."""
        self.progress.log_bytes = self.meter.position() if self.meter else 0
        self.engine.model.agree(self.here.mean)
        save = self.checkpoints.save_now if now else self.checkpoints.save
        save(self.engine, self.progress, best=best)


def _train(recipe: Recipe, run: Run, stop: StopFlag) -> None:
    """Step until the run is finished.

    Raises:
        Preempted: all ranks agreed to stop, and saved.
    """
    launch, progress = recipe.launch, run.progress
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    agree = Agreement(run.here)
    run.engine.model.train()
    log = closing(run.meter) if run.meter else nullcontext()
    with log, closing(_inputs(recipe, run)) as inputs, collected_garbage() as collect:
        while not run.finished:
            if not run.validation_due:  # else a stop came in the midst of it
                with run.meter.waiting() if run.meter else nullcontext():
                    crops = next(inputs)
                run.step(crops)
                if run.at(run.course.log_every):
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
                raise Preempted(f"{run.cell.id}: {stop}; saved at step {progress.step} of {run.course.steps}")
            if due or best:
                run.look()
                run.save(best=best)
                saved = time.monotonic()
            collect(progress.step)
        agree.close()


def _begin(recipe: Recipe, cell: Cell, model: Network, here: Ranks, folder: Path, fingerprint: str) -> Run:
    """Everything in place, from the last whole checkpoint where there is one."""
    course, launch = course_of(recipe, cell), recipe.launch
    if course.training.batch % (model.group * here.world):
        raise ValueError(
            f"train.batch {course.training.batch} over {here.world} ranks does not divide into groups of {model.group}"
        )
    engine = engine_of(recipe, cell, model, here)
    most = per_name(launch.crops_per_gpu_step, cell.model) if launch.crops_per_gpu_step else None
    bad = recipe.train
    policy = Policy(bad.nonfinite, bad.spike, bad.spike_factor, bad.skip_limit)
    guard = Guard(policy, here, engine.model, engine.gradient_squares)
    checkpoints = Checkpoints(
        folder, fingerprint, here, {"guard": guard.state, "window": guard.window}, keep=launch.checkpoint_keep
    )
    progress, notes = checkpoints.resume(engine)
    meter = None
    if here.is_first:
        machine = Machine(here.device, here.world, flops_per_crop("mae_train", cost_of(cell)))
        meter = Meter(
            folder, cell.id, course.steps, progress.step, course.training.batch, machine, progress.log_bytes
        )  # fmt: skip
        for note in notes:
            say(f"{cell.id}: {note}")
            meter.write({"kind": "resume", "step": progress.step, "note": note})
    return Run(cell, course, engine, progress, guard, checkpoints, meter, here, most, logged=progress.step)


def _inputs(recipe: Recipe, run: Run) -> Generator[StepInput]:
    """What the steps still to do take, on the device."""
    crop = run.engine.model.config.crop
    batches = run.course.batches(run.progress.step, crop, run.cell.seed, run.here, recipe.launch)
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
