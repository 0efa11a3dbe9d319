"""Two ranks refuse together when no checkpoint can be loaded, and start again together when they are told to.

Exercises `harness/checkpoint` (`collective`, `lost`, `restore`) in real processes over gloo.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import PREEMPTED, SignalAfter, run, train
from distributed.tiny import launched, rows, same_weights, tiny
from small_run import flip_bit

from harness.storage.checksums import checksum, read_checksummed, write_checksummed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
REFUSED = 77


def train_or_refuse(recipe_json: str, cell: str, folder: Path, reports: Path) -> None:
    """Train on this rank; write what a refusal says, and exit with REFUSED."""
    import os

    from harness.checkpoint.checkpoints import CheckpointError

    try:
        train(recipe_json, cell, folder)
    except CheckpointError as error:
        (reports / os.environ["RANK"]).write_text(str(error))
        sys.exit(REFUSED)


def files(folder: Path) -> dict[str, list[object]]:
    return {str(path.relative_to(folder)): checksum(path) for path in folder.rglob("*") if path.is_file()}


def seal(checkpoint: Path, **progress: object) -> None:
    """Change the progress of a checkpoint, with the checksum that fits."""
    facts = read_checksummed(checkpoint / "checkpoint.json")
    write_checksummed(checkpoint / "checkpoint.json", {**facts, "progress": {**facts["progress"], **progress}})


def damage(checkpoint: Path) -> None:
    flip_bit(checkpoint / "__1_0.distcp")  # the second rank verifies it


def set_far_step(checkpoint: Path) -> None:
    seal(checkpoint, step=10**12)


def rename_step(checkpoint: Path) -> None:
    """The checkpoint of step 4 as that of step 9: everything fits but what the optimiser has counted."""
    other = checkpoint.with_name("step-000000009")
    checkpoint.rename(other)
    seal(other, step=9)
    write_checksummed(checkpoint.parent / "latest", {"checkpoint": other.name})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (damage, "checkpoint step-000000004 is damaged: __1_0.distcp"),
        (set_far_step, "progress.step is 1000000000000"),
        (rename_step, "progress.step is 9, but extra.guard has counted 4 updates"),
    ],
)
def test_ranks_refuse_together_and_restart_together(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "train.epochs=3")
    folder, fresh, reports = tmp_path / "cell", tmp_path / "fresh", tmp_path / "reports"
    reports.mkdir()
    plain, restart = launched(recipe, engine="fsdp"), launched(recipe, engine="fsdp", restart_lost=True)
    assert run(2, train, plain, cell, folder, SignalAfter(rank=1, step=4)) == [PREEMPTED] * 2
    change(folder / "checkpoints" / "step-000000004")
    before = files(folder / "checkpoints")
    assert run(2, train_or_refuse, plain, cell, folder, reports) == [REFUSED] * 2
    texts = [(reports / str(rank)).read_text() for rank in (0, 1)]
    assert texts[0] == texts[1]
    assert why in texts[0]
    assert "launch.restart_lost=true" in texts[0]
    assert files(folder / "checkpoints") == before
    codes = run(2, train_or_refuse, restart, cell, folder, reports)
    if codes == [REFUSED] * 2:  # weights were loaded before the contradiction was found: the next start is clean
        codes = run(2, train_or_refuse, restart, cell, folder, reports)
    assert codes == [0, 0]
    assert files(folder / "lost-1" / "checkpoints") == before
    assert run(2, train, plain, cell, fresh) == [0, 0]
    assert same_weights(folder, fresh)
    assert json.dumps(rows(folder, "train")) == json.dumps(rows(fresh, "train"))
