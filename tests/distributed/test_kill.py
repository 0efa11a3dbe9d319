"""Killed again and again, at random steps and in the midst of saves, a run ends bit for bit like one that was not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import KillAt, run, train
from distributed.tiny import launched, rows, same_weights, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 6  # a kill comes at the latest after so many
OPERATIONS = (40, 5)  # a save takes the first rank some ten, another rank one or two


@pytest.mark.parametrize(("engine", "world", "kills"), [("single", 1, 20), ("fsdp", 2, 4)])
def test_random_kills_change_nothing(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str, world: int, kills: int
) -> None:
    epochs = 36 if world == 1 else 12
    recipe, cell = tiny(write_tiny_recipe, tmp_path, f"launch.engine={engine}", f"train.epochs={epochs}")
    assert run(world, train, launched(recipe, checkpoint_minutes=60.0), cell, tmp_path / "calm") == [0] * world
    always = launched(recipe, checkpoint_minutes=1e-6)
    dice = random.Random(0)
    for number in range(kills):
        rank = dice.randrange(world)
        in_a_save = number % 2 == 0
        operations, steps = dice.randint(1, OPERATIONS[min(rank, 1)]), dice.randint(1, STEPS)
        kill = KillAt(rank, operations=operations) if in_a_save else KillAt(rank, steps=steps)
        assert run(world, train, always, cell, tmp_path / "storm", kill)[rank] == -9
    assert run(world, train, always, cell, tmp_path / "storm") == [0] * world
    assert rows(tmp_path / "storm", "train", "validation") == rows(tmp_path / "calm", "train", "validation")
    assert same_weights(tmp_path / "storm", tmp_path / "calm")
    assert rows(tmp_path / "storm", "resume") == []  # nothing was ever found damaged
