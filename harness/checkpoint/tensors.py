"""The tensors of a run in training, named alike under every engine, and a reader that trusts no file.

torch.distributed.checkpoint writes each rank's own part and reads whatever part another number of ranks needs. Only
tensors go in: what is no tensor stands in the checkpoint's JSON, so reading one back never runs code from it.
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
    "pathlib._local": {"PosixPath", "PurePosixPath"},  # where Python 3.13 keeps them
}  # fmt: skip


class Resumable(Protocol):
    """What a checkpoint saves and restores: an engine, with its model and optimiser."""

    def state(self) -> dict[str, Any]:
        """Nested mappings whose tensors, DTensors where they are sharded, have the same names under every engine."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over a `state()` whose tensors were overwritten."""
        ...


def tensors_of(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of nested mappings by dotted name, the same objects.

    What is no tensor is left out: learning rates, decays and betas follow from the recipe and the step.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found |= tensors_of(value, f"{prefix}{name}.")
    return found


class TensorReader(FileSystemReader):
    """Reads a checkpoint's folder; its metadata, a pickle, may name nothing but the classes that describe tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ANN401  (as its base class)
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = MetadataUnpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class MetadataUnpickler(pickle.Unpickler):
    """Refuses every class and function but those that describe tensors."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  (a class)
        if name not in METADATA_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"the checkpoint's metadata names {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


class TensorPlanner(DefaultLoadPlanner):
    """Loads tensors alone: torch's own planner would unpickle any other entry."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        raise pickle.UnpicklingError(f"{read_item.dest_index.fqn} is no tensor: this checkpoint was not written here")
