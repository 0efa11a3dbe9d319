"""What a checkpoint takes of a disk, and what is left, for the message of a save that failed."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.checkpoint.lost import LATEST, named_checkpoint

GIGA = 1e9


def room(folder: Path, expected: int) -> str:
    """What a checkpoint in a folder takes, what is free there, and which one stays.

    Args:
        folder: of a cell's checkpoints.
        expected: bytes of a checkpoint, used where none was saved yet.
    """
    takes = float(expected)
    try:
        saved = list(folder.glob("step-*"))
        sizes = [path.stat().st_size for checkpoint in saved for path in checkpoint.glob("*")]
        takes = sum(sizes) / len(saved) if saved else takes
        free = f"{shutil.disk_usage(folder).free / GIGA:.3g} GB are free"
    except OSError as error:  # the disk itself may be what fails
        free = f"it is not known how much is free ({error.strerror})"
    last = named_checkpoint(folder.parent, LATEST)
    kept = f"{last} is kept" if last else "no checkpoint was written before"
    return f"one takes {takes / GIGA:.3g} GB, and {free} in {folder}; {kept}"
