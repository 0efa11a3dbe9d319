"""What one number of ranks saved another goes on from, under whatever engine, and one rank's signal stops them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import PREEMPTED, SignalAfter, run, train

from harness.grid import Cell, cells
from harness.meter import read_log
from harness.recipe import Recipe
from harness.recipe_file import load

pytestmark = pytest.mark.slow
CHAINS = [
    [("single", 1), ("fsdp", 2), ("hsdp", 4), ("ddp", 2), ("single", 1)],
    [("ddp", 4), ("fsdp", 2), ("single", 1), ("ddp", 2), ("fsdp", 4)],
]


def tiny(write: Callable[[Path], Path], folder: Path, *overrides: str) -> tuple[Recipe, Cell]:
    """The tiny study without stochastic depth, which draws from each rank's generator, and its cell."""
    from harness.prepare import prepare

    common = ["models.vit_s16.drop_path=0", "launch.shard_gpus=2", "train.epochs=6"]
    recipe = load(write(folder), "laptop", [*common, *overrides])
    prepare(recipe)
    return recipe, next(c for c in cells(recipe) if (c.model, c.dataset) == ("vit_s16", "two"))


def losses(folder: Path, kind: str, name: str) -> dict[int, float]:
    found = [row for row in read_log(folder / "train.jsonl") if row["kind"] == kind]
    assert len({row["step"] for row in found}) == len(found)
    return {row["step"]: row[name] for row in found}


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(f"{name}{world}" for name, world in chain))
def test_every_change_of_ranks_and_engine_keeps_the_losses(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, chain: list[tuple[str, int]]
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path)
    assert run(1, train, recipe.model_dump_json(), cell.id, tmp_path / "calm") == [0]
    for number, (engine, world) in enumerate(chain):
        changed = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"engine": engine})})
        last = number == len(chain) - 1
        hook = None if last else SignalAfter(rank=world - 1, step=4 * (number + 1))
        codes = run(world, train, changed.model_dump_json(), cell.id, tmp_path / "storm", hook)
        assert codes == [0 if last else PREEMPTED] * world
    for kind, name in (("train", "loss"), ("train", "gradient_norm"), ("validation", "validation_loss")):
        calm, storm = losses(tmp_path / "calm", kind, name), losses(tmp_path / "storm", kind, name)
        assert storm == pytest.approx(calm, abs=5e-6 if name != "gradient_norm" else 1e-4)
    assert len(losses(tmp_path / "storm", "train", "loss")) == 24
