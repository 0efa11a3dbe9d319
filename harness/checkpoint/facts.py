"""`checkpoint.json`: how far a run had come, and the files of its checkpoint. Every value is checked when read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT = 1
FACTS = "checkpoint.json"
METADATA = ".metadata"

Whole = Annotated[int, Field(ge=0, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
LossName = Annotated[str, Field(pattern=r"^[a-z_]{1,64}_loss$")]
FileName = Annotated[str, Field(pattern=r"^(__\d{1,9}_\d{1,9}\.distcp|\.metadata)$")]  # as torch names them: no paths
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointError(RuntimeError):
    """A checkpoint or weights file that cannot be used or written; the message names it."""


class UnreadableError(CheckpointError):
    """The system cannot read what is there (permissions, a disk or network error), which is not the same as nothing."""


@dataclass
class Progress:
    """How far a cell has trained. The data position is the step: the order of crops is a pure function of it."""

    step: Whole = 0
    seconds: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    best_loss: Finite | None = None
    stale_validations: Whole = 0
    validated: Whole = 0  # the step of the last validation
    validation: dict[LossName, Finite] = field(default_factory=dict)  # the losses of the last validation
    log_bytes: Whole = 0  # size of the log: a resumed run truncates the log to it
    updates: Whole = 0  # of the optimiser before step 0, in a run that continues another


class Facts(BaseModel):
    """The content of `checkpoint.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    format: int
    fingerprint: str
    world: Annotated[int, Field(ge=1, le=1_000_000)]
    device: Annotated[str, Field(pattern=r"^[a-z]{1,16}$")]
    progress: Progress
    best: bool
    files: dict[FileName, tuple[Whole, Digest]]  # bytes and SHA-256


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:09d}"


def read_facts(folder: Path, value: dict[str, Any], fingerprint: str, last_step: int | None) -> Facts:
    """Check the content of a checkpoint's `checkpoint.json`, whose own checksum is right.

    Args:
        fingerprint: of the settings and data of the run that is to resume.
        last_step: of that run; None if it is not known.

    Raises:
        CheckpointError: other settings, data or format, or a field that no run of this project writes.
    """
    if value.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{folder}: made with other settings or data; remove {folder.parent} and the log next to it to start again"
        )
    if value.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}: written in format {value.get('format')!r}, this version reads format {FORMAT}; finish the cell "
            f"with the version that started it"
        )
    try:
        facts = Facts.model_validate_json(json.dumps(value))
    except (ValidationError, RecursionError) as error:
        raise CheckpointError(f"{folder / FACTS}: {_first_error(error)}") from error
    for problem in _contradictions(facts, folder.name, last_step):
        raise CheckpointError(f"{folder / FACTS}: {problem}")
    return facts


def _first_error(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "nested too deeply"
    first = error.errors()[0]
    place = ".".join(str(key) for key in first["loc"])
    return f"{place[:200]}: {first['msg'][:1].lower()}{first['msg'][1:]} (got {repr(first['input'])[:60]})"


def _contradictions(facts: Facts, name: str, last_step: int | None) -> list[str]:
    """What is wrong with values that are possible alone."""
    progress, problems = facts.progress, []
    if step_name(progress.step) != name:
        problems.append(f"progress.step is {progress.step}, but its folder is {name}")
    if last_step is not None and progress.step > last_step:
        problems.append(f"progress.step is {progress.step}: this run has steps 0 to {last_step}")
    for field_name in ("validated", "stale_validations"):
        if getattr(progress, field_name) > progress.step:
            problems.append(
                f"progress.{field_name} is {getattr(progress, field_name)}: it cannot exceed progress.step, "
                f"{progress.step}"
            )
    if METADATA not in facts.files:
        problems.append(f"files does not list {METADATA}")
    return problems
