"""A run killed repeatedly, at random steps and during saves, ends bit for bit like an uninterrupted run.

Exercises `harness/checkpoint/checkpoints.py` and the resume path of `harness/train/loop.py` in real processes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import KillAt, run, train
from distributed.tiny import launched, rows, same_weights, tiny

from harness.storage.health.sessions import read_sessions, spent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 6  # a kill comes after at most this many steps
MUON = ["train.optimiser.name=muon", "mae.parametrisation=mup"]
OPERATIONS = (40, 5)  # a save takes about ten on the first rank, one or two on another rank


@pytest.mark.parametrize(
    ("engine", "world", "kills", "overrides"),
    [("single", 1, 20, []), ("fsdp", 2, 4, []), ("fsdp", 2, 3, MUON)],
    ids=["single", "fsdp", "fsdp-muon"],
)
def test_random_kills_change_nothing(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str, world: int, kills: int, overrides: list[str]
) -> None:
    epochs = 36 if world == 1 else 12
    fields = [f"launch.engine={engine}", f"train.epochs={epochs}", *overrides]
    recipe, cell = tiny(write_tiny_recipe, tmp_path, *fields)
    assert run(world, train, launched(recipe, checkpoint_minutes=60.0), cell, tmp_path / "uninterrupted") == [0] * world
    save_every_step = launched(recipe, checkpoint_minutes=1e-6)
    generator = random.Random(0)
    for number in range(kills):
        rank = generator.randrange(world)
        during_save = number % 2 == 0
        operations, steps = generator.randint(1, OPERATIONS[min(rank, 1)]), generator.randint(1, STEPS)
        kill = KillAt(rank, operations=operations) if during_save else KillAt(rank, steps=steps)
        assert run(world, train, save_every_step, cell, tmp_path / "interrupted", kill)[rank] == -9
    assert run(world, train, save_every_step, cell, tmp_path / "interrupted") == [0] * world
    expected = rows(tmp_path / "uninterrupted", "train", "validation")
    assert rows(tmp_path / "interrupted", "train", "validation") == expected
    assert same_weights(tmp_path / "interrupted", tmp_path / "uninterrupted")
    sessions = read_sessions(tmp_path / "interrupted")
    assert [session.end for session in sessions] == [None] * kills + ["finished"]
    hours = spent(sessions)
    assert hours.failures == kills
    assert 0 < hours.useful < hours.hours
    assert hours.hours == pytest.approx(hours.useful + hours.starting + hours.saving + hours.lost)
    assert rows(tmp_path / "interrupted", "resume") == []  # no damaged checkpoint was reported
