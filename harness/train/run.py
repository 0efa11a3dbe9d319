"""A grid cell in training: its parts, and how far it has come. `loop.py` says in which order its methods are called."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from analysis.forecast.outlook import Outlook
from harness.checkpoint.checkpoints import Checkpoints, Progress, say
from harness.data.dim_channels import dim_channels, warning
from harness.data.to_device import StepInput, to_model_input
from harness.data.to_host import HostCopy
from harness.distributed.engine import Engine
from harness.distributed.micro_batches import loss_weights, micro_batch
from harness.distributed.preemption import Preempted, RunControl
from harness.distributed.ranks import Ranks
from harness.distributed.stalls.slow_ranks import Slow, SlowRanks
from harness.grid.cell import Cell, Training
from harness.models.layers.masking import masking_noise
from harness.recipe.schema import Recipe
from harness.storage.health.slow_nodes import SlowNode, forget_slow_node, record_slow_node
from harness.train.divergence import BadStep, DivergenceMonitor
from harness.train.metrics import MetricsLogger
from harness.train.run_spec import RunSpec
from harness.train.session import RunSession
from harness.train.stop import is_stoppable, reason_to_stop, stop_values
from harness.train.validate import validate

ROW_LAG = 2  # steps between a row of the log and its reading on a GPU


class Row(NamedTuple):
    """A row of the log whose numbers are on their way to the host."""

    step: int
    values: HostCopy


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
    session: RunSession
    slow: SlowRanks
    crops_before: int = 0  # of the run that this one continues
    stop: Outlook | None = None  # on the first rank: why `launch.stop_when` ended the run
    is_stopped: bool = False  # whether it did
    first: int = field(init=False)  # the step that this start begins with
    _row: Row | None = None  # of the log, begun and not written
    _started: bool = False  # whether the first batch has arrived

    def __post_init__(self) -> None:
        self.first = self.progress.step

    @property
    def folder(self) -> Path:
        """The folder of the cell."""
        return self.checkpoints.folder.parent

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
        with self.slow.waiting(), self.metrics.waiting() if self.metrics else nullcontext():
            batch = next(inputs)
        if not self._started:
            if self.metrics:
                self.metrics.start_clock()
            self.session.ready()
            self.slow.start_clock()
            self._started = True
        return batch

    @contextmanager
    def outside_steps(self) -> Iterator[None]:
        """Leave what is done inside out of the logged rates; call it when the device has finished its steps."""
        with self.slow.outside_steps(), self.metrics.outside_steps() if self.metrics else nullcontext():
            yield

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
            if number == 0 and self.progress.step == 0:
                self._tell_dim(crops)
            last = number == count - 1
            loss = loss + self.engine.accumulate(crops, part.noise, weight, last=last, labels=part.labels)
        return loss

    def _tell_dim(self, crops: Tensor) -> None:
        """Say on the first rank which channels of a run's first crops (B, C, S, S) stay below unit variance."""
        dim = dim_channels(crops, self.spec.channels.names) if self.metrics else {}
        if self.metrics and dim:
            say(f"{self.cell.id}: warning: {warning(dim)}")
            self.metrics.write({"kind": "dim", "step": 0, "channels": dim, "text": warning(dim)})

    def report_bad_steps(self) -> None:
        """Log what is not logged yet, and end the run for steps that the recipe does not allow. Waits for the device.

        Raises:
            Diverged: on all ranks alike.
        """
        self.write_row()
        self._report(self.monitor.collect())

    def _report(self, bad_steps: Sequence[BadStep]) -> None:
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
        """Begin a row of the log: copy to the host what it holds, without waiting for the device."""
        self.write_row()
        self._row = Row(self.progress.step, self.monitor.observe())
        for slow in self.slow.row(self.progress.step):
            self._tell(slow)

    @property
    def row_is_due(self) -> bool:
        """Whether enough steps have been sent to a GPU that it goes on while the host reads the row before them.

        All ranks read at the same step, because a row may end the run.
        """
        lag = 0 if self.ranks.device.type == "cpu" else ROW_LAG
        return self._row is not None and self.progress.step >= self._row.step + lag

    def write_row(self) -> None:
        """Write the row that was begun, if one is: loss and gradient norm of the sound steps since the last, if any.

        Raises:
            Diverged: on all ranks alike, for a step before the row.
        """
        if self._row is None:
            return
        (step, copy), self._row = self._row, None
        bad_steps, window = self.monitor.read(copy)
        self._report(bad_steps)
        if self.metrics and window.steps:
            rate = self.spec.learning_rate(step - 1)
            values = {"loss": window.mean_loss, "gradient_norm": window.mean_gradient_norm, "learning_rate": rate}
            self.metrics.advance(step - self.logged, {**values, "progress": step / self.spec.steps}, step)
            self.logged = step

    def _tell(self, slow: Slow) -> None:
        """Say on the first rank that a node is slow, or no longer is, and note it for later submissions."""
        with suppress(OSError):  # a full disk costs the note, not the training
            if slow.is_over:
                forget_slow_node(self.study.output, slow.node)
            else:
                found = SlowNode(slow.node, self.cell.id, slow.ratio, slow.text, time.time())
                record_slow_node(self.study.output, found)
        say(f"{self.cell.id}: {slow.text}")
        if self.metrics:
            row = {"node": slow.node, "ranks": list(slow.ranks), "ratio": slow.ratio, "over": slow.is_over}
            self.metrics.write({"kind": "slow", "step": self.progress.step, **row, "text": slow.text})

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
        with self.session.saving(self.progress.step, now=now):
            save(self.engine, self.progress, best=best)
