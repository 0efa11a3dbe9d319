"""The code that each rank runs in `test_engines`: the same few training steps under each engine."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.optim import _muon

from harness.distributed.agreement import Agreement
from harness.distributed.build_engine import build_engine
from harness.distributed.engine import Engine, EngineOptions
from harness.distributed.micro_batches import loss_weights
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks, process_group
from harness.models.config import MaeConfig
from harness.models.layers.initial_values import deferred
from harness.models.layers.masking import masking_noise
from harness.models.layers.parametrisation import scaling_of
from harness.models.mae import MaskedAutoencoder
from harness.train.divergence import DivergenceMonitor, Policy

CONFIG = MaeConfig(
    width=16, depth=2, heads=2, patch=8, crop=32, decoder_width=16, decoder_depth=1, decoder_heads=2, drop_path=0.3
)
BATCH, STEPS, RATE = 8, 5, 1e-3


@dataclass(frozen=True)
class Trial:
    """One engine with its options, and the number of micro-batches per rank."""

    engine: str
    optimiser: str = "lion"
    zero_stage: int = 2
    micro_batches: int = 1
    precision: str = "fp32"
    parametrisation: str = "standard"
    reduce_at: str = "step"
    ddp_gradients: str = "fp32"

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())

    @property
    def rounds(self) -> bool:
        """Whether products or gradients are rounded to bfloat16."""
        return "bf16" in (self.precision, self.ddp_gradients)

    @property
    def alone(self) -> Trial:
        """The same steps in one process."""
        return Trial("single", self.optimiser, parametrisation=self.parametrisation)


def build(trial: Trial, ranks: Ranks, seed: int = 0) -> Engine:
    torch.manual_seed(seed)
    config = replace(CONFIG, parametrisation=trial.parametrisation, base_width=8, base_depth=1)
    model, initial = deferred(lambda: MaskedAutoencoder(config))
    scaling = scaling_of(config, trial.optimiser)
    options = EngineOptions(
        trial.engine, trial.precision, shard=2, zero_stage=trial.zero_stage, reduce_at=trial.reduce_at,
        ddp_gradients=trial.ddp_gradients,
    )  # fmt: skip
    return build_engine(
        model,
        lambda module: build_optimiser(
            module, trial.optimiser, peak=RATE, betas=(0.9, 0.95), momentum=0.95, weight_decay=0.05, scaling=scaling
        ),
        ranks,
        options,
        initial,
    )


def take_step(engine: Engine, monitor: DivergenceMonitor, trial: Trial, step: int, *, forget: bool = False) -> float:
    """Take one step of the global batch; return its loss. `forget` first adds and clears a gradient twice as large."""
    ranks, part = engine.ranks, BATCH // engine.ranks.world
    crops = torch.randn(BATCH, 6, 32, 32, generator=torch.Generator().manual_seed(step))
    noise = masking_noise(0, range(step * BATCH, (step + 1) * BATCH), CONFIG.noise_values)
    own_crops = slice(ranks.rank * part, (ranks.rank + 1) * part)
    if forget:
        engine.accumulate(crops[own_crops], noise[own_crops], 2.0, last=True)
        engine.forget_gradient()
    size = part // trial.micro_batches
    weights = loss_weights([size] * trial.micro_batches, BATCH, ranks.world)
    batches = zip(crops[own_crops].split(size), noise[own_crops].split(size), weights, strict=True)
    final = trial.micro_batches - 1
    losses = [engine.accumulate(*batch, last=number == final) for number, batch in enumerate(batches)]
    loss = torch.stack(losses).sum()
    monitor.check(loss, step)
    engine.step(RATE)
    return float(ranks.mean(loss))


@contextmanager
def muon_in_float32() -> Iterator[None]:
    """torch's Muon makes matrices orthogonal in bfloat16, at any precision of training: a gradient that differs by a
    rounding may then move a weight by 2^-9, and whether one does depends on the processor. So that engines can be
    compared in float32, its iteration runs in that.
    """
    iteration = _muon._zeropower_via_newtonschulz

    def in_float32(*arguments: Any) -> torch.Tensor:
        with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.float):
            return iteration(*arguments)

    with mock.patch.object(_muon, "_zeropower_via_newtonschulz", in_float32):
        yield


def run_trial(trial: Trial, ranks: Ranks) -> dict[str, Any]:
    """Return the results of a trial; in float32, all of it is."""
    with muon_in_float32() if trial.precision == "fp32" else nullcontext():
        return _run_trial(trial, ranks)


def _run_trial(trial: Trial, ranks: Ranks) -> dict[str, Any]:
    """Return losses, gradient norm, embedding and weights; repeat the last two steps in a new engine from a state."""
    engine = build(trial, ranks)
    initial = {name: value.double().square().sum().item() for name, value in engine.weights().items()}
    monitor = DivergenceMonitor(Policy(), ranks, engine.model, engine.gradient_squares)
    losses = [take_step(engine, monitor, trial, step, forget=step == 2) for step in range(STEPS - 2)]
    state = {name: dict(part) for name, part in engine.state().items()}
    saved = _copied(state)
    losses += [take_step(engine, monitor, trial, step) for step in range(STEPS - 2, STEPS)]
    norm = float(monitor.window[1] / monitor.window[2])
    engine.model.eval()
    with torch.no_grad(), engine.autocast():
        embedding = engine.model.embed(torch.randn(2, 6, 32, 32, generator=torch.Generator().manual_seed(9)))
    weights = engine.weights()
    resumed = build(trial, ranks, seed=1)
    template = resumed.state()
    resumed.load({**template, **saved})
    monitor = DivergenceMonitor(Policy(), ranks, resumed.model, resumed.gradient_squares)
    repeated = [take_step(resumed, monitor, trial, step) for step in range(STEPS - 2, STEPS)]
    results = {
        "losses": losses,
        "repeated": repeated,
        "norm": norm,
        "embedding": embedding.float().tolist(),
        "initial": initial,
    }
    return {**results, "weights": {name: value.tolist() for name, value in weights.items()}}


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    return {name: _copied(value) for name, value in state.items()} if isinstance(state, dict) else state


def run_trials(trials: list[Trial], folder: Path) -> None:
    """Run all trials in one process group; the first rank writes the results of each as JSON."""
    with process_group("cpu") as ranks:
        for trial in trials:
            results = run_trial(trial, ranks)
            if ranks.is_first:
                (folder / f"{trial.name}.json").write_text(json.dumps(results))
            gc.collect()


def agree_on_a_stop(folder: Path) -> None:
    """Set a flag on the last rank at step 3; each rank writes the step at which it saw the flag."""
    with process_group("cpu") as ranks:
        agree = Agreement(ranks)
        for step in range(10):
            stop, due = agree(ranks.rank == ranks.world - 1 and step == 3, False)
            assert not due
            if stop:
                (folder / f"{ranks.rank}").write_text(str(step))
                break
        agree.close()
