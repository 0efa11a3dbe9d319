"""Read and check the header of a safetensors file of unknown origin, before any tensor is read. Needs no torch.

A file is the header's length (8 bytes, little endian), the header (JSON) and the tensors' bytes; each tensor's
`data_offsets` count from the header's end. Every number is compared with the file's own size, so none is trusted.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.storage.json_files import parse_json

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
MAX_RANK = 16
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
         "U16": 2, "U32": 4, "U64": 8}  # fmt: skip


class HeaderError(ValueError):
    """A file is not one that safetensors writes; the message names the file and the field."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the header describes it: its type by safetensors' name, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """A header whose tensors fill the rest of the file, one after another."""

    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or a folder, whose reading may never end.

    Raises:
        HeaderError: `path` is one.
    """
    if path.exists() and not path.is_file():
        raise HeaderError(f"{path}: not a regular file")


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file; its first bytes show whether it is one.

    Raises:
        HeaderError: the file is a pickle, cannot be read, or is not what safetensors writes.
    """
    refuse_special(path)
    try:
        with path.open("rb") as file:
            start, brace = file.read(8), file.read(1)
            if brace != b"{":  # every safetensors header begins with it
                _refuse_pickle(path, start)
            size, most = struct.unpack("<Q", start)[0] if len(start) == 8 else 0, path.stat().st_size - 8
            if not 2 <= size <= min(MAX_HEADER_BYTES, most):
                raise HeaderError(f"{path}: not a safetensors file, or cut off in its header")
            header = parse_json(brace + file.read(size - 1))
    except OSError as error:
        raise HeaderError(f"{path}: cannot be read: {error.strerror}") from error
    except HeaderError:
        raise
    except ValueError as error:
        raise HeaderError(f"{path}: not a safetensors file: its header is not JSON ({str(error)[:80]})") from error
    if not isinstance(header, dict):
        raise HeaderError(f"{path}: not a safetensors file: its header is not a mapping")
    return _checked(path, header, most - size)


def _refuse_pickle(path: Path, start: bytes) -> None:
    """Refuse a torch checkpoint (a ZIP with pickles, or a pickle in the old format), whatever its suffix."""
    if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
        raise HeaderError(
            f"{path}: a pickle under another name (torch.save): it could run any code, so it is not opened; "
            "ask its author for safetensors"
        )


def _checked(path: Path, header: dict[str, Any], size: int) -> Header:
    """The header of a file with `size` bytes of tensors."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError(f"{path}: its metadata is not a mapping of texts")
    try:
        tensors = {name: _entry(name, entry) for name, entry in header.items()}
        places = [(*_offsets(name, entry, tensors[name]), name) for name, entry in header.items()]
    except ValueError as error:
        raise HeaderError(f"{path}: {error}") from error
    places.sort()
    for (_, end, name), (start, _, other) in pairwise(places):
        if start != end:
            raise HeaderError(f"{path}: data_offsets of {other[:80]} do not begin where those of {name[:80]} end")
    if places and (places[0][0] != 0 or places[-1][1] != size):
        extent = f"bytes {places[0][0]} to {places[-1][1]}"
        raise HeaderError(f"{path}: damaged: its tensors are in {extent}, the file has {size} bytes of them")
    return Header(metadata, tensors)


def _entry(name: str, entry: object) -> TensorEntry:
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:80]} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ValueError(f"{name[:80]}.dtype is {str(dtype)[:40]!r}, not one of {', '.join(BYTES)}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name[:80]}.shape is {str(shape)[:80]}, not a list of at most {MAX_RANK} sizes")
    return TensorEntry(dtype, tuple(shape))


def _offsets(name: str, entry: Mapping[str, Any], tensor: TensorEntry) -> tuple[int, int]:
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise ValueError(f"{name[:80]}.data_offsets are {str(offsets)[:80]}, not a begin and an end")
    needed = math.prod(tensor.shape) * BYTES[tensor.dtype]
    if offsets[1] - offsets[0] != needed:
        has = f"bytes {offsets[0]} to {offsets[1]}"
        raise ValueError(f"{name[:80]}: {tensor.dtype} of shape {tensor.shape} needs {needed} bytes, it has {has}")
    return offsets[0], offsets[1]
