"""A grid cell in training: its parts, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analysis.compute.flops import flops_per_crop
from harness.checkpoint.checkpoints import Checkpoints, Progress, say
from harness.data.to_device import StepInput, to_model_input
from harness.distributed.build_engine import engine_of
from harness.distributed.engine import Engine
from harness.distributed.micro_batches import loss_weights, micro_batch
from harness.distributed.preemption import Preempted, StopFlag
from harness.distributed.ranks import Ranks
from harness.grid.cells import Cell
from harness.models.architecture import cost_of
from harness.models.interface import Network
from harness.models.layers.masking import masking_noise
from harness.recipe.fields import per_name
from harness.recipe.schema import Recipe
from harness.train.divergence import DivergenceMonitor, Policy
from harness.train.metrics import MetricsLogger, Throughput
from harness.train.run_spec import RunSpec, build_run_spec
from harness.train.validate import validate


@dataclass
class Run:
    """A cell in training: its parts, and how far it has come."""

    cell: Cell
    spec: RunSpec
    engine: Engine
    progress: Progress
    monitor: DivergenceMonitor
    checkpoints: Checkpoints
    metrics: MetricsLogger | None  # on the first rank
    ranks: Ranks
    most: int | None  # crops in one forward pass
    logged: int  # the step of the last row of the log, or of the start

    def at(self, every: int) -> bool:
        """Whether the step just done ends a stretch of `every` steps, or the run."""
        return self.progress.step % every == 0 or self.progress.step == self.spec.steps

    @property
    def validation_due(self) -> bool:
        """Whether this step's validation is still to do; also after a stop in the midst of it."""
        return self.progress.validated < self.progress.step and self.at(self.spec.validate_every)

    @property
    def finished(self) -> bool:
        """All steps done and validated, or no better validation for as long as early stopping's patience."""
        early = self.spec.training.settings["early_stopping"]
        patient = early is None or self.progress.stale_validations < early["patience"]
        return (self.progress.step >= self.spec.steps or not patient) and not self.validation_due

    def noise(self, step: int, wells: Tensor) -> Tensor:
        """This rank's part of a step's noise, (B, `noise_values`), by its crops' places in the order of training."""
        first = step * self.spec.training.batch + self.ranks.rank * len(wells)
        places = range(first, first + len(wells))
        drawn = masking_noise(self.cell.seed, places, self.engine.model.config.noise_values)
        return self.spec.with_labels(wells, drawn)

    def step(self, inputs: StepInput) -> None:
        """One update on this rank's crops, in micro-batches of at most `most`."""
        step = self.progress.step
        # Stochastic depth draws from torch's global generator; crops and masks carry their own keys.
        torch.manual_seed(int(np.random.SeedSequence([self.cell.seed, step, self.ranks.rank]).generate_state(1)[0]))
        loss = self._accumulate(inputs)
        skip = self.monitor.check(loss, step)
        skip_update = skip if self.monitor.policy.skips else None
        self.engine.step(self.spec.learning_rate(step), skip_update)
        self.engine.model.commit_statistics(skip_update)
        self.progress.step += 1

    def _accumulate(self, inputs: StepInput) -> Tensor:
        """The gradient of the global batch's loss, and this rank's part of that loss."""
        size = micro_batch(len(inputs), self.most, self.engine.model.group)
        count = len(inputs) // size
        # Every crop hides equally many patches, so crops may be counted in place of them.
        weights = loss_weights([size] * count, self.spec.training.batch, self.ranks.world)
        loss = torch.zeros((), device=self.ranks.device)
        for number, weight in enumerate(weights):
            part = inputs.part(number * size, (number + 1) * size)
            crops = to_model_input(part.batch.images, self.cell, self.ranks)  # (size, C, S, S)
            loss = loss + self.engine.accumulate(crops, part.noise, weight, last=number == count - 1)
        return loss

    def look(self) -> None:
        """Say which steps were bad since the last look, and end the run if the recipe does not allow them."""
        found = self.monitor.collect()
        for bad in found:
            if self.metrics:
                say(f"{self.cell.id}: {bad}")
                crops = {rank: self._crops(bad.step, rank) for rank in bad.suspects}
                self.metrics.write(bad.row(self.monitor.names, crops))
        self.monitor.raise_if_fatal(found, self.checkpoints.last)

    def _crops(self, step: int, rank: int) -> list[str]:
        part = self.spec.training.batch // self.ranks.world
        first = step * self.spec.training.batch + rank * part
        return self.spec.crops(self.cell.seed, first, part, self.engine.model.config.crop)

    def log(self) -> None:
        """The mean loss and gradient norm of the sound steps since the last row, if there was one."""
        loss, norm, sound = self.monitor.window.tolist()
        if self.metrics and sound:
            step, rate = self.progress.step, self.spec.learning_rate(self.progress.step - 1)
            values = {"loss": loss / sound, "gradient_norm": norm / sound, "learning_rate": rate}
            self.metrics.advance(step - self.logged, {**values, "progress": step / self.spec.steps}, step)
            self.logged = step
        self.monitor.window.zero_()

    def validate(self, stop: StopFlag) -> bool:
        """Measure, log, and count how long there was nothing better; whether it went through without a stop."""
        progress, early = self.progress, self.spec.training.settings["early_stopping"]
        self.engine.model.sync_statistics(self.ranks.mean)
        try:
            found = validate(self.engine, self.cell, self.spec, stop)
        except Preempted:
            return False
        loss, best = found["validation_loss"], progress.best_loss
        better = best is None or loss < best - (early["min_delta"] if early else 0.0)
        progress.stale_validations = 0 if better else progress.stale_validations + 1
        progress.best_loss = loss if best is None else min(best, loss)
        progress.validated, progress.validation = progress.step, found
        if self.metrics:
            crops = progress.step * self.spec.training.batch
            self.metrics.write({"kind": "validation", "step": progress.step, "crops": crops, **found})
            self.metrics.pause()
        return True

    @property
    def is_best(self) -> bool:
        """Whether the validation of this very step is the best so far."""
        return self.progress.validated == self.progress.step and self.progress.stale_validations == 0

    def save(self, *, now: bool = False, best: bool = False) -> None:
        """Save what the next step depends on: in the background, or before this returns."""
        self.progress.log_bytes = self.metrics.position() if self.metrics else 0
        self.engine.model.sync_statistics(self.ranks.mean)
        save = self.checkpoints.save_now if now else self.checkpoints.save
        save(self.engine, self.progress, best=best)


def begin_run(recipe: Recipe, cell: Cell, model: Network, ranks: Ranks, folder: Path, fingerprint: str) -> Run:
    """Everything in place, from the last whole checkpoint where there is one."""
    spec, launch = build_run_spec(recipe, cell), recipe.launch
    if spec.training.batch % (model.group * ranks.world):
        raise ValueError(
            f"train.batch {spec.training.batch} over {ranks.world} ranks does not divide into groups of {model.group}"
        )
    engine = engine_of(recipe, cell, model, ranks)
    most = per_name(launch.crops_per_gpu_step, cell.model) if launch.crops_per_gpu_step else None
    bad = recipe.train
    policy = Policy(bad.nonfinite, bad.spike, bad.spike_factor, bad.skip_limit)
    monitor = DivergenceMonitor(policy, ranks, engine.model, engine.gradient_squares)
    checkpoints = Checkpoints(
        folder, fingerprint, ranks, {"guard": monitor.state, "window": monitor.window}, keep=launch.checkpoint_keep
    )
    progress, notes = checkpoints.resume(engine)
    metrics = None
    if ranks.is_first:
        throughput = Throughput(ranks.device, ranks.world, flops_per_crop("mae_train", cost_of(cell)))
        metrics = MetricsLogger(
            folder, cell.id, spec.steps, progress.step, spec.training.batch, throughput, progress.log_bytes
        )  # fmt: skip
        for note in notes:
            say(f"{cell.id}: {note}")
            metrics.write({"kind": "resume", "step": progress.step, "note": note})
    return Run(cell, spec, engine, progress, monitor, checkpoints, metrics, ranks, most, logged=progress.step)
