"""What one number of ranks saved another goes on from, under whatever engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import PREEMPTED, SignalAfter, run, train
from distributed.tiny import launched, rows, tiny

pytestmark = pytest.mark.slow
CHAINS = [
    [("single", 1), ("fsdp", 2), ("hsdp", 4), ("ddp", 2), ("single", 1)],
    [("ddp", 4), ("fsdp", 2), ("deepspeed", 2), ("single", 1), ("deepspeed", 4)],
]


def values(folder: Path, kind: str, name: str) -> dict[int, float]:
    found = rows(folder, kind)
    assert len({row["step"] for row in found}) == len(found)
    return {row["step"]: row[name] for row in found}


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(f"{name}{world}" for name, world in chain))
def test_every_change_of_ranks_and_engine_keeps_the_losses(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, chain: list[tuple[str, int]]
) -> None:
    """Without stochastic depth, which draws from each rank's generator."""
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "models.vit_s16.drop_path=0", "train.epochs=6")
    assert run(1, train, recipe.model_dump_json(), cell, tmp_path / "calm") == [0]
    for number, (engine, world) in enumerate(chain):
        last = number == len(chain) - 1
        hook = None if last else SignalAfter(rank=world - 1, step=4 * (number + 1))
        codes = run(world, train, launched(recipe, engine=engine), cell, tmp_path / "storm", hook)
        assert codes == [0 if last else PREEMPTED] * world
    for kind, name, within in (
        ("train", "loss", 5e-6), ("train", "gradient_norm", 1e-4), ("validation", "validation_loss", 5e-6)
    ):  # fmt: skip
        calm, storm = values(tmp_path / "calm", kind, name), values(tmp_path / "storm", kind, name)
        assert storm == pytest.approx(calm, abs=within)
    assert list(values(tmp_path / "storm", "train", "loss")) == list(range(1, 25))
