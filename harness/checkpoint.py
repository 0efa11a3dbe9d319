"""Checkpoints and finished weights: whole on disk under their name, or not there at all.

A checkpoint holds everything that the next step depends on. Randomness is a pure function of (seed, step), so no
generator's state needs saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from harness.engines import Engine
from harness.files import write_whole


class CheckpointError(RuntimeError):
    """A checkpoint or weights file that cannot be used; the text names it."""


@dataclass
class Progress:
    """How far a cell has trained."""

    step: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    stale_validations: int = 0
    validation: dict[str, float] = field(default_factory=dict)  # the last one's losses


def save(path: Path, fingerprint: str, engine: Engine, progress: Progress) -> None:
    """Write a checkpoint; a crash at any moment leaves either the old one or the new one. All ranks must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, optimiser = get_state_dict(engine.model, engine.optimiser, options=options)
    state = {"fingerprint": fingerprint, "model": model, "optimiser": optimiser, "progress": asdict(progress)}
    if engine.here.is_first:
        write_whole(path, lambda file: torch.save(state, file))


def load(path: Path, fingerprint: str, engine: Engine) -> Progress | None:
    """Restore the engine, and return the progress, or None where there is no checkpoint. All ranks must call it.

    Raises:
        CheckpointError: the file is damaged, or belongs to other settings or data.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        matches = state["fingerprint"] == fingerprint
    except Exception as error:  # a torn zip raises whatever its reader happens to raise
        raise CheckpointError(f"{path}: not a readable checkpoint ({error}); remove it to start again") from error
    if not matches:
        raise CheckpointError(f"{path}: made with other settings or data; remove it to start again")
    set_state_dict(
        engine.model, engine.optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"],
        options=StateDictOptions(full_state_dict=True),
    )  # fmt: skip
    return Progress(**state["progress"])


def save_weights(path: Path, weights: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A finished model's state_dict as safetensors, with string `metadata` in its header."""
    from safetensors.torch import save as to_bytes

    tensors = {name: value.contiguous().cpu() for name, value in weights.items()}
    write_whole(path, lambda file: file.write(to_bytes(tensors, metadata)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill `model` from `save_weights`'s file.

    Raises:
        CheckpointError: the file is missing or does not fit the model.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # missing, torn, or of another shape: each library layer raises its own
        raise CheckpointError(f"{path}: cannot be loaded into this model: {error}") from error
