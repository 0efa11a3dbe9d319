"""Save and load the weights of a finished model, as one safetensors file written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from harness.storage.atomic import write_atomic


class WeightsError(RuntimeError):
    """Weights that cannot be read; the message says which file and why."""


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Save a finished model's state_dict as safetensors, with string `metadata` in its header."""
    from safetensors.torch import save as to_bytes

    tensors = {name: value.contiguous().cpu() for name, value in weights.items()}
    write_atomic(path, lambda file: file.write(to_bytes(tensors, metadata)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a file of `save_weights` into `model`.

    Raises:
        WeightsError: the file is missing or does not fit the model.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # missing, incomplete, or other shapes: each library raises its own exceptions
        raise WeightsError(f"{path}: cannot be loaded into this model: {error}") from error
