"""A cell trains the same whatever interrupts it, and however many ranks share the work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness import checkpoint, train
from harness.crops import StepInput
from harness.grid import Cell, cells
from harness.meter import read_log
from harness.preempt import Preempted
from harness.recipe import Recipe
from harness.recipe_file import load
from harness.train import train_cell

RUN_CELL = """
import sys
from pathlib import Path
from harness.recipe import Recipe
from harness.stages import run_cell
run_cell(Path(sys.argv[1]).read_text(), sys.argv[2])
"""
TRAIN_CELL = """
import sys
from pathlib import Path
from harness.grid import cells
from harness.recipe import Recipe
from harness.train import train_cell
recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text(), strict=False)
train_cell(recipe, next(c for c in cells(recipe) if c.id == sys.argv[2]), Path(sys.argv[3]), "print")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def trained(recipe: Recipe, model: str = "vit_s16", dataset: str = "two") -> Cell:
    return next(c for c in cells(recipe) if (c.model, c.dataset) == (model, dataset))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_log(folder / "train.jsonl") if row["kind"] == "train"]


def test_a_run_learns_and_tells_what_it_saw(tiny_recipe: Recipe, tmp_path: Path) -> None:
    values = train_cell(tiny_recipe, trained(tiny_recipe), tmp_path / "cell", "print")
    assert (values["wells"], values["steps"], values["crops"]) == (32, 12 * 32 // 8, 12 * 32)
    assert values["attention"] == "sdpa: encoder 2 × 8 FLASH_ATTENTION, decoder 5 × 8 FLASH_ATTENTION"
    rows = read_log(tmp_path / "cell" / "train.jsonl")
    validations = [row["validation_loss"] for row in rows if row["kind"] == "validation"]
    assert len(validations) == 3
    assert validations[-1] == values["validation_loss"] < validations[0]
    assert values["mean_predictor_loss"] == pytest.approx(1.0, abs=0.1)  # crops have variance 1, masked parts nearly
    assert not (tmp_path / "cell" / "checkpoint.pt").exists()


def test_the_same_cell_gives_the_same_weights_and_another_seed_others(tiny_recipe: Recipe, tmp_path: Path) -> None:
    cell = trained(tiny_recipe)
    for name in ("a", "b"):
        train_cell(tiny_recipe, cell, tmp_path / name, "print")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    other = tiny_recipe.model_copy(update={"grid": tiny_recipe.grid.model_copy(update={"seeds": [1]})})
    train_cell(other, trained(other), tmp_path / "c", "print")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_a_signal_saves_and_the_next_run_ends_bit_for_bit_the_same(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = trained(tiny_recipe)
    train_cell(tiny_recipe, cell, tmp_path / "calm", "print")
    stops = iter([7, 20, 33])
    due, real = next(stops), train.Run.step

    def step_then_signal(run: train.Run, inputs: StepInput) -> None:
        nonlocal due
        real(run, inputs)
        if run.progress.step == due:
            due = next(stops, -1)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train.Run, "step", step_then_signal)
    for step in (7, 20, 33):
        with pytest.raises(Preempted, match=f"SIGTERM; saved at step {step} of 48"):
            train_cell(tiny_recipe, cell, tmp_path / "storm", "print")
    train_cell(tiny_recipe, cell, tmp_path / "storm", "print")
    assert same_weights(tmp_path / "calm", tmp_path / "storm")
    calm, storm = dict(losses(tmp_path / "calm")), dict(losses(tmp_path / "storm"))
    assert calm == storm


def test_a_checkpoint_of_other_settings_or_half_a_file_is_refused(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, path = trained(tiny_recipe), tmp_path / "cell" / "checkpoint.pt"
    real = train.Run.step

    def step_then_signal(run: train.Run, inputs: StepInput) -> None:
        real(run, inputs)
        os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(train.Run, "step", step_then_signal)
    with pytest.raises(Preempted, match="SIGUSR2"):
        train_cell(tiny_recipe, cell, tmp_path / "cell", "print")
    with pytest.raises(checkpoint.CheckpointError, match="made with other settings or data"):
        train_cell(tiny_recipe, cell, tmp_path / "cell", "another print")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt: not a readable checkpoint"):
        train_cell(tiny_recipe, cell, tmp_path / "cell", "print")


def test_early_stopping_ends_a_run_that_no_longer_improves(tiny_recipe_file: Path, tmp_path: Path) -> None:
    overrides = ["train.early_stopping={patience: 2, min_delta: 100}", "train.validations=12"]
    recipe = load(tiny_recipe_file, "laptop", overrides)
    from harness.prepare import prepare

    prepare(recipe)
    values = train_cell(recipe, trained(recipe), tmp_path / "cell", "print")
    assert (values["steps"], values["planned_steps"]) == (12, 48)  # the first validation counts as better than none


def test_shards_with_other_channels_are_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    wrong = tiny_recipe.model_copy(update={"mae": tiny_recipe.mae.model_copy(update={"channels": 5})})
    with pytest.raises(ValueError, match=r"mae\.channels is 5, but .* has"):
        train_cell(wrong, trained(wrong), tmp_path / "cell", "print")


@pytest.mark.slow
def test_two_ranks_give_the_losses_of_one(tiny_recipe_file: Path, tmp_path: Path) -> None:
    """DistributedDataParallel over gloo, real processes: the same crops and masks, so the same losses."""
    recipe = load(tiny_recipe_file, "laptop", ["models.vit_s16.drop_path=0"])
    from harness.prepare import prepare

    prepare(recipe)
    cell = trained(recipe)
    train_cell(recipe, cell, tmp_path / "one", "print")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "two").mkdir()
    arguments = [sys.executable, "-c", TRAIN_CELL, str(tmp_path / "recipe.json"), cell.id, str(tmp_path / "two")]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [subprocess.Popen(arguments, env={**common, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in one] == [step for step, _ in two]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, 0.9, 1.7, 2.6])
def test_kill_9_at_any_moment_ends_with_the_same_weights(tiny_recipe_file: Path, tmp_path: Path, delay: float) -> None:
    recipe = load(tiny_recipe_file, "laptop", ["train.epochs=150", "launch.checkpoint_minutes=0.002"])
    from harness.prepare import prepare

    prepare(recipe)
    cell = trained(recipe)
    train_cell(recipe, cell, tmp_path / "calm", "print")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    arguments = [sys.executable, "-c", RUN_CELL, str(tmp_path / "recipe.json"), cell.id]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    folder = recipe.output / "cells" / cell.id
    process = subprocess.Popen(arguments, env=environment)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.wait()
    assert subprocess.run(arguments, env=environment, timeout=120).returncode == 0
    assert same_weights(folder, tmp_path / "calm")
    row = json.loads((recipe.output / "ledger" / cell.id / "train.json").read_text())
    assert row["values"]["steps"] == 150 * 32 // 8
