"""Find saved work of earlier starts or signs that it is lost, and move it aside to start again. Deletes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint.facts import UnreadableError, step_name
from harness.grid.cell_folder import TRAIN_LOG, WEIGHTS
from harness.storage.atomic import write_json
from harness.storage.checksums import Damaged, read_checksummed, sync_folder
from harness.storage.train_log import last_step

FOLDER, LATEST, BEST = "checkpoints", "latest", "best"
SAVED = "last_save.json"  # outside the folder of checkpoints, so that it outlives them
STEP = re.compile(r"step-(\d{9,18})")


@dataclass(frozen=True)
class Saved:
    """What a cell's folder has of earlier starts.

    Attributes:
        names: checkpoints, the one to try first first.
        notes: what is wrong with the pointer to the latest.
        lost: signs of saved work, if there is no checkpoint.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...]
    lost: tuple[str, ...]


def find_saved(cell: Path) -> Saved:
    """Look for checkpoints in a cell's folder, or for signs that there were any.

    Raises:
        UnreadableError: the folder cannot be read, which is not the same as being empty.
    """
    folder = cell / FOLDER
    try:
        if folder.is_symlink() and not folder.exists():
            raise UnreadableError(f"{folder}: a link to {folder.readlink()}, which does not exist: is it mounted?")
        entries = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return Saved((), (), _signs_without_folder(cell))
    except OSError as error:
        raise UnreadableError(f"{folder}: cannot be read: {error.strerror}") from error
    names = sorted((name for name in entries if _step(name) is not None), key=_step_or_zero, reverse=True)
    notes: list[str] = []
    if names or LATEST in entries:
        latest = _latest(folder, names, notes)
        names = [name for name in names if name == latest] + [name for name in names if name != latest]
    pointers = [f"{name} is there, but no checkpoint" for name in (LATEST, BEST) if name in entries and not names]
    return Saved(tuple(names), tuple(notes), tuple(pointers) or (() if names else _signs_in_cell(cell)))


def named_checkpoint(cell: Path, pointer: str) -> str | None:
    """The checkpoint that `latest` or `best` names; None where the pointer is missing, damaged or cannot be read."""
    try:
        return str(read_checksummed(cell / FOLDER / pointer).get("checkpoint"))
    except (Damaged, OSError):
        return None


def _latest(folder: Path, names: list[str], notes: list[str]) -> str | None:
    """The checkpoint that `latest` names; None, and a note, if the pointer cannot be used."""
    try:
        latest = str(read_checksummed(folder / LATEST).get("checkpoint"))
    except Damaged as damage:
        notes.append(str(damage))
        return None
    except OSError as error:
        raise UnreadableError(f"{folder / LATEST}: cannot be read: {error.strerror}") from error
    if latest not in names:
        notes.append(f"{LATEST} names {latest[:100]}, which does not exist")
    return latest


def _step(name: str) -> int | None:
    match = STEP.fullmatch(name)
    return int(match[1]) if match and step_name(int(match[1])) == name else None


def _step_or_zero(name: str) -> int:
    return _step(name) or 0


def _signs_in_cell(cell: Path) -> tuple[str, ...]:
    """A run that was ended before its first save leaves a log, and an empty folder: nothing was lost that was saved."""
    step = last_step(cell / TRAIN_LOG)
    saved = (cell / SAVED).exists() and step > 0
    return (f"{TRAIN_LOG} has steps up to {step}, and {SAVED} says that they were saved",) if saved else ()


def _signs_without_folder(cell: Path) -> tuple[str, ...]:
    """The folder is made before the first step, and removed when the weights of the finished run are written."""
    step = last_step(cell / TRAIN_LOG)
    if step > 0 and not (cell / WEIGHTS).exists():
        return (f"{TRAIN_LOG} has steps up to {step}, and the folder {FOLDER} is gone",)
    return _signs_in_cell(cell)


def record_save(cell: Path, step: int) -> None:
    """Note outside the folder of checkpoints that there is one."""
    write_json(cell / SAVED, {"step": step})


def forget_saves(cell: Path) -> None:
    """Remove that note: the run is finished, and its checkpoints are no longer needed."""
    (cell / SAVED).unlink(missing_ok=True)


def set_aside(cell: Path) -> Path:
    """Move checkpoints and log of a cell to `<cell>/lost-<n>/`, the first that is free, and return it."""
    number = 1
    while (cell / f"lost-{number}").exists():
        number += 1
    target = cell / f"lost-{number}"
    target.mkdir()
    for name in (FOLDER, TRAIN_LOG, SAVED):
        if (cell / name).exists() or (cell / name).is_symlink():
            (cell / name).rename(target / name)
    sync_folder(target)
    sync_folder(cell)
    return target
