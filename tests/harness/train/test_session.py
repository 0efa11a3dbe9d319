"""Covers `session`: who asks for a save, and when; and what a finished training leaves in the ledger."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from harness.distributed.ranks import Ranks
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage.health.sessions import SESSIONS, Session, SessionLog, read_sessions
from harness.train import session as module
from harness.train.session import Begun, RunSession, spent_values

FIRST, OTHER = (Ranks(rank, 2, torch.device("cpu")) for rank in range(2))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def begin(recipe: Recipe, folder: Path, ranks: Ranks, minutes: float | str) -> RunSession:
    folder.mkdir(parents=True, exist_ok=True)
    launch = recipe.launch.model_copy(update={"checkpoint_minutes": minutes})
    return RunSession.begin(recipe.model_copy(update={"launch": launch}), folder, ranks, 0, Begun.now(folder))


def test_the_first_rank_alone_asks_for_saves(tiny_recipe_file: Path, tmp_path: Path, clock: list[float]) -> None:
    recipe = load(tiny_recipe_file, "laptop")
    first, other = (begin(recipe, tmp_path, ranks, 1.0) for ranks in (FIRST, OTHER))
    clock[0] = 59.0
    assert not first.is_due(failed=False)
    clock[0] = 61.0
    assert first.is_due(failed=False)
    assert not other.is_due(failed=False)
    with first.saving(7, now=False), other.saving(7, now=False):
        clock[0] = 63.0
    assert not first.is_due(failed=True)
    assert [save.step for save in read_sessions(tmp_path)[0].saves] == [7]


def test_saves_are_as_far_apart_as_they_and_the_studys_failures_ask_for(
    tiny_recipe_file: Path, tmp_path: Path, clock: list[float]
) -> None:
    """Nine failures in an hour of another cell, and one in the 4,000 hours in which one is usual."""
    recipe = load(tiny_recipe_file, "laptop")
    other = recipe.output / "cells" / "other"
    other.mkdir(parents=True)
    for start in range(10):
        SessionLog(other, Session(1000.0 + 360 * start, 0, 1, 1), 1000.0 + 360 * start)
    os.utime(other / SESSIONS, (4600, 4600))
    run = begin(recipe, tmp_path / "cell", FIRST, "auto")
    clock[0] = 301.0
    assert run.is_due(failed=False)  # the first save tells what one costs
    with run.saving(1, now=False):
        clock[0] = 304.0
    clock[0] = 304.0 + 61
    assert run.is_due(failed=True)
    clock[0] = 304.0 + 2900
    assert not run.is_due(failed=False)
    clock[0] = 304.0 + 2960  # sqrt(2 * 3 * 3600 * (4000 + 0.9) / 10) = 2,940 s, and a little more by Daly
    assert run.is_due(failed=False)


def test_a_run_knows_of_its_own_failure_just_before(tiny_recipe_file: Path, clock: list[float]) -> None:
    """100 failures of this cell in an hour: with saves of 3 s, the best spacing is some 930 s."""
    recipe = load(tiny_recipe_file, "laptop")
    folder = recipe.output / "cells" / "own"
    folder.mkdir(parents=True)
    for start in range(100):
        SessionLog(folder, Session(1000.0 + 36 * start, 0, 1, 1), 1000.0 + 36 * start)
    os.utime(folder / SESSIONS, (4600, 4600))
    run = begin(recipe, folder, FIRST, "auto")
    with run.saving(1, now=False):
        clock[0] = 3.0
    assert run._spacing is not None
    assert run._spacing.rate.failures == 100
    assert run._spacing.seconds == pytest.approx(924, abs=10)


def test_what_was_spent_is_in_the_ledgers_values(tiny_recipe_file: Path, tmp_path: Path) -> None:
    run = begin(load(tiny_recipe_file, "laptop"), tmp_path, FIRST, "auto")
    run.ready()
    run.ended("finished")
    values = spent_values(tmp_path)["spent"]
    assert json.loads(json.dumps(values)) == values
    assert values["failures"] == 0
    assert values["hours"] == pytest.approx(values["starting"] + values["useful"], abs=2e-6)
    assert (tmp_path / SESSIONS).exists()
