"""The training loop, readable top to bottom.

A step is a pure function of the state before it and (seed, step): its crops, masks and dropped paths all follow from
the position in the order. So a run that was killed and resumed on one process ends bit for bit like one that was not.

Shapes: B crops of this rank's part of the global batch, C channels, S crop side, L tokens.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import checkpoint
from harness.checkpoint import Progress
from harness.data import Wells, training_wells, validation_wells
from harness.grid import Cell, Training, model_shape
from harness.meter import Meter
from harness.models.attention import attention_kernel, describe_choice
from harness.models.config import MaeConfig
from harness.models.mae import MaskedAutoencoder
from harness.models.masking import masking_noise
from harness.optim import build_optimiser, learning_rate, set_learning_rate
from harness.parallel import Ranks, ranks
from harness.preempt import Preempted, StopFlag, stop_on_signals
from harness.recipe import Recipe
from shards.format import ShardSet
from shards.loader import training_batches, validation_batches, well_tiles
from shards.transform import self_standardise

VALIDATION_SEED = 0  # every model of a study fills in the same hidden patches
VALIDATION_BATCH = 64
TILES_PER_WELL = 1 << 20  # more than any well has: keys of different wells never meet
LOG_ROWS = 200
CHECKPOINT, WEIGHTS = "checkpoint.pt", "model.safetensors"


@dataclass(frozen=True)
class Plan:
    """What a run of training will do, counted from its shards."""

    shards: ShardSet
    experiments: tuple[str, ...]
    wells: Wells
    validation: Wells
    steps: int
    validate_every: int
    log_every: int


def config_of(cell: Cell, pool: str = "mean") -> MaeConfig:
    """The network of a cell."""
    assert cell.architecture is not None
    names = (
        *model_shape(cell),
        "drop_path",
        "layer_scale",
        "qk_norm",
        "fourier_weight",
        "fourier_mode",
        "fourier_norm",
    )
    return MaeConfig(**{name: cell.architecture[name] for name in names}, pool=pool)  # type: ignore[arg-type]


def train_cell(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> dict[str, Any]:
    """Train one cell, or just initialise an untrained one, and return its ledger values.

    Leaves weights and a log in `folder`; resumes from the checkpoint where one is there.

    Raises:
        Preempted: a signal asked to stop; the checkpoint is written.
        ValueError: the shards do not fit the recipe.
    """
    with ranks(recipe.launch.device) as here, stop_on_signals() as stop:
        torch.manual_seed(cell.seed)
        model = MaskedAutoencoder(config_of(cell)).to(here.device)
        values: dict[str, Any] = {**_identity(cell), "parameters": sum(p.numel() for p in model.parameters())}
        if cell.training is not None:
            dtype = torch.bfloat16 if cell.training.settings["precision"] == "bf16" else torch.float32
            with attention_kernel(recipe.launch.attention, here.device, dtype) as kernel:
                values["attention"] = f"{kernel}: {describe_choice(model.config, here.device, dtype)}"
                values |= _train(recipe, cell, model, here, stop, folder, fingerprint)
        if here.is_first:
            checkpoint.save_weights(folder / WEIGHTS, model, {"cell": cell.id, "fingerprint": fingerprint})
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
    training: Training
    plan: Plan
    model: MaskedAutoencoder
    wrapped: torch.nn.Module  # the model as the engine runs it
    optimiser: torch.optim.Optimizer
    progress: Progress
    meter: Meter | None  # on the first rank
    here: Ranks
    losses: list[Tensor]  # of the steps since the last row of the log

    def at(self, every: int) -> bool:
        """Whether the step just done ends a stretch of `every` steps, or the run."""
        return self.progress.step % every == 0 or self.progress.step == self.plan.steps

    @property
    def finished(self) -> bool:
        """All steps done, or no better validation for as long as early stopping's patience."""
        early = self.training.settings["early_stopping"]
        patient = early is None or self.progress.stale_validations < early["patience"]
        return self.progress.step >= self.plan.steps or not patient

    def step(self, images: Tensor) -> None:
        """One update on this rank's crops (B, C, S, S)."""
        step, seed = self.progress.step, self.cell.seed
        set_learning_rate(self.optimiser, _learning_rate(self.training, step, self.plan.steps))
        # Stochastic depth draws from torch's global generator; crops and masks carry their own keys.
        torch.manual_seed(int(np.random.SeedSequence([seed, step, self.here.rank]).generate_state(1)[0]))
        first = step * self.training.batch + self.here.rank * len(images)
        noise = masking_noise(seed, range(first, first + len(images)), self.model.config.tokens)  # (B, L)
        crops = prepare(images, self.cell, self.here)
        with autocast(self.here.device, self.training.settings["precision"]):
            loss: Tensor = self.wrapped(crops, noise.to(self.here.device)).loss
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss.detach())
        self.progress.step += 1

    def log(self) -> None:
        """The mean loss since the last row."""
        mean = float(self.here.mean(torch.stack(self.losses).mean()))
        if self.meter:
            rate = self.optimiser.param_groups[0]["lr"]
            values = {"loss": mean, "learning_rate": rate, "progress": self.progress.step / self.plan.steps}
            self.meter.advance(len(self.losses), values, self.progress.step)
        self.losses.clear()

    def validate(self) -> None:
        """Measure, log, and count how long there was nothing better."""
        settings, progress = self.training.settings, self.progress
        found = validate(self.model, self.cell, self.plan, self.here, settings)
        early, loss = settings["early_stopping"], found["validation_loss"]
        better = loss < progress.best_loss - (early["min_delta"] if early else 0.0)
        progress.stale_validations = 0 if better else progress.stale_validations + 1
        progress.best_loss, progress.validation = min(progress.best_loss, loss), found
        if self.meter:
            crops = progress.step * self.training.batch
            self.meter.write({"kind": "validation", "step": progress.step, "crops": crops, **found})
            self.meter.pause()


def _train(
    recipe: Recipe, cell: Cell, model: MaskedAutoencoder, here: Ranks, stop: StopFlag, folder: Path, fingerprint: str
) -> dict[str, Any]:
    run = _begin(recipe, cell, model, here, folder, fingerprint)
    began, saved = time.monotonic() - run.progress.seconds, time.monotonic()
    batches = training_batches(
        run.plan.shards, run.plan.wells, crop=model.config.crop, batch=run.training.batch, seed=cell.seed,
        first_batch=run.progress.step, last_batch=run.plan.steps, rank=here.rank, world=here.world,
        workers=recipe.launch.loader_workers,
    )  # fmt: skip
    model.train()
    try:
        while not run.finished:
            with run.meter.waiting() if run.meter else nullcontext():
                crops = next(batches)
            run.step(crops.images)
            stopping = here.any(bool(stop))
            if run.at(run.plan.log_every) or stopping:
                run.log()
            if run.at(run.plan.validate_every):
                run.validate()
            run.progress.seconds = time.monotonic() - began
            due = not run.losses and time.monotonic() - saved > 60 * recipe.launch.checkpoint_minutes
            if stopping or here.any(due):
                if here.is_first:
                    checkpoint.save(folder / CHECKPOINT, fingerprint, model, run.optimiser, run.progress)
                saved = time.monotonic()
            if stopping and not run.finished:
                reason = stop.reason or "another rank was told to stop"
                raise Preempted(f"{cell.id}: {reason}; saved at step {run.progress.step} of {run.plan.steps}")
    finally:
        batches.close()
        if run.meter:
            run.meter.close()
    return _values(run)


def _begin(recipe: Recipe, cell: Cell, model: MaskedAutoencoder, here: Ranks, folder: Path, fingerprint: str) -> Run:
    """Everything in place, from the checkpoint where there is one."""
    assert cell.training is not None
    training, plan = cell.training, _plan(recipe, cell, cell.training)
    chosen = training.settings["optimiser"]
    optimiser = build_optimiser(
        model, chosen["name"], peak=training.learning_rate, betas=tuple(chosen["betas"]),
        weight_decay=chosen["weight_decay"],
    )  # fmt: skip
    progress = checkpoint.load(folder / CHECKPOINT, fingerprint, model, optimiser) or Progress()
    meter = Meter(folder, cell.id, plan.steps, progress.step, training.batch) if here.is_first else None
    return Run(cell, training, plan, model, here.wrap(model), optimiser, progress, meter, here, [])


def _values(run: Run) -> dict[str, Any]:
    progress, plan = run.progress, run.plan
    return {
        "crops": progress.step * run.training.batch,
        "steps": progress.step,
        "planned_steps": plan.steps,
        "experiments": list(plan.experiments),
        "wells": len(plan.wells),
        "train_seconds": round(progress.seconds, 2),
        "best_validation_loss": progress.best_loss,
        **progress.validation,
    }


def _plan(recipe: Recipe, cell: Cell, training: Training) -> Plan:
    """Count steps and choose wells.

    Raises:
        ValueError: channels or batch do not fit the shards.
    """
    assert cell.dataset is not None
    dataset = recipe.datasets[cell.dataset]
    shards = ShardSet.open(dataset.shards)
    if len(shards.manifest.channels) != recipe.mae.channels:
        names = ", ".join(shards.manifest.channels)
        raise ValueError(f"mae.channels is {recipe.mae.channels}, but {dataset.shards} has {names}")
    experiments, wells = training_wells(shards, dataset.fraction)
    steps = training.epochs * len(wells) // training.batch
    if steps == 0:
        raise ValueError(
            f"dataset {cell.dataset} has {len(wells)} images: {training.epochs} epochs of them "
            f"do not fill one batch of {training.batch}"
        )
    validations = min(training.settings["validations"], steps)
    return Plan(
        shards, experiments, wells, validation_wells(shards, training.settings["validation_wells"]), steps,
        validate_every=-(-steps // validations), log_every=max(1, steps // LOG_ROWS),
    )  # fmt: skip


def _learning_rate(training: Training, step: int, steps: int) -> float:
    schedule = training.settings["schedule"]
    return learning_rate(
        step, steps, training.learning_rate, warmup_fraction=schedule["warmup"],
        initial_fraction=schedule["start_factor"], final_fraction=schedule["final_factor"],
    )  # fmt: skip


def prepare(images: Tensor, cell: Cell, here: Ranks) -> Tensor:
    """Pixels (B, C, S, S) as they lie in the shards, on the device and self-standardised."""
    assert cell.architecture is not None
    return self_standardise(images.to(here.device, non_blocking=True), cell.architecture["value_range"])


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 products where the recipe says so; weights and sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def validate(
    model: MaskedAutoencoder, cell: Cell, plan: Plan, here: Ranks, settings: dict[str, Any]
) -> dict[str, float]:
    """Masked MSE on crops of unseen experiments, of the model and of predicting each channel's mean.

    The Fourier term of a "+" model is left out, so that all cells are compared by one measure.
    """
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=here.device)  # loss, mean predictor's loss, crops
    read = well_tiles if settings["validation_view"] == "tiles" else validation_batches
    batches = read(
        plan.shards, plan.validation, crop=model.config.crop, batch=VALIDATION_BATCH, rank=here.rank, world=here.world
    )
    seen: Counter[int] = Counter()
    for batch in batches:
        crops = prepare(batch.images, cell, here)
        noise = masking_noise(VALIDATION_SEED, _mask_keys(batch.wells.tolist(), seen), model.config.tokens)
        with autocast(here.device, settings["precision"]):
            output = model(crops, noise.to(here.device))
        flat = mean_predictor_loss(crops, output.mask, model.config.patch)
        losses = torch.stack([output.reconstruction_loss.double(), flat.double(), torch.ones_like(sums[0])])
        sums += losses * len(crops)
    loss, mean_loss, _ = (here.sum(sums) / here.sum(sums)[2]).tolist()
    model.train()
    return {"validation_loss": loss, "mean_predictor_loss": mean_loss}


def _mask_keys(wells: list[int], seen: Counter[int]) -> list[int]:
    """A key for each crop that depends on its well and its number within the well alone."""
    keys = []
    for well in wells:
        keys.append(well * TILES_PER_WELL + seen[well])
        seen[well] += 1
    return keys


def mean_predictor_loss(crops: Tensor, mask: Tensor, patch: int) -> Tensor:
    """The masked loss of a model that predicts 0, the channel's mean, everywhere: crops (B, C, S, S), mask (B, L)."""
    from harness.models.blocks import patchify

    squared = patchify(crops, patch).square().mean(-1)  # (B, L)
    return (squared * mask).sum() / mask.sum()
