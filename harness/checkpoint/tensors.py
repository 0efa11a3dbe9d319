"""Collect the tensors of a training run under the same names for every engine, and load them without running code.

torch.distributed.checkpoint writes each rank's shard, and reshards on load if the number of ranks differs. It stores
only tensors; everything else is in the checkpoint's JSON. So loading a checkpoint never runs code from it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

METADATA_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex",
        "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", *(str(value).split(".")[1] for value in vars(torch).values() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "PurePosixPath"},
    "pathlib._local": {"PosixPath", "PurePosixPath"},  # their module in Python 3.13
}  # fmt: skip


class Resumable(Protocol):
    """An engine whose model and optimiser a checkpoint saves and restores."""

    def state(self) -> dict[str, Any]:
        """Return nested mappings of tensors (DTensors if sharded) with the same names under every engine."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Load a `state()` whose tensors were overwritten in place."""
        ...


def tensors_of(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested mappings by dotted name, without copying them.

    Other values are left out: learning rates, weight decay and betas follow from the recipe and the step.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            tensors |= tensors_of(value, f"{prefix}{name}.")
    return tensors


class TensorReader(FileSystemReader):
    """Reads a checkpoint folder; unpickles its metadata with `MetadataUnpickler`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ANN401  (as in its base class)
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = MetadataUnpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class MetadataUnpickler(pickle.Unpickler):
    """Refuses every class and function except those that describe tensors."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  (a class)
        if name not in METADATA_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"the checkpoint's metadata refers to {module}.{name}, which is not allowed")
        return super().find_class(module, name)


class TensorPlanner(DefaultLoadPlanner):
    """Loads only tensors: torch's default planner would unpickle any other entry."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        raise pickle.UnpicklingError(
            f"{read_item.dest_index.fqn} is not a tensor: the harness did not write this checkpoint"
        )
