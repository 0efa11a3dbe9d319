"""What a rank copies for a save, and reads to resume: under ddp a part of what all ranks hold alike."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from distributed.processes import PREEMPTED, SignalAfter, run, train
from distributed.tiny import launched, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class CountBytes:
    """A hook: each rank writes how many bytes it staged for its last save and read to resume."""

    def __init__(self, folder: Path, stop: SignalAfter) -> None:
        self.folder, self.stop = folder, stop

    def __call__(self) -> None:
        from harness.checkpoint import checkpoints
        from harness.checkpoint.tensors import TensorReader, size_on_rank

        file = self.folder / f"rank-{os.environ['RANK']}.json"
        counts = json.loads(file.read_text()) if file.exists() else {}
        save, read = checkpoints.async_save, TensorReader.read_data

        def staged(state: Mapping[str, Any], **options: Any) -> Any:
            counts["staged"] = sum(size_on_rank(t) for name, t in state.items() if not name.startswith("generators."))
            file.write_text(json.dumps(counts))
            return save(state, **options)

        def reading(reader: TensorReader, plan: Any, planner: Any) -> Any:
            items = [item for item in plan.items if not item.dest_index.fqn.startswith("generators.")]
            counts["read"] = sum(item.lengths.numel() * 4 for item in items)
            file.write_text(json.dumps(counts))
            return read(reader, plan, planner)

        checkpoints.async_save, TensorReader.read_data = staged, reading  # type: ignore[assignment,method-assign]
        self.stop()


def test_two_ranks_of_ddp_stage_and_read_half_each(write_tiny_recipe: Callable[[Path], Path], tmp_path: Path) -> None:
    """Each of them used to stage and read all of it."""
    recipe, cell = tiny(write_tiny_recipe, tmp_path)
    words = launched(recipe, engine="ddp"), cell, tmp_path / "cell"
    for step in (2, 4):
        assert run(2, train, *words, CountBytes(tmp_path, SignalAfter(0, step))) == [PREEMPTED] * 2
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    whole = sum(counts["staged"] for counts in ranks)
    weights_and_moments = 2 * 4 * _parameters(recipe, cell)
    assert weights_and_moments < whole < 1.2 * weights_and_moments  # and positions, statistics and counts
    assert ranks[0]["staged"] == pytest.approx(whole / 2, rel=0.02)
    assert [counts["read"] for counts in ranks] == pytest.approx([whole / 2] * 2, rel=0.02)


def _parameters(recipe: Any, cell: str) -> int:
    from harness.grid.cells import find_cell
    from harness.models.architecture import cost_of

    architecture = find_cell(recipe, cell).architecture
    assert architecture is not None
    return cost_of(architecture).parameters()
