"""Open a shard set: a folder of tar shards with their sidecar indices, `wells.parquet` and `manifest.json`.

docs/shard-format.md describes it. `ShardSet.open` opens a set, whose crops and wells are read by their number in the
table. Shards are written by `shards.format.writer`; `payload`, `tar` and `index` next to it define their bytes.

Shapes: C channels, H height, W width, s crop size, K crops.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.codecs import crc32c
from shards.format.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Split,
    read_manifest,
)
from shards.format.source import LocalFolder, Source
from shards.format.writer import WELLS
from shards.order.random_order import Indices
from shards.reader.crop_reader import Reader, ReadMode, Windows
from shards.tables import parquet as columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ShardSet:
    """An opened set of shards. Methods take well images by their number, which is their row in the table."""

    source: Source
    manifest: Manifest
    reader: Reader
    _table: NDArray[np.uint8] = field(repr=False)

    @classmethod
    def open(cls, place: Path | Source, mode: ReadMode = "runs") -> ShardSet:
        """Open a shard set, checking everything that needs no reading of pixels.

        `mode` is how crops are read: see `shards.reader.crop_reader.ReadMode`. Raises ShardError if a file is absent,
        cut short or not what the manifest says, or if an experiment is in both splits.
        """
        source = LocalFolder(place) if isinstance(place, Path) else place
        manifest = read_manifest(source)
        for shard in manifest.shards:
            _check_size(source, shard.name, shard.bytes)
        table = source.load(WELLS) if source.size(WELLS) is not None else np.empty(0, np.uint8)
        if hashlib.sha256(table.data).hexdigest() != manifest.wells_sha256:
            raise ShardError(f"{source.place}/{WELLS}: not the table that {MANIFEST} describes: build the set again")
        shards = cls(source, manifest, Reader(source, manifest, mode), table)
        shards._check()
        return shards

    @property
    def folder(self) -> Path | str:
        """Folder or URL of the set."""
        return self.source.place

    @cached_property
    def wells(self) -> pd.DataFrame:
        """The table: one row per well image, in the order of the shards."""
        return columns.read_frame(columns.open_buffer(self._table))

    def indices(self, split: Split, experiments: Iterable[str] | None = None) -> NDArray[np.int64]:
        """Numbers of the wells of a split, or only of the named experiments."""
        first = 0 if split == "train" else self.manifest.wells["train"]
        wells = np.arange(first, first + self.manifest.wells[split])
        if experiments is None:
            return wells
        names, codes = self._experiments
        selected = np.isin(names, list(experiments))
        return wells[selected[codes[wells]]]

    @cached_property
    def shapes(self) -> NDArray[np.int64]:
        """Height and width of each well image, (wells, 2); a view of one row where all are the same."""
        parts = [np.empty((0, 2), np.int64)]
        for group in self._groups("height", "width"):
            shapes = np.stack([np.from_dlpack(group[side]) for side in ("height", "width")], axis=1).astype(np.int64)
            same = len(shapes) and (shapes == shapes[0]).all()
            parts.append(np.broadcast_to(shapes[0].copy(), shapes.shape) if same else shapes)
        filled = [part for part in parts if len(part)]
        if filled and all(part.strides[0] == 0 and (part[0] == filled[0][0]).all() for part in filled):
            return np.broadcast_to(filled[0][0], (sum(map(len, filled)), 2))
        return np.concatenate(parts)

    def read_well(
        self, index: int, *, into: NDArray[np.generic] | None = None, sums: NDArray[np.uint64] | None = None
    ) -> NDArray[np.generic]:
        """Read a complete well image, (C, H, W); into the array `into`, if there is one.

        `sums` (C, 2) is filled with the exact sums of each channel's pixels and of their squares.
        """
        height, width = self.shapes[index].tolist()
        if into is None:
            into = np.empty((len(self.manifest.channels), height, width), self.manifest.pixel_type)
        window = self.windows(np.array([index]), np.zeros((1, 4), np.int64))
        self.reader.read(window, into[None], None if sums is None else sums[None])
        return into

    def read_crop(self, index: int, y: int, x: int, size: int) -> NDArray[np.generic]:
        """Read the (C, s, s) crop whose upper left corner is row `y`, column `x`; ValueError if it leaves the image."""
        height, width = self.shapes[index].tolist()
        if not (0 <= y <= height - size and 0 <= x <= width - size and size > 0):
            raise ValueError(f"crop of {size} at ({y}, {x}) leaves the {height} x {width} image of well {index}")
        out = np.empty((1, len(self.manifest.channels), size, size), self.manifest.pixel_type)
        self.reader.read(self.windows(np.array([index]), np.array([[y, x, 0, 0]], np.int64)), out)
        image: NDArray[np.generic] = out[0]
        return image

    def windows(self, wells: NDArray[np.int64], corners: NDArray[np.int64]) -> Windows:
        """Rectangles by well number, (K,), and top, left, row flip and column flip, (K, 4), for the reader."""
        wells = np.asarray(wells, np.int64)
        if len(wells) and not 0 <= wells.min() <= wells.max() < self._ends[-1]:
            raise ValueError(f"well {wells.min()} or {wells.max()} is not one of {self._ends[-1]} wells")
        shard = np.searchsorted(self._ends, wells, side="right")
        begins = self._ends[shard] - self._sizes[shard]
        return Windows(shard, wells - begins, np.ascontiguousarray(corners, np.int64))

    def metadata(self, index: int) -> dict[str, object]:
        """The metadata member of a well image; ShardError if it is damaged."""
        where = self.windows(np.array([index]), np.zeros((1, 4), np.int64))
        number, position = int(where.shard[0]), int(where.position[0])
        record = self.reader.open_shard(number).index.records[position]
        name, start = self.manifest.shards[number].name, int(record["json_offset"])
        (text,) = self.source.ranges([(name, start, start + int(record["json_length"]))])
        if crc32c(text) != record["json_crc"]:
            raise ShardError(f"{self.folder}/{name}: metadata of image {position}: its checksum does not match")
        metadata: dict[str, object] = json.loads(text)
        return metadata

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.array([shard.wells for shard in self.manifest.shards], np.int64)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self._sizes)

    @cached_property
    def _experiments(self) -> tuple[NDArray[np.str_], NDArray[np.int32]]:
        """Names of the experiments, and each well's number among them."""
        known, parts = dict[str, int](), [np.empty(0, np.int32)]
        for group in self._groups("experiment"):
            coded = group["experiment"].cast("string").dictionary_encode()
            numbers = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
            parts.append(np.array(numbers, np.int32)[np.from_dlpack(coded.indices)])
        return np.array(list(known), dtype=str), np.concatenate(parts)

    def _groups(self, *names: str) -> Iterator[dict[str, Any]]:
        """Columns of the table as Arrow arrays; without pandas, whose import takes longer than everything else here."""
        return columns.read_groups(columns.open_buffer(self._table), names)

    def _check(self) -> None:
        manifest, place = self.manifest, f"{self.folder}/{MANIFEST}"
        if shared := set(manifest.experiments["train"]) & set(manifest.experiments["validation"]):
            raise ShardError(f"{place}: experiments {sorted(shared)} are in both training and validation")
        names, codes = self._experiments
        order = [shard.split for shard in manifest.shards]
        for split in SPLITS:
            wells = sum(shard.wells for shard in manifest.shards if shard.split == split)
            known = set(names[np.unique(codes[self.indices(split)])]) if manifest.wells[split] <= len(codes) else set()
            if wells != manifest.wells[split] or known != set(manifest.experiments[split]):
                raise ShardError(f"{place}: {WELLS} has other {split} experiments or another count than stated here")
        if order != sorted(order) or len(codes) != sum(manifest.wells.values()):
            raise ShardError(f"{place}: the shards do not hold the wells of {WELLS}, training before validation")


def _check_size(source: Source, name: str, expected: int) -> None:
    size = source.size(name)
    if size != expected:
        actual = "missing" if size is None else f"{size} bytes"
        raise ShardError(f"{source.place}/{name}: {actual}, but {MANIFEST} says {expected} bytes: build the set again")


def wells_per_shard(shards: ShardSet, wells: Indices) -> Indices:
    """How many of `wells` (ascending) each shard of the set holds: the sizes of a stream order over them."""
    if (np.diff(wells) <= 0).any():
        raise ValueError("the wells of a stream must ascend, each once")
    of_well = shards.windows(wells, np.zeros((len(wells), 4), np.int64)).shard
    return np.bincount(of_well, minlength=len(shards.manifest.shards))
