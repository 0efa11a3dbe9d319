"""How a shard set lies on disk, the only module that knows: writing shards, opening them, reading crops.

A set is a folder of plain tar shards, `wells.parquet` and `manifest.json`; docs/shard-format.md describes them. Crops
are read through a memory map of the shard, at the offset that the table gives, without touching the rest of the image.

Shapes: C channels, H height, W width, s crop size.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
MANIFEST = "manifest.json"
WELLS = "wells.parquet"
OPEN_SHARDS = 256

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class ShardError(ValueError):
    """A shard set is damaged, incomplete or of another version; the message names the file."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Strict):
    """One tar file of the set."""

    name: Annotated[str, Field(pattern=r"^[a-z]+-\d+\.tar$")]
    split: Split
    wells: Annotated[int, Field(gt=0)]
    bytes: Annotated[int, Field(gt=0)]
    sha256: Sha256


class Quarantined(_Strict):
    """A well image that was left out, and why."""

    key: str
    origin: str
    error: str


class Manifest(_Strict):
    """What a shard set holds and how it was made; written last, so its presence means the set is whole."""

    version: Literal[1] = 1
    channels: tuple[str, ...]
    pixel_type: Literal["uint8", "uint16"]
    conversion: str | None = None  # of the source's pixels, as a formula; None: as they were stored
    split_by: Literal["experiment"] = "experiment"  # no experiment is in two splits: checked here and on opening
    wells: dict[Split, int]
    experiments: dict[Split, tuple[str, ...]]
    shards: tuple[Shard, ...]
    wells_sha256: Sha256
    removed: dict[str, int] = {}  # well images left out by curation, by rule
    quarantined: tuple[Quarantined, ...] = ()
    made_with: dict[str, str | int | float | tuple[str, ...] | dict[str, str] | None]


@dataclass(frozen=True)
class Entry:
    """Where a well image lies inside its shard: byte offset of the first pixel, and its shape and type."""

    offset: int
    height: int
    width: int
    pixel_type: str


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under a name of this process's own, then flush it to disk and rename it into place."""
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes of this machine that no longer live were writing in a folder when they were killed."""
    for path in folder.glob(f".*.{platform.node()}.*.tmp"):
        if not _lives(path.name.split(".")[-2]):
            path.unlink(missing_ok=True)


def _lives(pid: str) -> bool:
    try:
        state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie writes no more


class ShardWriter:
    """Appends well images to a tar stream; equal wells give equal bytes. Call `close` after the last well."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def add(self, key: str, image: NDArray[np.generic], metadata: Mapping[str, object]) -> Entry:
        """Append one (C, H, W) image and its metadata as `<key>.npy` and `<key>.json`."""
        payload = io.BytesIO()
        np.save(payload, np.ascontiguousarray(image), allow_pickle=False)
        end = self._member(f"{key}.npy", payload.getbuffer())
        self._member(f"{key}.json", json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode())
        _, height, width = image.shape
        return Entry(end - image.nbytes, height, width, image.dtype.name)

    def close(self) -> str:
        """End the archive and return its SHA-256 in hexadecimal."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        return self._hash.hexdigest()

    def _member(self, name: str, payload: bytes | memoryview) -> int:
        """Append one file and return the offset at which its content ends."""
        header = tarfile.TarInfo(name)  # owner 0, time 0, mode 644
        header.size = len(payload)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        self._write(payload)
        end = self.bytes
        self._write(bytes(-len(payload) % tarfile.BLOCKSIZE))
        return end

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)


def write_index(folder: Path, wells: pd.DataFrame) -> str:
    """Write the table of well images and return its SHA-256."""
    buffer = io.BytesIO()
    wells.to_parquet(buffer, index=False)
    with replacing(folder / WELLS) as file:
        file.write(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest: the last step, which makes the set whole."""
    with replacing(folder / MANIFEST) as file:
        file.write(manifest.model_dump_json(indent=1).encode() + b"\n")


@dataclass(frozen=True)
class ShardSet:
    """An opened set of shards. `wells` has one row per well image, in the order of the index that the methods take."""

    folder: Path
    manifest: Manifest
    wells: pd.DataFrame

    @classmethod
    def open(cls, folder: Path) -> ShardSet:
        """Open a shard set, checking everything that costs no reading of pixels.

        Raises ShardError if a file is absent, cut short or not what the manifest says, if an offset lies outside its
        shard, or if an experiment is in both splits.
        """
        import pandas as pd

        manifest = read_manifest(folder)
        for shard in manifest.shards:
            _check_size(folder / shard.name, shard.bytes)
        path = folder / WELLS
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != manifest.wells_sha256:
            raise ShardError(f"{path}: not the table that {MANIFEST} describes: build the set again")
        shards = cls(folder, manifest, pd.read_parquet(path))
        shards._check()
        return shards

    def indices(self, split: Split, experiments: Iterable[str] | None = None) -> NDArray[np.int64]:
        """Well indices of a split, or of those of its experiments that are named."""
        chosen = self.wells["split"] == split
        if experiments is not None:
            chosen &= self.wells["experiment"].isin(set(experiments))
        return np.flatnonzero(chosen.to_numpy())

    @cached_property
    def shapes(self) -> NDArray[np.int64]:
        """Height and width of each well image, (wells, 2)."""
        return self.wells[["height", "width"]].to_numpy(np.int64)

    def read_well(self, index: int) -> NDArray[np.generic]:
        """Read a whole well image, (C, H, W)."""
        return np.array(self._view(index))

    def read_crop(self, index: int, y: int, x: int, size: int) -> NDArray[np.generic]:
        """Read the (C, s, s) crop whose upper left corner is row `y`, column `x`; ValueError if it leaves the image."""
        image = self._view(index)
        height, width = image.shape[1:]
        if not (0 <= y <= height - size and 0 <= x <= width - size and size > 0):
            raise ValueError(f"crop of {size} at ({y}, {x}) leaves the {height} x {width} image of well {index}")
        return np.array(image[:, y : y + size, x : x + size])

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number of the shard in the manifest and byte offset, of each well image."""
        numbers = {shard.name: number for number, shard in enumerate(self.manifest.shards)}
        of_well = np.array([numbers[name] for name in self.wells["shard"]], dtype=np.int64)
        return of_well, np.asarray(self.wells["offset"], dtype=np.int64)

    def _view(self, index: int) -> NDArray[np.generic]:
        numbers, offsets = self._places
        shard = self.manifest.shards[numbers[index]]
        height, width = self.shapes[index].tolist()
        shape = (len(self.manifest.channels), height, width)
        data = _map(self.folder / shard.name, shard.sha256)
        return np.ndarray(shape, np.dtype(self.manifest.pixel_type), data, int(offsets[index]))

    def _check(self) -> None:
        manifest, place = self.manifest, self.folder / MANIFEST
        if shared := set(manifest.experiments["train"]) & set(manifest.experiments["validation"]):
            raise ShardError(f"{place}: experiments {sorted(shared)} are in both training and validation")
        for split in SPLITS:
            of_split = self.wells[self.wells["split"] == split]
            stated = set(manifest.experiments[split]), manifest.wells[split]
            if (set(of_split["experiment"]), len(of_split)) != stated:
                raise ShardError(f"{place}: {WELLS} has other {split} experiments or another count than stated here")
        limits = self.wells["shard"].map({shard.name: shard.bytes for shard in manifest.shards}).to_numpy()
        pixel_bytes = len(manifest.channels) * np.dtype(manifest.pixel_type).itemsize
        begins = self.wells["offset"].to_numpy()
        if not ((begins >= 0) & (begins + self.shapes.prod(axis=1) * pixel_bytes <= limits)).all():
            raise ShardError(f"{self.folder / WELLS}: an offset lies outside its shard")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`; ShardError if it is absent or not of this format's version."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ShardError(f"{path}: no manifest: not a shard set, or its build has not ended")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise ShardError(f"{path}: {place}: {first['msg']} (this is format version {VERSION})") from None
    if set(manifest.wells) != set(SPLITS) or set(manifest.experiments) != set(SPLITS):
        raise ShardError(f"{path}: wells and experiments must be given for {' and '.join(SPLITS)}")
    return manifest


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != expected:
        found = "missing" if size is None else f"{size} bytes"
        raise ShardError(f"{path}: {found}, but {MANIFEST} says {expected} bytes: build the set again")


@lru_cache(OPEN_SHARDS)
def _map(path: Path, sha256: str) -> np.memmap[tuple[int], np.dtype[np.uint8]]:
    """Map a shard's bytes. The checksum keeps a map of an older file of the same name from being taken for this one."""
    return np.memmap(path, mode="r", dtype=np.uint8)
