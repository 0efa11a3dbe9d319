"""Checkpoints and finished weights: whole on disk under their name, or not there at all.

A checkpoint holds everything that the next step depends on. Randomness is a pure function of (seed, step), so no
generator's state needs saving.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

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


def save(path: Path, fingerprint: str, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint; a crash at any moment leaves either the old one or the new one."""
    state = {
        "fingerprint": fingerprint,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(progress),
    }
    write_whole(path, lambda file: torch.save(state, file))


def load(path: Path, fingerprint: str, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Restore model and optimiser, and return the progress, or None where there is no checkpoint.

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
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return Progress(**state["progress"])


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """The finished model as safetensors, with string `metadata` in its header."""
    from safetensors.torch import save as to_bytes

    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
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
