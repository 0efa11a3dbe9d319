"""All ranks act on a signal or a non-finite loss of one rank.

Covers `agreement`, `preemption` and `ranks` of `harness/distributed` in real processes.
"""

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
    ("engine", "module", "saved"), [("ddp", "harness.train.run", 5), ("fsdp", "harness.train.validate", 11)]
)
def test_a_signal_to_one_rank_stops_both_and_resuming_gives_the_same_run(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str, module: str, saved: int
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, f"launch.engine={engine}", "train.epochs=8")
    work = (train, recipe.model_dump_json(), cell)
    no_signal = SignalIn(module, -1, 0)
    assert run(2, *work, tmp_path / "uninterrupted", no_signal) == [0, 0]
    call = 4 if module == "harness.train.run" else 1
    assert run(2, *work, tmp_path / "interrupted", SignalIn(module, 1, call, *BOTH)) == [PREEMPTED, PREEMPTED]
    assert [path.name for path in (tmp_path / "interrupted" / "checkpoints").glob("step-*")] == [f"step-{saved:09d}"]
    assert run(2, *work, tmp_path / "interrupted", no_signal) == [0, 0]
    expected = rows(tmp_path / "uninterrupted", "train", "validation")
    assert rows(tmp_path / "interrupted", "train", "validation") == expected
    assert same_weights(tmp_path / "interrupted", tmp_path / "uninterrupted")


def test_a_signal_to_one_rank_stops_embedding_and_keeps_the_parts(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe, cell = tiny(
        write_tiny_recipe, tmp_path, "train.epochs=1", "launch.engine=ddp", "launch.embed_part_wells=10"
    )
    assert run(2, train, recipe.model_dump_json(), cell, tmp_path) == [0, 0]
    work = (embed, recipe.model_dump_json(), cell, tmp_path)
    assert run(2, *work) == [0, 0]
    _, expected = read_embeddings(tmp_path / EMBEDDINGS)
    discard_parts(tmp_path)
    assert run(2, *work, SignalIn("harness.embed.wells", 1, 3, *BOTH)) == [PREEMPTED, PREEMPTED]
    assert len(list(tmp_path.glob("embedding-*/*.parquet"))) in (2, 3)
    assert run(2, *work) == [0, 0]
    np.testing.assert_array_equal(read_embeddings(tmp_path / EMBEDDINGS)[1], expected)


def test_a_nan_crop_on_one_rank_stops_both_and_the_log_names_the_rank(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "launch.engine=fsdp")
    assert run(2, train, recipe.model_dump_json(), cell, tmp_path / "cell", Poison(1, 9)) == [DIVERGED, DIVERGED]
    (bad,) = rows(tmp_path / "cell", "bad_step")
    assert (bad["step"], bad["why"], list(bad["crops"])) == (9, "not finite", ["1"])
    assert (bad["losses"][0] < 2, bad["losses"][1], len(bad["crops"]["1"])) == (True, "nan", 4)


def test_a_nonfinite_step_on_one_rank_is_skipped_by_all_under_every_engine(
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
