"""Save and load the weights of a finished model, as one safetensors file written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness.storage.atomic import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn


MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


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
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            metadata = json.loads(file.read(size)).get("__metadata__", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: not a file of weights: {error}") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError(f"{path}: its metadata is not a mapping of texts")
    return metadata


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
