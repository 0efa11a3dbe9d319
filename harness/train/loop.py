"""The training loop, and around it what makes and ends a grid cell's training.

A step is a pure function of the state before it and (seed, step): its crops, masks and dropped paths all follow from
the position in the order. So a run that was killed and resumed on one process ends bit for bit like one that was not.
The host does not wait for the device between validations and saves: what a row of the log holds is copied while the
device goes on, and read two steps later.

Shapes: B crops of this rank's part of the global batch, C channels, S crop side, L tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import torch

from harness.data.channels import CHANNELS
from harness.data.labels import class_count
from harness.data.to_device import StepInput, prefetch_to_device
from harness.distributed.agreement import Agreement
from harness.distributed.preemption import Preempted, RunControl, controlled
from harness.distributed.ranks import Ranks, process_group
from harness.distributed.stalls.pulse import AGREE, DATA, PULSE, SAVE, STEP, VALIDATE
from harness.distributed.stalls.watch import watched
from harness.grid.cell_folder import WEIGHTS
from harness.grid.cells import weights_path
from harness.grid.stage_run import StageRun
from harness.models.architecture import build, initialise
from harness.models.config import MaeConfig
from harness.models.interface import Network
from harness.models.layers.attention import attention_kernel, describe_choice
from harness.models.layers.initial_values import InitialValues, deferred
from harness.recipe.launch import Launch
from harness.storage.weights import save_weights
from harness.train.begin import begin_run
from harness.train.garbage import collected_garbage
from harness.train.profiling.step_trace import StepTrace
from harness.train.run import Run
from harness.train.session import spent_values
from harness.train.stop import stop_values
from harness.train.validate import validate

AFTER_STALL = 300.0  # seconds: `stalls.watch` first says which rank is missing, and ends the job


def train(run: Run, launch: Launch) -> None:
    """Step until the run is finished.

    Raises:
        Preempted: all ranks agreed to stop, and saved.
        Diverged: a step that the recipe does not allow; the checkpoint before it stays.
    """
    progress, stop = run.progress, run.control.stop
    began = time.monotonic() - progress.seconds
    agree = Agreement(run.ranks)
    run.engine.model.train()
    log = closing(run.metrics) if run.metrics else nullcontext()
    trace = StepTrace(launch.profile, run.folder, run.ranks, run.outside_steps)
    with log, closing(_inputs(run, launch)) as inputs, collected_garbage() as collect, closing(trace):
        while not run.finished:
            if not run.validation_due:  # else a stop came in the middle of it
                with trace.step(progress.step + 1):
                    PULSE.mark(DATA, progress.step)
                    batch = run.next_inputs(inputs)
                    PULSE.mark(STEP)
                    run.step(batch)
                    if progress.step == run.first + 1 and launch.stall_minutes is not None:
                        run.ranks.limit_waiting(60 * launch.stall_minutes + AFTER_STALL)
                PULSE.mark(AGREE, progress.step)
                if run.ends_interval(run.spec.log_every):
                    run.log()
                if run.row_is_due:
                    run.write_row()
            stopping, due = agree(bool(stop), run.session.is_due(failed=run.checkpoints.has_failed))
            if run.validation_due and not stopping:
                PULSE.mark(VALIDATE)
                run.report_bad_steps()
                with run.outside_steps():
                    stopping = not run.validate()
            progress.seconds = time.monotonic() - began
            best = launch.checkpoint_best and run.is_best
            if stopping and not run.finished:
                PULSE.mark(SAVE)
                run.report_bad_steps()
                run.save(now=True, best=best)
                run.session.ended("stopped")
                agree.close()
                raise Preempted(f"{run.cell.id}: {stop}; saved at step {progress.step} of {run.spec.steps}")
            if due or best:
                PULSE.mark(SAVE)
                run.report_bad_steps()
                with run.outside_steps():
                    run.save(best=best)
            collect(progress.step)
        run.write_row()
        agree.close()
        run.slow.close()
        if run.cell.heirs or launch.keep_states or run.is_stopped:
            PULSE.mark(SAVE)
            run.save(now=True)
        run.session.ended("finished")


def _inputs(run: Run, launch: Launch) -> Generator[StepInput]:
    """What the remaining steps take, on the device."""
    batches = run.spec.batches(run.progress.step, run.engine.model.config.crop, run.cell.seed, run.ranks, launch)
    return prefetch_to_device(batches, run.noise, run.progress.step, run.ranks.device, run.spec.class_numbers)


def train_cell(stage: StageRun, control: RunControl | None = None) -> dict[str, Any]:
    """Train one cell, or just initialise an untrained one, and return its ledger values.

    Leaves weights, a log and its checkpoints in the cell's folder; resumes from the last complete checkpoint there.

    Raises:
        Preempted: a signal asked to stop; the checkpoint is written.
        Diverged: a step that the recipe does not allow; the checkpoint before it stays.
        ValueError: the shards or the engine do not fit the recipe.
    """
    recipe, cell = stage.recipe, stage.cell
    with process_group(recipe.launch.device) as ranks, controlled(control) as control:
        torch.manual_seed(cell.seed)
        model, initial = _network(stage, ranks)
        values: dict[str, Any] = {"kind": cell.kind, **cell.labels(), "crops": 0}
        values["parameters"] = sum(p.numel() for p in model.parameters())
        channels = recipe.mae.channel_names
        if cell.training is None:
            weights = model.state_dict()  # held by nothing in training: shards would not free the whole model
        else:
            run = _train_model(stage, model, initial, ranks, control, values)
            weights, channels = run.engine.weights(), list(run.spec.channels.names)
        if ranks.is_first:
            notes = {"cell": cell.id, "fingerprint": stage.fingerprint}
            if channels is not None:
                notes[CHANNELS] = json.dumps(channels)
            save_weights(stage.folder / WEIGHTS, weights, notes)
        ranks.wait()
    return values


def _network(stage: StageRun, ranks: Ranks) -> tuple[Network, InitialValues | None]:
    """A cell's network. One that is trained from its seed comes without its values, which an engine makes later."""
    cell, weights = stage.cell, weights_path(stage.recipe, stage.cell)
    assert cell.architecture is not None
    make = partial(build, cell.architecture, classes=class_count(stage.recipe, cell))
    if cell.training is not None and weights is None:
        return deferred(make)
    model = make().to(ranks.device)
    initialise(model, weights)
    return model, None


def _train_model(
    stage: StageRun, model: Network, initial: InitialValues | None, ranks: Ranks, control: RunControl,
    values: dict[str, Any],
) -> Run:  # fmt: skip
    """Train a model from its last checkpoint to the end, and add what the ledger records to `values`."""
    assert stage.cell.training is not None
    launch, bf16 = stage.recipe.launch, stage.cell.training.settings.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    with attention_kernel(launch.attention, ranks.device, dtype) as kernel:
        if isinstance(model.config, MaeConfig):
            values["attention"] = f"{kernel}: {describe_choice(model.config, ranks.device, dtype)}"
        run = begin_run(stage, model, ranks, control, initial)
        with closing(run.checkpoints), watched(stage.folder, ranks, control, launch.stall_minutes):
            train(run, launch)
        at_end = validate(run.engine, run.cell, run.spec, control.stop) if stage.cell.is_snapshot else {}
    values |= _results(run) | at_end
    values |= spent_values(stage.folder)
    if stage.start is not None:
        values["start"] = stage.start.cell
    return run


def _results(run: Run) -> dict[str, Any]:
    progress, spec = run.progress, run.spec
    return {
        "crops": run.crops,
        "steps": progress.step,
        "planned_steps": spec.steps,
        "annealed": spec.training.until is None and not run.is_stopped and spec.schedule.is_annealed(progress.step),
        "experiments": list(spec.experiments),
        "channels": list(spec.channels.names),
        "wells": len(spec.wells),
        "train_seconds": round(progress.seconds, 2),
        "best_validation_loss": progress.best_loss,
        **progress.validation,
        **({"stopped": stop_values(run.stop)} if run.stop else {}),
    }
