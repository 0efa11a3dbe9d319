"""Save and load the weights of a finished model, as one safetensors file written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness.storage.atomic import write_atomic
from harness.storage.safetensors_header import HeaderError, read_header

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightsError(RuntimeError):
    """Weights that cannot be read; the message says which file and why."""


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Save a finished model's state_dict as safetensors, with string `metadata` in its header."""
    write_safetensors(path, {name: value.contiguous().cpu() for name, value in weights.items()}, metadata)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors atomically as safetensors, with the keys of the header sorted: equal contents are equal files.

    The library itself writes metadata in the order of a hash map, which differs between processes. A file is the
    header's length (8 bytes, little endian), the header (JSON, padded with spaces to 8 bytes) and the tensors' bytes,
    whose offsets count from the header's end.
    """
    from safetensors.torch import save as to_bytes

    content = memoryview(to_bytes(dict(tensors), dict(metadata)))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(bytes(content[8:end])), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)

    def write(file: IO[bytes]) -> None:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(content[end:])

    write_atomic(path, write)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a file of `save_weights`; empty if there is no file. Needs no torch.

    Raises:
        WeightsError: the file is not one that safetensors writes.
    """
    if not path.exists():
        return {}
    try:
        return read_header(path).metadata
    except HeaderError as error:
        raise WeightsError(str(error)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of `save_weights`.

    Raises:
        WeightsError: the file is missing, is not one that safetensors writes, or holds NaN.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        read_header(path)
        weights: dict[str, Tensor] = load_file(path)
    except (HeaderError, SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be loaded: {error}") from error
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity")
    return weights


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a file of `save_weights` into `model`.

    Raises:
        WeightsError: the file cannot be read, or its tensors do not have the names, shapes and types of the model's.
    """
    weights, expected = read_weights(path), model.state_dict()
    converted = [name for name in weights.keys() & expected.keys() if weights[name].dtype != expected[name].dtype]
    try:
        if converted:
            name = min(converted)
            raise ValueError(f"{name} is {weights[name].dtype}, the model's is {expected[name].dtype}")
        model.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:  # other names, shapes or types
        raise WeightsError(f"{path}: cannot be loaded into this model: {error}") from error
