"""Between validations and saves a step does not wait for the device, and late rows of the log say the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.data.channels import ChannelOrder
from harness.data.to_device import StepInput
from harness.data.to_host import HostCopy
from harness.distributed.engine import Engine, EngineOptions
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.config import MaeConfig
from harness.models.mae import MaskedAutoencoder
from harness.recipe.schema import Recipe
from harness.storage.train_log import read_log
from harness.train.divergence import DivergenceMonitor, Policy
from harness.train.loop import train_cell
from harness.train.run import Run
from shards.loader.read_ahead import Batch

DEVICE = torch.device("meta")  # has shapes and no numbers: whatever reads one raises
TINY = MaeConfig(
    width=32, depth=2, heads=2, patch=4, crop=16, channels=3, decoder_width=16, decoder_depth=1, decoder_heads=2
)  # fmt: skip
TIMED = {"crops_per_second", "step_seconds", "seconds_left", "data_wait", "peak_memory_gb"}


def step_without_numbers() -> tuple[Run, StepInput]:
    """A run and its input on a device whose numbers nobody can read."""
    ranks = Ranks(0, 1, DEVICE)
    with DEVICE:
        model = MaskedAutoencoder(TINY).train()
    optimiser = partial(build_optimiser, name="lion", peak=1e-4, weight_decay=0.05)
    engine = Engine(model, optimiser, ranks, EngineOptions("single"))
    monitor = DivergenceMonitor(Policy(), ranks, model)
    training = SimpleNamespace(batch=8)
    spec = SimpleNamespace(
        learning_rate=lambda step: 1e-4, momentum=lambda step: None, training=training,
        channels=ChannelOrder(("a", "b", "c")),
    )  # fmt: skip
    cell = SimpleNamespace(architecture=SimpleNamespace(mae=SimpleNamespace(value_range=None)))
    progress, slow = SimpleNamespace(step=0), SimpleNamespace(row=lambda step: [])
    run = Run(
        cell, spec, engine, progress, monitor, None, None, ranks, None, 4, 0, None, None, slow,  # type: ignore[arg-type]
    )  # fmt: skip
    batch = Batch(torch.empty(8, 3, 16, 16, dtype=torch.uint8, device=DEVICE), torch.empty(8, dtype=torch.int64))
    return run, StepInput(batch, torch.empty(8, TINY.noise_values, device=DEVICE))


def test_a_step_reads_nothing_from_the_device_nor_does_a_row_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-batches, the monitor and the update; then a row that is begun and, two steps later, due."""
    begun: list[tuple[torch.Tensor, ...]] = []
    monkeypatch.setattr("harness.train.divergence.HostCopy", lambda tensors: begun.append(tuple(tensors)))
    monkeypatch.setattr(Engine, "autocast", lambda engine: nullcontext())  # which does not know this device
    run, inputs = step_without_numbers()
    for _ in range(3):
        run.step(inputs)
    run.log()
    assert [tensor.device.type for tensor in begun[0]] == ["meta"] * 3
    due = []
    for _ in range(2):
        run.step(inputs)
        due.append(run.row_is_due)
    assert due == [False, True]


@pytest.mark.parametrize("read", [float, bool, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy])
def test_a_read_within_a_step_would_raise(read: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        read(torch.zeros(1, device=DEVICE))


def test_a_copy_holds_the_values_of_its_time() -> None:
    value = torch.ones(3)
    copy = HostCopy([value])
    value.zero_()
    assert copy.read()[0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_rows_that_are_read_later_say_the_same(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(folder: Path) -> list[dict[str, Any]]:
        cell = next(cell for cell in cells(tiny_recipe) if cell.kind == "trained")
        train_cell(StageRun(tiny_recipe, cell, folder, "print"))
        found = [{k: v for k, v in row.items() if k not in TIMED} for row in read_log(folder / "train.jsonl")]
        return sorted(found, key=lambda row: (row["step"], row["kind"]))

    at_once = rows(tmp_path / "at_once")
    late = property(lambda run: run._row is not None and run.progress.step >= run._row.step + 2)
    monkeypatch.setattr(Run, "row_is_due", late)
    assert rows(tmp_path / "late") == at_once
    assert len([row for row in at_once if row["kind"] == "train"]) > 3
