"""A checkpoint saved by one engine and number of ranks resumes under any other.

Exercises `engine`, `ddp`, `fsdp`, `deepspeed` and `preemption` of `harness/distributed` in real processes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import PREEMPTED, SignalAfter, run, train
from distributed.tiny import launched, rows, tiny

pytestmark = pytest.mark.slow
SEQUENCES = [
    [("single", 1), ("fsdp", 2), ("hsdp", 4), ("ddp", 2), ("single", 1)],
    [("ddp", 4), ("fsdp", 2), ("deepspeed", 2), ("single", 1), ("deepspeed", 4)],
    [("single", 1), ("fsdp", 2), ("ddp", 2)],
]

# What the released configuration does otherwise: every engine and every resume must do it alike.
RELEASED = ["train.schedule.cycle_momentum=true", "mae.block_bias=timm-0.8.13", "mae.initialisation=released"]


MUON = ["train.optimiser.name=muon", "mae.parametrisation=mup", "mae.base_width=24", "mae.base_depth=1"]


def values(folder: Path, kind: str, name: str) -> dict[int, float]:
    logged = rows(folder, kind)
    assert len({row["step"] for row in logged}) == len(logged)
    return {row["step"]: row[name] for row in logged}


@pytest.mark.parametrize(
    ("sequence", "overrides"),
    [(SEQUENCES[0], []), (SEQUENCES[1], RELEASED), (SEQUENCES[2], MUON)],
    ids=["-".join(f"{name}{world}" for name, world in runs) for runs in SEQUENCES],
)
def test_every_change_of_ranks_and_engine_keeps_the_losses(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, sequence: list[tuple[str, int]], overrides: list[str]
) -> None:
    """Stochastic depth is off because it draws from each rank's generator."""
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "models.vit_s16.drop_path=0", "train.epochs=6", *overrides)
    assert run(1, train, recipe.model_dump_json(), cell, tmp_path / "uninterrupted") == [0]
    for number, (engine, world) in enumerate(sequence):
        last = number == len(sequence) - 1
        hook = None if last else SignalAfter(rank=world - 1, step=4 * (number + 1))
        codes = run(world, train, launched(recipe, engine=engine), cell, tmp_path / "interrupted", hook)
        assert codes == [0 if last else PREEMPTED] * world
    for kind, name, tolerance in (
        ("train", "loss", 5e-6), ("train", "gradient_norm", 1e-4), ("validation", "validation_loss", 5e-6)
    ):  # fmt: skip
        expected = values(tmp_path / "uninterrupted", kind, name)
        assert values(tmp_path / "interrupted", kind, name) == pytest.approx(expected, abs=tolerance)
    assert list(values(tmp_path / "interrupted", "train", "loss")) == list(range(1, 25))
