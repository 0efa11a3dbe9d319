"""What each rank does in the tests of engines: the same few steps under one engine after another."""

from __future__ import annotations

import gc
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.distributed.agreement import Agreement
from harness.distributed.build_engine import build_engine
from harness.distributed.engine import Engine, EngineOptions
from harness.distributed.micro_batches import loss_weights
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks, process_group
from harness.models.config import MaeConfig
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder
from harness.train.divergence import DivergenceMonitor, Policy

CONFIG = MaeConfig(
    width=16, depth=2, heads=2, patch=8, crop=32, decoder_width=16, decoder_depth=1, decoder_heads=2, drop_path=0.3
)
BATCH, STEPS, RATE = 8, 5, 1e-3


@dataclass(frozen=True)
class Trial:
    """One engine, and in how many pieces each rank takes its part of the batch."""

    engine: str
    optimiser: str = "lion"
    zero_stage: int = 2
    pieces: int = 1
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())


def build(trial: Trial, ranks: Ranks, seed: int = 0) -> Engine:
    torch.manual_seed(seed)
    model = MaskedAutoencoder(CONFIG)
    options = EngineOptions(trial.engine, trial.precision, shard=2, zero_stage=trial.zero_stage)
    return build_engine(
        model,
        lambda module: build_optimiser(module, trial.optimiser, peak=RATE, betas=(0.9, 0.95), weight_decay=0.05),
        ranks,
        options,
    )


def take_step(engine: Engine, monitor: DivergenceMonitor, trial: Trial, step: int, *, forget: bool = False) -> float:
    """One step of the global batch; its loss. With `forget`, a gradient of twice the size is made and dropped first."""
    ranks, part = engine.ranks, BATCH // engine.ranks.world
    crops = torch.randn(BATCH, 6, 32, 32, generator=torch.Generator().manual_seed(step))
    noise = masking_noise(0, range(step * BATCH, (step + 1) * BATCH), CONFIG.noise_values)
    mine = slice(ranks.rank * part, (ranks.rank + 1) * part)
    if forget:
        engine.accumulate(crops[mine], noise[mine], 2.0, last=True)
        engine.forget_gradient()
    size = part // trial.pieces
    weights = loss_weights([size] * trial.pieces, BATCH, ranks.world)
    pieces = zip(crops[mine].split(size), noise[mine].split(size), weights, strict=True)
    losses = [engine.accumulate(*piece, last=number == trial.pieces - 1) for number, piece in enumerate(pieces)]
    loss = torch.stack(losses).sum()
    monitor.check(loss, step)
    engine.step(RATE)
    return float(ranks.mean(loss))


def run_trial(trial: Trial, ranks: Ranks) -> dict[str, Any]:
    """Losses, gradient norms, embeddings and weights; then the last two steps again from a state, in a new engine."""
    engine = build(trial, ranks)
    monitor = DivergenceMonitor(Policy(), ranks, engine.model, engine.gradient_squares)
    losses = [take_step(engine, monitor, trial, step, forget=step == 2) for step in range(STEPS - 2)]
    state = {name: dict(part) for name, part in engine.state().items()}
    kept = _copied(state)
    losses += [take_step(engine, monitor, trial, step) for step in range(STEPS - 2, STEPS)]
    norm = float(monitor.window[1] / monitor.window[2])
    engine.model.eval()
    with torch.no_grad(), engine.autocast():
        embedding = engine.model.embed(torch.randn(2, 6, 32, 32, generator=torch.Generator().manual_seed(9)))
    weights = engine.weights()
    again = build(trial, ranks, seed=1)
    template = again.state()
    again.load({**template, **kept})
    monitor = DivergenceMonitor(Policy(), ranks, again.model, again.gradient_squares)
    repeated = [take_step(again, monitor, trial, step) for step in range(STEPS - 2, STEPS)]
    found = {"losses": losses, "repeated": repeated, "norm": norm, "embedding": embedding.float().tolist()}
    return {**found, "weights": {name: value.tolist() for name, value in weights.items()}}


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    return {name: _copied(value) for name, value in state.items()} if isinstance(state, dict) else state


def run_trials(trials: list[Trial], folder: Path) -> None:
    """All trials in one group of ranks; the first rank writes what came of each."""
    with process_group("cpu") as ranks:
        for trial in trials:
            found = run_trial(trial, ranks)
            if ranks.is_first:
                (folder / f"{trial.name}.json").write_text(json.dumps(found))
            gc.collect()


def agree_on_a_stop(folder: Path) -> None:
    """The last rank raises a flag at step 3; each rank writes the step at which it saw it."""
    with process_group("cpu") as ranks:
        agree = Agreement(ranks)
        for step in range(10):
            stop, due = agree(ranks.rank == ranks.world - 1 and step == 3, False)
            assert not due
            if stop:
                (folder / f"{ranks.rank}").write_text(str(step))
                break
        agree.close()
