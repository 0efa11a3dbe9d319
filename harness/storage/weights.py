"""Finished weights: one safetensors file, whole on disk under its name, or not there at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from harness.storage.atomic import write_atomic


class WeightsError(RuntimeError):
    """Weights that cannot be read; the text says which file and why."""


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A finished model's state_dict as safetensors, with string `metadata` in its header."""
    from safetensors.torch import save as to_bytes

    tensors = {name: value.contiguous().cpu() for name, value in weights.items()}
    write_atomic(path, lambda file: file.write(to_bytes(tensors, metadata)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill `model` from `save_weights`'s file.

    Raises:
        WeightsError: the file is missing or does not fit the model.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # missing, torn, or of another shape: each library layer raises its own
        raise WeightsError(f"{path}: cannot be loaded into this model: {error}") from error
