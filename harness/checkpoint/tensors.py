"""Collect the tensors of a training run under the same names for every engine, and load them without running code.

torch.distributed.checkpoint writes each rank's shard, and reshards on load if the number of ranks differs. It stores
only tensors; everything else is in the checkpoint's JSON. So loading a checkpoint never runs code from it.
"""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.tensor import DTensor
from torch.futures import Future

from harness.checkpoint.facts import METADATA
from harness.checkpoint.layout import check_layout

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


def owners(tensors: Mapping[str, Tensor], world: int) -> dict[str, int]:
    """The rank that writes and reads each tensor that is whole on every rank, so that none is staged or read twice.

    The largest go first, each to the rank that has the least. The result is the same on all ranks.
    """
    loads = [(0, rank) for rank in range(world)]  # a heap of bytes
    found: dict[str, int] = {}
    whole = [(name, size_on_rank(tensor)) for name, tensor in tensors.items() if not isinstance(tensor, DTensor)]
    for name, size in sorted(whole, key=lambda entry: (-entry[1], entry[0])):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + size, rank))
        found[name] = rank
    return found


def share(tensors: Mapping[str, Tensor], owner: Mapping[str, int], rank: int) -> dict[str, Tensor]:
    """What a rank writes or reads: its parts of sharded tensors, and the whole tensors that it owns."""
    return {name: tensor for name, tensor in tensors.items() if owner.get(name, rank) == rank}


def send_from_owners(tensors: Mapping[str, Tensor], owner: Mapping[str, int]) -> None:
    """Give all ranks, in place, the whole tensors that one of them has read. All ranks must call it."""
    for name, rank in owner.items():
        sent = tensors[name].detach()
        packed = sent.contiguous()
        dist.broadcast(packed, src=rank)
        if packed is not sent:
            sent.copy_(packed)


def size_on_rank(tensor: Tensor) -> int:
    """Bytes of this rank's part of a tensor."""
    part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part.numel() * part.element_size()


def reason(error: BaseException) -> str:
    """What went wrong; of torch's own exception, which is no `Exception`, what failed on the first rank."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return str(error) or type(error).__name__


class TensorReader(FileSystemReader):
    """Reads a checkpoint folder: unpickles its metadata with `MetadataUnpickler`, and converts no type."""

    def __init__(self, folder: Path, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        """`tensors` are to be loaded; `sizes` are the bytes of the checkpoint's files."""
        super().__init__(folder)
        self._tensors, self._sizes = tensors, sizes

    def check(self) -> None:
        """Check that the metadata describes these tensors in these files.

        Raises:
            ValueError: it does not; the message names the tensor.
        """
        try:
            check_layout(self.read_metadata(), self._tensors, self._sizes)
        except (AttributeError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
            raise ValueError(f".metadata does not describe tensors ({type(error).__name__}: {error})") from error

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ANN401  (as in its base class)
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{METADATA} holds a {type(metadata).__name__}")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy the planned parts into their tensors. Unlike its base class, refuse a type that is not the tensor's."""
        for item in plan.items:
            place = self.storage_data[item.storage_index]
            with (Path(self.path) / place.relative_path).open("rb") as file:
                loaded = torch.load(self._slice_file(file, place), map_location="cpu", weights_only=True)
            target = planner.resolve_tensor(item).detach()
            if not isinstance(loaded, Tensor) or loaded.dtype != target.dtype or loaded.layout != torch.strided:
                kind = loaded.dtype if isinstance(loaded, Tensor) else type(loaded).__name__
                raise ValueError(f"{item.dest_index.fqn} is stored as {kind}, .metadata says {target.dtype}")
            part = narrow_tensor_by_index(loaded, item.storage_offsets, item.lengths)
            if part.shape != target.shape:
                raise ValueError(f"{item.dest_index.fqn} is stored in shape {tuple(loaded.shape)}")
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


class MetadataUnpickler(pickle._Unpickler):
    """Refuses every class and function except those that describe tensors.

    It is the pickle module's implementation in Python: the one in C allocates what a hostile file asks for.
    """

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
