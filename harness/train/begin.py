"""Begin a grid cell's training: its parts, from the last complete checkpoint where there is one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from analysis.compute.flops import flops_per_crop
from harness.checkpoint.checkpoints import Checkpoints, Progress, say
from harness.checkpoint.start import Start
from harness.data.shard_sets import check_shards
from harness.distributed.build_engine import engine_for_cell
from harness.distributed.engine import Engine
from harness.distributed.micro_batches import uneven_batch
from harness.distributed.preemption import RunControl
from harness.distributed.ranks import Ranks
from harness.distributed.stalls.slow_ranks import SlowRanks
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.grid.stage_run import StageRun
from harness.models.architecture import cost_of
from harness.models.interface import Network
from harness.models.layers.initial_values import InitialValues
from harness.recipe.fields import per_name
from harness.train.divergence import DivergenceMonitor, Policy
from harness.train.metrics import MetricsLogger, Throughput, continue_log
from harness.train.run import Run
from harness.train.run_spec import RunSpec, build_run_spec
from harness.train.session import Begun, RunSession


def begin_run(
    stage: StageRun, model: Network, ranks: Ranks, control: RunControl, initial: InitialValues | None = None
) -> Run:
    """A run that is ready for its next step, from the last complete checkpoint where there is one.

    `model` is on this rank's device, or has no values but `initial`.

    Raises:
        ValueError: the batch does not divide over the ranks, or as `build_run_spec`.
        harness.checkpoint.checkpoints.CheckpointError: the checkpoint belongs to other settings or data.
    """
    recipe, cell, launch = stage.recipe, stage.cell, stage.recipe.launch
    begun = Begun.now(stage.folder)
    spec = build_run_spec(recipe, cell)
    check_shards(spec.shards, ranks)
    if uneven := uneven_batch(spec.training.batch, ranks.world, model.group):
        raise ValueError(uneven)
    engine = engine_for_cell(recipe, cell, model, ranks, initial)
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
    session = RunSession.begin(recipe, stage.folder, ranks, progress.step, begun)
    slow = SlowRanks(ranks, engine.timer, progress.step)
    return Run(
        cell, spec, engine, progress, monitor, checkpoints, metrics, ranks, control, max_crops, progress.step,
        stage.study or recipe, session, slow, crops_before=_crops_before(stage, spec.training.batch),
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
