"""The final training state of a finished cell, which stays on disk while another cell is to start from it. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.checkpoint.facts import step_name
from harness.checkpoint.lost import BEST, FOLDER, LATEST, named_checkpoint


def has_final_state(cell: Path, steps: object) -> bool:
    """Whether a cell's folder has the state after the last of its `steps`."""
    return (
        isinstance(steps, int)
        and named_checkpoint(cell, LATEST) == step_name(steps)
        and (cell / FOLDER / step_name(steps)).is_dir()
    )


def keep_final_state(cell: Path) -> None:
    """Delete the checkpoints of a finished cell, except its last, and its best if the recipe keeps that."""
    kept = {named_checkpoint(cell, LATEST), named_checkpoint(cell, BEST)}
    for entry in (cell / FOLDER).glob("step-*") if kept != {None} else []:
        if entry.name not in kept:
            shutil.rmtree(entry, ignore_errors=True)
