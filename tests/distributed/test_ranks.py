"""What ranks cost each other and the file system, and how long they wait: counted in real processes.

Covers `ranks`, `harness/storage/health/open_files.py` and `check_shards`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import run
from distributed.rank_work import count_descriptors, count_requests, open_incomplete, wait_for_missing
from distributed.tiny import tiny

from harness.distributed.stalls.pulse import is_lost_connection
from harness.storage.health.open_files import FIXED, PER_RANK

pytestmark = pytest.mark.slow
WORLDS = (2, 4, 8)


def test_the_first_rank_holds_four_descriptors_a_rank_and_the_others_two(tmp_path: Path) -> None:
    """One for each of two groups of gloo; on the first rank also one for each of two stores."""
    first, last = list[int](), list[int]()
    for world in WORLDS:
        folder = tmp_path / str(world)
        folder.mkdir()
        assert run(world, count_descriptors, folder) == [0] * world
        counts = [int((folder / str(rank)).read_text()) for rank in range(world)]
        first.append(counts[0])
        last.append(counts[-1])
    slopes = [(counts[2] - counts[0]) / (WORLDS[2] - WORLDS[0]) for counts in (first, last)]
    assert slopes == [PER_RANK, 2.0], (first, last)
    assert first[0] < FIXED + PER_RANK * WORLDS[0]


def test_one_rank_alone_looks_for_the_shards(write_tiny_recipe: Callable[[Path], Path], tmp_path: Path) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "train.epochs=1")
    shards = recipe.datasets["two"].shards
    assert isinstance(shards, Path)
    assert run(2, count_requests, recipe.model_dump_json(), cell, tmp_path) == [0, 0]
    assert [int((tmp_path / str(rank)).read_text()) for rank in range(2)] == [len([*shards.glob("*.tar")]), 0]


def test_a_missing_shard_ends_all_ranks_with_the_same_words(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "train.epochs=1")
    shards = recipe.datasets["two"].shards
    assert isinstance(shards, Path)
    gone = sorted(shards.glob("*.tar"))[-1]
    gone.unlink()
    assert run(2, open_incomplete, recipe.model_dump_json(), cell, tmp_path) == [0, 0]
    texts = {(tmp_path / str(rank)).read_text() for rank in range(2)}
    (text,) = texts
    assert text.startswith(f"ShardError: {gone}: missing, but manifest.json says")


def test_a_collective_waits_long_at_first_and_then_as_long_as_it_is_told(tmp_path: Path) -> None:
    run(2, wait_for_missing, tmp_path)
    seconds, _, text = (tmp_path / "0").read_text().partition(" ")
    assert 0.8 < float(seconds) < 5
    assert is_lost_connection("RuntimeError", text)  # so that a stall that was told names the missing rank
