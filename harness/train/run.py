"""A grid cell in training: its parts, and how far it has come. `loop.py` says in which order its methods are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from analysis.compute.flops import flops_per_crop
from analysis.forecast.outlook import Outlook
from harness.checkpoint.checkpoints import Checkpoints, Progress, say
from harness.checkpoint.start import Start
from harness.data.to_device import StepInput, to_model_input
from harness.distributed.build_engine import engine_for_cell
from harness.distributed.engine import Engine
from harness.distributed.micro_batches import loss_weights, micro_batch
from harness.distributed.preemption import Preempted, RunControl
from harness.distributed.ranks import Ranks
from harness.grid.cell import Cell, Training
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.grid.stage_run import StageRun
from harness.models.architecture import cost_of
from harness.models.interface import Network
from harness.models.layers.masking import masking_noise
from harness.recipe.fields import per_name
from harness.recipe.schema import Recipe
from harness.train.divergence import DivergenceMonitor, Policy
from harness.train.metrics import MetricsLogger, Throughput, continue_log
from harness.train.run_spec import RunSpec, build_run_spec
from harness.train.stop import is_stoppable, reason_to_stop, stop_values
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
    control: RunControl
    max_crops: int | None  # in one forward pass
    logged: int  # the step of the last row of the log, or of the start
    study: Recipe
    crops_before: int = 0  # of the run that this one continues
    stop: Outlook | None = None  # on the first rank: why `launch.stop_when` ended the run
    is_stopped: bool = False  # whether it did
    _started: bool = False  # whether the first batch has arrived

    @property
    def training(self) -> Training:
        """How the cell trains."""
        return self.spec.training

    @property
    def crops(self) -> int:
        """Crops seen so far, those of a run that this one continues too."""
        return self.crops_before + self.progress.step * self.training.batch

    def ends_interval(self, steps: int) -> bool:
        """Whether the step just done ends an interval of so many steps, or the run."""
        return self.progress.step % steps == 0 or self.progress.step == self.spec.steps

    @property
    def validation_due(self) -> bool:
        """Whether this step's validation is still to do; also after a stop in the middle of it.

        A segment is validated as the whole run is, so that its end is no validation of its own.
        """
        step, every = self.progress.step, self.spec.validate_every
        due = step % every == 0 if self.training.until is not None else self.ends_interval(every)
        return self.progress.validated < step and due

    @property
    def finished(self) -> bool:
        """All steps done and validated, no better validation for as long as early stopping's patience, or stopped."""
        early = self.training.early_stopping
        patient = early is None or self.progress.stale_validations < early.patience
        over = self.progress.step >= self.spec.steps or not patient or self.is_stopped
        return over and not self.validation_due

    def noise(self, step: int, wells: Tensor) -> Tensor:
        """This rank's part of a step's noise, (B, `noise_values`), by its crops' places in the order of training."""
        first = step * self.training.batch + self.ranks.rank * len(wells)
        places = range(first, first + len(wells))
        return masking_noise(self.cell.seed, places, self.engine.model.config.noise_values)

    def next_inputs(self, inputs: Iterator[StepInput]) -> StepInput:
        """Wait for what the next step takes. The wait for the first batch is the loader's start, not training."""
        if self.metrics is None:
            return next(inputs)
        with self.metrics.waiting():
            batch = next(inputs)
        if not self._started:
            self.metrics.start_clock()
            self._started = True
        return batch

    def outside_steps(self) -> AbstractContextManager[None]:
        """Leave what is done inside out of the logged rates; call it when the device has finished its steps."""
        return self.metrics.outside_steps() if self.metrics else nullcontext()

    def step(self, inputs: StepInput) -> None:
        """One update on this rank's crops, in micro-batches of at most `max_crops`."""
        step = self.progress.step
        loss = self._accumulate(inputs)
        skip = self.monitor.check(loss, step)
        skip_update = skip if self.monitor.policy.skips else None
        self.engine.step(self.spec.learning_rate(step), skip_update, self.spec.momentum(step))
        self.engine.model.commit_statistics(skip_update)
        self.progress.step += 1

    def _accumulate(self, inputs: StepInput) -> Tensor:
        """The gradient of the global batch's loss, and this rank's part of that loss."""
        size = micro_batch(len(inputs), self.max_crops, self.engine.model.group)
        count = len(inputs) // size
        # Every crop hides equally many patches, so crops may be counted in place of them.
        weights = loss_weights([size] * count, self.training.batch, self.ranks.world)
        loss = torch.zeros((), device=self.ranks.device)
        for number, weight in enumerate(weights):
            part = inputs.part(number * size, (number + 1) * size)
            crops = to_model_input(part.batch.images, self.cell, self.ranks, self.spec.channels)  # (size, C, S, S)
            last = number == count - 1
            loss = loss + self.engine.accumulate(crops, part.noise, weight, last=last, labels=part.labels)
        return loss

    def report_bad_steps(self) -> None:
        """Log which steps were bad since the last call, and end the run if the recipe does not allow them."""
        bad_steps = self.monitor.collect()
        for bad in bad_steps:
            if self.metrics:
                say(f"{self.cell.id}: {bad}")
                crops = {rank: self._crops(bad.step, rank) for rank in bad.suspects}
                self.metrics.write(bad.row(self.monitor.names, crops))
        self.monitor.raise_if_fatal(bad_steps, self.checkpoints.last)

    def _crops(self, step: int, rank: int) -> list[str]:
        part = self.training.batch // self.ranks.world
        first = step * self.training.batch + rank * part
        return self.spec.crops(self.cell.seed, first, part, self.engine.model.config.crop)

    def log(self) -> None:
        """The mean loss and gradient norm of the sound steps since the last row, if there was one."""
        window = self.monitor.read_window()
        if self.metrics and window.steps:
            step, rate = self.progress.step, self.spec.learning_rate(self.progress.step - 1)
            values = {"loss": window.mean_loss, "gradient_norm": window.mean_gradient_norm, "learning_rate": rate}
            self.metrics.advance(step - self.logged, {**values, "progress": step / self.spec.steps}, step)
            self.logged = step

    def validate(self) -> bool:
        """Measure, log, and count validations without improvement; return whether it ended without a stop."""
        progress, early = self.progress, self.training.early_stopping
        self.engine.model.sync_statistics(self.ranks.mean)
        try:
            losses = validate(self.engine, self.cell, self.spec, self.control.stop)
        except Preempted:
            return False
        loss, best = losses["validation_loss"], progress.best_loss
        better = best is None or loss < best - (early.min_delta if early else 0.0)
        progress.stale_validations = 0 if better else progress.stale_validations + 1
        progress.best_loss = loss if best is None else min(best, loss)
        progress.validated, progress.validation = progress.step, losses
        if self.metrics:
            self.metrics.write({"kind": "validation", "step": progress.step, "crops": self.crops, **losses})
        self._stop_if_out_of_reach()
        return True

    def _stop_if_out_of_reach(self) -> None:
        """Ask `launch.stop_when` on the first rank, which reads the study's logs; all ranks act on its answer."""
        if not is_stoppable(self.study, self.cell):
            return
        if self.metrics:
            self.stop = reason_to_stop(self.study, self.cell, self.spec.steps)
        self.is_stopped = self.ranks.any(self.stop is not None)
        if self.metrics and self.stop:
            say(f"{self.cell.id}: stopped at step {self.progress.step} by launch.stop_when: {self.stop.evidence}")
            self.metrics.write({"kind": "stop", "step": self.progress.step, **stop_values(self.stop)})

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


def begin_run(stage: StageRun, model: Network, ranks: Ranks, control: RunControl) -> Run:
    """A run that is ready for its next step, from the last complete checkpoint where there is one.

    Raises:
        ValueError: the batch does not divide over the ranks, or as `build_run_spec`.
        harness.checkpoint.checkpoints.CheckpointError: the checkpoint belongs to other settings or data.
    """
    recipe, cell, launch = stage.recipe, stage.cell, stage.recipe.launch
    spec = build_run_spec(recipe, cell)
    if spec.training.batch % (model.group * ranks.world):
        raise ValueError(
            f"train.batch {spec.training.batch} over {ranks.world} ranks does not divide into groups of {model.group}"
        )
    engine = engine_for_cell(recipe, cell, model, ranks)
    train = spec.training.settings
    policy = Policy(train.nonfinite, train.spike, train.spike_factor, train.skip_limit)
    monitor = DivergenceMonitor(policy, ranks, engine.model, engine.gradient_squares)
    checkpoints = Checkpoints(
        stage.folder, stage.fingerprint, ranks, {"guard": monitor.state, "window": monitor.window},
        keep=launch.checkpoint_keep, fence=control.fence, last_step=spec.steps, restart_lost=launch.restart_lost,
    )  # fmt: skip
    start = _start(stage, spec, monitor, ranks)
    progress, notes = checkpoints.resume(engine, partial(_check_steps, engine, monitor), start)
    metrics = _metrics(stage, spec, progress, notes, ranks, control) if ranks.is_first else None
    max_crops = per_name(launch.crops_per_gpu_step, cell.model) if launch.crops_per_gpu_step else None
    return Run(
        cell, spec, engine, progress, monitor, checkpoints, metrics, ranks, control, max_crops, progress.step,
        stage.study or recipe, crops_before=_crops_before(stage, spec.training.batch),
    )  # fmt: skip


def _crops_before(stage: StageRun, batch: int) -> int:
    """Crops of the run that a cell's own run continues: of all that its start has seen, those before its own step 0."""
    if stage.start is None:
        return 0
    seen, steps = (int(stage.start.values[name]) for name in ("crops", "steps"))
    return seen if stage.cell.begins_run else seen - steps * batch


def _start(stage: StageRun, spec: RunSpec, monitor: DivergenceMonitor, ranks: Ranks) -> Start | None:
    """The state that a run begins with, if that is another cell's; its log begins with that of its run's part before.

    The log of an earlier try, which saved nothing, may have begun otherwise.
    """
    cell = stage.cell
    if cell.start is None:
        return None
    before_this = cell_folder(stage.recipe, cell.start)

    def begin(before: Progress) -> Progress:
        if not cell.begins_run:
            if before.step > spec.steps:
                raise ValueError(f"it has made {before.step} steps, and {cell.id} ends after {spec.steps}")
            if ranks.is_first:
                continue_log(before_this / TRAIN_LOG, stage.folder / TRAIN_LOG, before.log_bytes)
            return replace(before, seconds=0.0)
        updates = before.updates + int(monitor.applied)
        monitor.state.zero_()
        monitor.window.zero_()
        return Progress(updates=updates)

    assert stage.start is not None
    return Start(before_this, stage.start.fingerprint, begin)


def _check_steps(engine: Engine, monitor: DivergenceMonitor, progress: Progress) -> None:
    """Check that optimiser and divergence monitor have counted the steps of a checkpoint.

    Raises:
        ValueError: they have not, so the weights are those of another step.
    """
    step, skipped = progress.step, monitor.skipped
    made = step - skipped
    counts = [("extra.guard", monitor.applied, made)]
    states = engine.optimiser.state.values()
    counts += [("optimiser", float(state["step"]), progress.updates + made) for state in states if "step" in state]
    for who, count, expected in counts:
        if count != expected or not 0 <= skipped <= step:
            raise ValueError(f"progress.step is {step}, but {who} has counted {count:g} updates and {skipped} skipped")


def _metrics(
    stage: StageRun, spec: RunSpec, progress: Progress, notes: list[str], ranks: Ranks, control: RunControl
) -> MetricsLogger:
    """The log of a run, which begins with what was found wrong while resuming."""
    assert stage.cell.architecture is not None
    throughput = Throughput(ranks.device, ranks.world, flops_per_crop("mae_train", cost_of(stage.cell.architecture)))
    metrics = MetricsLogger(
        stage.folder, stage.cell.id, spec.steps, progress.step, spec.training.batch, throughput, progress.log_bytes,
        control.fence,
    )  # fmt: skip
    for note in notes:
        say(f"{stage.cell.id}: {note}")
        metrics.write({"kind": "resume", "step": progress.step, "note": note})
    return metrics
