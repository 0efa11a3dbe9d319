"""Killed again and again, at random steps and in the midst of saves, a run ends bit for bit like one that was not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import KillAt, run, train
from safetensors.torch import load_file

from harness.grid import cells
from harness.meter import read_log
from harness.recipe_file import load

pytestmark = pytest.mark.slow
SAVE_ALWAYS = "launch.checkpoint_minutes=0.000001"
STEPS, OPERATIONS = 6, 40  # a kill comes at the latest after so many; a save takes some ten operations


def rows(folder: Path) -> list[dict[str, object]]:
    """The log without speeds and without notes of resumes."""
    timed = {"crops_per_second", "step_seconds", "data_wait", "peak_memory_gb", "mfu"}
    found = [{k: v for k, v in row.items() if k not in timed} for row in read_log(folder / "train.jsonl")]
    return [row for row in found if row["kind"] != "resume"]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("engine", "world", "kills"), [("single", 1, 20), ("fsdp", 2, 4)])
def test_random_kills_change_nothing(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str, world: int, kills: int
) -> None:
    from harness.prepare import prepare

    recipe = load(write_tiny_recipe(tmp_path), "laptop", [f"launch.engine={engine}", "train.epochs=36", SAVE_ALWAYS])
    prepare(recipe)
    cell = next(c for c in cells(recipe) if (c.model, c.dataset) == ("vit_s16", "two"))
    calm = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"checkpoint_minutes": 60.0})})
    assert run(world, train, calm.model_dump_json(), cell.id, tmp_path / "calm") == [0] * world
    dice, kinds = random.Random(0), []
    for number in range(kills):
        kinds.append("steps" if number % 2 else "operations")
        kill = KillAt(dice.randrange(world), **{kinds[-1]: dice.randint(1, STEPS if number % 2 else OPERATIONS)})
        codes = run(world, train, recipe.model_dump_json(), cell.id, tmp_path / "storm", kill)
        assert codes[kill.rank] == -9
    assert run(world, train, recipe.model_dump_json(), cell.id, tmp_path / "storm") == [0] * world
    assert rows(tmp_path / "storm") == rows(tmp_path / "calm")
    assert same_weights(tmp_path / "storm", tmp_path / "calm")
    resumed = [row["step"] for row in read_log(tmp_path / "storm" / "train.jsonl") if row["kind"] == "resume"]
    assert resumed == []  # whatever moment it was, `latest` was whole
