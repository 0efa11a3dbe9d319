"""A cell trains the same whatever interrupts it, and however many ranks share the work.

Covers `loop`, `run` and `validate`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import harness.data.to_device
import harness.train.validate
from harness.checkpoint import checkpoints as checkpoint
from harness.data.prepare import prepare
from harness.data.to_device import StepInput
from harness.distributed.preemption import Preempted
from harness.distributed.stalls import step_clock
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.run import run_cell
from harness.storage.train_log import read_log
from harness.train import metrics
from harness.train import run as run_module
from harness.train.divergence import Diverged
from harness.train.loop import train_cell
from harness.train.run import Run
from harness.train.run_spec import build_run_spec
from shards.loader.batches import training_batches

RUN_CELL = """
import sys
from pathlib import Path
from harness.recipe.schema import Recipe
from harness.stages.run import run_cell
run_cell(Path(sys.argv[1]).read_text(), sys.argv[2])
"""
TRAIN_CELL = """
import sys
from pathlib import Path
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.schema import Recipe
from harness.train.loop import train_cell
recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text(), strict=False)
train_cell(StageRun(recipe, next(c for c in cells(recipe) if c.id == sys.argv[2]), Path(sys.argv[3]), "print"))
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


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock, and without notes of resumes."""
    timed = {"crops_per_second", "step_seconds", "seconds_left", "data_wait", "peak_memory_gb", "mfu"}
    found = [{k: v for k, v in row.items() if k not in timed} for row in read_log(folder / "train.jsonl")]
    return [row for row in found if row["kind"] != "resume"]


def signal_after(monkeypatch: pytest.MonkeyPatch, steps: set[int], number: signal.Signals) -> None:
    """Send this process a signal when one of these steps is done, each once."""
    real = Run.step

    def step_then_signal(run: Run, inputs: StepInput) -> None:
        real(run, inputs)
        if run.progress.step in steps:
            steps.remove(run.progress.step)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "step", step_then_signal)


@pytest.mark.slow
def test_a_run_learns_and_tells_what_it_saw(tiny_recipe: Recipe, tmp_path: Path) -> None:
    values = train_cell(StageRun(tiny_recipe, trained(tiny_recipe), tmp_path / "cell", "print"))
    assert (values["wells"], values["steps"], values["crops"]) == (32, 12 * 32 // 8, 12 * 32)
    assert values["attention"] == "sdpa: encoder 2 × 8 FLASH_ATTENTION, decoder 5 × 8 FLASH_ATTENTION"
    rows = read_log(tmp_path / "cell" / "train.jsonl")
    validations = [row["validation_loss"] for row in rows if row["kind"] == "validation"]
    assert len(validations) == 3
    assert validations[-1] == values["validation_loss"] < validations[0]
    assert values["mean_predictor_loss"] == pytest.approx(1.0, abs=0.1)  # crops have variance 1, masked parts nearly


def force_times(monkeypatch: pytest.MonkeyPatch, step_seconds: float, pause_seconds: float) -> None:
    """Let the log's clock advance by `step_seconds` in a step and `pause_seconds` in a validation or save, only.

    The clock is not the machine's: how busy that is must not decide whether a rate is right.
    """
    now = 0.0

    def advanced(real: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal now
            now += seconds
            return real(*arguments, **options)

        return run

    for module in (metrics, step_clock):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(Run, "step", advanced(Run.step, step_seconds))
    monkeypatch.setattr(run_module, "validate", advanced(run_module.validate, pause_seconds))
    monkeypatch.setattr(checkpoint.Checkpoints, "save", advanced(checkpoint.Checkpoints.save, pause_seconds))


@pytest.mark.slow
@pytest.mark.parametrize("validations", [3, 8], ids=["some validations", "a validation at every step"])
def test_logged_rates_are_those_of_the_steps_also_after_a_resume(
    tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validations: int
) -> None:
    """Eight steps of 0.8 s on 8 crops are 10 crops/s, though validations and saves take half a second each."""
    recipe = load(tiny_recipe_file, "laptop", ["train.epochs=2", f"train.validations={validations}"])
    recipe = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"checkpoint_minutes": 0.0001})})
    run = StageRun(recipe, trained(recipe), tmp_path / "cell", "print")
    prepare(recipe)
    force_times(monkeypatch, 0.8, 0.5)
    signal_after(monkeypatch, {4}, signal.SIGTERM)
    with pytest.raises(Preempted):
        train_cell(run)
    train_cell(run)
    rates = [row["crops_per_second"] for row in read_log(run.folder / "train.jsonl") if row["kind"] == "train"]
    assert rates == pytest.approx([10.0] * 8)


@pytest.mark.slow
def test_the_same_cell_gives_the_same_weights_and_another_seed_others(tiny_recipe: Recipe, tmp_path: Path) -> None:
    cell = trained(tiny_recipe)
    for name in ("a", "b"):
        train_cell(StageRun(tiny_recipe, cell, tmp_path / name, "print"))
    assert same_weights(tmp_path / "a", tmp_path / "b")
    other = tiny_recipe.model_copy(update={"grid": tiny_recipe.grid.model_copy(update={"seeds": [1]})})
    train_cell(StageRun(other, trained(other), tmp_path / "c", "print"))
    assert not same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.slow
def test_a_signal_saves_and_the_next_run_ends_bit_for_bit_the_same(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = trained(tiny_recipe)
    train_cell(StageRun(tiny_recipe, cell, tmp_path / "calm", "print"))
    signal_after(monkeypatch, {7, 20, 33}, signal.SIGTERM)
    for step in (7, 20, 33):
        with pytest.raises(Preempted, match=f"SIGTERM; saved at step {step} of 48"):
            train_cell(StageRun(tiny_recipe, cell, tmp_path / "storm", "print"))
    train_cell(StageRun(tiny_recipe, cell, tmp_path / "storm", "print"))
    assert same_weights(tmp_path / "calm", tmp_path / "storm")
    assert rows(tmp_path / "calm") == rows(tmp_path / "storm")


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_refused_and_a_damaged_one_passed_over(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, folder = trained(tiny_recipe), tmp_path / "cell"
    train_cell(StageRun(tiny_recipe, cell, tmp_path / "calm", "print"))
    with monkeypatch.context() as patched:
        signal_after(patched, {3, 5}, signal.SIGUSR2)
        for step in (3, 5):
            with pytest.raises(Preempted, match=f"SIGUSR2; saved at step {step} of 48"):
                train_cell(StageRun(tiny_recipe, cell, folder, "print"))
        with pytest.raises(checkpoint.CheckpointError, match="made with other settings or data"):
            train_cell(StageRun(tiny_recipe, cell, folder, "another print"))
    damaged = folder / "checkpoints" / "step-000000005" / "__0_0.distcp"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    capsys.readouterr()
    train_cell(StageRun(tiny_recipe, cell, folder, "print"))
    said = "checkpoint step-000000005 is damaged: __0_0.distcp has"
    assert said in capsys.readouterr().err
    notes = [row["note"] for row in read_log(folder / "train.jsonl") if row["kind"] == "resume"]
    assert notes[0].startswith(said)
    assert notes[1] == "going on from step 3"
    assert same_weights(folder, tmp_path / "calm")
    assert rows(folder) == rows(tmp_path / "calm")


@pytest.mark.slow
def test_a_stop_during_validation_saves_and_the_next_run_validates_first(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, folder = trained(tiny_recipe), tmp_path / "cell"
    train_cell(StageRun(tiny_recipe, cell, tmp_path / "calm", "print"))
    real = harness.train.validate.to_model_input

    def prepare_then_signal(*arguments: Any) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)  # a second signal changes nothing
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("harness.train.validate.to_model_input", prepare_then_signal)
        patched.setattr("harness.train.validate.VALIDATION_BATCH", 4)
        with pytest.raises(Preempted, match="SIGTERM; saved at step 16 of 48"):
            train_cell(StageRun(tiny_recipe, cell, folder, "print"))
    assert [row["step"] for row in read_log(folder / "train.jsonl") if row["kind"] == "validation"] == []
    train_cell(StageRun(tiny_recipe, cell, folder, "print"))
    assert rows(folder) == rows(tmp_path / "calm")
    assert same_weights(folder, tmp_path / "calm")


@pytest.mark.slow
def test_a_stop_within_a_row_of_the_log_neither_loses_nor_repeats_a_step(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.train.run_spec.LOG_ROWS", 10)  # rows of four steps
    cell = trained(tiny_recipe)
    train_cell(StageRun(tiny_recipe, cell, tmp_path / "calm", "print"))
    with monkeypatch.context() as patched:
        signal_after(patched, {6, 7, 17}, signal.SIGTERM)
        for _ in range(3):
            with pytest.raises(Preempted):
                train_cell(StageRun(tiny_recipe, cell, tmp_path / "storm", "print"))
    train_cell(StageRun(tiny_recipe, cell, tmp_path / "storm", "print"))
    assert [row["step"] for row in rows(tmp_path / "storm") if row["kind"] == "train"] == list(range(4, 49, 4))
    assert rows(tmp_path / "storm") == rows(tmp_path / "calm")


@pytest.mark.slow
def test_the_best_validations_checkpoint_outlives_the_run(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop", ["launch.checkpoint_best=true", "train.learning_rate=0.02"])
    from harness.data.prepare import prepare
    from harness.storage.checksums import read_checksummed

    prepare(recipe)
    cell = trained(recipe)
    folder = recipe.output / "cells" / cell.id
    run_cell(recipe.model_dump_json(), cell.id)
    found = {
        row["validation_loss"]: row["step"] for row in read_log(folder / "train.jsonl") if "validation_loss" in row
    }
    name = f"step-{found[min(found)]:09d}"
    assert read_checksummed(folder / "checkpoints" / "best") == {"checkpoint": name}
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best", name]


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Put one pixel that is no number into the first crop of these steps."""
    real = Run.step

    def step(run: Run, inputs: StepInput) -> None:
        poison = run.progress.step in steps

        def prepare(*arguments: Any) -> torch.Tensor:
            crops = harness.data.to_device.to_model_input(*arguments)
            if poison:
                crops[0, 0, 0, 0] = float("nan")
            return crops

        monkeypatch.setattr(run_module, "to_model_input", prepare)
        real(run, inputs)

    monkeypatch.setattr(Run, "step", step)


def test_a_poisoned_crop_stops_the_run_and_the_log_names_it(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, folder = trained(tiny_recipe), tmp_path / "cell"
    poisoned(monkeypatch, {9})
    with pytest.raises(Diverged, match=r"step 9 is bad \(not finite\).*no checkpoint was saved yet"):
        train_cell(StageRun(tiny_recipe, cell, folder, "print"))
    assert "step 9 is bad" in capsys.readouterr().err
    (row,) = [row for row in read_log(folder / "train.jsonl") if row["kind"] == "bad_step"]
    spec = build_run_spec(tiny_recipe, cell)
    batch = next(training_batches(spec.shards, spec.wells, crop=32, batch=8, seed=0, first_batch=9, last_batch=10))
    keys = spec.shards.wells.loc[batch.wells.numpy(), "key"]
    assert [crop.split("@")[0] for crop in row["crops"]["0"]] == list(keys)
    assert (row["losses"], row["gradient_norm"]) == (["nan"], "nan")


@pytest.mark.slow
def test_a_poisoned_crop_is_skipped_where_the_recipe_says_so(
    tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(tiny_recipe_file, "laptop", ["train.nonfinite=skip", "train.skip_limit=2"])
    from harness.data.prepare import prepare

    prepare(recipe)
    cell = trained(recipe)
    with monkeypatch.context() as patched:
        poisoned(patched, {9, 30})
        train_cell(StageRun(recipe, cell, tmp_path / "skipped", "print"))
    found = rows(tmp_path / "skipped")
    assert [row["step"] for row in found if row["kind"] == "bad_step"] == [9, 30]
    assert all(value.isfinite().all() for value in weights(tmp_path / "skipped").values())
    assert found[-1]["validation_loss"] < 0.99
    with monkeypatch.context() as patched:
        poisoned(patched, {9, 30, 31})
        with pytest.raises(Diverged, match="3 updates were skipped"):
            train_cell(StageRun(recipe, cell, tmp_path / "too many", "print"))


def test_early_stopping_ends_a_run_that_no_longer_improves(tiny_recipe_file: Path, tmp_path: Path) -> None:
    overrides = ["train.early_stopping={patience: 2, min_delta: 100}", "train.validations=12"]
    recipe = load(tiny_recipe_file, "laptop", overrides)
    from harness.data.prepare import prepare

    prepare(recipe)
    values = train_cell(StageRun(recipe, trained(recipe), tmp_path / "cell", "print"))
    assert (values["steps"], values["planned_steps"]) == (12, 48)  # the first validation counts as better than none
    assert values["annealed"] is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "steps", "annealed"),
    [
        (["train.early_stopping={one: {patience: 2, min_delta: 100}}"], 48, True),  # the other dataset
        (["train.early_stopping={two: {patience: 2, min_delta: 100}}"], 12, False),
        (["train.early_stopping={two: {patience: 2, min_delta: 100}}", "train.schedule.final_factor=1"], 12, True),
    ],
)
def test_only_a_dataset_that_stops_early_does_and_its_run_is_annealed_only_under_a_constant_rate(
    tiny_recipe_file: Path, tmp_path: Path, overrides: list[str], steps: int, annealed: bool
) -> None:
    recipe = load(tiny_recipe_file, "laptop", [*overrides, "train.validations=12"])
    from harness.data.prepare import prepare

    prepare(recipe)
    cell = trained(recipe)
    assert cell.dataset == "two"
    values = train_cell(StageRun(recipe, cell, tmp_path / "cell", "print"))
    assert (values["steps"], values["annealed"]) == (steps, annealed)


def test_shards_with_other_channels_are_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    wrong = tiny_recipe.model_copy(update={"mae": tiny_recipe.mae.model_copy(update={"channels": 5})})
    with pytest.raises(ValueError, match=r"mae\.channels is 5, but .* has"):
        train_cell(StageRun(wrong, trained(wrong), tmp_path / "cell", "print"))


@pytest.mark.slow
def test_two_ranks_give_the_losses_of_one(tiny_recipe_file: Path, tmp_path: Path) -> None:
    """DistributedDataParallel over gloo, real processes: the same crops and masks, so the same losses."""
    recipe = load(tiny_recipe_file, "laptop", ["models.vit_s16.drop_path=0.5"])
    from harness.data.prepare import prepare

    prepare(recipe)
    cell = trained(recipe)
    train_cell(StageRun(recipe, cell, tmp_path / "one", "print"))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "two").mkdir()
    arguments = [sys.executable, "-c", TRAIN_CELL, str(tmp_path / "recipe.json"), cell.id, str(tmp_path / "two")]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [subprocess.Popen(arguments, env={**common, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in one] == [step for step, _ in two]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)
