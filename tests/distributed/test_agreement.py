"""What one rank learns all ranks act on: a signal, a crop that is no number."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed.processes import DIVERGED, PREEMPTED, Poison, SignalIn, embed, run, train
from distributed.tiny import launched, rows, same_weights, tiny
from safetensors.torch import load_file

from harness.embed.parts import discard_parts
from harness.grid.cell_folder import EMBEDDINGS
from harness.storage.embeddings import read_embeddings

pytestmark = pytest.mark.slow
BOTH = (signal.SIGUSR2, signal.SIGTERM)  # the second changes nothing


@pytest.mark.parametrize(
    ("engine", "room", "saved"), [("ddp", "harness.train.run", 5), ("fsdp", "harness.train.validate", 11)]
)
def test_one_ranks_signal_stops_both_and_nothing_is_lost(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str, room: str, saved: int
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, f"launch.engine={engine}", "train.epochs=8")
    work = (train, recipe.model_dump_json(), cell)
    quiet = SignalIn(room, -1, 0)
    assert run(2, *work, tmp_path / "calm", quiet) == [0, 0]
    call = 4 if room == "harness.train.run" else 1
    assert run(2, *work, tmp_path / "storm", SignalIn(room, 1, call, *BOTH)) == [PREEMPTED, PREEMPTED]
    assert [path.name for path in (tmp_path / "storm" / "checkpoints").glob("step-*")] == [f"step-{saved:09d}"]
    assert run(2, *work, tmp_path / "storm", quiet) == [0, 0]
    assert rows(tmp_path / "storm", "train", "validation") == rows(tmp_path / "calm", "train", "validation")
    assert same_weights(tmp_path / "storm", tmp_path / "calm")


def test_one_ranks_signal_stops_embedding_and_its_parts_stay(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe, cell = tiny(
        write_tiny_recipe, tmp_path, "train.epochs=1", "launch.engine=ddp", "launch.embed_part_wells=10"
    )
    assert run(2, train, recipe.model_dump_json(), cell, tmp_path) == [0, 0]
    work = (embed, recipe.model_dump_json(), cell, tmp_path)
    assert run(2, *work) == [0, 0]
    _, calm = read_embeddings(tmp_path / EMBEDDINGS)
    discard_parts(tmp_path)
    assert run(2, *work, SignalIn("harness.embed.wells", 1, 3, *BOTH)) == [PREEMPTED, PREEMPTED]
    assert len(list(tmp_path.glob("embedding-*/*.parquet"))) in (2, 3)
    assert run(2, *work) == [0, 0]
    np.testing.assert_array_equal(read_embeddings(tmp_path / EMBEDDINGS)[1], calm)


def test_one_ranks_poisoned_crop_stops_both_and_the_log_names_its_rank(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "launch.engine=fsdp")
    assert run(2, train, recipe.model_dump_json(), cell, tmp_path / "cell", Poison(1, 9)) == [DIVERGED, DIVERGED]
    (bad,) = rows(tmp_path / "cell", "bad_step")
    assert (bad["step"], bad["why"], list(bad["crops"])) == (9, "not finite", ["1"])
    assert (bad["losses"][0] < 2, bad["losses"][1], len(bad["crops"]["1"])) == (True, "nan", 4)


def test_a_step_that_one_rank_finds_bad_is_skipped_by_all_under_every_engine(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    skip = ["train.nonfinite=skip", "models.vit_s16.drop_path=0", "train.epochs=6"]
    recipe, cell = tiny(write_tiny_recipe, tmp_path, *skip)
    for engine in ("ddp", "fsdp"):
        assert run(2, train, launched(recipe, engine=engine), cell, tmp_path / engine, Poison(1, 9)) == [0, 0]
        assert [row["step"] for row in rows(tmp_path / engine, "bad_step")] == [9]
        assert all(torch.isfinite(value).all() for value in load_file(tmp_path / engine / "model.safetensors").values())
    losses = [[row["loss"] for row in rows(tmp_path / engine, "train")] for engine in ("ddp", "fsdp")]
    assert len(losses[0]) == 23
    assert losses[0] == pytest.approx(losses[1], abs=5e-6)
