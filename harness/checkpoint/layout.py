"""Compare a checkpoint's `.metadata` with the tensors of a run, before any of its bytes is read.

torch.distributed.checkpoint trusts this file: it converts types without a word, leaves a tensor as it was where no
chunk covers it, and opens any path. So everything in it is checked here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from harness.checkpoint.facts import METADATA, Progress

OTHER_RANKS = re.compile(r"generators\.\d+\.[a-z_]+")  # each rank reads those of its own number alone


def check_layout(metadata: Metadata, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
    """Check names, types, shapes, chunks and places of all tensors.

    Args:
        tensors: those that are to be loaded, by name.
        sizes: bytes of each file of the checkpoint.

    Raises:
        ValueError: the first thing that is wrong, with the name of its tensor.
    """
    stored = metadata.state_dict_metadata
    missing = sorted(tensors.keys() - stored.keys())
    foreign = sorted(str(name) for name in stored.keys() - tensors.keys() if not OTHER_RANKS.fullmatch(str(name)))
    if missing or foreign:
        problem = f"lacks {missing[0]}" if missing else f"has {foreign[0]}, which this run does not have"
        raise ValueError(f".metadata {problem} ({len(missing)} missing, {len(foreign)} foreign)")
    for name, tensor in tensors.items():
        entry = stored[name]
        if not isinstance(entry, TensorStorageMetadata):
            raise ValueError(f".metadata: {name} is not a tensor")
        _check_tensor(name, entry, tensor)
    _check_places(metadata, sizes)


def _check_tensor(name: str, entry: TensorStorageMetadata, tensor: Tensor) -> None:
    if tuple(entry.size) != tuple(tensor.shape):
        raise ValueError(f".metadata: {name} has shape {tuple(entry.size)}, this run's has {tuple(tensor.shape)}")
    if entry.properties.dtype != tensor.dtype:
        raise ValueError(f".metadata: {name} is {entry.properties.dtype}, this run's is {tensor.dtype}")
    chunks = [chunk for chunk in entry.chunks if math.prod(chunk.sizes) > 0]
    if (
        not all(_inside(chunk, entry.size) for chunk in entry.chunks)
        or sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(entry.size)
        or _overlap(chunks)
    ):
        raise ValueError(f".metadata: the chunks of {name} do not make up its shape {tuple(entry.size)}")


def _inside(chunk: ChunkStorageMetadata, shape: Sequence[int]) -> bool:
    if not len(chunk.offsets) == len(chunk.sizes) == len(shape):
        return False
    places = zip(chunk.offsets, chunk.sizes, shape, strict=True)
    return all(offset >= 0 and size >= 0 and offset + size <= most for offset, size, most in places)


def _overlap(chunks: Sequence[ChunkStorageMetadata]) -> bool:
    """Whether two chunks share an element. Shards of the first dimension, however many, need no comparison of pairs."""
    if all(chunk.offsets[1:] == chunks[0].offsets[1:] and chunk.sizes[1:] == chunks[0].sizes[1:] for chunk in chunks):
        ends = sorted((chunk.offsets[0], chunk.offsets[0] + chunk.sizes[0]) for chunk in chunks if len(chunk.sizes))
        return any(end > start for (_, end), (start, _) in pairwise(ends))
    return any(
        all(
            a.offsets[d] < b.offsets[d] + b.sizes[d] and b.offsets[d] < a.offsets[d] + a.sizes[d]
            for d in range(len(a.sizes))
        )
        for a, b in combinations(chunks, 2)
    )


def _check_places(metadata: Metadata, sizes: Mapping[str, int]) -> None:
    """Check that every chunk lies in a file of the checkpoint, and no two in the same bytes."""
    for name, entry in metadata.state_dict_metadata.items():
        chunks = entry.chunks if isinstance(entry, TensorStorageMetadata) else []
        if any(MetadataIndex(name, chunk.offsets) not in metadata.storage_data for chunk in chunks):
            raise ValueError(f".metadata does not say where {name} is")
    places: dict[str, list[tuple[int, int, str]]] = {}
    for index, info in metadata.storage_data.items():
        if info.relative_path not in sizes or info.relative_path == METADATA:
            raise ValueError(f".metadata: {index.fqn} is in {info.relative_path!r}, not a file of this checkpoint")
        if info.transform_descriptors:
            raise ValueError(f".metadata: {index.fqn} is compressed or encrypted, which this project never does")
        start, end = info.offset, info.offset + info.length
        if not 0 <= start < end <= sizes[info.relative_path]:
            raise ValueError(
                f".metadata: {index.fqn} is in bytes {start} to {end} of {info.relative_path}, "
                f"which has {sizes[info.relative_path]}"
            )
        places.setdefault(info.relative_path, []).append((start, end, index.fqn))
    for file, ranges in places.items():
        for (_, end, one), (start, _, other) in pairwise(sorted(ranges)):
            if end > start:
                raise ValueError(f".metadata: {one} and {other} are in the same bytes of {file}")


def check_values(tensors: Mapping[str, Tensor], progress: Progress) -> None:
    """Check the loaded numbers: finite, and no optimiser that has made more steps than the run.

    Raises:
        ValueError: the first tensor that holds another number.
    """
    numbers = {name: _local(tensor) for name, tensor in tensors.items() if not name.startswith("generators.")}
    floats = {name: tensor for name, tensor in numbers.items() if tensor.is_floating_point() and tensor.numel()}
    finite = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist() if floats else []
    for name, is_finite in zip(floats, finite, strict=True):
        if not is_finite:
            raise ValueError(f"{name} holds NaN or infinity")
    for name, tensor in numbers.items():
        most = progress.updates + progress.step
        if name.startswith("optimiser.") and name.endswith(".step") and not 0 <= float(tensor) <= most:
            raise ValueError(f"{name} is {float(tensor):g}: the run has made {most} steps")


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
